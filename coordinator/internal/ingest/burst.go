package ingest

import (
	"context"
	"time"
)

const (
	// burstSize sessions are written to at once.
	burstSize = 64
	// burstTime is the most that the next ones wait for them: a sensor that does not
	// read holds up nobody for longer.
	burstTime = 20 * time.Millisecond
)

// sendBurst paces what goes to many sessions. Its zero value is ready.
type sendBurst struct {
	wrote chan<- struct{} // has room for a whole burst
	done  <-chan struct{}
	count int
}

// next returns when one more message may be queued.
func (b *sendBurst) next(ctx context.Context) {
	if b.count == burstSize {
		timer := time.NewTimer(burstTime)
		defer timer.Stop()
		for ; b.count > 0; b.count-- {
			select {
			case <-b.done:
				continue
			case <-timer.C:
			case <-ctx.Done():
			}
			break
		}
		b.count = 0
	}
	if b.count == 0 { // not the last burst's channel: what is late must not count for this one
		wrote := make(chan struct{}, burstSize)
		b.wrote, b.done = wrote, wrote
	}
	b.count++
}
