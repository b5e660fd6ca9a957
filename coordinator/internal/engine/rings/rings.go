// Package rings gives a new set of detection rules to more and more of the fleet, and
// takes it back where it hurts.
//
// Its one idea: how far a set has gone, and what each host says that it uses, is in the
// store; a new leader goes on where the old one fell. Whoever watches only proposes the next
// step, and the log takes it once.
package rings

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/ruleset"
)

// Log is the replicated log as the engine uses it.
type Log interface {
	IsLeader() bool
	ReadBarrier(ctx context.Context) error
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error)
}

// Config of an Engine.
type Config struct {
	// Log and DB are this node's part of the cluster.
	Log Log
	DB  *store.DB
	// Logger takes what an administrator should know; nil discards it.
	Logger *slog.Logger
	// Poll is how often the engine looks (default 2 s).
	Poll time.Duration
	// Watch is how long a set that all hosts have is watched (default a day).
	Watch time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Engine moves sets of rules on while this node leads.
type Engine struct {
	cfg Config
	led time.Time // since when this node leads
	// what hosts' rules found in the day before a set, by the set's version; it is read once.
	beforeOf uint64
	before   float64
	found    found
}

// found is what the rules of a set found since it was pushed, as far as was read. A day of
// looking every two seconds reads each finding once. Nothing is counted here: since when a
// host uses the set may yet change, and be told after what it found.
type found struct {
	of   uint64 // the set's version
	last int64  // the newest finding's number
	by   map[string][]int64
	n    int
}

// maxFound bounds how many are kept: more than a large fleet is allowed in a day.
const maxFound = 200_000

// New makes an Engine.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil || cfg.DB == nil {
		return nil, errors.New("rings configuration: Log and DB must be set")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Poll <= 0 {
		cfg.Poll = 2 * time.Second
	}
	if cfg.Watch <= 0 {
		cfg.Watch = 24 * time.Hour
	}
	return &Engine{cfg: cfg}, nil
}

// Run moves sets on whenever this node leads, until ctx ends.
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
			e.led, e.found = time.Time{}, found{}
			continue
		}
		if e.led.IsZero() {
			e.led = e.cfg.Now()
		}
		err := e.step(ctx)
		if err != nil && ctx.Err() == nil && !failed {
			e.cfg.Logger.Error("moving a set of rules on", "error", err)
		}
		failed = err != nil
	}
}

// step looks once, and proposes what follows.
func (e *Engine) step(ctx context.Context) error {
	set, err := e.cfg.DB.RuleSet(ctx, 0)
	if err != nil || set == nil || !e.watched(set) {
		return err
	}
	if err := e.cfg.Log.ReadBarrier(ctx); err != nil {
		return err
	}
	if set, err = e.cfg.DB.RuleSet(ctx, 0); err != nil || set == nil || !e.watched(set) {
		return err
	}
	v, err := e.look(ctx, set)
	if err != nil {
		return err
	}
	cmd := &raftv1.Command{Time: e.cfg.Now().UnixNano(), Actor: "engine:rings"}
	d := decide(v)
	switch {
	case d.halt:
		cmd.Body = &raftv1.Command_HaltRules{HaltRules: &raftv1.HaltRules{Version: set.Version, Why: d.why, Host: d.host}}
		e.cfg.Logger.Warn("a set of rules is halted; hosts go back to the one before", "version", set.Version, "back_to", set.Base, "why", d.why)
	case d.next:
		cmd.Body = &raftv1.Command_AdvanceRules{AdvanceRules: &raftv1.AdvanceRules{Version: set.Version, Ring: uint32(set.Ring) + 1}} //nolint:gosec // four rings
		e.cfg.Logger.Info("a set of rules goes on", "version", set.Version, "ring", set.Ring+1)
	default:
		return nil
	}
	res, err := e.cfg.Log.Propose(ctx, cmd)
	if err == nil && res.GetRejected() != "" {
		err = fmt.Errorf("moving version %d of the rules on: %s: %s", set.Version, res.GetRejected(), res.GetMessage())
	}
	return err
}

// watched: it is on its way, or came there not long ago.
func (e *Engine) watched(set *store.RuleSet) bool {
	return set.State == store.RulesRolling ||
		set.State == store.RulesComplete && e.cfg.Now().Sub(time.Unix(0, set.RingSince)) < e.cfg.Watch && set.Ring >= store.AllRings && set.PutAt != set.RingSince
}

// look reads what a decision is made from.
func (e *Engine) look(ctx context.Context, set *store.RuleSet) (v view, err error) {
	v = view{set: set, now: e.cfg.Now(), led: e.led, findings: map[string]int{}}
	if v.rules, err = ruleset.Decode(set.Signed.GetPayload()); err != nil {
		return v, fmt.Errorf("reading version %d of the rules: %w", set.Version, err)
	}
	if v.hosts, err = e.cfg.DB.RuleHosts(ctx); err != nil {
		return v, fmt.Errorf("reading what hosts use: %w", err)
	}
	if err := e.readFound(ctx, set); err != nil {
		return v, fmt.Errorf("counting what rules found: %w", err)
	}
	for _, h := range v.hosts {
		if h.Held.GetVersion() != set.Version {
			continue
		}
		for _, at := range e.found.by[h.ID] {
			if at >= max(h.Since, set.PutAt) {
				v.findings[h.ID]++
			}
		}
	}
	v.before, err = e.rateBefore(ctx, set, len(v.hosts))
	return v, err
}

// readFound reads what was found since it looked last; after an error, all again.
func (e *Engine) readFound(ctx context.Context, set *store.RuleSet) error {
	if e.found.of != set.Version {
		e.found = found{of: set.Version, by: map[string][]int64{}}
	}
	ids := setOf(set.IDs)
	last, _, err := e.cfg.DB.RuleFindingsAfter(ctx, e.found.last, set.PutAt, func(host, rule string, at int64) {
		if ids[rule] && e.found.n < maxFound {
			e.found.by[host] = append(e.found.by[host], at)
			e.found.n++
		}
	})
	if err != nil {
		e.found = found{}
		return err
	}
	e.found.last = last
	return nil
}

// rateBefore is how many findings the rules of the set's base made in the day before it was
// pushed, for each host.
func (e *Engine) rateBefore(ctx context.Context, set *store.RuleSet, hosts int) (float64, error) {
	if e.beforeOf == set.Version || set.Base == 0 || hosts == 0 {
		if e.beforeOf == set.Version {
			return e.before, nil
		}
		return 0, nil
	}
	base, err := e.cfg.DB.RuleSet(ctx, set.Base)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	ids, count := setOf(base.IDs), 0
	_, err = e.cfg.DB.RuleFindings(ctx, set.PutAt-int64(24*time.Hour), func(_, rule string, at int64) {
		if ids[rule] && at < set.PutAt {
			count++
		}
	})
	if err != nil {
		return 0, fmt.Errorf("counting what rules found before: %w", err)
	}
	e.beforeOf, e.before = set.Version, float64(count)/float64(hosts)
	return e.before, nil
}

func setOf(list []string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, s := range list {
		set[s] = true
	}
	return set
}
