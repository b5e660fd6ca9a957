package client

import (
	"context"
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// MaxNodesGood is the longest that a signed list of nodes is good for; it ends with its
// signer's certificate at the latest.
const MaxNodesGood = 365 * 24 * time.Hour

// VerifyNodes believes no node: an admin's signature is what makes a signed list. Nil
// where none was ever signed; the error says why the one that there is is not honoured.
func (c *Client) VerifyNodes(signed *sensorv1.SignedNodes) (*sensorv1.NodeAddresses, error) {
	if signed == nil {
		return nil, nil
	}
	list, _, err := nodelist.Verify(signed, poolOf(c.id.operators), c.id.cluster, time.Now())
	if err != nil {
		return nil, fmt.Errorf("no host honours the signed list of nodes that node %s tells: %w", c.Node(), err)
	}
	return list, nil
}

// MembersAndSigned lists the cluster's nodes, and the newest signed list of them, unverified.
func (c *Client) MembersAndSigned(ctx context.Context) ([]*operatorv1.Member, *sensorv1.SignedNodes, error) {
	res, err := call(ctx, c, api.ListMembers, &operatorv1.ListMembersRequest{})
	return res.GetMembers(), res.GetSignedNodes(), err
}

// MembersAndProblems is the same with what is wrong with them.
func (c *Client) MembersAndProblems(ctx context.Context) (*operatorv1.ListMembersResponse, error) {
	return call(ctx, c, api.ListMembers, &operatorv1.ListMembersRequest{})
}

// NewNodes is a list of the nodes as this operator would sign it after before (nil for
// none), to be looked at first. Good is how long it is to last. Errors wrap ErrInvalid.
func (c *Client) NewNodes(nodes []*sensorv1.NodeAddress, good time.Duration, before *sensorv1.NodeAddresses) (*sensorv1.NodeAddresses, error) {
	if good < time.Hour || good > MaxNodesGood {
		return nil, fmt.Errorf("%w: a list of nodes is good for 1h to %s, not %s", ErrInvalid, MaxNodesGood, good)
	}
	now := time.Now()
	end := now.Add(good)
	if last := c.id.cert.Leaf.NotAfter; end.After(last) {
		end = last
	}
	serial := now.UnixNano()
	// Another admin's clock may be a little ahead.
	if last := int64(before.GetSerial()); last >= serial && last-serial < int64(maxAhead) { //nolint:gosec // verified
		serial = last + 1
	}
	list := &sensorv1.NodeAddresses{ClusterId: c.id.cluster, Serial: uint64(serial), NotAfter: end.UnixNano(), Operator: c.operator, Nodes: nodes} //nolint:gosec // after 1970
	payload, err := nodelist.Encode(list)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nodelist.Decode(payload)
}

// SignNodes signs a list with the operator's key and commits it: isolated hosts follow
// it. The key never leaves this process.
func (c *Client) SignNodes(ctx context.Context, list *sensorv1.NodeAddresses) error {
	signed, err := nodelist.Sign(c.id.signer, c.id.chain(), list)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	_, err = call(ctx, c, api.PutSignedNodes, &operatorv1.PutSignedNodesRequest{Signed: signed})
	return err
}
