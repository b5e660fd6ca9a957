package fleet

import (
	"time"

	"github.com/vedette-edr/vedette/proto/link"
)

const (
	// A real sensor looks so often whether its node lives, and takes it for dead when it
	// says nothing for silence after something was sent, or after its keep-alive is due.
	watchEvery = 500 * time.Millisecond
	silence    = 3 * time.Second
	// stalled is how late a look may come: then it was this process that stood still, and
	// no node is judged by it.
	stalled = 2 * time.Second

	causeSilent = "the node fell silent"
	causeStorm  = "storm"
)

// watch does for all sensors what each real one does for itself: one goroutine and one
// timer are enough for ten thousand.
func (f *Fleet) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		late := now.Sub(last) > stalled
		last = now
		if late {
			f.counts.stalls.Add(1)
		}
		for _, s := range f.all() {
			s.look(now, late)
		}
	}
}

// look ends the session of a sensor whose node is dead.
func (s *sensor) look(now time.Time, excused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return
	}
	if n := s.conn.PacketsReceived(); n != s.packets || excused {
		s.packets, s.heard, s.asked = n, now, time.Time{}
		return
	}
	limit := s.heard.Add(link.DefaultKeepAlive + silence)
	if !s.asked.IsZero() {
		limit = s.asked.Add(silence)
	}
	if now.After(limit) {
		s.endLocked(causeSilent, link.CodeSilent)
	}
}

// drop ends a session, if there is one, for a reason of our own.
func (s *sensor) drop(why string, code uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.endLocked(why, code)
	}
}

func (s *sensor) endLocked(why string, code uint64) {
	if s.dropping == "" {
		s.dropping = why
	}
	_ = s.conn.CloseWithReason(code, why)
}
