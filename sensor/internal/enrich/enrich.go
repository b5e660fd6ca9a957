// Package enrich joins each kernel event to the process that did it: a bounded
// process tree keyed by (PID, start time), the identity and hash of images,
// users, units and containers, the names that addresses were resolved from, and
// the accepted connection that a process was forked to serve.
//
// Invariant: an Observation's Process is never nil and its Parent chain never
// stops at an unknown: it ends at PID 1, at the kernel, or at a process that
// says by a trait why no more is known. Processes are immutable; a change makes
// a new one. The event path never waits for a disk.
package enrich

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Config is what an Enricher can be told. Zero values take the defaults.
type Config struct {
	// Proc is where procfs is mounted; default /proc.
	Proc string
	// Passwd names the users; default /etc/passwd. It is read again when it changes.
	Passwd string
	// CgroupMount is the cgroup v2 mount; default: found in mountinfo.
	CgroupMount string
	// Scoped says that the kernel limits events to a part of the machine, so that
	// a parent of whom no event was ever seen is outside it and not lost.
	Scoped bool
	// MaxProcesses bounds the living processes that are kept (default 32768).
	MaxProcesses int
	// MaxExited and MaxExitedBytes bound the ended processes that are kept: the
	// oldest goes first. A process that others descend from stays reachable through
	// their Parent chain whatever these say. Defaults 4096 and 6 MiB.
	MaxExited      int
	MaxExitedBytes int
	// KeepExited is how long an ended process can still be asked for (default 10m).
	KeepExited time.Duration
	// MaxHashBytes is the largest file that is hashed (default 128 MiB).
	MaxHashBytes int64
	// HashQueue bounds the images that wait to be hashed (default 256).
	HashQueue int
	// MaxNames bounds the resolved addresses that are remembered (default 8192).
	MaxNames int
	// Now and Boottime are the clocks; default the machine's. Boottime is CLOCK_BOOTTIME in ns.
	Now      func() time.Time
	Boottime func() uint64
	// Logger hears of what could not be learnt; default: nobody.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	set := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	set(&c.MaxProcesses, 32768)
	set(&c.MaxExited, 4096)
	set(&c.MaxExitedBytes, 6<<20)
	set(&c.HashQueue, 256)
	set(&c.MaxNames, 8192)
	if c.KeepExited <= 0 {
		c.KeepExited = 10 * time.Minute
	}
	if c.MaxHashBytes <= 0 {
		c.MaxHashBytes = 128 << 20
	}
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	if c.Passwd == "" {
		c.Passwd = "/etc/passwd"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Boottime == nil {
		c.Boottime = boottime
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Task is a process that runs when the sensor starts, as the kernel's own
// iterator tells it.
type Task struct {
	Key, Parent event.ProcessKey
	UID         uint32
	CgroupID    uint64
	NetNS       uint32
	Comm        string
	InScope     bool
}

// Stats counts what the Enricher holds and what it had to give up.
type Stats struct {
	Living, Exited, Names    int
	EvictedLiving            uint64 // living processes dropped at MaxProcesses
	HashDropped, HashRefused uint64 // queue full; too large, changed or gone
}

// Enricher is the stage. Observe is for one goroutine; everything else may be
// called from any.
type Enricher struct {
	cfg Config

	mu      sync.Mutex
	tree    tree
	names   names
	users   users
	cgroups cgroups
	hashes  hashes
	flows   map[event.FlowID]string // name at the time a flow opened
	cwds    map[event.DirectoryID]cwd
	// templates are execs that the kernel keeps back, by its keys; forking the images
	// of servers that fork for connections. See kept.go.
	templates map[uint64]*event.Exec
	forking   map[string]struct{}
	stats     Stats
	offset    time.Duration // wall clock minus boot clock
	offset0   uint64        // boot time when offset was taken
	last      uint64        // latest event time
}

// clockRefresh is how old the difference of the two clocks may be: the wall
// clock is stepped and slewed, the boot clock is not.
const clockRefresh = uint64(10 * time.Second)

// New makes an Enricher. Run must be running for images to be hashed.
func New(cfg Config) (*Enricher, error) {
	cfg = cfg.withDefaults()
	if _, err := os.Stat(cfg.Proc + "/self/stat"); err != nil {
		return nil, fmt.Errorf("finding procfs at %s (mount it, or say where it is): %w", cfg.Proc, err)
	}
	if cfg.CgroupMount == "" {
		cfg.CgroupMount = findCgroup2(cfg.Proc + "/self/mountinfo")
	}
	e := &Enricher{
		cfg:     cfg,
		tree:    newTree(cfg),
		names:   newNames(cfg.MaxNames),
		users:   users{path: cfg.Passwd},
		cgroups: newCgroups(cfg.Proc, cfg.CgroupMount),
		hashes:  newHashes(cfg),
		flows:   map[event.FlowID]string{},
		cwds:    map[event.DirectoryID]cwd{},

		templates: map[uint64]*event.Exec{},
		forking:   map[string]struct{}{},
	}
	e.refreshClock(cfg.Boottime())
	return e, nil
}

// Run hashes images and looks for processes whose end was lost, until ctx ends.
func (e *Enricher) Run(ctx context.Context) error {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case job := <-e.hashes.urgent:
			e.hash(ctx, job)
		case job := <-e.hashes.queue:
			spent := e.hash(ctx, job)
			e.rest(ctx, 4*spent)
		case <-ticker.C:
			e.reconcile()
		}
	}
}

// rest keeps unhurried hashing to a fifth of a core; what a finding waits for is served meanwhile.
func (e *Enricher) rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case job := <-e.hashes.urgent:
			e.hash(ctx, job)
		}
	}
}

// Observe takes the next event and returns it joined to its process; nil when it
// only changes the tree (forks and exits).
func (e *Enricher) Observe(ev event.Event) *event.Observation {
	e.mu.Lock()
	defer e.mu.Unlock()
	head := ev.Head()
	if head.Time > e.last {
		e.last = head.Time
	}
	if head.Time > e.offset0+clockRefresh {
		e.refreshClock(head.Time)
	}
	switch ev := ev.(type) {
	case *event.Fork:
		e.fork(ev)
		return nil
	case *event.Exit:
		e.exit(ev)
		return nil
	case *event.Introduction:
		e.introduce(ev)
		return nil
	case *event.DNS:
		if ev.Known {
			e.names.learn(ev, e.last)
			return nil
		}
	}
	o := &event.Observation{Event: ev, Time: e.wall(head.Time)}
	switch ev := ev.(type) {
	case *event.Exec:
		o.Before, o.Process = e.exec(ev)
	case *event.FlowOpen:
		o.Process, o.Flow = e.flowOpen(ev)
	case *event.FlowClose:
		o.Process, o.Flow = e.flowClose(ev)
	case *event.DNS:
		o.Process = e.hashed(e.ensure(head))
		if ev.Response {
			e.names.learn(ev, e.last)
		}
	case *event.Privilege:
		o.Process = e.hashed(e.ensure(head))
		if ev.Target != (event.ProcessKey{}) {
			o.Target = e.hashed(e.adopt(ev.Target, head.Time))
		}
	default:
		o.Process = e.hashed(e.ensure(head))
	}
	return o
}

// Process is the latest known state of a process, nil when it is not (or no longer) known.
func (e *Enricher) Process(key event.ProcessKey) *event.Process {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.tree.nodes[key]
	if n == nil {
		return nil
	}
	return e.hashed(n)
}

// Living finds a living process by its number alone, which is what files name.
func (e *Enricher) Living(pid uint32) (event.ProcessKey, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found event.ProcessKey
	for key, n := range e.tree.nodes {
		if key.PID == pid && !n.proc.Exited && key.Start >= found.Start {
			found = key
		}
	}
	return found, found.PID != 0
}

// Stats is a consistent reading of the counters.
func (e *Enricher) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats
	s.Living, s.Exited, s.Names = len(e.tree.nodes)-e.tree.exited.Len(), e.tree.exited.Len(), e.names.len()
	s.EvictedLiving = e.tree.evictedLiving
	return s
}

// wall turns a boot clock reading into wall time.
func (e *Enricher) wall(boot uint64) time.Time {
	return time.Unix(0, int64(boot)).Add(e.offset) //nolint:gosec // 292 years of uptime fit
}

func (e *Enricher) refreshClock(now uint64) {
	boot := e.cfg.Boottime()
	e.offset = e.cfg.Now().Sub(time.Unix(0, int64(boot))) //nolint:gosec // as above
	e.offset0 = max(now, boot)
}

func boottime() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(errors.Join(errors.New("reading CLOCK_BOOTTIME, which Linux has since 2.6.39"), err))
	}
	return uint64(ts.Nano()) //nolint:gosec // never negative
}
