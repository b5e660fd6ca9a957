// Package usage reads what a process holds and has used, from the kernel's own account.
//
// Invariant: it reads and changes nothing; what is gone is an error and never a zero.
package usage

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// KiB is a value of a process's status, as "VmRSS:".
func KiB(pid int, key string) (int, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, key); ok {
			var kib int
			_, err := fmt.Sscan(value, &kib)
			return kib, err
		}
	}
	return 0, fmt.Errorf("%s is not in the process's status: %w", key, fs.ErrNotExist)
}

// CPU is what all threads of a process have run, ended ones included: its CPU-time
// clock (clock_getcpuclockid(3)), which is the sum of their schedstat.
func CPU(pid int) (time.Duration, error) {
	const schedClock = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|schedClock, &ts); err != nil {
		return 0, fmt.Errorf("reading the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}
