package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/revocation"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// RemoveHost ends a host's identity, for good, and returns it as it was.
func (c *Client) RemoveHost(ctx context.Context, host, reason string) (*operatorv1.Host, error) {
	res, err := call(ctx, c, api.RemoveHost, &operatorv1.RemoveHostRequest{Host: host, Reason: reason, IdempotencyKey: NewID("key")})
	return res.GetHost(), err
}

// Operators are those whom the cluster has seen or revoked, and the list of who is
// revoked, which an admin signed; nil where nobody was. A list that no admin signed is
// ErrUntrusted.
func (c *Client) Operators(ctx context.Context) (rows []*operatorv1.OperatorRow, list *sensorv1.Revocations, err error) {
	for row, err := range pages(ctx, c, func(ctx context.Context, token string) ([]*operatorv1.OperatorRow, string, error) {
		res, err := call(ctx, c, api.ListOperators, &operatorv1.ListOperatorsRequest{PageSize: pageSize, PageToken: token})
		if err != nil || token != "" || res.GetRevocations() == nil {
			return res.GetOperators(), res.GetPageToken(), err
		}
		list, _, err = revocation.Verify(res.GetRevocations(), poolOf(c.id.operators), c.id.cluster, time.Now())
		if err != nil {
			return nil, "", fmt.Errorf("%w: node %s tells a list of revoked operators that cannot be verified: %w; ask another node, and look at the coordinators", ErrUntrusted, c.Node(), err)
		}
		return res.GetOperators(), res.GetPageToken(), nil
	}) {
		if err != nil {
			return nil, nil, err
		}
		rows = append(rows, row)
	}
	return rows, list, nil
}

// NewRevocations is the list as this operator would sign it after before (nil for none),
// with more names, to be looked at first. Errors wrap ErrInvalid.
func (c *Client) NewRevocations(names []string, before *sensorv1.Revocations) (*sensorv1.Revocations, error) {
	now := time.Now()
	serial := now.UnixNano()
	// Another admin's clock may be a little ahead.
	if last := int64(before.GetSerial()); last >= serial && last-serial < int64(maxAhead) { //nolint:gosec // verified
		serial = last + 1
	}
	list := &sensorv1.Revocations{ClusterId: c.id.cluster, Serial: uint64(serial), Operator: c.operator} //nolint:gosec // after 1970
	for _, o := range before.GetOperators() {
		if time.Unix(0, o.GetAt()).Add(revocation.Keep).After(now) { // else no certificate is left
			list.Operators = append(list.Operators, proto.CloneOf(o))
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(list.GetOperators(), func(o *sensorv1.RevokedOperator) bool { return o.GetName() == name }) {
			list.Operators = append(list.Operators, &sensorv1.RevokedOperator{Name: name, At: now.UnixNano()})
		}
	}
	payload, err := revocation.Encode(list)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return revocation.Decode(payload)
}

// Revoke signs a list with the operator's key and commits it. The key never leaves this process.
func (c *Client) Revoke(ctx context.Context, list *sensorv1.Revocations, reason string) error {
	signed, err := revocation.Sign(c.id.signer, c.id.chain(), list)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	_, err = call(ctx, c, api.PutRevocations, &operatorv1.PutRevocationsRequest{Signed: signed, Reason: reason})
	return err
}
