package pulse

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Ensure paces of which one is a multiple of the other meet, whenever they began, and
// that none drifts however late its user comes back.
func TestPacesMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		epoch = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 9900*time.Millisecond)
		defer cancel()
		come := func(after, every, busy time.Duration) (at []time.Duration) {
			<-time.After(after)
			for range Ticks(ctx, every) {
				at = append(at, time.Since(epoch))
				<-time.After(busy)
			}
			return at
		}
		var fast, slow []time.Duration
		done := make(chan struct{})
		go func() {
			defer close(done)
			fast = come(30*time.Millisecond, 250*time.Millisecond, 3*time.Millisecond)
		}()
		slow = come(777*time.Millisecond, time.Second, 200*time.Millisecond)
		<-done
		if len(fast) != 39 || len(slow) != 9 {
			t.Errorf("came %d and %d times", len(fast), len(slow))
		}
		for _, at := range append(fast, slow...) {
			if at%(250*time.Millisecond) != 0 {
				t.Errorf("came at %s", at)
			}
		}
	})
}

// Ensure who is busy for longer than the pace leaves out what passed, and comes at the
// next moment.
func TestMissedMomentsAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		epoch = time.Now()
		var at []time.Duration
		for range Ticks(t.Context(), time.Second) {
			at = append(at, time.Since(epoch))
			if len(at) == 2 {
				break
			}
			<-time.After(2500 * time.Millisecond)
		}
		if len(at) != 2 || at[0] != time.Second || at[1] != 4*time.Second {
			t.Errorf("came at %v", at)
		}
	})
}

// Ensure the wait is never nothing, which would be a busy loop, nor longer than the pace.
func TestNext(t *testing.T) {
	for _, tt := range []struct{ since, every, want time.Duration }{
		{0, 250, 250}, {1, 250, 249}, {249, 250, 1}, {250, 250, 250}, {1001, 250, 249},
	} {
		if got := next(tt.since, tt.every); got != tt.want {
			t.Errorf("next(%d, %d) = %d, not %d", tt.since, tt.every, got, tt.want)
		}
	}
}
