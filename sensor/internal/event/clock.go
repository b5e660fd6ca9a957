package event

import (
	"time"

	"golang.org/x/sys/unix"
)

// WallClock is the time of day at bootNs nanoseconds of CLOCK_BOOTTIME, by the
// two clocks' present distance: a step of the time of day moves past events too.
func WallClock(bootNs uint64) time.Time {
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Now() // only without CLOCK_BOOTTIME, which every kernel with BTF has
	}
	return time.Now().Add(time.Duration(int64(bootNs) - boot.Nano()))
}

// BootNow is CLOCK_BOOTTIME now, in ns; 0 without that clock.
func BootNow() uint64 {
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return 0
	}
	return uint64(boot.Nano()) //nolint:gosec // never negative
}
