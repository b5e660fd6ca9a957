package sensor

import (
	"io"
	"log/slog"
	"os"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that each unclean end is told in exactly one summary, also one that came
// before the run's first summary, and a clean end in none.
func TestUncleanStopIsTold(t *testing.T) {
	dir := t.TempDir()
	run := func(summaries bool) (told uint64) {
		s := &Sensor{cfg: Config{StateDir: dir}, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		s.begin()
		if summaries {
			for _, l := range s.losses.harvest(nil) {
				if (event.Loss{Where: "sensor", Cause: "unclean-stop", Count: l.Count}) == l {
					told += l.Count
				}
			}
			s.told()
		}
		return told
	}
	end := func() {
		s := &Sensor{cfg: Config{StateDir: dir}}
		if err := s.end(); err != nil {
			t.Fatal(err)
		}
	}
	for i, step := range []struct {
		summaries bool
		want      uint64
		end       bool
	}{
		{true, 0, true},   // the first run ends
		{true, 0, false},  // the second is killed
		{true, 1, false},  // the third tells it, and is killed
		{false, 0, false}, // the fourth is killed before it can tell
		{true, 2, true},   // the fifth tells both, and ends
		{true, 0, true},
	} {
		if got := run(step.summaries); got != step.want {
			t.Errorf("run %d tells %d, want %d", i+1, got, step.want)
		}
		if step.end {
			end()
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
}
