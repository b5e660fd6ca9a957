package ingest

import (
	"testing"
	"testing/synctest"
	"time"
)

// Ensure a burst waits for the one before it, and not for sensors that do not read.
func TestSendBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var burst sendBurst
		took := func() time.Duration {
			began := time.Now()
			burst.next(t.Context())
			return time.Since(began)
		}
		var late chan<- struct{}
		for range burstSize {
			if waited := took(); waited != 0 {
				t.Fatalf("the first burst waited for %s", waited)
			}
			late = burst.wrote
		}
		if waited := took(); waited != burstTime {
			t.Errorf("after a burst that is not written: waited for %s, want %s", waited, burstTime)
		}
		late <- struct{}{} // counts for its own burst alone
		for range burstSize - 1 {
			burst.wrote <- struct{}{}
			burst.next(t.Context())
		}
		writing := burst.wrote
		time.AfterFunc(5*time.Millisecond, func() { writing <- struct{}{} })
		if waited := took(); waited != 5*time.Millisecond {
			t.Errorf("after a burst that was written in 5 ms: waited for %s", waited)
		}
	})
}
