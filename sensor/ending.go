package sensor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// A file in the state folder that is there while a sensor runs. One that is found
// at the start tells that the last sensor did not end by itself: what it had seen
// and not yet written, and all that happened since, nobody knows.
const runningFile = "running"

// begin notes that this sensor runs, and counts the last one's end as a loss when
// it was killed or the machine lost its power.
func (s *Sensor) begin() {
	path := s.path(runningFile)
	if _, err := os.Stat(path); err == nil {
		s.losses.add("sensor", "unclean-stop", 1)
		s.log.Warn("the last run of this sensor did not end cleanly: it was killed or failed, or the machine lost power; what happened until now was not seen")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		s.log.Warn("noting that the sensor runs; a crash would not be told at the next start", "error", err)
	}
}

// end takes the note back when all was written.
func (s *Sensor) end() error {
	if err := os.Remove(s.path(runningFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("noting that the sensor ended: %w", err)
	}
	return nil
}
