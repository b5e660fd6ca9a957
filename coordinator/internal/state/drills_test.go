package state_test

import (
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Ensure the last result of each host and drill is kept, with when it was missed first and
// proven last, and that what makes no sense is not.
func TestPutDrills(t *testing.T) {
	l := newLog(t)
	l.host("h-1")
	l.host("h-2")
	put := func(host, verdict string, at int64) *raftv1.Command {
		return command(&raftv1.PutDrills{Results: []*raftv1.DrillResult{{Host: host, Drill: "cron-entry", Verdict: verdict, Time: at}}})
	}
	l.want(state.RejectInvalid, command(&raftv1.PutDrills{}))
	l.want(state.RejectInvalid, put("h-1", "found", 5))
	l.want(state.RejectInvalid, put("h-1", "proven", now+3600e9))
	l.want(state.RejectUnknownHost, put("h-3", "proven", 5))
	for _, step := range []struct {
		verdict            string
		at, missed, proven int64
		now                string
	}{
		{"missed", 10, 10, 0, "missed"},
		{"missed", 20, 10, 0, "missed"},
		{"proven", 30, 10, 30, "proven"},
		{"missed", 15, 10, 30, "proven"}, // an older one comes late
		{"skipped", 40, 10, 30, "skipped"},
	} {
		l.want("", put("h-1", step.verdict, step.at))
		rows, _, err := l.db.Drills(t.Context(), "h-1", store.Page{})
		if err != nil || len(rows) != 1 {
			t.Fatalf("%d rows (%v)", len(rows), err)
		}
		if r := rows[0]; r.GetVerdict() != step.now || r.GetMissedAt() != step.missed || r.GetProvenAt() != step.proven || r.GetHostName() != "name-h-1" {
			t.Errorf("after %+v: %v", step, r)
		}
	}
	l.want("", put("h-2", "missed", 5))
	tallies, err := l.db.DrillTallies(t.Context())
	if err != nil || len(tallies) != 1 || !tallies[0].Missed || tallies[0].Proven || !tallies[0].WasMissed || tallies[0].Last != 40 {
		t.Errorf("tallies %+v (%v)", tallies, err)
	}
	all, _, err := l.db.Drills(t.Context(), "", store.Page{})
	if err != nil || len(all) != 2 {
		t.Errorf("%d rows of all hosts (%v)", len(all), err)
	}
}
