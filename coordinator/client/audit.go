package client

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/trust"
)

// ErrAuditBroken is what VerifyAudit wraps when the chain does not hold.
var ErrAuditBroken = audit.ErrBroken

// Chain is a stretch of the audit record that holds together.
type Chain struct {
	// From and To are the first and last index; both 0 for an empty record.
	From, To uint64
	// Head is the hash of the last entry.
	Head []byte
}

// VerifyAudit computes the hash chain anew from the entries, in order. A stretch
// that starts at entry 1 must start the chain; a later one is checked from what its
// first entry names as the one before. It returns how far the chain holds, also
// with an error.
func VerifyAudit(entries iter.Seq2[*operatorv1.AuditEntry, error]) (Chain, error) {
	var c Chain
	previous := audit.Genesis()
	one := make([]*operatorv1.AuditEntry, 1)
	for e, err := range entries {
		if err != nil {
			return c, err
		}
		if c.To == 0 {
			if e.GetIndex() == 0 {
				return c, fmt.Errorf("%w: there is no entry 0", ErrAuditBroken)
			}
			c.From, c.To = e.GetIndex(), e.GetIndex()-1
			if c.From > 1 {
				previous = e.GetPrevious()
			}
		}
		one[0] = e
		next, err := audit.Verify(c.To, previous, one)
		if err != nil {
			return c, err
		}
		previous = next
		c.To, c.Head = e.GetIndex(), next
	}
	return c, nil
}

// Checkpoints are what the nodes have signed of the audit, verified: newest first. One
// that is no node's of this cluster is ErrUntrusted.
func (c *Client) Checkpoints(ctx context.Context) ([]*raftv1.Checkpoint, error) {
	res, err := call(ctx, c, api.ListCheckpoints, &operatorv1.ListCheckpointsRequest{PageSize: pageSize})
	if err != nil {
		return nil, err
	}
	roots := trust.Pool(&sensorv1.Trust{Roots: c.id.roots})
	for _, signed := range res.GetTrusts() {
		// What an authority signed while it was trusted stays signed.
		t, _, err := trust.Verify(signed, c.id.operators, c.id.cluster, 0, time.Now())
		if err != nil {
			return nil, fmt.Errorf("%w: node %s tells a list of trusted authorities that cannot be verified: %w", ErrUntrusted, c.Node(), err)
		}
		for _, der := range t.GetRoots() {
			if root, err := trust.Root(der, c.id.cluster); err == nil {
				roots.AddCert(root)
			}
		}
	}
	for _, checkpoint := range res.GetCheckpoints() {
		peer, err := audit.VerifyCheckpoint(checkpoint, roots)
		if err == nil && (peer.Kind != link.KindNode || peer.Cluster != c.id.cluster) {
			err = fmt.Errorf("%s:%s of %s signed it", peer.Kind, peer.ID, peer.Cluster)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: node %s tells a checkpoint of entry %d that cannot be verified: %w", ErrUntrusted, c.Node(), checkpoint.GetIndex(), err)
		}
	}
	return res.GetCheckpoints(), nil
}

// SignAudit is this operator's own word for a chain that was verified here, and the
// authority (DER) that certifies them.
func (c *Client) SignAudit(chain Chain) (checkpoint *raftv1.Checkpoint, authority []byte, err error) {
	checkpoint = &raftv1.Checkpoint{ClusterId: c.id.cluster, Node: link.KindOperator + ":" + c.operator, Index: chain.To, Hash: chain.Head, Time: time.Now().UnixNano()}
	return checkpoint, c.id.operators.Raw, audit.SignCheckpoint(c.id.signer, c.id.chain(), checkpoint)
}
