// Package fleet is many sensors without hosts: each is enrolled with a join token of
// its own, has its own key and certificate, keeps a real session at one node, and
// verifies and answers every grant as a sensor does. It isolates nothing. What they
// report is a world's (package world), and they come and go, and misbehave, as its hosts
// do; without a world they only answer orders.
//
// Invariant: a sensor answers "applied" only to a grant that it has verified, by the
// same code as a real one. What it could not verify fails the round. And a record is
// forgotten only when it is acknowledged: what is not at the end was lost.
package fleet

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/scripts/internal/world"
)

const (
	// enrolling and connecting bound what is under way at once while a fleet grows: a
	// node takes 64 enrolments, and a hundred handshakes keep two cores busy.
	enrolling  = 32
	connecting = 64
	// attempts of a sensor whose enrolment a busy node refuses or drops.
	attempts = 8
	// enrolTimeout is as long as a real sensor waits.
	enrolTimeout = 15 * time.Second
	// progressEvery so many sensors are done.
	progressEvery = 1000
	// sockets are shared by all sessions: a socket of its own for each would cost more
	// than the rest of a sensor does.
	sockets = 8
)

// Config says where a fleet connects.
type Config struct {
	// Nodes are the nodes' addresses for sensors; the sensors take them in turn.
	Nodes []string
	// Token makes a join token for one sensor. It is called concurrently.
	Token func(context.Context) (string, error)
	// Progress hears how far enrolling and connecting are.
	Progress func(string)
	// World is what the sensors report; nil: nothing. Its hosts that come later are
	// enrolled by Pace, when they do.
	World *world.World
	// Rush bounds the handshakes that this process has under way at once; default 64, and
	// below 0 none waits. In life each host has a processor of its own for it. Here, ten
	// thousand that begin at once all run into their time, and so they do again and again.
	Rush int
}

const defaultRush = 64

// Fleet is the sensors. Grow, Pace and Close are called by one goroutine.
type Fleet struct {
	cfg     Config
	mu      sync.Mutex // guards sensors
	sensors []*sensor
	dialers []*link.Dialer
	trusted sync.Mutex     // guards what follows until they are set
	roots   *x509.CertPool // of nodes, after the first enrolment
	signers *x509.CertPool // of operators
	cluster string

	// verifying bounds the grants that are verified at once: hosts have a processor each
	// for it, and here thousands of them would keep the other sensors' pings waiting. One
	// processor is left to those: who waits here is run before what the network woke.
	verifying chan struct{}
	rush      chan struct{} // nil: no bound
	coming    chan struct{} // bounds the hosts that are born at once

	running  sync.WaitGroup
	ctx      context.Context
	stop     context.CancelFunc
	round    atomic.Pointer[Round]
	recall   atomic.Pointer[Recall]
	counts   counts
	failing  sync.Mutex // guards failure
	failure  error      // the first grant that a sensor did not honour
	lastLost atomic.Pointer[string]
}

// New makes a fleet without sensors.
func New(cfg Config) *Fleet {
	f := &Fleet{cfg: cfg, verifying: make(chan struct{}, max(1, runtime.NumCPU()-1)), coming: make(chan struct{}, enrolling)}
	if cfg.Progress == nil {
		f.cfg.Progress = func(string) {}
	}
	if cfg.Rush == 0 {
		cfg.Rush = defaultRush
	}
	if cfg.Rush > 0 {
		f.rush = make(chan struct{}, cfg.Rush)
	}
	f.ctx, f.stop = context.WithCancel(context.Background())
	f.running.Go(f.watch)
	return f
}

// Size is how many sensors there are.
func (f *Fleet) Size() int { return len(f.all()) }

func (f *Fleet) all() []*sensor {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sensors
}

// ID is what the cluster calls the n-th host; empty when it is not enrolled.
func (f *Fleet) ID(n int) string {
	s := f.all()[n]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// Lost is how many sessions and tries to open one ended by themselves since the
// beginning, and why the last did.
func (f *Fleet) Lost() (n int64, why string) {
	if text := f.lastLost.Load(); text != nil {
		why = *text
	}
	return f.counts.ended.Load(), why
}

// Close ends every session and waits for them.
func (f *Fleet) Close() {
	f.stop()
	f.running.Wait()
	for _, d := range f.dialers {
		_ = d.Close()
	}
}

// Enrol enrols sensors until there are so many.
func (f *Fleet) Enrol(ctx context.Context, size int) error {
	for len(f.dialers) < sockets {
		d, err := link.NewDialer(netip.MustParseAddrPort("0.0.0.0:0"))
		if err != nil {
			return err
		}
		f.dialers = append(f.dialers, d)
	}
	before := f.Size()
	if f.cfg.World != nil && size > f.cfg.World.Size() {
		return fmt.Errorf("the world has %d hosts, %d are wanted", f.cfg.World.Size(), size)
	}
	fresh := make([]*sensor, 0, max(0, size-before))
	for n := before; n < size; n++ {
		s := &sensor{fleet: f, n: n, at: nowhere, online: make(chan struct{})}
		if f.cfg.World != nil {
			s.kind = f.cfg.World.Host(n).Kind
		}
		f.mu.Lock()
		f.sensors = append(f.sensors, s)
		f.mu.Unlock()
		if f.cfg.World == nil || f.cfg.World.Host(n).Born == 0 {
			fresh = append(fresh, s)
		}
	}
	if before == 0 && len(fresh) > 0 { // alone: the others are held against the authorities that it was given
		if err := f.enrol(ctx, fresh[0]); err != nil {
			return fmt.Errorf("enrolling sensor 0: %w", err)
		}
		fresh = fresh[1:]
	}
	return f.each(ctx, "enrolled", enrolling, len(fresh), func(ctx context.Context, i int) error { return f.enrol(ctx, fresh[i]) })
}

// Grow enrols sensors until there are so many, and opens the sessions of all that have none.
func (f *Fleet) Grow(ctx context.Context, size int) error {
	if err := f.Enrol(ctx, size); err != nil {
		return err
	}
	var idle []*sensor
	for _, s := range f.all() {
		if s.enrolled() && !s.runs() {
			idle = append(idle, s)
		}
	}
	return f.each(ctx, "connected", connecting, len(idle), func(ctx context.Context, i int) error {
		s := idle[i]
		f.start(s)
		select {
		case <-s.online:
			return nil
		case <-ctx.Done():
			_, why := f.Lost()
			return fmt.Errorf("not welcomed: %w (the last session that failed: %s)", ctx.Err(), why)
		}
	})
}

// start lets a sensor keep a session until it leaves or the fleet ends.
func (f *Fleet) start(s *sensor) {
	ctx, cancel := context.WithCancel(f.ctx)
	done := make(chan struct{})
	s.mu.Lock()
	s.leaving, s.left = cancel, done
	s.mu.Unlock()
	f.running.Go(func() {
		defer close(done)
		defer cancel()
		s.run(ctx)
	})
}

// each does a thing for so many sensors, some at once, until one fails.
func (f *Fleet) each(ctx context.Context, what string, atOnce, n int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, done atomic.Int64
	var workers sync.WaitGroup
	for range min(atOnce, n) {
		workers.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || ctx.Err() != nil {
					return
				}
				if err := do(ctx, i); err != nil {
					cancel(fmt.Errorf("sensor %d: %w", i, err))
					return
				}
				if count := done.Add(1); count%progressEvery == 0 {
					f.cfg.Progress(fmt.Sprintf("%d of %d sensors %s", count, n, what))
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// refused notes a grant that a sensor did not honour.
func (f *Fleet) refused(err error) {
	f.failing.Lock()
	if f.failure == nil {
		f.failure = err
	}
	f.failing.Unlock()
	if r := f.round.Load(); r != nil {
		r.fail()
	}
}
