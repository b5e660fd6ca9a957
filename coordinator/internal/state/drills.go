package state

import (
	"fmt"

	"github.com/vedette-edr/vedette/proto/drill"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// maxDrillResults bounds one run's results, and maxDrillText each text in them, in bytes.
const (
	maxDrillResults = 1024
	maxDrillText    = 1024
)

// putDrills keeps what an operator says that drills found out. It is a report and nothing
// follows from it, but for what the report says; who gave it stands in the audit.
func (a *applier) putDrills(in *raftv1.PutDrills) (*raftv1.Result, error) {
	if n := len(in.GetResults()); n == 0 || n > maxDrillResults {
		return reject(RejectInvalid, "%d results of drills, want 1 to %d", n, maxDrillResults), nil
	}
	counts := map[string]int{}
	for _, r := range in.GetResults() {
		if problem := drill.CheckResult(r, maxDrillText); problem != "" {
			return reject(RejectInvalid, "%s", problem), nil
		}
		if r.GetTime() > a.cmd.GetTime()+clockSkew {
			return reject(RejectInvalid, "drill %s is from the future: compare the clocks", r.GetDrill()), nil
		}
		counts[r.GetVerdict()]++
	}
	hosts := map[string]int64{}
	for _, r := range in.GetResults() {
		if _, seen := hosts[r.GetHost()]; seen {
			continue
		}
		n, ok, err := a.tx.HostNumber(r.GetHost())
		if err != nil {
			return nil, fmt.Errorf("reading host: %w", err)
		}
		if !ok {
			return reject(RejectUnknownHost, "no host is called %s", r.GetHost()), nil
		}
		hosts[r.GetHost()] = n
	}
	for _, r := range in.GetResults() {
		if err := a.tx.PutDrill(hosts[r.GetHost()], r); err != nil {
			return nil, fmt.Errorf("keeping a drill's result: %w", err)
		}
	}
	if err := a.tx.TrimDrills(); err != nil {
		return nil, fmt.Errorf("holding drills' results to their bound: %w", err)
	}
	first := in.GetResults()[0].GetHost()
	return accept(first), a.audit("drills", first, "%d proven, %d missed, %d skipped, %d failed", counts[drill.Proven], counts[drill.Missed], counts[drill.Skipped], counts[drill.Failed])
}
