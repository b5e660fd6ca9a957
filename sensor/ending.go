package sensor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/pulse"
)

// A file in the state folder that is there while a sensor runs. One that is found
// at the start tells that the last sensor did not end by itself: what it had seen
// and not yet written, and all that happened since, nobody knows. It holds how
// many such ends no summary has told (a sensor can be killed before its first), the
// kernel's boot, and when the sensor was last alive: a killed sensor is somebody's
// doing, one that went down with its machine need not be.
const runningFile = "running"

// aliveEvery is how often the file is written anew: what is told of a killed sensor's
// end is right to so much.
const aliveEvery = 10 * time.Second

// lastRun is what the file says.
type lastRun struct {
	untold uint64
	boot   string // the kernel's boot id
	alive  time.Time
}

func parseRunning(raw []byte) (last lastRun) {
	fields := strings.Fields(string(raw[:min(len(raw), 256)]))
	if len(fields) > 0 {
		last.untold, _ = strconv.ParseUint(fields[0], 10, 16) // what is no number is none
	}
	if len(fields) > 2 {
		last.boot = fields[1]
		if ns, err := strconv.ParseInt(fields[2], 10, 64); err == nil {
			last.alive = time.Unix(0, ns)
		}
	}
	return last
}

// begin notes that this sensor runs, and counts the last one's end as a loss when
// it was killed or the machine lost its power; killed says what to tell of the former.
func (s *Sensor) begin() (killed *event.Tamper) {
	raw, err := os.ReadFile(s.path(runningFile))
	if err == nil {
		last := parseRunning(raw)
		s.untold = last.untold + 1
		s.losses.add("sensor", "unclean-stop", s.untold)
		s.log.Warn("the last run of this sensor did not end cleanly: it was killed or failed, or the machine lost power; what happened until now was not seen")
		if boot := bootName(); last.boot == boot && boot != "" {
			now := time.Now()
			killed = &event.Tamper{What: event.TamperKilled, For: now.Sub(last.alive), Detail: fmt.Sprintf(
				"the sensor that ran before this one was killed or failed, and the machine ran on: it was last alive at %s, this one sees since %s, and what happened between was not seen",
				last.alive.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))}
		}
	}
	s.noteRunning()
	return killed
}

// bootName tells this boot of the kernel from any other; empty: the kernel does not say.
func bootName() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// keepRunning writes the time of the last life until ctx ends.
func (s *Sensor) keepRunning(ctx context.Context) error {
	for range pulse.Ticks(ctx, aliveEvery) {
		s.noteRunning()
	}
	return nil
}

// told is called when a summary with the losses so far is in the spool.
func (s *Sensor) told() {
	s.ending.Lock()
	untold := s.untold
	s.untold = 0
	s.ending.Unlock()
	if untold > 0 {
		s.noteRunning()
	}
}

func (s *Sensor) noteRunning() {
	s.ending.Lock()
	defer s.ending.Unlock()
	path := s.path(runningFile)
	text := fmt.Sprintf("%d %s %d\n", s.untold, bootName(), time.Now().UnixNano())
	err := os.WriteFile(path+".new", []byte(text), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		s.log.Warn("noting that the sensor runs; a crash may not be told at the next start", "error", err)
	}
}

// end takes the note back when all was written.
func (s *Sensor) end() error {
	if err := os.Remove(s.path(runningFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("noting that the sensor ended: %w", err)
	}
	return nil
}
