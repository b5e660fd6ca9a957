package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// ErrRulesStale: another set of rules was pushed since this one was made.
var ErrRulesStale = errors.New("somebody else pushed rules meanwhile")

// Rules is one set of rules, verified here. A nil *Rules says that there is none.
type Rules struct {
	// Content is what was signed, Signer the admin who did.
	Content *sensorv1.RuleSet
	Signer  string
	Status  *operatorv1.RuleSetStatus
	payload []byte
}

// Version is 0 where there is none.
func (r *Rules) Version() uint64 {
	if r == nil {
		return 0
	}
	return r.Content.GetVersion()
}

func (r *Rules) digest() []byte {
	if r == nil {
		return nil
	}
	return ruleset.Digest(r.payload)
}

func (c *Client) verifyRules(signed *sensorv1.SignedRules) (*Rules, error) {
	if signed == nil {
		return nil, nil
	}
	set, signer, err := ruleset.Verify(signed, c.id.operatorRoots(), c.id.cluster, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%w: node %s tells rules that cannot be verified: %w; ask another node, and look at the coordinators", ErrUntrusted, c.Node(), err)
	}
	return &Rules{Content: set, Signer: signer.ID, payload: signed.GetPayload()}, nil
}

// Rules returns a version, the newest for 0 (nil: none was ever pushed), and the one that all
// hosts have, to which the next one goes back (nil: none).
func (c *Client) Rules(ctx context.Context, version uint64) (set, base *Rules, err error) {
	res, err := call(ctx, c, api.GetRules, &operatorv1.GetRulesRequest{Version: version})
	if err != nil {
		return nil, nil, err
	}
	if set, err = c.verifyRules(res.GetRules()); err != nil {
		return nil, nil, err
	}
	if set != nil {
		set.Status = res.GetStatus()
	}
	if version != 0 && set.Version() != version {
		return nil, nil, fmt.Errorf("%w: node %s answers with version %d to the question for version %d of the rules", ErrUntrusted, c.Node(), set.Version(), version)
	}
	base, err = c.verifyRules(res.GetAllHave())
	return set, base, err
}

// PushRules signs a set with the operator's key as the version after newest, which goes back
// to base, and commits it. Its cluster, version, author, time, chain and base are set here.
func (c *Client) PushRules(ctx context.Context, next *sensorv1.RuleSet, newest, base *Rules, key string) (uint64, error) {
	next.ClusterId, next.Author, next.IssuedAt = c.id.cluster, c.operator, time.Now().UnixNano()
	if last := newest.issued(); last >= next.GetIssuedAt() && last-next.GetIssuedAt() < int64(maxAhead) {
		next.IssuedAt = last + 1
	}
	next.Version, next.Previous = newest.Version()+1, newest.digest()
	next.Base, next.BaseDigest = base.Version(), base.digest()
	signed, err := ruleset.Sign(c.id.signer, c.id.chain(), next)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if key == "" {
		key = NewID("key")
	}
	res, err := call(ctx, c, api.PutRules, &operatorv1.PutRulesRequest{Rules: signed, IdempotencyKey: key})
	return res.GetVersion(), err
}

func (r *Rules) issued() int64 {
	if r == nil {
		return 0
	}
	return r.Content.GetIssuedAt()
}

// HaltRules takes the newest version back from everybody.
func (c *Client) HaltRules(ctx context.Context, version uint64, reason string) error {
	_, err := call(ctx, c, api.HaltRules, &operatorv1.HaltRulesRequest{Version: version, Reason: reason})
	return err
}

// RuleSets asks how far each version has gone, the newest first.
func (c *Client) RuleSets(ctx context.Context) (*operatorv1.ListRulesResponse, error) {
	return call(ctx, c, api.ListRules, &operatorv1.ListRulesRequest{})
}
