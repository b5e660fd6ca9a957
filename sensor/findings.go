package sensor

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	// hashWait is the longest that a finding waits for the hash of its image, counted
	// from when it was found, however many wait before it.
	hashWait = 500 * time.Millisecond
	// hashLine bounds those that wait; one more goes without, and ahead of them.
	hashLine = 1024
)

// findingLine hands findings on in the order in which they were found: a finding
// whose image is hashed does not overtake one whose image still is to be.
type findingLine struct {
	complete func(context.Context, *event.Process) *event.Process
	send     func(*event.Finding)

	line    chan lined
	pending atomic.Int64 // in the line or taken from it and not yet sent
}

type lined struct {
	finding *event.Finding
	until   time.Time
}

func newFindingLine(complete func(context.Context, *event.Process) *event.Process, send func(*event.Finding)) *findingLine {
	return &findingLine{complete: complete, send: send, line: make(chan lined, hashLine)}
}

// add never waits; called from one goroutine.
func (l *findingLine) add(f *event.Finding) {
	if f.Process.Hashed && l.pending.Load() == 0 {
		l.send(f)
		return
	}
	l.pending.Add(1)
	select {
	case l.line <- lined{f, time.Now().Add(hashWait)}:
	default:
		l.pending.Add(-1)
		l.send(f)
	}
}

// run completes what waits until closed says that add is not called any more;
// when ctx ends, what is left goes on as it is.
func (l *findingLine) run(ctx context.Context, closed <-chan struct{}) {
	for {
		select {
		case w := <-l.line:
			l.pass(ctx, w)
			continue
		case <-closed:
		}
		select {
		case w := <-l.line:
			l.pass(ctx, w)
		default:
			return
		}
	}
}

func (l *findingLine) pass(ctx context.Context, w lined) {
	ctx, cancel := context.WithDeadline(ctx, w.until)
	w.finding.Process = l.complete(ctx, w.finding.Process)
	cancel()
	l.send(w.finding)
	l.pending.Add(-1)
}
