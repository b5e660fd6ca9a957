package sensor

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// niceness of a sensor that may isolate: it competes with the very processes that it cuts
// off. Its budget holds all the same, and the packaged unit's share of the processor says
// it again, since there only the unit's weight counts.
const niceness = -10

// goBeforeOthers gives all threads of this process the niceness; those to come have it from
// them. Where that is not permitted the sensor goes on as it is.
func (s *Sensor) goBeforeOthers() {
	tasks, err := os.ReadDir("/proc/self/task")
	for _, task := range tasks {
		tid, notNumber := strconv.Atoi(task.Name())
		if notNumber != nil {
			continue
		}
		if failed := unix.Setpriority(unix.PRIO_PROCESS, tid, niceness); failed != nil && !errors.Is(failed, unix.ESRCH) {
			err = fmt.Errorf("setting the niceness %d: %w", niceness, failed)
		}
	}
	if err != nil {
		s.log.Debug("the sensor has no priority over other processes; its unit may give it (CPUWeight)", "error", err)
	}
}
