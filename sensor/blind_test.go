package sensor

import (
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/kernel"
)

// Ensure that a sensor is blind by the share that it lost, at once and once, and sees
// again only after a while without losses.
func TestBlindness(t *testing.T) {
	var b blindness
	now := time.Unix(1000, 0)
	var lost, made uint64
	step := func(more, all uint64) string {
		t.Helper()
		now = now.Add(blindSpan)
		lost, made = lost+more, made+all
		began, ended := b.note(now, lost, made)
		switch {
		case began:
			return "began"
		case ended:
			return "ended"
		case b.state() != "":
			return "blind"
		}
		return "sees"
	}
	b.note(now, 0, 0)
	for i, tt := range []struct {
		lost, made uint64
		want       string
	}{
		{0, 1000, "sees"},
		{999, 1000, "sees"},                // few
		{2000, 900_000, "sees"},            // of very many
		{50_000, 600_000, "began"},         // every twelfth
		{1, 1000, "blind"},                 // still losing
		{0, 1000, "blind"},                 // not for long enough
		{100_000, 600_000, "blind"},        // told once
		{0, 10, "blind"}, {0, 10, "blind"}, // 4 s
		{0, 10, "blind"}, {0, 10, "blind"}, {0, 10, "blind"}, {0, 10, "blind"}, // 12 s, and 14
		{0, 10, "blind"}, {0, 10, "ended"},
		{0, 10, "sees"},
	} {
		if got := step(tt.lost, tt.made); got != tt.want {
			t.Errorf("step %d: %s, want %s", i, got, tt.want)
		}
	}
}

// Ensure that what the budget leaves out does not make the sensor blind.
func TestSampledIsNotBlind(t *testing.T) {
	losses := []event.Loss{
		{Where: "file", Cause: kernel.CauseSampled, Count: 1_000_000},
		{Where: "ring:bulk", Cause: "flow: ring full", Count: 7},
	}
	if got := unmeant(losses); got != 7 {
		t.Errorf("%d lost unmeant, want 7", got)
	}
}
