package client

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// PackGood is how long a pack counts when nobody says otherwise.
const PackGood = 90 * 24 * time.Hour

// Behaviours yields what a host does. The request's page token is ignored; its page size says
// how many the caller expects to need, 0 for many.
func (c *Client) Behaviours(ctx context.Context, req *operatorv1.ListBehavioursRequest) iter.Seq2[*operatorv1.BehaviourRow, error] {
	return pages(ctx, c, func(ctx context.Context, token string) ([]*operatorv1.BehaviourRow, string, error) {
		res, err := call(ctx, c, api.ListBehaviours, &operatorv1.ListBehavioursRequest{Host: req.GetHost(), Kind: req.GetKind(), Subject: req.GetSubject(),
			NewOnly: req.GetNewOnly(), Since: req.GetSince(), PageSize: size(req.GetPageSize()), PageToken: token})
		return res.GetBehaviours(), res.GetPageToken(), err
	})
}

// Differences yields what differs between a host and another or a role group, and tells head of
// the first answer.
func (c *Client) Differences(ctx context.Context, host, against string, limit uint32, head func(*operatorv1.DiffBaselinesResponse)) iter.Seq2[*operatorv1.DifferenceRow, error] {
	return pages(ctx, c, func(ctx context.Context, token string) ([]*operatorv1.DifferenceRow, string, error) {
		res, err := call(ctx, c, api.DiffBaselines, &operatorv1.DiffBaselinesRequest{Host: host, Against: against, PageSize: size(limit), PageToken: token})
		if err == nil && token == "" {
			head(res)
		}
		return res.GetRows(), res.GetPageToken(), err
	})
}

// RollOuts yields what was taken for a roll-out, newest first.
func (c *Client) RollOuts(ctx context.Context, limit uint32) iter.Seq2[*operatorv1.RollOutRow, error] {
	return pages(ctx, c, func(ctx context.Context, token string) ([]*operatorv1.RollOutRow, string, error) {
		res, err := call(ctx, c, api.ListRollOuts, &operatorv1.ListRollOutsRequest{PageSize: size(limit), PageToken: token})
		return res.GetRows(), res.GetPageToken(), err
	})
}

// Roles are the role groups.
func (c *Client) Roles(ctx context.Context) (*operatorv1.ListRolesResponse, error) {
	return call(ctx, c, api.ListRoles, &operatorv1.ListRolesRequest{})
}

// MakePack asks for a pack of a host or of "group:NAME", and signs it. The key never leaves
// this process.
func (c *Client) MakePack(ctx context.Context, of string, permille uint32, good time.Duration) (*sensorv1.SignedPack, *operatorv1.GetPackResponse, error) {
	res, err := call(ctx, c, api.GetPack, &operatorv1.GetPackRequest{Of: of, Permille: permille})
	if err != nil {
		return nil, nil, err
	}
	signed, err := c.SignPack(res.GetPack(), res.GetPack().GetRole(), good)
	return signed, res, err
}

// SignPack signs a pack anew, for a role, from now on. Errors wrap ErrInvalid.
func (c *Client) SignPack(p *sensorv1.Pack, role string, good time.Duration) (*sensorv1.SignedPack, error) {
	if good < time.Hour || good > pack.Lifetime {
		return nil, fmt.Errorf("%w: a pack counts for 1h to %s, not %s", ErrInvalid, pack.Lifetime, good)
	}
	now := time.Now()
	p.ClusterId, p.Role, p.Operator = c.id.cluster, role, c.operator
	p.MadeAt, p.NotAfter = now.UnixNano(), now.Add(good).UnixNano()
	signed, err := pack.Sign(c.id.signer, c.id.chain(), p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return signed, nil
}

// VerifyPack says who signed a pack. One that nobody signed is refused: whoever has the file
// could have written it.
func (c *Client) VerifyPack(signed *sensorv1.SignedPack) (*sensorv1.Pack, string, error) {
	p, signer, err := pack.Verify(signed, poolOf(c.id.operators), c.id.cluster, time.Now())
	if err != nil {
		return nil, "", err
	}
	if signer == nil {
		return nil, "", fmt.Errorf("%w: nobody signed the pack", ErrUntrusted)
	}
	return p, signer.ID, nil
}

// PutPack commits a pack that this operator signed; it answers how many hosts have its role.
func (c *Client) PutPack(ctx context.Context, signed *sensorv1.SignedPack) (uint64, error) {
	res, err := call(ctx, c, api.PutPack, &operatorv1.PutPackRequest{Signed: signed})
	return res.GetHosts(), err
}

// Unlearn signs an order to a host, by its id, to forget, and commits it. What is to be forgotten
// is in the order already. It answers the order's id.
func (c *Client) Unlearn(ctx context.Context, u *sensorv1.Unlearn) (string, error) {
	now := time.Now()
	u.Id, u.ClusterId, u.Operator = NewID("ul"), c.id.cluster, c.operator
	u.IssuedAt, u.NotAfter = now.UnixNano(), now.Add(pack.UnlearnFor).UnixNano()
	signed, err := pack.SignUnlearn(c.id.signer, c.id.chain(), u)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	res, err := call(ctx, c, api.Unlearn, &operatorv1.UnlearnRequest{Signed: signed})
	return res.GetId(), err
}

// Unlearns yields orders to forget, newest first, of a host ("": of all). Limit says how many the
// caller expects to need, 0 for many.
func (c *Client) Unlearns(ctx context.Context, host string, limit uint32) iter.Seq2[*operatorv1.UnlearnRow, error] {
	return pages(ctx, c, func(ctx context.Context, token string) ([]*operatorv1.UnlearnRow, string, error) {
		res, err := call(ctx, c, api.ListUnlearns, &operatorv1.ListUnlearnsRequest{Host: host, PageSize: size(limit), PageToken: token})
		return res.GetRows(), res.GetPageToken(), err
	})
}

// UnlearnOrder is the order to forget with an id, nil when there is none.
func (c *Client) UnlearnOrder(ctx context.Context, id string) (*operatorv1.UnlearnRow, error) {
	res, err := call(ctx, c, api.ListUnlearns, &operatorv1.ListUnlearnsRequest{Id: id, PageSize: 1})
	if err != nil || len(res.GetRows()) == 0 {
		return nil, err
	}
	return res.GetRows()[0], nil
}
