// Package notify runs a program when something waits for a person, when automation has
// acted, when an incident opens, and when a node holds another state than the others.
//
// Its one idea: what is to be told is a question to the store, asked by the leader, so
// that nothing waits for a program: not the log, and not a sensor. Invariant: an event is
// told at least once across a failover, with an id that is the same from every node; the
// receiver drops what it has had. What a full queue or a program that fails costs is
// counted and in the log.
package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// Log is the replicated log as the engine uses it.
type Log interface {
	IsLeader() bool
	ReadBarrier(ctx context.Context) error
}

// The kinds of events.
const (
	Waiting  = "waiting"  // an order waits for an operator's signature
	Window   = "window"   // automation acts when its window closes, unless somebody vetoes
	Local    = "local"    // a host has acted by itself, at level 4
	Acted    = "acted"    // the coordinators' automation has acted, at level 4
	Incident = "incident" // an incident has opened
	Differs  = "differs"  // a node holds another state than others
	Resynced = "resynced" // and has taken theirs over
)

// Kinds are all of them.
func Kinds() []string { return []string{Waiting, Window, Local, Acted, Incident, Differs, Resynced} }

const (
	// catchUp is how far back a new leader looks: longer than an election takes.
	catchUp = 10 * time.Minute
	// maxTold bounds what is remembered as told, and forget is for how long.
	maxTold = 20_000
	forget  = time.Hour
)

// Config of an Engine.
type Config struct {
	// Log and DB are this node's part of the cluster.
	Log Log
	DB  *store.DB
	// Members are the nodes as this one saw them last, without waiting for any; nil: nobody looks.
	Members func() []*operatorv1.Member
	// Program is run for each event: an absolute path, see CheckProgram.
	Program string
	// Events are the kinds to tell; empty: all.
	Events []string
	// Cluster and Node are named in the events.
	Cluster, Node string
	// Logger takes what an administrator should know; nil discards it.
	Logger *slog.Logger
	// Timeout is how long the program may take; then it and its children are killed (default 10 s).
	Timeout time.Duration
	// Queue bounds the events that wait for the program, AtOnce the programs that run
	// (default 256 and 4).
	Queue, AtOnce int
	// Retries are the pauses before a program that failed is run again (default 2 s, 10 s).
	Retries []time.Duration
	// Poll is how often the engine looks (default 500 ms).
	Poll time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Engine tells events while this node leads.
type Engine struct {
	cfg   Config
	queue chan Event

	// Only Run's goroutine has these.
	marks   store.Marks
	told    map[string]time.Time
	dropped uint64
	said    uint64 // how many drops the log knows of
}

// New makes an Engine. A program that may not be run is an error.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil || cfg.DB == nil {
		return nil, errors.New("notify configuration: Log and DB must be set")
	}
	if err := CheckProgram(cfg.Program); err != nil {
		return nil, fmt.Errorf("notify configuration: %w", err)
	}
	if err := CheckEvents(cfg.Events); err != nil {
		return nil, fmt.Errorf("notify configuration: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if len(cfg.Events) == 0 {
		cfg.Events = Kinds()
	}
	if cfg.Retries == nil {
		cfg.Retries = []time.Duration{2 * time.Second, 10 * time.Second}
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Queue <= 0 {
		cfg.Queue = 256
	}
	if cfg.AtOnce <= 0 {
		cfg.AtOnce = 4
	}
	if cfg.Poll <= 0 {
		cfg.Poll = 500 * time.Millisecond
	}
	return &Engine{cfg: cfg, queue: make(chan Event, cfg.Queue), told: make(map[string]time.Time)}, nil
}

// CheckEvents says which kinds do not exist.
func CheckEvents(kinds []string) error {
	for _, kind := range kinds {
		if !slices.Contains(Kinds(), kind) {
			return fmt.Errorf("events: %q is none of %v", kind, Kinds())
		}
	}
	return nil
}

// Run tells events whenever this node leads, until ctx ends. Programs that run then are
// killed: the next leader tells again.
func (e *Engine) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for range e.cfg.AtOnce {
		running.Go(func() { e.work(ctx) })
	}
	poll := time.NewTicker(e.cfg.Poll)
	defer poll.Stop()
	leading, failed := false, false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		}
		if !e.cfg.Log.IsLeader() {
			leading = false
			e.discard()
			continue
		}
		err := error(nil)
		if !leading {
			err = e.begin(ctx)
			leading = err == nil
		}
		if leading {
			err = e.step(ctx)
		}
		if err != nil && !failed && ctx.Err() == nil {
			e.cfg.Logger.Warn("notifications not looked for; trying again", "error", err)
		}
		failed = err != nil
	}
}

// begin looks back to what the leader before may not have told.
func (e *Engine) begin(ctx context.Context) error {
	if err := e.cfg.Log.ReadBarrier(ctx); err != nil {
		return err
	}
	marks, err := e.cfg.DB.RecentMarks(ctx, e.cfg.Now().Add(-catchUp).UnixNano())
	if err != nil {
		return fmt.Errorf("reading where to begin: %w", err)
	}
	e.marks = marks
	return nil
}

// discard forgets what waits: the leader of now tells it.
func (e *Engine) discard() {
	for {
		select {
		case event := <-e.queue:
			delete(e.told, event.ID) // should this node lead again
		default:
			return
		}
	}
}

// step tells what is new, in the order of its storing.
func (e *Engine) step(ctx context.Context) error {
	now := e.cfg.Now()
	open := make(map[string]bool)
	if err := e.openOrders(ctx, now, open); err != nil {
		return err
	}
	for {
		orders, next, err := e.cfg.DB.OrdersAfter(ctx, e.marks.Operations, now)
		if err != nil {
			return fmt.Errorf("reading operations: %w", err)
		}
		for _, o := range orders {
			if o.GetLevel() == levelAct && e.wants(actedKind(o)) && !e.tell(e.acted(ctx, o), now) {
				e.dropped++
			}
		}
		if e.marks.Operations = next; len(orders) < store.DefaultPage {
			break
		}
	}
	for {
		incidents, next, err := e.cfg.DB.IncidentsAfter(ctx, e.marks.Incidents)
		if err != nil {
			return fmt.Errorf("reading incidents: %w", err)
		}
		for _, in := range incidents {
			if in.GetStatus() == "open" && e.wants(Incident) && !e.tell(e.incident(ctx, in), now) {
				e.dropped++
			}
		}
		if e.marks.Incidents = next; len(incidents) < store.DefaultPage {
			break
		}
	}
	if err := e.nodes(ctx, now, open); err != nil {
		return err
	}
	e.forget(now, open)
	e.sayDropped()
	return nil
}

// nodes tells which of them hold another state than others, and which took theirs over.
func (e *Engine) nodes(ctx context.Context, now time.Time, open map[string]bool) error {
	if e.cfg.Members != nil && e.wants(Differs) {
		for _, m := range e.cfg.Members() {
			if m.GetDiffers() == 0 {
				continue
			}
			event := e.differs(m, now)
			open[event.ID] = true // it is asked for again while it lasts
			e.tell(event, now)
		}
	}
	entries, err := e.cfg.DB.Differences(ctx, uint64(max(e.marks.Differences, 0)), 0)
	if err != nil {
		return fmt.Errorf("reading which nodes differed: %w", err)
	}
	for _, entry := range entries {
		if e.wants(Resynced) && !e.tell(e.resynced(entry), now) {
			e.dropped++
		}
		e.marks.Differences = int64(entry.GetIndex()) //nolint:gosec // the number of a row
	}
	return nil
}

// openOrders tells what waits for a person. What found no room in the queue is tried
// again: it still waits.
func (e *Engine) openOrders(ctx context.Context, now time.Time, open map[string]bool) error {
	orders, _, err := e.cfg.DB.Orders(ctx, true, now, store.Page{Size: store.MaxPage})
	if err != nil {
		return fmt.Errorf("reading what waits: %w", err)
	}
	for _, o := range slices.Backward(orders) { // the oldest first
		if o.GetState() == "expired" || !e.wants(o.GetState()) {
			continue
		}
		id := waitingID(o)
		open[id] = true
		if _, told := e.told[id]; told || len(e.queue) == cap(e.queue) {
			continue
		}
		e.tell(e.waiting(ctx, o), now)
	}
	return nil
}

func (e *Engine) wants(kind string) bool { return slices.Contains(e.cfg.Events, kind) }

// tell queues an event unless it was told, and never waits; false when there was no room.
func (e *Engine) tell(event Event, now time.Time) bool {
	if _, told := e.told[event.ID]; told {
		return true
	}
	select {
	case e.queue <- event:
		e.told[event.ID] = now
		return true
	default:
		return false
	}
}

// forget keeps the memory of what was told small.
func (e *Engine) forget(now time.Time, open map[string]bool) {
	full := len(e.told) > maxTold
	for id, at := range e.told {
		if !open[id] && (full || now.Sub(at) > forget) {
			delete(e.told, id)
		}
	}
}

func (e *Engine) sayDropped() {
	if e.dropped != e.said {
		e.cfg.Logger.Error("notifications dropped: the program is slower than what happens; look with 'vedette operation list --open' and 'vedette incident list'",
			"dropped", e.dropped-e.said, "dropped_since_start", e.dropped, "program", e.cfg.Program)
		e.said = e.dropped
	}
}
