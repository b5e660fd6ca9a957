package state

import (
	"fmt"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// maxSink bounds the name of a sink, in bytes.
const maxSink = 64

// exportMark moves a sink's place, from where the proposer saw it and never back. Two
// nodes that both take themselves for the leader hand out the same records; the marks of
// one of them count, and with them what was lost.
func (a *applier) exportMark(in *raftv1.ExportMark) (*raftv1.Result, error) {
	if !validID(in.GetSink()) || len(in.GetSink()) > maxSink {
		return reject(RejectInvalid, "the name of a sink is 1 to %d printable characters", maxSink), nil
	}
	have, err := a.tx.Export(in.GetSink())
	if err != nil {
		return nil, fmt.Errorf("reading a sink's place: %w", err)
	}
	if have == nil {
		if in.GetFrom() != nil {
			return reject(RejectExportMoved, "sink %s is not known any more", in.GetSink()), nil
		}
		if err := a.tx.BeginExport(in.GetSink()); err != nil {
			return nil, fmt.Errorf("beginning a sink: %w", err)
		}
		return accept(in.GetSink()), a.audit("export-begin", in.GetSink(), "from the oldest that is held")
	}
	if !same(have.Place, in.GetFrom()) || backwards(in.GetFrom(), in.GetTo()) {
		return reject(RejectExportMoved, "sink %s is at another place", in.GetSink()), nil
	}
	if err := a.tx.MoveExport(in.GetSink(), in.GetTo(), int64(min(in.GetLost(), 1<<60))); err != nil {
		return nil, fmt.Errorf("moving a sink's place: %w", err)
	}
	return accept(in.GetSink()), nil
}

func backwards(from, to *raftv1.ExportPlace) bool {
	return to.GetFindings() < from.GetFindings() || to.GetAudit() < from.GetAudit() || to.GetFlows() < from.GetFlows() ||
		to.GetIncidentIndex() < from.GetIncidentIndex() ||
		to.GetIncidentIndex() == from.GetIncidentIndex() && to.GetIncidentRow() < from.GetIncidentRow()
}
