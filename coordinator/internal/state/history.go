package state

import (
	"fmt"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

const (
	// maxRetained bounds what one entry removes: the writer does nothing else meanwhile.
	maxRetained = 5_000
	// MinKept is the least age of what goes by time (ns): engines look back a day, and an order's
	// grant must have ended long before its nonce may be forgotten.
	MinKept = int64(48) * 3600 * 1e9
)

// retain removes what is older than the leader says. Open incidents and their findings, what hosts
// have pending or applied, and the audit always stay.
func (a *applier) retain(in *raftv1.Retain) (*raftv1.Result, error) {
	if in.GetRows() == 0 || in.GetRows() > maxRetained {
		return reject(RejectInvalid, "an entry of retention removes 1 to %d rows, not %d", maxRetained, in.GetRows()), nil
	}
	for _, before := range []int64{in.GetFindingsBefore(), in.GetFlowsBefore(), in.GetIncidentsBefore(), in.GetOperationsBefore(), in.GetKeysBefore(), in.GetLossesBefore()} {
		if before > a.cmd.GetTime()-MinKept {
			return reject(RejectInvalid, "retention may not end within the last two days"), nil
		}
	}
	if err := a.tx.BeginHistory(); err != nil {
		return nil, fmt.Errorf("beginning history: %w", err)
	}
	gone, err := a.tx.Retain(in)
	if err != nil {
		return nil, fmt.Errorf("removing what is old: %w", err)
	}
	return &raftv1.Result{Removed: uint64(max(gone, 0))}, nil
}

// forget removes what hosts have not shown for long.
func (a *applier) forget(in *raftv1.Forget) (*raftv1.Result, error) {
	if in.GetSightings() == 0 || in.GetSightings() > maxRetained || in.GetBefore() > a.cmd.GetTime()-MinKept {
		return reject(RejectInvalid, "an entry forgets 1 to %d sightings, none of the last two days", maxRetained), nil
	}
	result, left := &raftv1.Result{}, int(in.GetSightings())
	for _, id := range in.GetHosts() {
		host, ok, err := a.tx.HostNumber(id)
		if err != nil {
			return nil, fmt.Errorf("reading host: %w", err)
		}
		if !ok || left == 0 {
			continue
		}
		gone, err := a.tx.Forget(host, in.GetBefore(), left)
		if err != nil {
			return nil, fmt.Errorf("forgetting sightings: %w", err)
		}
		left -= gone
		result.Removed += uint64(gone) //nolint:gosec // a count
	}
	return result, nil
}
