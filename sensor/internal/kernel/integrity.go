package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	// guardEvery is how often links and dispatch tables are compared with what was made
	// of them: twenty system calls.
	guardEvery = time.Second
	// guardKnownEvery is the same for the table of what is known, which is read whole: half
	// a megabyte. Who has mapped it, after an opening that is told, changes it without a
	// call that would be seen.
	guardKnownEvery = 5 * time.Second
	// stoppedAfter is how long the reader must not have run to be told as stopped: it
	// comes four times a second and oftener, and a machine so loaded that it does not is told as well.
	stoppedAfter = 2 * time.Second
)

// attached is a link and how to make it again.
type attached struct {
	name string // the program's
	link link.Link
	make func() (link.Link, error)
}

// guard looks after the programs' place in the kernel: what root takes away is put
// back, and told.
type guard struct {
	next, nextKnown uint64 // CLOCK_MONOTONIC, ns
	last            uint64 // when the reader last came
	// ids of the calls' programs by name: asked for once, since asking costs a look into
	// /proc and they stay the same for as long as the programs are held.
	ids map[string]uint32
}

func (g *guard) idOf(name string, p *ebpf.Program) (uint32, error) {
	if id, known := g.ids[name]; known {
		return id, nil
	}
	info, err := p.Info()
	if err != nil {
		return 0, fmt.Errorf("reading who %s is: %w", name, err)
	}
	id, _ := info.ID() // since Linux 4.13
	if g.ids == nil {
		g.ids = map[string]uint32{}
	}
	g.ids[name] = uint32(id)
	return uint32(id), nil
}

// run is called by the reader each time that it comes; self is the sensor's process.
func (s *Source) runGuard(now uint64, sink func(event.Event)) {
	clock := monotonic()
	tell := func(what, detail string, lasted time.Duration) {
		s.cfg.Logger.Warn("the sensor was interfered with", slog.String("what", what), slog.String("detail", detail))
		sink(&event.Tamper{
			Header: event.Header{Time: now, Process: s.selfKey(), TID: s.selfKey().PID},
			What:   what, Detail: detail, For: lasted,
		})
	}
	if gap := time.Duration(clock - s.guard.last); s.guard.last != 0 && gap > stoppedAfter {
		tell(event.TamperStopped, fmt.Sprintf("the sensor did not run for %s: it was stopped by a signal, frozen by its cgroup, or the machine did not let it run; events waited in the rings and what they could not hold is counted as lost", gap.Round(100*time.Millisecond)), gap)
	}
	s.guard.last = clock
	if clock < s.guard.next { // also when asked to: who touches our objects in a loop must not keep the reader busy
		return
	}
	s.guard.next = clock + uint64(guardEvery)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	detached, failed := s.reattach()
	calls, callsErr := s.relinkCalls()
	s.mu.Unlock()
	for _, name := range detached {
		tell(event.TamperDetached, "the program "+name+" had been taken off its hook; it was attached again, and what happened between was not seen", 0)
	}
	if len(calls) > 0 {
		tell(event.TamperCalls, fmt.Sprintf("%d entries of the table of system calls (%v) had been changed; they were put back, and what happened between was not seen", len(calls), calls), 0)
	}
	if err := errors.Join(failed, callsErr); err != nil {
		tell(event.TamperDetached, "what had been taken away could not be put back: "+err.Error(), 0)
	}
	if clock < s.guard.nextKnown && !s.recheck.Swap(false) {
		return
	}
	s.guard.nextKnown = clock + uint64(guardKnownEvery)
	wrong, err := s.checkKnown()
	if err != nil && !errors.Is(err, ErrClosed) {
		s.cfg.Logger.Error("comparing what the kernel knows", slog.Any("error", err))
	}
	if wrong > 0 {
		tell(event.TamperKnown, fmt.Sprintf("%d entries of the table of known behaviours had been changed; they were put right, and events may have passed for known", wrong), 0)
	}
}

// Recheck makes the reader compare everything at its next look, within guardEvery:
// somebody else's bpf(2) touched what is the sensor's.
func (s *Source) Recheck() { s.recheck.Store(true) }

// reattach finds links that no longer hold, and makes them again. It needs mu.
func (s *Source) reattach() (detached []string, err error) {
	var problems []error
	for i := range s.links {
		a := &s.links[i]
		if holds(a.link) {
			continue
		}
		detached = append(detached, a.name)
		fresh, err := a.make()
		if err != nil {
			problems = append(problems, err)
			continue
		}
		problems = append(problems, a.link.Close())
		a.link = fresh
		problems = append(problems, ownLinkOf(s.collection, *a))
	}
	return detached, errors.Join(problems...)
}

// holds asks the kernel whether a link is still attached. A tracing program's link can
// only be ended by who holds it; a cgroup's can be detached by root, after which it
// belongs to no cgroup.
func holds(l link.Link) bool {
	info, err := l.Info()
	if err != nil {
		return !errors.Is(err, unix.ENOLINK) && !errors.Is(err, unix.ENOENT)
	}
	if cgroup := info.Cgroup(); cgroup != nil {
		return cgroup.CgroupId != 0
	}
	return true
}

// relinkCalls puts back entries of the dispatch table that are not the ones that were
// put there. It needs mu.
func (s *Source) relinkCalls() (changed []string, err error) {
	table := s.collection.Maps[bpf.VedetteMapCalls]
	for _, class := range callClasses {
		program := s.collection.Programs[class.program]
		if program == nil {
			continue
		}
		id, err := s.guard.idOf(class.program, program)
		if err != nil {
			return changed, err
		}
		var now uint32 // reading a table of programs gives their ids
		err = table.Lookup(uint32(class.class), &now)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return changed, fmt.Errorf("reading the table of calls: %w", err)
		}
		if err == nil && now == id {
			continue
		}
		changed = append(changed, class.program)
		if err := table.Put(uint32(class.class), program); err != nil {
			return changed, fmt.Errorf("linking %s: %w", class.program, err)
		}
	}
	return changed, nil
}

func monotonic() uint64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0 // cannot be; no gap is told then
	}
	return uint64(ts.Nano())
}
