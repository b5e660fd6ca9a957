// Package retention lets the leader propose that what is too old, or too much, goes.
//
// Its one idea: what is due is a question to the store, and a command with the leader's cut-offs and a
// bound of rows removes it, so that nodes agree whatever their clocks and configurations
// say, and no entry keeps the writer for long. A new leader goes on where the old one fell.
package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Log is the replicated log as the engine uses it.
type Log interface {
	IsLeader() bool
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error)
	Members(ctx context.Context) ([]*operatorv1.Member, error)
}

const (
	// rows of an entry: some milliseconds of the writer's time.
	rows = 128
	// hostsPerEntry bounds the hosts of one Forget, whose shelves are read whole.
	hostsPerEntry = 20
	// entries of one step: the next one goes on.
	entries = 500
)

// Config of an Engine.
type Config struct {
	// Log and DB are this node's part of the cluster.
	Log Log
	DB  *store.DB
	// Logger takes what an administrator should know; nil discards it.
	Logger *slog.Logger
	// Keep is how long things are kept.
	Keep Keep
	// Poll is how often the engine looks (default a minute), and Pause how long it leaves
	// the writer to others after an entry (default 50 ms).
	Poll, Pause time.Duration
	// Sweep is how often all sightings are looked through for old ones (default a day).
	Sweep time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Engine removes while this node leads.
type Engine struct {
	cfg   Config
	swept time.Time // when a sweep began last
	row   int64     // where it goes on; 0: none is under way
}

// New makes an Engine.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil || cfg.DB == nil {
		return nil, errors.New("retention configuration: Log and DB must be set")
	}
	if err := cfg.Keep.Validate(); err != nil {
		return nil, fmt.Errorf("retention configuration: %w", err)
	}
	cfg.Keep = cfg.Keep.orDefault()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	for value, fallback := range map[*time.Duration]time.Duration{&cfg.Poll: time.Minute, &cfg.Pause: 50 * time.Millisecond, &cfg.Sweep: aDay} {
		if *value <= 0 {
			*value = fallback
		}
	}
	return &Engine{cfg: cfg}, nil
}

// Run removes whenever this node leads, until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	poll := time.NewTicker(e.cfg.Poll)
	defer poll.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		}
		if !e.cfg.Log.IsLeader() {
			continue
		}
		err := e.step(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			e.cfg.Logger.Warn("what is old was not removed; trying again", "error", err)
		}
		failed = err != nil
	}
}

// step removes what is due, pausing after each entry.
func (e *Engine) step(ctx context.Context) error {
	began, err := e.cfg.DB.HistoryBegan(ctx)
	if err != nil {
		return err
	}
	if began == 0 {
		if alike, err := e.alike(ctx); err != nil || !alike {
			return err
		}
	}
	for range entries {
		cuts := e.cfg.Keep.cuts(e.cfg.Now())
		cuts.Rows = rows
		due, err := e.cfg.DB.Due(ctx, cuts)
		if err != nil {
			return err
		}
		used, _, err := e.cfg.DB.Size(ctx)
		if err != nil {
			return err
		}
		cuts.Oversized = used > e.cfg.Keep.MaxGiB<<30
		if !due && !cuts.GetOversized() && began > 0 {
			return e.sweep(ctx)
		}
		removed, err := e.propose(ctx, &raftv1.Command{Body: &raftv1.Command_Retain{Retain: cuts}})
		if err != nil || removed == 0 {
			return err
		}
		began = 1
	}
	return nil
}

// sweep looks for sightings that are old, in parts.
func (e *Engine) sweep(ctx context.Context) error {
	now := e.cfg.Now()
	if e.row == 0 {
		if now.Sub(e.swept) < e.cfg.Sweep {
			return nil
		}
		e.swept, e.row = now, 1
	}
	before := now.Add(-e.cfg.Keep.Behaviours).UnixNano()
	for range entries {
		hosts, next, err := e.cfg.DB.Stale(ctx, before, e.row)
		if err != nil {
			return err
		}
		for len(hosts) > 0 {
			some := hosts[:min(len(hosts), hostsPerEntry)]
			removed, err := e.propose(ctx, &raftv1.Command{Body: &raftv1.Command_Forget{Forget: &raftv1.Forget{Sightings: rows, Before: before, Hosts: some}}})
			if err != nil {
				return err
			}
			if removed < rows { // else there may be more of them
				hosts = hosts[len(some):]
			}
		}
		if e.row = next; next == 0 {
			return nil
		}
	}
	return nil
}

func (e *Engine) propose(ctx context.Context, cmd *raftv1.Command) (removed uint64, err error) {
	cmd.Time, cmd.Actor = e.cfg.Now().UnixNano(), "engine:retention"
	result, err := e.cfg.Log.Propose(ctx, cmd)
	if err != nil {
		return 0, fmt.Errorf("proposing retention: %w", err)
	}
	if result.GetRejected() != "" {
		return 0, fmt.Errorf("retention was rejected: %s", result.GetMessage())
	}
	pause := time.NewTimer(e.cfg.Pause)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
	}
	return result.GetRemoved(), ctx.Err()
}

// alike says whether all nodes have one version: an older one stops at a command that it does not know.
func (e *Engine) alike(ctx context.Context) (bool, error) {
	members, err := e.cfg.Log.Members(ctx)
	if err != nil {
		return false, fmt.Errorf("asking for the nodes' versions: %w", err)
	}
	for _, m := range members {
		if m.GetVersion() == "" || m.GetVersion() != members[0].GetVersion() {
			return false, nil
		}
	}
	return true, nil
}
