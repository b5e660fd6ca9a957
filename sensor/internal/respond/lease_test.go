package respond

import (
	"testing"
	"time"
)

// Ensure that reboots with a clock that goes back each time cannot stretch a lease.
func TestLeaseOverManyReboots(t *testing.T) {
	clock := &fakeClock{wall: time.Now(), boot: time.Hour, id: "boot"}
	l := newLease(clock, time.Hour)
	for _, used := range []time.Duration{20 * time.Minute, 20 * time.Minute, 15 * time.Minute} {
		clock.pass(used, used)
		before := l.remaining(clock)
		clock.reboot(0)
		l.rebase(clock)
		if got := l.remaining(clock); got != before {
			t.Errorf("a reboot that took no time: got %s, want %s", got, before)
		}
		clock.reboot(-1000 * time.Hour)
		l.rebase(clock)
		if got := l.remaining(clock); got > before {
			t.Errorf("the clock went back: got %s, want at most %s", got, before)
		}
	}
	if got, want := l.remaining(clock), 5*time.Minute; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	clock.pass(5*time.Minute, 0)
	if got := l.remaining(clock); got > 0 {
		t.Errorf("over by the boot clock: got %s", got)
	}
}
