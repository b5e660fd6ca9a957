package control

import (
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
)

// Ensure a technique counts as proven only when no drill of it is missed anywhere, and a gap
// as closed when it was missed and is proven.
func TestCoverage(t *testing.T) {
	if coverage(nil) != nil {
		t.Error("there is coverage without a drill")
	}
	got := coverage([]store.DrillTally{
		{Drill: "cron-entry", Proven: true, WasMissed: true, Last: 7}, // T1053.003
		{Drill: "timer-unit", Missed: true, Proven: true, Last: 9},    // T1053.006
		{Drill: "preload-list", Proven: true},                         // T1574.006,
		{Drill: "preloaded-library", Missed: true, WasMissed: true},   // and again
		{Drill: "at-job", WasMissed: true},                            // skipped now
		{Drill: "drill-of-a-newer-release", Missed: true, Proven: true},
	})
	if got.GetProven() != 1 || got.GetMissed() != 2 || got.GetClosed() != 1 || got.GetLast() != 9 {
		t.Errorf("got %v, want 1 proven, 2 missed, 1 closed, the last at 9", got)
	}
}
