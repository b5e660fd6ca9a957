package sensor

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure each loss is told once in a summary and in every finding of its window.
func TestLossMeterTellsEachLossOnce(t *testing.T) {
	var m lossMeter
	ring := event.Loss{Where: "ring:bulk", Cause: "full", Count: 3}

	m.note([]event.Loss{ring})
	m.add("spool", "refused", 1)
	m.note([]event.Loss{ring})
	want := []event.Loss{ring, {Where: "spool", Cause: "refused", Count: 1}}
	if diff := cmp.Diff(want, m.window()); diff != "" {
		t.Errorf("window (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, m.harvest([]event.Loss{ring})); diff != "" {
		t.Errorf("harvest (-want +got):\n%s", diff)
	}
	if got := m.window(); got != nil {
		t.Errorf("told again: %v", got)
	}
	ring.Count = 5
	if diff := cmp.Diff([]event.Loss{{Where: "ring:bulk", Cause: "full", Count: 2}}, m.harvest([]event.Loss{ring})); diff != "" {
		t.Errorf("second harvest (-want +got):\n%s", diff)
	}
	if got := m.total(); got != 6 {
		t.Errorf("total %d, want 6", got)
	}
}
