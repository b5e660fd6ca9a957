// Package silence makes a finding of a host that falls silent. Nodes tell the log how
// the sessions that they had ended; the leader waits as long as an honest sensor needs
// to come back at another node, and then says so, once.
//
// Its one idea: who is missing is a question to the store alone (a session that ended
// otherwise than by a goodbye, and no newer one), so that a new leader goes on where
// the old one fell. Being alive costs the log nothing.
//
// What falls silent together is told together: one dead switch is one finding.
package silence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Log is the replicated log as the engine uses it.
type Log interface {
	IsLeader() bool
	ReadBarrier(ctx context.Context) error
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error)
	Members(ctx context.Context) ([]*operatorv1.Member, error)
}

const (
	// many missing hosts at once are one fact, about what they have in common.
	many = 10
	// gather bounds how long the first of many waits for the others: their pings were
	// due at different times.
	gather = 10 * time.Second
	// maxTold bounds the hosts of one command; those beyond are in the next one.
	maxTold = 10_000
	// lookShare bounds looking to a part of the time (a 20th), as far as pollMost allows: after
	// a dead node ten thousand are missing for a minute, and each look reads them all, on the
	// processors that are to take them in again.
	lookShare = 20
	pollMost  = 3 * time.Second
	// membersEvery is how often the leader asks who lives, and membersTime how long it waits.
	membersEvery = 2 * time.Second
	membersTime  = 1500 * time.Millisecond
)

// Config of an Engine.
type Config struct {
	// Log and DB are this node's part of the cluster.
	Log Log
	DB  *store.DB
	// Logger takes what an administrator should know; nil discards it.
	Logger *slog.Logger
	// Grace is how long after its last sign of life a host is missing (default 12 s).
	// A sensor that loses its node is at another one within 9 s.
	Grace time.Duration
	// NodeGrace is the same, counted from the end of the session, when it was the
	// node's doing (default 45 s): a sensor that found no node at all tries again
	// within 30 s.
	NodeGrace time.Duration
	// NodeLost is how long a node may not answer until its sessions count as ended
	// (default 10 s).
	NodeLost time.Duration
	// Poll is how often the engine looks while few are missing (default 500 ms).
	Poll time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Engine tells silences while this node leads.
type Engine struct {
	cfg Config
	// first is when this leader saw each one missing: clocks of nodes may differ, and
	// a wait must not be longer for it. Only Run's goroutine has it.
	first map[key]time.Time
	// looked is how long reading who is missing took the last time; also Run's alone.
	looked time.Duration

	mu sync.Mutex // guards away
	// away are the nodes that do not answer, since when.
	away map[string]time.Time
	// asked is whether the nodes have been asked since this one leads.
	asked bool
}

type key struct {
	host    string
	session uint64
}

// New makes an Engine.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil || cfg.DB == nil {
		return nil, errors.New("silence configuration: Log and DB must be set")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	for value, fallback := range map[*time.Duration]time.Duration{
		&cfg.Grace: 12 * time.Second, &cfg.NodeGrace: 45 * time.Second, &cfg.NodeLost: 10 * time.Second, &cfg.Poll: 500 * time.Millisecond,
	} {
		if *value <= 0 {
			*value = fallback
		}
	}
	return &Engine{cfg: cfg, first: make(map[key]time.Time), away: make(map[string]time.Time)}, nil
}

// Run tells silences whenever this node leads, until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() { e.ask(ctx) })
	poll := time.NewTimer(e.cfg.Poll)
	defer poll.Stop()
	leading, failed := false, false
	for ; ; poll.Reset(e.pause()) {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		}
		if !e.cfg.Log.IsLeader() {
			leading = false
			clear(e.first)
			continue
		}
		err := error(nil)
		if !leading {
			// What was committed before must be known: a host that came back is not missing.
			err = e.cfg.Log.ReadBarrier(ctx)
			leading = err == nil
		}
		if leading {
			err = errors.Join(e.endLost(ctx), e.step(ctx))
		}
		if err != nil && !failed && ctx.Err() == nil {
			e.cfg.Logger.Warn("silences not told; trying again", "error", err)
		}
		failed = err != nil
	}
}

// pause is how long until the next look.
func (e *Engine) pause() time.Duration {
	return max(e.cfg.Poll, min(pollMost, e.looked*lookShare))
}

// ask keeps away up to date while this node leads.
func (e *Engine) ask(ctx context.Context) {
	tick := time.NewTicker(membersEvery)
	defer tick.Stop()
	for {
		var members []*operatorv1.Member
		if e.cfg.Log.IsLeader() {
			limited, cancel := context.WithTimeout(ctx, membersTime)
			members, _ = e.cfg.Log.Members(limited)
			cancel()
		}
		e.heard(members)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// heard takes in what the nodes answered; nothing when this node does not lead.
func (e *Engine) heard(members []*operatorv1.Member) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = len(members) > 0
	if !e.asked {
		clear(e.away)
		return
	}
	now := e.cfg.Now()
	before := e.away
	e.away = make(map[string]time.Time)
	known := make(map[string]bool)
	for _, m := range members {
		known[m.GetId()] = true
		if m.GetState() == "unreachable" {
			e.away[m.GetId()] = earlier(before[m.GetId()], now)
		}
	}
	for node, since := range before {
		if !known[node] {
			e.away[node] = since
		}
	}
	e.noteStrangers(known, now)
}

// noteStrangers counts nodes that hosts have sessions with and that are no members any more.
func (e *Engine) noteStrangers(known map[string]bool, now time.Time) {
	nodes, err := e.cfg.DB.SessionNodes(context.Background())
	if err != nil {
		return // asked again in a moment
	}
	used := make(map[string]bool)
	for _, node := range nodes {
		used[node] = true
		if _, there := e.away[node]; !known[node] && !there {
			e.away[node] = now
		}
	}
	for node := range e.away {
		if !known[node] && !used[node] {
			delete(e.away, node)
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// endLost ends the sessions of nodes that are lost: they cannot say it themselves.
func (e *Engine) endLost(ctx context.Context) error {
	e.mu.Lock()
	asked, now := e.asked, e.cfg.Now()
	lost := make(map[string]bool)
	for node, since := range e.away {
		lost[node] = now.Sub(since) >= e.cfg.NodeLost
	}
	e.mu.Unlock()
	if !asked || len(lost) == 0 {
		return nil
	}
	nodes, err := e.cfg.DB.SessionNodes(ctx)
	if err != nil {
		return fmt.Errorf("reading the nodes with sessions: %w", err)
	}
	for _, node := range nodes {
		if !lost[node] {
			continue
		}
		if err := e.propose(ctx, &raftv1.Command{Body: &raftv1.Command_SessionsEnded{SessionsEnded: &raftv1.SessionsEnded{Node: node, All: true}}}); err != nil {
			return fmt.Errorf("ending the sessions of lost node %s: %w", node, err)
		}
		e.cfg.Logger.Warn("a node is lost with its sessions; its sensors have time to come back at others", "lost", node, "time", e.cfg.NodeGrace)
	}
	return nil
}

// step tells who is missing for long enough.
func (e *Engine) step(ctx context.Context) error {
	began := time.Now()
	missing, err := e.cfg.DB.Unheard(ctx, maxTold)
	e.looked = time.Since(began)
	if err != nil {
		return fmt.Errorf("reading who is missing: %w", err)
	}
	now := e.cfg.Now()
	e.remember(missing, now)
	var hosts, orphans []store.Unheard
	for _, m := range missing {
		if m.How == "node" {
			orphans = append(orphans, m)
		} else {
			hosts = append(hosts, m)
		}
	}
	for _, class := range [][]store.Unheard{hosts, orphans} {
		for _, group := range e.due(class, now) {
			if err := e.tell(ctx, group, now); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Engine) remember(missing []store.Unheard, now time.Time) {
	seen := make(map[key]time.Time, len(missing))
	for _, m := range missing {
		k := key{m.Host, m.Session}
		seen[k] = earlier(e.first[k], now)
	}
	e.first = seen
}

// at is when a missing host is to be told of: by the clocks of the node that had it and
// of this one, or, if these differ, by the time that this leader has waited itself.
func (e *Engine) at(m store.Unheard) time.Time {
	since, grace := m.Heard, e.cfg.Grace
	if m.How == "node" {
		since, grace = m.EndedAt, e.cfg.NodeGrace
	}
	waited := time.Duration(max(0, m.EndedAt-since))
	return earlier(time.Unix(0, since).Add(grace), e.first[key{m.Host, m.Session}].Add(max(0, grace-waited)))
}

// due are those to tell of now: each by itself, or many together when the last of them
// is due, or the first has waited long enough.
func (e *Engine) due(missing []store.Unheard, now time.Time) (groups [][]store.Unheard) {
	var ripe []store.Unheard
	var oldest time.Time
	for _, m := range missing {
		at := e.at(m)
		if !at.After(now) {
			ripe = append(ripe, m)
			oldest = earlier(oldest, at)
		}
	}
	switch {
	case len(ripe) == 0:
		return nil
	case len(missing) < many:
		for _, m := range ripe {
			groups = append(groups, []store.Unheard{m})
		}
		return groups
	case len(ripe) == len(missing), now.Sub(oldest) >= gather:
		return [][]store.Unheard{ripe}
	}
	return nil
}

// tell proposes the finding about a group.
func (e *Engine) tell(ctx context.Context, group []store.Unheard, now time.Time) error {
	f, err := e.describe(ctx, group, now)
	if err != nil {
		return err
	}
	in := &raftv1.RaiseSilence{Finding: f}
	for _, m := range group {
		in.Hosts = append(in.Hosts, &raftv1.SilentHost{Host: m.Host, Session: m.Session})
	}
	if err := e.propose(ctx, &raftv1.Command{Body: &raftv1.Command_RaiseSilence{RaiseSilence: in}}); err != nil {
		return fmt.Errorf("telling a silence: %w", err)
	}
	e.cfg.Logger.Warn("silence told", "finding", f.GetId(), "title", f.GetTitle(), "hosts", len(group))
	return nil
}

// propose takes it for no error that the silence is over or told: the next look shows it.
func (e *Engine) propose(ctx context.Context, cmd *raftv1.Command) error {
	cmd.Time, cmd.Actor = e.cfg.Now().UnixNano(), "engine:silence"
	res, err := e.cfg.Log.Propose(ctx, cmd)
	if err != nil {
		return err
	}
	if code := res.GetRejected(); code != "" && code != state.RejectNotSilent {
		return fmt.Errorf("%s: %s", code, res.GetMessage())
	}
	return nil
}
