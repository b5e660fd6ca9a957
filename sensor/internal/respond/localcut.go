package respond

import (
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
)

// maxRepeats is how often a host isolates itself again with no person having given
// an order for it.
const maxRepeats = 3

// CutNow is the first thing of a level-4 verdict to isolate, for the goroutine that
// reached it: a store to memory, no more. Contain with the action isolate must
// follow, which makes it whole or takes it back. It does nothing on a host that is
// isolated already or cannot be isolated, and says whether it cut.
func (r *Responder) CutNow() bool {
	if r.cfg.First == nil || !r.cfg.Enabled || r.cfg.ScopeKind == "cgroup" {
		return false
	}
	r.mu.Lock()
	busy := r.record.Lease != nil || r.record.Repeats >= maxRepeats
	nodes, _ := r.pin(r.known)
	r.mu.Unlock()
	if busy || len(nodes) == 0 {
		return false
	}
	return r.cfg.First.Cut(isolation.Full, nodes) == nil
}

// isolateLocally isolates this host on its own evidence.
func (r *Responder) isolateLocally(o LocalOrder) *sensorv1.IsolationStatus {
	r.granting.Lock()
	defer r.granting.Unlock()
	length, note := leaseLength(uint64(max(o.Lease, 0).Seconds()))
	if o.CutAfter > 0 {
		note += fmt.Sprintf("the first cut was %s after the event; ", o.CutAfter.Round(10*time.Microsecond))
	}
	order := isolationOrder{operation: localOperation(), reason: o.Reason, length: length, note: note, local: &o}
	refused := func(err error) *sensorv1.IsolationStatus {
		status := &sensorv1.IsolationStatus{
			Operation: order.operation, State: sensorv1.IsolationState_ISOLATION_STATE_REFUSED, Action: o.Action, Local: true,
			Evidence: o.Evidence, IntentVersion: o.IntentVersion, Policies: o.Policies, Detail: err.Error(),
		}
		r.mu.Lock()
		if r.record.Lease == nil && r.cfg.First != nil {
			err = r.cfg.First.Lift(nil) // what CutNow began
		}
		r.report(status)
		r.unlockAndReport()
		r.cfg.Logger.Warn("the host does not isolate itself", "reason", status.GetDetail(), "lift_error", err)
		return status
	}
	if err := r.cannotIsolate(order.level); err != nil {
		return refused(err)
	}
	r.mu.Lock()
	switch lease := r.record.Lease; {
	case lease != nil:
		// The isolation in force holds; its end is not for a second finding to move.
		status := r.status(lease, sensorv1.IsolationState_ISOLATION_STATE_APPLIED, "already in force")
		r.mu.Unlock()
		return status
	case r.record.Repeats >= maxRepeats:
		repeats := r.record.Repeats
		r.mu.Unlock()
		return refused(fmt.Errorf("this host isolated itself %d times with nobody having looked at it: a person must (vedette isolate or vedette release)", repeats))
	}
	r.record.Repeats++
	return r.cutOff(order)
}
