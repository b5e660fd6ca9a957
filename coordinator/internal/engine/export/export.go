// Package export hands findings, incidents, the audit and flow notes to Kafka and to
// ClickHouse, for those who run these.
//
// Its one idea: the store is the spool. The leader reads behind a place that the log has
// for each sink, hands on what it finds, and moves the place when the sink has it: so
// nothing that commits waits for a sink, and a new leader goes on where the old one fell.
// Invariant: what is in the store comes to the sink at least once, each record with an id
// that is the same from every leader; what was removed before it could be handed on is
// counted in the state.
package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Log is the replicated log as the engine uses it.
type Log interface {
	IsLeader() bool
	ReadBarrier(ctx context.Context) error
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error)
}

// Sink is where records go. Send answers nil only when all of them are kept there; after
// an error any of them may be.
type Sink interface {
	Send(ctx context.Context, records []Record) error
	Close()
}

const (
	// page is how many records of each kind are read at once, and batchBytes what is
	// handed to a sink at once.
	page       = 250
	batchBytes = 4 << 20
	// markRecords and markTime are how much is handed out again after a failover at most:
	// so much goes out between two moves of the place in the log.
	markRecords = 5000
	markTime    = 10 * time.Second
	// fresh is how often a place is noted although it did not move, so that nobody takes
	// the sink for one that was given up.
	fresh = 24 * time.Hour
)

// Config of an Engine.
type Config struct {
	// Log and DB are this node's part of the cluster.
	Log Log
	DB  *store.DB
	// Sinks are where to, and Cluster is named in each record.
	Sinks   Sinks
	Cluster string
	// Meter holds the node's figures, Logger takes what an administrator should know; nil
	// makes and discards.
	Meter  *meter.Meter
	Logger *slog.Logger
	// Timeout is how long a sink may take for one batch (default 30 s).
	Timeout time.Duration
	// Poll is how often a feed looks for more; zero: what suits the kind of sink.
	Poll time.Duration
	// Pause is the wait after a failure, doubled up to MaxPause (default 1 s and 1 min).
	Pause, MaxPause time.Duration
	// Now is the clock.
	Now func() time.Time

	// open makes a sink; a test stands in for it.
	open func(SinkConfig) (Sink, error)
}

// Engine exports while this node leads.
type Engine struct {
	cfg   Config
	feeds []*feed

	sent, failed *meter.Choice

	mu       sync.Mutex // guards orphaned
	orphaned []string
}

// New makes an Engine; without sinks it only says so when others exported before.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil || cfg.DB == nil {
		return nil, errors.New("export configuration: Log and DB must be set")
	}
	if err := cfg.Sinks.Validate(); err != nil {
		return nil, fmt.Errorf("export configuration: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Meter == nil {
		cfg.Meter = meter.New()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.open == nil {
		cfg.open = open
	}
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{{&cfg.Timeout, 30 * time.Second}, {&cfg.Pause, time.Second}, {&cfg.MaxPause, time.Minute}} {
		if *d.value <= 0 {
			*d.value = d.fallback
		}
	}
	e := &Engine{cfg: cfg}
	e.sent = cfg.Meter.Choice("vedette_export_records_total", "Records that places outside took from this node.", "sink", kinds...)
	e.failed = cfg.Meter.Choice("vedette_export_failures_total", "Attempts to hand records on that failed.", "sink", kinds...)
	for _, sink := range cfg.Sinks {
		e.feeds = append(e.feeds, &feed{engine: e, cfg: sink, logger: cfg.Logger.With("sink", sink.Name)})
	}
	e.figures()
	return e, nil
}

// Run exports whenever this node leads, until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for _, f := range e.feeds {
		running.Go(func() { f.run(ctx) })
	}
	running.Go(func() { e.lookForOrphans(ctx) })
	<-ctx.Done()
	return nil
}

// feed is one sink's. Only run's goroutine has what stands above mu.
type feed struct {
	engine *Engine
	cfg    SinkConfig
	logger *slog.Logger

	sink     Sink
	row      *store.Export       // as the log has it; nil: this node does not lead
	place    *raftv1.ExportPlace // up to here the sink has everything
	lost     int64               // between the two
	unmarked int
	marked   time.Time

	mu    sync.Mutex
	state standing
}

func (f *feed) run(ctx context.Context) {
	defer f.closeSink()
	poll, pause := f.engine.cfg.Poll, f.engine.cfg.Pause
	if poll <= 0 {
		poll = f.cfg.poll()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if !f.engine.cfg.Log.IsLeader() {
			f.follow()
			timer.Reset(poll)
			continue
		}
		more, err := f.step(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			f.closeSink()
			timer.Reset(pause)
			pause = min(2*pause, f.engine.cfg.MaxPause)
		case more:
			pause = f.engine.cfg.Pause
			timer.Reset(0)
		default:
			pause = f.engine.cfg.Pause
			timer.Reset(poll)
		}
	}
}

// follow forgets what a leader has: the next one goes on from what the log says.
func (f *feed) follow() {
	f.closeSink()
	f.row = nil
	f.mu.Lock()
	f.state = standing{}
	f.mu.Unlock()
}

func (f *feed) closeSink() {
	if f.sink != nil {
		f.sink.Close()
		f.sink = nil
	}
}

// step hands on a part of what waits; more says that there is a next part.
func (f *feed) step(ctx context.Context) (more bool, err error) {
	if f.row == nil {
		if err := f.begin(ctx); err != nil {
			f.note(ctx, err, false)
			return false, err
		}
	}
	next, records, lost, more, err := f.read(ctx)
	if err == nil && len(records) > 0 {
		err = f.send(ctx, records)
	}
	if err != nil {
		f.note(ctx, err, true)
		return false, err
	}
	f.place, f.lost = next, f.lost+lost
	f.unmarked += len(records)
	now := f.engine.cfg.Now()
	waited := now.Sub(f.marked)
	if f.unmarked >= markRecords || f.unmarked > 0 && waited >= markTime || waited >= fresh {
		err = f.mark(ctx, now)
	}
	f.note(ctx, err, err == nil)
	return more, err
}

// begin reads where the sink is, and has the log know a new one.
func (f *feed) begin(ctx context.Context) error {
	log := f.engine.cfg.Log
	if err := log.ReadBarrier(ctx); err != nil {
		return fmt.Errorf("reading where to begin: %w", err)
	}
	for range 2 {
		all, err := f.engine.cfg.DB.Exports(ctx)
		if err != nil {
			return fmt.Errorf("reading where to begin: %w", err)
		}
		for _, row := range all {
			if row.Sink == f.cfg.Name {
				f.row, f.place, f.lost, f.unmarked, f.marked = row, row.Place, 0, 0, f.engine.cfg.Now()
				return nil
			}
		}
		if err := f.propose(ctx, &raftv1.ExportMark{Sink: f.cfg.Name}); err != nil {
			return err
		}
		if err := log.ReadBarrier(ctx); err != nil {
			return fmt.Errorf("reading where to begin: %w", err)
		}
	}
	return errors.New("reading where to begin: the log took the sink, and the state does not have it")
}

func (f *feed) send(ctx context.Context, records []Record) (err error) {
	if f.sink == nil {
		if f.sink, err = f.engine.cfg.open(f.cfg); err != nil {
			return err
		}
	}
	for len(records) > 0 {
		n, size := 0, 0
		for n < len(records) && (n == 0 || size+len(records[n].JSON) <= batchBytes) {
			size += len(records[n].JSON)
			n++
		}
		limited, cancel := context.WithTimeout(ctx, f.engine.cfg.Timeout)
		err := f.sink.Send(limited, records[:n])
		cancel()
		if err != nil {
			return err
		}
		f.engine.sent.Of(f.cfg.kind()).Add(float64(n))
		records = records[n:]
	}
	return nil
}

// mark moves the place in the log. Kinds that are not handed on move to their end, so
// that one that is asked for later begins then.
func (f *feed) mark(ctx context.Context, now time.Time) error {
	to, err := f.engine.passed(ctx, f.place, f.cfg)
	if err != nil {
		return err
	}
	err = f.propose(ctx, &raftv1.ExportMark{Sink: f.cfg.Name, From: f.row.Place, To: to, Lost: uint64(max(f.lost, 0))}) //nolint:gosec // not negative
	if err != nil {
		f.row = nil // it may have moved all the same, or elsewhere: read it again
		return err
	}
	f.row.Place, f.place, f.lost, f.unmarked, f.marked = to, to, 0, 0, now
	return nil
}

func (f *feed) propose(ctx context.Context, mark *raftv1.ExportMark) error {
	result, err := f.engine.cfg.Log.Propose(ctx, &raftv1.Command{Time: f.engine.cfg.Now().UnixNano(), Actor: "engine:export",
		Body: &raftv1.Command_ExportMark{ExportMark: mark}})
	if err != nil {
		return fmt.Errorf("noting how far it is: %w", err)
	}
	if result.GetRejected() != "" {
		return fmt.Errorf("noting how far it is: %s", result.GetMessage())
	}
	return nil
}
