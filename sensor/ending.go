package sensor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// A file in the state folder that is there while a sensor runs. One that is found
// at the start tells that the last sensor did not end by itself: what it had seen
// and not yet written, and all that happened since, nobody knows. It holds how
// many such ends no summary has told: a sensor can be killed before its first.
const runningFile = "running"

// begin notes that this sensor runs, and counts the last one's end as a loss when
// it was killed or the machine lost its power.
func (s *Sensor) begin() {
	raw, err := os.ReadFile(s.path(runningFile))
	if err == nil {
		earlier, _ := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 16) // what is no number is none
		s.untold = earlier + 1
		s.losses.add("sensor", "unclean-stop", s.untold)
		s.log.Warn("the last run of this sensor did not end cleanly: it was killed or failed, or the machine lost power; what happened until now was not seen")
	}
	s.noteRunning()
}

// told is called when a summary with the losses so far is in the spool.
func (s *Sensor) told() {
	if s.untold > 0 {
		s.untold = 0
		s.noteRunning()
	}
}

func (s *Sensor) noteRunning() {
	path := s.path(runningFile)
	err := os.WriteFile(path+".new", strconv.AppendUint(nil, s.untold, 10), 0o600)
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
