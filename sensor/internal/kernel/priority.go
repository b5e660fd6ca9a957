package kernel

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// niceness of a process that may cut: it competes with the very processes that it cuts
// off. Its budget holds all the same, and the packaged unit's share of the processor says
// it again, since there only the unit's weight counts.
const niceness = -10

// GoBeforeOthers gives this process the priority of one that may cut.
func GoBeforeOthers() error { return setNiceness(niceness) }

// setNiceness is of all threads of this process; those to come have it from them.
func setNiceness(nice int) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("listing this process's threads: %w", err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			continue
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, nice); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("setting the niceness %d: %w", nice, err)
		}
	}
	return nil
}
