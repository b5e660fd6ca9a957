package sensor

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

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

// Ensure that a run that was killed while the machine ran on is told as that, one that
// went down with its machine is not, and that nothing in the file can do harm.
func TestKilledIsTold(t *testing.T) {
	alive := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		file string
		want bool
	}{
		"killed":                   {fmt.Sprintf("0 %s %d\n", bootName(), alive.UnixNano()), true},
		"the machine was rebooted": {fmt.Sprintf("0 another-boot %d\n", alive.UnixNano()), false},
		"an older sensor's file":   {"1", false},
		"empty":                    {"", false},
		"no numbers":               {"x " + bootName() + " y", true},
		"far too long":             {strings.Repeat("9", 1<<20), false},
	} {
		s := &Sensor{cfg: Config{StateDir: t.TempDir()}, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		if err := os.WriteFile(s.path(runningFile), []byte(tt.file), 0o600); err != nil {
			t.Fatal(err)
		}
		killed := s.begin()
		if (killed != nil) != tt.want {
			t.Errorf("%s: told %+v, want %v", name, killed, tt.want)
		}
		if name == "killed" && killed != nil && !strings.Contains(killed.Detail, "2026-03-01T12:00:00Z") {
			t.Errorf("it does not say when the sensor was last alive: %s", killed.Detail)
		}
	}
}
