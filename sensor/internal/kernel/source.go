package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/decode"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	// idleTick is how long an event that wakes nobody may lie unread on a quiet
	// machine.
	idleTick = 50 * time.Millisecond
	// busyTick is the same after something was read, and the least distance of two
	// wake-ups by execs: in a burst the reader comes by the clock and the traced
	// programs wake nobody.
	busyTick = 10 * time.Millisecond
	// steadyTick is the same after steadyAfter without a quiet moment (a build, a
	// storm): each coming costs as much as ten execs.
	steadyTick  = 20 * time.Millisecond
	steadyAfter = 50 // comings
	// lateness is how much later than its clock the reader may come before an exec
	// wakes it.
	lateness = 2 * time.Millisecond
)

// Source is the loaded and attached programs and what reads them.
type Source struct {
	cfg      Config
	features Features

	collection *ebpf.Collection
	links      []link.Link
	critical   *ring
	bulk       *ring
	poll       *poller
	sweep      *sweeper

	malformed atomic.Uint64 // records that decode refused
	notDNS    atomic.Uint64 // datagrams on port 53 that are no DNS

	mu      sync.Mutex // guards what follows, and the programs' life
	closed  bool
	running sync.WaitGroup
	final   []event.Loss // the losses at the time of Close
	totals  [counterCount]uint64
}

// Open loads the programs, limits them to the scope, attaches them and gives the
// sockets that exist already to their owners. Events lie in the rings from here
// on; Run reads them.
func Open(cfg Config) (*Source, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("checking kernel configuration: %w", err)
	}
	features, err := Probe()
	if err != nil {
		return nil, err
	}
	knobs, err := resolveScope(cfg.Scope, features.CgroupMount)
	if err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, features: features}
	if err := s.open(knobs); err != nil {
		return nil, errors.Join(err, s.release())
	}
	cfg.Logger.Info("watching the kernel", slog.String("kernel", features.Release),
		slog.String("scope", cfg.Scope.Kind), slog.Int("programs", len(s.links)))
	return s, nil
}

func (s *Source) open(knobs scopeKnobs) (err error) {
	if s.collection, err = load(s.cfg, s.features, knobs); err != nil {
		return err
	}
	if s.critical, err = openRing(s.collection.Maps[bpf.VedetteMapCritical]); err != nil {
		return fmt.Errorf("opening critical ring: %w", err)
	}
	if s.bulk, err = openRing(s.collection.Maps[bpf.VedetteMapBulk]); err != nil {
		return fmt.Errorf("opening bulk ring: %w", err)
	}
	if s.poll, err = newPoller(s.collection.Maps[bpf.VedetteMapReader], s.critical, s.bulk); err != nil {
		return err
	}
	s.sweep = newSweeper(s.collection.Maps[bpf.VedetteMapUdpFlows], s.cfg.MaxFlows)
	if s.links, err = attach(s.collection, s.features); err != nil {
		return err
	}
	if err := own(s.collection, s.links); err != nil {
		return err
	}
	return seed(s.collection)
}

// Run reads until ctx ends, which is no error, and calls sink from this one
// goroutine, in the order in which they happened as far as both rings tell: a flow
// never before the fork or the exec of who made it, and a fork that serves a
// connection after its accept. Run may be called once at a time.
func (s *Source) Run(ctx context.Context, sink func(event.Event)) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()

	stop := context.AfterFunc(ctx, func() { _ = s.poll.wake() })
	defer stop()
	defer s.poll.comes(0)
	for quiet, busy := 0, 0; ; {
		s.poll.comes(readerReads)
		before := s.critical.position() + s.bulk.position()
		if err := s.drain(ctx, sink); err != nil {
			return err
		}
		if quiet++; s.critical.position()+s.bulk.position() != before {
			quiet = 0
		}
		if busy++; quiet > 0 {
			busy = 0
		}
		now, err := bootTime()
		if err != nil {
			return err
		}
		if err := s.sweep.run(now, sink); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if s.isClosed() {
			return ErrClosed
		}
		if err := s.rest(quiet, busy, now); err != nil {
			return err
		}
	}
}

// rest waits for the rings after quiet rounds in which nothing was read. In the
// first of them an exec may still have found the reader awake and let it sleep, so
// that it looks once more after a short time.
func (s *Source) rest(quiet, busy int, now uint64) error {
	switch quiet {
	case 0:
		tick := busyTick
		if busy > steadyAfter {
			tick = steadyTick
		}
		s.poll.comes(now + uint64(tick+lateness))
		return s.poll.wait(tick)
	case 1:
		s.poll.comes(0)
		return s.poll.wait(busyTick)
	default:
		s.poll.comes(0)
		return s.poll.wait(idleTick)
	}
}

// drain reads both rings until the critical one has nothing left.
func (s *Source) drain(ctx context.Context, sink func(event.Event)) error {
	each := func(raw []byte) { s.decode(raw, sink) }
	for {
		// Where the bulk ring ends is noted before the critical one's end: so
		// whatever caused a bulk event up to there is told before it.
		bulkEnd := s.bulk.end()
		criticalEnd := s.critical.end()
		done, err := merge(s.critical, s.bulk, criticalEnd, bulkEnd, each)
		if err != nil {
			return err
		}
		if ctx.Err() != nil || done && s.critical.end() == criticalEnd {
			return nil
		}
	}
}

func (s *Source) decode(raw []byte, sink func(event.Event)) {
	ev, err := decode.Decode(raw)
	switch {
	case err == nil:
		sink(ev)
	case errors.Is(err, decode.ErrNotDNS):
		s.notDNS.Add(1)
	default:
		if s.malformed.Add(1) == 1 { // once: it would repeat for each event
			s.cfg.Logger.Error("a record of the kernel programs is malformed", slog.Any("error", err))
		}
	}
}

func (s *Source) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// CoverageGaps lists what is not seen on this machine.
func (s *Source) CoverageGaps() []string {
	gaps := append([]string(nil), s.features.Gaps...)
	if n := s.counter(counterUnattributed); n > 0 {
		gaps = append(gaps, fmt.Sprintf("%d flow events of sockets that no process is known to own were not told", n))
	}
	if n := s.notDNS.Load(); n > 0 {
		gaps = append(gaps, fmt.Sprintf("%d datagrams on port 53 were not DNS", n))
	}
	return gaps
}

// Close detaches everything and waits for Run. It is idempotent.
func (s *Source) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	wake := s.poll.wake()
	s.running.Wait()

	s.mu.Lock()
	defer s.mu.Unlock()
	s.final = s.readLosses()
	s.totals = s.readCounters()
	return errors.Join(wake, s.release())
}

// release undoes what open did, as far as it came.
func (s *Source) release() error {
	errs := []error{closeLinks(s.links)}
	s.links = nil
	for _, r := range []*ring{s.critical, s.bulk} {
		if r != nil {
			errs = append(errs, r.close())
		}
	}
	if s.poll != nil {
		errs = append(errs, s.poll.close())
	}
	if s.collection != nil {
		s.collection.Close()
		s.collection = nil
	}
	return errors.Join(errs...)
}
