package sensor

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/kernel"
	"github.com/vedette-edr/vedette/sensor/internal/pulse"
)

const (
	// countEvery is how often the kernel's counts are taken over: a killed sensor loses
	// as much of them.
	countEvery = 5 * time.Second
	// onceSeen is how many keys are remembered as seen once, by their low bits.
	onceSeen = 8192
	// maxTaintWait bounds the marks that wait for the next spreading.
	maxTaintWait = 1024
)

// keeper decides what the kernel may keep back: what the baseline knows, no rule can
// match and nothing suspect did, and what came at least twice, because a command line
// that never comes again is not worth a place. What is rare and keeps to its hours of the
// day is told each time, and taken back when it comes to be so: the kernel does not know what
// time it is.
type keeper struct {
	once   [onceSeen]uint64
	taints chan event.ProcessKey
	// deciding is held from the question whether rules could match to the kernel's being
	// told: other rules come before or after that, never between.
	deciding sync.Mutex
}

// keepBack is called with an observation that led to nothing.
func (s *Sensor) keepBack(o *event.Observation, v event.Verdict) {
	key := o.Event.Head().Key
	if key == 0 || !v.Tracked || !v.Known || v.Timed || !s.cfg.KernelBaseline {
		return
	}
	if place := &s.keeper.once[key%onceSeen]; *place != key {
		*place = key
		return
	}
	s.keeper.deciding.Lock()
	defer s.keeper.deciding.Unlock()
	if !s.detector.Settled(o, v) {
		return
	}
	switch ev := o.Event.(type) {
	case *event.Exec:
		if !s.enricher.Remember(ev) {
			return
		}
	case *event.FlowOpen:
		if ev.Dir == event.Inbound && s.enricher.ForksForConnections(o.Process) {
			return
		}
	}
	if !s.baseline.Keep(key, v.Behaviour.Key) {
		s.enricher.Forget(key)
		return
	}
	err := s.source.Know(key)
	if errors.Is(err, kernel.ErrKnownFull) {
		// One of the next times that it is seen there is room.
		err = s.source.Yield(key)
		s.forgetKey(key)
	}
	if err != nil {
		s.forgetKey(key)
		s.log.Error("telling the kernel what is known", "error", err)
	}
}

func (s *Sensor) forgetKey(key uint64) {
	s.enricher.Forget(key)
	s.baseline.Unkeep(key)
}

// takeCounts adds what the kernel counted to the baseline.
func (s *Sensor) takeCounts() {
	err := s.source.Harvest(
		func(key, count, last uint64) { s.baseline.Count(key, count, event.WallClock(last)) },
		s.forgetKey)
	if err != nil && !errors.Is(err, kernel.ErrClosed) {
		s.losses.add("baseline", "counts unread", 1)
		s.log.Error("reading the kernel's counts", "error", err)
	}
	s.keeper.deciding.Lock()
	defer s.keeper.deciding.Unlock()
	if timed := s.baseline.KeptTimed(); len(timed) > 0 {
		if err := s.source.Unknow(timed...); err != nil && !errors.Is(err, kernel.ErrClosed) {
			s.log.Error("having the kernel tell what keeps to its hours", "error", err)
		}
	}
}

// count takes the kernel's counts over until ctx ends.
func (s *Sensor) count(ctx context.Context) error {
	for range pulse.Ticks(ctx, countEvery) {
		s.takeCounts()
	}
	return nil
}

// taint marks the process of a finding, and of a session all of it from its beginning:
// what else the session does is to be seen whole.
func (s *Sensor) taint(p *event.Process) {
	mark := func(key event.ProcessKey) {
		select {
		case s.keeper.taints <- key:
		default:
			s.losses.add("kernel", "marks beyond what waits", 1)
		}
	}
	mark(p.Key)
	for _, a := range p.Ancestors(16) {
		if a.Origin == nil || a.Anchor != p.Anchor {
			break
		}
		mark(a.Key)
	}
}

// spreadTaints tells the kernel whom to mark, beside the event path.
func (s *Sensor) spreadTaints(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case key := <-s.keeper.taints:
			keys := []event.ProcessKey{key}
			for more := true; more && len(keys) < maxTaintWait; {
				select {
				case key := <-s.keeper.taints:
					keys = append(keys, key)
				default:
					more = false
				}
			}
			if err := s.source.Taint(keys...); err != nil && ctx.Err() == nil {
				s.log.Error("marking processes in the kernel", "error", err)
			}
		}
	}
}
