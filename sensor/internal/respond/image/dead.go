package image

import (
	"context"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigevent is struct sigevent of timer_create(2), 64 bytes.
type sigevent struct {
	value  uintptr
	signal int32
	notify int32
	_      [48]byte
}

type itimerspec struct{ interval, value unix.Timespec }

// deadMan makes a timer in the kernel that kills this process unless it is set
// anew within limit. It is the only watch that also holds while the process is
// stopped or frozen: a SIGKILL reaches it there. CLOCK_MONOTONIC stands still
// while the machine is suspended.
func deadMan(limit time.Duration) (disarm func(), err error) {
	var id int32
	event := sigevent{signal: int32(unix.SIGKILL)}
	if _, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&id))); errno != 0 {
		return nil, fmt.Errorf("making the timer that ends a stopped sensor: %w", errno)
	}
	arm := func() error {
		spec := itimerspec{value: unix.NsecToTimespec(limit.Nanoseconds())}
		if _, _, errno := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(id), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); errno != 0 {
			return fmt.Errorf("setting the timer that ends a stopped sensor: %w", errno)
		}
		return nil
	}
	remove := func() { _, _, _ = unix.Syscall(unix.SYS_TIMER_DELETE, uintptr(id), 0, 0) }
	if err := arm(); err != nil {
		remove()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var owned sync.WaitGroup
	owned.Go(func() {
		ticker := time.NewTicker(limit / 10)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				_ = arm() // it worked a moment ago
			}
		}
	})
	return func() {
		cancel()
		owned.Wait()
		remove()
	}, nil
}
