package correlate

import (
	"testing"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Ensure scores wait for the investigator, that what he closes adds none, that what he takes
// for an incident is one, and that he is not waited for for ever, nor for a grave finding.
func TestVerdict(t *testing.T) {
	const soon, between, late = 5, 11, 50
	tests := []struct {
		name     string
		severity string
		verdict  string
		heard    int // of its three findings
		waits    int64
		kept     bool
		waiting  bool
	}{
		{name: "not heard yet", severity: "low", waits: soon, waiting: true},
		{name: "not heard in time", severity: "low", waits: late, kept: true},
		{name: "nobody is waited for", severity: "low", kept: true},
		{name: "a grave finding", severity: "high", waits: soon, kept: true},
		{name: "watching", severity: "low", verdict: "watching", heard: 3, waits: soon},
		{name: "benign", severity: "low", verdict: "benign", heard: 3, waits: soon},
		{name: "benign, and then more", severity: "low", verdict: "benign", heard: 1, waits: late, kept: true},
		{name: "more, and again more", severity: "low", verdict: "benign", heard: 1, waits: between, kept: true},
		{name: "a grave finding that was called benign", severity: "high", verdict: "benign", heard: 3, waits: soon, kept: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, l := newWindow(), newLedger(nil)
			w.waits = tt.waits
			for n := range 3 {
				r := row("a", "1", n+1, severity(tt.severity))
				r.StoredAt = 10 + int64(n)
				r.Finding.Score = 60
				w.addFinding(r)
			}
			if tt.verdict != "" {
				said := &raftv1.Investigation{Verdict: tt.verdict}
				for _, r := range w.stories[storyKey{"h-a", "1"}].findings[:tt.heard] {
					said.Findings = append(said.Findings, r.GetFinding().GetId())
				}
				w.judged(storyKey{"h-a", "1"}, said)
			}
			kept := len(w.components(l, 120)) > 0
			if waiting := len(w.waiting) > 0; kept != tt.kept || waiting != tt.waiting {
				t.Errorf("kept %v, waiting %v", kept, waiting)
			}
		})
	}
	w, l := newWindow(), newLedger(nil)
	w.addFinding(row("a", "1", 1, severity("low")))
	w.judged(storyKey{"h-a", "1"}, &raftv1.Investigation{Verdict: "incident"})
	if kept := w.components(l, 120); len(kept) != 1 {
		t.Errorf("%d incidents of what the investigator takes for one", len(kept))
	}

	// Two hosts that a flow joins: what was closed on one of them adds nothing.
	for _, closed := range []bool{false, true} {
		w := newWindow()
		w.addFinding(row("a", "1", 1, severity("low"), score(70), sends(tcp(false, "10.0.0.1", 4000, "10.0.0.2", 22, 1))))
		w.addFinding(row("b", "2", 1, severity("low"), score(70), cameBy(tcp(true, "10.0.0.2", 22, "10.0.0.1", 4000, 1))))
		if closed {
			w.judged(storyKey{"h-b", "2"}, &raftv1.Investigation{Verdict: "benign", Findings: []string{w.stories[storyKey{"h-b", "2"}].findings[0].GetFinding().GetId()}})
		}
		if kept := len(w.components(newLedger(nil), 120)) > 0; kept == closed {
			t.Errorf("closed %v: kept %v", closed, kept)
		}
	}
}
