package state

import "github.com/vedette-edr/vedette/proto/raftv1"

// What of a hunt goes into the audit: the id that a node gave it, and an expression whole
// (package hunt bounds those to 16 KiB).
const (
	maxHuntID  = 64
	maxHuntAsk = 16 << 10
)

// noteHunt has the audit say who asked what, before any host is asked.
func (a *applier) noteHunt(in *raftv1.NoteHunt) (*raftv1.Result, error) {
	switch {
	case in.GetId() == "" || len(in.GetId()) > maxHuntID:
		return reject(RejectInvalid, "the hunt has no id, or one of more than %d bytes", maxHuntID), nil
	case in.GetQuestion() == "" || len(in.GetQuestion()) > maxHuntAsk:
		return reject(RejectInvalid, "the hunt's question is empty, or has more than %d bytes", maxHuntAsk), nil
	}
	return accept(in.GetId()), a.audit("hunt", in.GetId(), "on %d hosts: %s", in.GetHosts(), in.GetQuestion())
}
