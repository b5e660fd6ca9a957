package respond

import (
	"errors"
	"fmt"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

var (
	// ErrUncorroborated: the coordinator's word alone.
	ErrUncorroborated = errors.New("no operator signed the grant, and what this host has seen does not support it")
	// ErrOvertaken: it comes before a grant that was honoured.
	ErrOvertaken = errors.New("a later grant was honoured before this one; look at the host and give the order again")
	// ErrAboveCap: so many hosts need a second operator.
	ErrAboveCap = errors.New("the grant is for more hosts than one operator may contain alone")
)

// authorised says why a verified grant for this host is not honoured all the same.
// Each reason is one that the coordinator checks as well: a stolen one does not.
func (r *Responder) authorised(g *sensorv1.Grant, signers []link.Peer) error {
	r.mu.Lock()
	newest := r.record.Epoch
	r.mu.Unlock()
	if g.GetEpoch() <= newest {
		return ErrOvertaken
	}
	if g.GetAction() == sensorv1.Action_ACTION_RELEASE || g.GetPreview() {
		if len(signers) == 0 {
			return fmt.Errorf("%w: only an operator releases or looks", ErrUncorroborated)
		}
		return nil
	}
	if len(signers) == 0 {
		if r.cfg.Corroborates == nil {
			return ErrUncorroborated
		}
		if err := r.cfg.Corroborates(g); err != nil {
			return fmt.Errorf("%w: %w", ErrUncorroborated, err)
		}
		return nil
	}
	alone := intent.CapsOf(r.intent().GetGovernor(), int(g.GetFleet())).TenMinutes
	if count := int(g.GetHostCount()); count > alone && len(signers) < 2 {
		return fmt.Errorf("%w: %d of %d hosts, and the intent allows %d; another operator must approve it", ErrAboveCap, count, g.GetFleet(), alone)
	}
	return nil
}

func (r *Responder) intent() *sensorv1.Intent {
	if r.cfg.Intent != nil {
		if current := r.cfg.Intent(); current != nil {
			return current
		}
	}
	return intent.Defaults()
}
