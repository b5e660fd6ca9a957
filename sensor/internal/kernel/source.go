package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/decode"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/pulse"
)

const (
	// idleTick is how long an event that wakes nobody may lie unread on a quiet
	// machine.
	idleTick = 50 * time.Millisecond
	// quietTick is the same after quietAfter comings at which nothing lay there: five
	// seconds. Coming is most of what an idle sensor costs.
	quietTick  = 250 * time.Millisecond
	quietAfter = 100
	// busyTick is the same after something was read, and the least distance of two
	// wake-ups by execs: in a burst the reader comes by the clock and the traced
	// programs wake nobody.
	busyTick = 25 * time.Millisecond
	// steadyTick is the same after steadyAfter without a quiet moment (a build, a
	// storm): each coming costs as much as ten execs.
	steadyTick  = 50 * time.Millisecond
	steadyAfter = 20 // comings
	// fewBytes of the bulk ring are no reason to come sooner: some forty events, which
	// may as well be read together. An exec wakes the reader all the same.
	fewBytes = 8 << 10
	// idleAfter comings without more it sleeps for idleTick.
	idleAfter = 2
	// lateness is how much later than its clock the reader may come before an exec
	// wakes it: two milliseconds are the installed sensor's timer slack.
	lateness = 5 * time.Millisecond
	// promptRate comings a second, beside promptBurst at once, are what a prompt reader may
	// be woken for, at some 30 µs each: else it comes by its clock.
	promptRate, promptBurst = 100, 500
	// yieldAfter is how many records are read in a row: a tenth of what the stages'
	// queues hold.
	yieldAfter = 512
)

// Source is the loaded and attached programs and what reads them.
type Source struct {
	cfg      Config
	features Features

	collection *ebpf.Collection
	links      []attached
	critical   *ring
	bulk       *ring
	poll       *poller
	sweep      *sweeper
	watcher    *watcher    // nil when no file is watched
	known      *knownTable // guarded by mu

	guard   guard       // the reader's
	recheck atomic.Bool // Recheck was called
	self    atomic.Pointer[event.ProcessKey]
	posted  chan event.Event

	malformed atomic.Uint64 // records that decode refused
	notDNS    atomic.Uint64 // messages on port 53 that are no DNS

	streams      decode.Streams // the reader's alone
	streamLosses atomic.Pointer[decode.StreamLosses]

	mu      sync.Mutex // guards what follows, and the programs' life
	closed  bool
	running sync.WaitGroup
	final   []event.Loss // the losses at the time of Close
	skips   skipped
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
	s := &Source{cfg: cfg, features: features, posted: make(chan event.Event, maxPosted)}
	if err := s.open(knobs); err != nil {
		return nil, errors.Join(err, s.release())
	}
	cfg.Logger.Info("watching the kernel", slog.String("kernel", features.Release),
		slog.String("scope", cfg.Scope.Kind), slog.Int("programs", len(s.links)))
	return s, nil
}

func (s *Source) open(knobs scopeKnobs) (err error) {
	key, err := sipKey()
	if err != nil {
		return err
	}
	if s.collection, err = load(s.cfg, s.features, knobs, key); err != nil {
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
	// Until SetSelf knows better, which it does in a PID namespace of the sensor's own:
	// what the sensor does to its objects from here on is no tampering.
	atomic.StoreUint32(s.poll.self, uint32(os.Getpid()))
	if s.known, err = openKnown(s.collection.Maps[bpf.VedetteMapKnown]); err != nil {
		return err
	}
	s.sweep = newSweeper(s.collection.Maps[bpf.VedetteMapUdpFlows], s.cfg.MaxFlows)
	if len(s.cfg.Watch) > 0 {
		s.watcher = newWatcher(s.cfg, s.collection, key)
		if err := s.watcher.refresh(); err != nil {
			return err
		}
	}
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
	if s.watcher != nil {
		watching, end := context.WithCancel(ctx)
		var ended sync.WaitGroup
		ended.Go(func() { s.watcher.run(watching) })
		defer ended.Wait()
		defer end()
	}
	defer s.poll.comes(0)
	var prompt promptness
	for quiet, busy := 0, 0; ; {
		s.poll.comes(readerReads)
		critical, bulk := s.critical.position(), s.bulk.position()
		if err := s.drain(ctx, sink); err != nil {
			return err
		}
		quiet++
		switch read := s.bulk.position() - bulk; {
		case s.critical.position() != critical || read > fewBytes:
			quiet = 0
		case read > 0:
			quiet = min(quiet, idleAfter)
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
		s.runGuard(now, sink)
		s.drainPosted(sink)
		if s.isClosed() {
			return ErrClosed
		}
		if s.cfg.Prompt && prompt.allows(now, quiet == 0) {
			err = s.restPromptly(quiet)
		} else {
			err = s.rest(quiet, busy, now)
		}
		if err != nil {
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
		tick := idleTick
		if quiet > quietAfter {
			tick = quietTick
		}
		s.poll.comes(0)
		if s.critical.end() != s.critical.position() {
			return s.poll.wait(busyTick) // what came since it was read found the reader awake
		}
		// With everybody else who comes by the clock.
		return s.poll.wait(pulse.Next(tick))
	}
}

// promptness is how often more an exec may wake a prompt reader before it comes by its
// clock: so many times at once, and so many a second for ever.
type promptness struct {
	spent uint64 // as time, CLOCK_BOOTTIME: until when all of it is spent
}

func (p *promptness) allows(now uint64, read bool) bool {
	const each = uint64(time.Second / promptRate)
	if p.spent < now {
		p.spent = now
	}
	if p.spent-now > promptBurst*each {
		return false
	}
	if read {
		p.spent += each
	}
	return true
}

// restPromptly lets the next exec wake the reader, however soon it comes.
func (s *Source) restPromptly(quiet int) error {
	s.poll.comes(0)
	switch {
	case s.critical.end() != s.critical.position():
		return nil // what came since it was read found the reader awake
	case quiet <= 1:
		return s.poll.wait(busyTick)
	case quiet <= quietAfter:
		return s.poll.wait(pulse.Next(idleTick))
	}
	return s.poll.wait(pulse.Next(quietTick))
}

// maxPosted bounds the events that wait to be handed on.
const maxPosted = 64

// Post hands on an event that the kernel did not make, such as what the sensor found
// out about itself, from the goroutine of Run and in its turn; false: too many wait.
func (s *Source) Post(e event.Event) bool {
	select {
	case s.posted <- e:
		return true
	default:
		return false
	}
}

func (s *Source) drainPosted(sink func(event.Event)) {
	for {
		select {
		case e := <-s.posted:
			sink(e)
		default:
			return
		}
	}
}

// drain reads both rings until the critical one has nothing left.
func (s *Source) drain(ctx context.Context, sink func(event.Event)) error {
	read := 0
	each := func(raw []byte) {
		s.decode(raw, sink)
		// The sensor has few processors: what waits for what was handed on, as the
		// recorder's disk does, must have its turn before the queue to it is full.
		if read++; read%yieldAfter == 0 {
			runtime.Gosched()
		}
	}
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
		if segment, ok := ev.(*decode.Segment); ok {
			s.join(segment, sink)
			return
		}
		if s.watcher == nil || s.watcher.complete(ev) {
			sink(ev)
		}
	case errors.Is(err, decode.ErrNotDNS):
		s.notDNS.Add(1)
	default:
		if s.malformed.Add(1) == 1 { // once: it would repeat for each event
			s.cfg.Logger.Error("a record of the kernel programs is malformed", slog.Any("error", err))
		}
	}
}

// join makes DNS messages of segments.
func (s *Source) join(segment *decode.Segment, sink func(event.Event)) {
	losses, notDNS := s.streams.Losses, s.streams.NotDNS
	s.streams.Add(segment, sink)
	s.notDNS.Add(s.streams.NotDNS - notDNS)
	if s.streams.Losses != losses {
		now := s.streams.Losses
		s.streamLosses.Store(&now)
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
	if s.watcher != nil {
		gaps = append(gaps, s.watcher.gaps()...)
	}
	if n := s.counter(counterUnattributed); n > 0 {
		gaps = append(gaps, fmt.Sprintf("%d flow events of sockets that no process is known to own were not told", n))
	}
	if n := s.tableFull(); n > 0 {
		gaps = append(gaps, fmt.Sprintf("%d processes had no room in the table of processes: all that they did was told, at its cost", n))
	}
	if n := s.notDNS.Load(); n > 0 {
		gaps = append(gaps, fmt.Sprintf("%d messages on port 53 were not DNS", n))
	}
	return gaps
}

// Detach ends the seeing: what is in the rings can still be read by Run, and what was
// counted by Harvest, and no more comes. It is idempotent.
func (s *Source) Detach() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := closeLinks(s.links)
	s.links = nil
	if err != nil {
		return fmt.Errorf("detaching: %w", err)
	}
	return nil
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
	s.final = s.readLosses(0)
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
	errs = append(errs, s.known.close())
	if s.collection != nil {
		s.collection.Close()
		s.collection = nil
	}
	return errors.Join(errs...)
}
