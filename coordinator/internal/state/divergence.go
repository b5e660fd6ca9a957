package state

import (
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// reportDivergence notes in the audit that a node did not hold what the others hold.
func (a *applier) reportDivergence(in *raftv1.ReportDivergence) (*raftv1.Result, error) {
	if in.GetNode() == "" || "node:"+in.GetNode() != a.cmd.GetActor() {
		return reject(RejectInvalid, "a node reports about itself only"), nil
	}
	if err := a.audit(store.NodeDiffered, in.GetNode(), "its state differed from that of the majority (%s, window %d): it took the state of %s at entry %d",
		in.GetWhat(), in.GetWindow(), in.GetFrom(), in.GetIndex()); err != nil {
		return nil, err
	}
	return accept(in.GetNode()), nil
}
