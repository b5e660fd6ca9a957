package sensor

import (
	"fmt"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/kernel"
)

const (
	// blindSpan is over how long losses are held against what was made.
	blindSpan = 2 * time.Second
	// blindLost and blindShare: a sensor is blind when it lost at least so many events
	// in that span, and that share of all. A thousand lost of a million say little of a
	// host; every tenth says that nothing can be concluded from what is not there.
	blindLost  = 1000
	blindShare = 0.05
	// seesAgain is how long there must be no loss for it to see again.
	seesAgain = 15 * time.Second
)

// blindness decides by its own losses whether a sensor may still be believed.
type blindness struct {
	mu     sync.Mutex
	at     time.Time // of the sample that the next is held against
	lost   uint64
	made   uint64
	since  time.Time // zero: it sees
	latest time.Time // of a loss
	reason string
}

// note takes the totals, and says whether blindness began or ended with them.
func (b *blindness) note(now time.Time, lost, made uint64) (began, ended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at.IsZero() {
		b.at, b.lost, b.made = now, lost, made
		return false, false
	}
	if now.Sub(b.at) < blindSpan {
		return false, false
	}
	lostNow, madeNow := lost-b.lost, made-b.made
	span := now.Sub(b.at)
	b.at, b.lost, b.made = now, lost, made
	if lostNow > 0 {
		b.latest = now
	}
	switch {
	case lostNow >= blindLost && float64(lostNow) >= blindShare*float64(madeNow):
		b.reason = fmt.Sprintf("%d of %d events in %s were lost: what is not told of this host did perhaps happen",
			lostNow, madeNow, span.Round(100*time.Millisecond))
		if b.since.IsZero() {
			b.since = now
			return true, false
		}
	case !b.since.IsZero() && now.Sub(b.latest) >= seesAgain:
		b.since, b.reason = time.Time{}, ""
		return false, true
	}
	return false, false
}

// state is what a summary says of it; empty: the sensor sees.
func (b *blindness) state() (reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reason
}

// unmeant is how many of the kernel's events were lost: what the budget left out was
// declared, and is no blindness.
func unmeant(losses []event.Loss) (sum uint64) {
	for _, l := range losses {
		if l.Cause != kernel.CauseSampled {
			sum += l.Count
		}
	}
	return sum
}

// watchBlindness is called with the losses as they are now, and tells at once when the
// sensor went blind or sees again: a summary that waits for its time may come too late.
func (s *Sensor) watchBlindness(now time.Time) {
	made, _ := s.source.Counters()
	began, ended := s.blind.note(now, unmeant(s.source.RecentLosses()), made)
	switch {
	case began:
		s.source.Post(&event.Tamper{Header: s.selfHeader(), What: event.TamperBlind, Detail: s.blind.state()})
		s.summary(now)
	case ended:
		s.summary(now)
	}
}
