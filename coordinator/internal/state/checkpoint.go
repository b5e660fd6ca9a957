package state

import (
	"bytes"
	"fmt"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// RejectAuditFork: a checkpoint of another record than this one.
const RejectAuditFork = "audit-fork"

// maxCheckpoint bounds a stored checkpoint, in bytes.
const maxCheckpoint = 16 << 10

// putCheckpoint keeps a node's signed word for the audit. It makes no entry of it: each
// would want another. Its signature is for whoever reads it to verify, elsewhere.
func (a *applier) putCheckpoint(in *raftv1.PutCheckpoint) (*raftv1.Result, error) {
	c := in.GetCheckpoint()
	size := len(c.GetSignature())
	for _, der := range c.GetChain() {
		size += len(der)
	}
	if !validID(c.GetNode()) || c.GetIndex() == 0 || size > maxCheckpoint || len(c.GetClusterId()) > maxID {
		return reject(RejectInvalid, "a checkpoint needs its node, an entry and a signature"), nil
	}
	sum, err := a.tx.AuditHash(c.GetIndex())
	if err != nil {
		return nil, fmt.Errorf("reading audit entry: %w", err)
	}
	if !bytes.Equal(sum, c.GetHash()) {
		return reject(RejectAuditFork, "entry %d of the audit is another one at %s: its copy differs from that of the cluster", c.GetIndex(), c.GetNode()), nil
	}
	if err := a.tx.AddCheckpoint(c); err != nil {
		return nil, fmt.Errorf("storing checkpoint: %w", err)
	}
	return accept(fmt.Sprint(c.GetIndex())), nil
}
