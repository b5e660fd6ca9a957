package sensor

import (
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/detect"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure what a weak rule minds, and leaves out where the host does it all the time, is learnt and
// then told no more; else it would be found for as long as the host does it.
func TestWeakFindingIsLearnt(t *testing.T) {
	h := newWarmHost(t, 1, time.Hour, nil)
	init := &event.Process{Key: event.ProcessKey{PID: 1, Start: 1}, Image: "/usr/lib/systemd/systemd"}
	cron := h.start(init, "/usr/sbin/cron", 0)
	hour := func() (told int) {
		before := len(h.findings)
		for range 12 {
			h.start(cron, "/usr/bin/ssh", 0, "-o", "StrictHostKeyChecking=no", "backup@10.0.0.9", "true")
			h.now = h.now.Add(5 * time.Minute)
		}
		for _, f := range h.findings[before:] {
			if f.Severity != event.Low {
				t.Errorf("%s: %s", f.Severity, f.Title)
			}
			told++
		}
		return told
	}
	if first := hour(); first == 0 {
		t.Fatal("a log-in that trusts any host is not found: nothing was tried")
	}
	for range 3 {
		hour()
	}
	if told := hour(); told > 0 {
		t.Errorf("in the fifth hour it was told %d times", told)
	}
}

// Ensure which findings keep their storyline from teaching.
func TestTaints(t *testing.T) {
	for _, tt := range []struct {
		kind     string
		severity event.Severity
		want     bool
	}{
		{"rule", event.Informational, false}, {"rule", event.Low, false}, {"rule", event.Medium, true}, {"new-exec", event.High, true},
		{"follow-up", event.Critical, true}, {detect.KindTamper, event.High, false},
	} {
		if got := taints(&event.Finding{Kind: tt.kind, Severity: tt.severity}); got != tt.want {
			t.Errorf("%s of severity %s: %v", tt.kind, tt.severity, got)
		}
	}
}
