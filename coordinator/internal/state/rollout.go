package state

import (
	"fmt"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// maxRollOuts bounds one command.
const maxRollOuts = 500

// noteRollOuts remembers behaviours that came to many hosts by installers. It changes no
// finding: who lists them is told beside each (see store.RollOuts).
func (a *applier) noteRollOuts(in *raftv1.NoteRollOuts) (*raftv1.Result, error) {
	if len(in.GetRollOuts()) > maxRollOuts {
		return reject(RejectInvalid, "more than %d roll-outs in one entry", maxRollOuts), nil
	}
	for _, r := range in.GetRollOuts() {
		if len(r.GetKey()) == 0 || len(r.GetKey()) > 127 || len(r.GetBy()) > maxName || r.GetInstalled() > r.GetHosts() {
			return reject(RejectInvalid, "a roll-out that says nothing"), nil
		}
		have, err := a.tx.RollOut(r.GetKey())
		if err != nil {
			return nil, fmt.Errorf("reading roll-out: %w", err)
		}
		if have != nil && have.GetHosts() >= r.GetHosts() {
			continue
		}
		if err := a.tx.PutRollOut(r); err != nil {
			return nil, fmt.Errorf("storing roll-out: %w", err)
		}
		if have != nil {
			continue
		}
		b, _, err := a.tx.Behaviour(r.GetKey())
		if err != nil {
			return nil, fmt.Errorf("reading behaviour: %w", err)
		}
		if err := a.audit("roll-out", r.GetBy(), "%.256q to %.256q, new on %d hosts, %d of them where an installer worked",
			b.GetSubject(), b.GetObject(), r.GetHosts(), r.GetInstalled()); err != nil {
			return nil, err
		}
	}
	return accept(""), nil
}
