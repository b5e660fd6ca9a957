// Package investigate looks into every storyline that has a finding, with nobody asking: it
// reads its findings, asks the host's flight recorder what else the storyline did and the
// store how usual that is, and ends it as benign because of something, as watching, or as an
// incident.
//
// Its one idea: evidence adds up in bits, and what is missing is never evidence of innocence.
// A storyline is closed as benign only when its recorder answered in full and nothing was
// lost; a finding of severity high or above always goes to a person. What was decided is a
// function of what the store and the host say, so that a new leader goes on by looking again.
package investigate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vedette-edr/vedette/coordinator/internal/inquire"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Within is how soon a storyline is investigated after its first finding: who waits for the
// investigator waits no longer.
const Within = 30 * time.Second

const (
	// settle is how long a storyline is let go on before it is looked at, and again how long
	// after the last look when it has something new.
	settle = time.Second
	again  = 10 * time.Second
	// lookBack is how far back a new leader looks for storylines that nobody looked at.
	lookBack = time.Hour
	// atOnce is how many are looked at at once; most of their time they wait for a host.
	atOnce = 8
	// perTick bounds what is begun at each look, and so the entries that findings of hosts,
	// which are not to be trusted, bring into the log.
	perTick = 20
	tick    = 500 * time.Millisecond
	// maxWaiting storylines in all and of one host. One beyond is not looked at, which is told.
	maxWaiting = 10_000
	maxOfHost  = 64
	// atOneHost: a host answers one question at a time, and one that answers late holds up no other.
	atOneHost = 2
	// maxLater storylines of a host wait for another look with nothing new.
	maxLater = 256
)

// A storyline that goes on and on is looked at ever more rarely, and never not at all.
func restAfter(rounds uint32) time.Duration {
	switch {
	case rounds < 10:
		return again
	case rounds < 50:
		return time.Minute
	case rounds < 200:
		return 10 * time.Minute
	}
	return time.Hour
}

// Looks with nothing new: at what was not answered in full, and once at what was closed, because
// what is done a moment later need not make a finding.
var afterGap = []time.Duration{30 * time.Second, 2 * time.Minute, 10 * time.Minute, time.Hour}

const afterBenign = 2 * time.Minute

// Log is the replicated log as the engine uses it.
type Log interface {
	IsLeader() bool
	ReadBarrier(ctx context.Context) error
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error)
}

// Asker puts a question to a host's recorder (package inquire).
type Asker interface {
	Ask(ctx context.Context, target inquire.Target, ask *sensorv1.Ask) (*sensorv1.Answer, error)
}

// Config of an Engine.
type Config struct {
	// NodeID is who asks, for the hosts' logs.
	NodeID string
	// Log and DB are this node's part of the cluster, Asker reaches the hosts.
	Log   Log
	DB    *store.DB
	Asker Asker
	// Logger takes what an administrator should know; nil discards it.
	Logger *slog.Logger
	// Now is the clock.
	Now func() time.Time
}

// storyKey names a storyline in the fleet.
type storyKey struct{ host, storyline string }

// waiting is a storyline that is to be looked at.
type waiting struct {
	due   time.Time
	began int64 // when its first finding was stored
	// Of the looks with nothing new before this one: those for want of an answer, and whether it was closed.
	unheard int
	closed  bool
}

// Engine investigates while this node leads.
type Engine struct {
	cfg Config

	// next is the index after the last finding that was taken in; 0 before this node leads.
	next    uint64
	waiting map[storyKey]waiting
	ofHost  map[string]int
	later   map[storyKey]waiting // for another look with nothing new
	laterOf map[string]int
	looking map[storyKey]bool
	busy    map[string]int         // looks under way, by host
	rests   map[storyKey]time.Time // until when
	ended   chan outcome
	left    uint64 // were too many to look at
}

// outcome is what came of a look.
type outcome struct {
	key    storyKey
	of     waiting
	err    error
	rounds uint32
	gap    bool // what matters was not all seen
	benign bool
}

// New makes an Engine.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil || cfg.DB == nil || cfg.Asker == nil {
		return nil, errors.New("investigate configuration: Log, DB and Asker must be set")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	e := &Engine{cfg: cfg, ended: make(chan outcome, atOnce)}
	e.clear()
	return e, nil
}

func (e *Engine) clear() {
	e.next, e.waiting, e.ofHost, e.rests = 0, make(map[storyKey]waiting), make(map[string]int), make(map[storyKey]time.Time)
	e.later, e.laterOf = make(map[storyKey]waiting), make(map[string]int)
	if e.looking == nil {
		e.looking, e.busy = make(map[storyKey]bool), make(map[string]int)
	}
}

// Run investigates whenever this node leads, until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	var lookers errgroup.Group
	lookers.SetLimit(atOnce)
	defer func() { _ = lookers.Wait() }() // none answers an error
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-e.ended:
			e.took(o)
			continue
		case <-ticks.C:
		}
		if !e.cfg.Log.IsLeader() {
			e.clear()
			continue
		}
		err := e.step(ctx, func(key storyKey, w waiting) bool {
			return lookers.TryGo(func() error {
				select {
				case e.ended <- e.look(ctx, key, w):
				case <-ctx.Done(): // nobody takes it any more
				}
				return nil
			})
		})
		if err != nil && !failed && ctx.Err() == nil {
			e.cfg.Logger.Warn("findings not investigated; trying again", "error", err)
		}
		failed = err != nil
	}
}

// took notes the end of a look. One that failed is tried again.
func (e *Engine) took(o outcome) {
	delete(e.looking, o.key)
	if e.busy[o.key.host]--; e.busy[o.key.host] <= 0 {
		delete(e.busy, o.key.host)
	}
	now := e.cfg.Now()
	e.rests[o.key] = now.Add(restAfter(o.rounds))
	if _, has := e.waiting[o.key]; has || e.next == 0 {
		return
	}
	if o.err != nil {
		e.cfg.Logger.Debug("a storyline was not investigated", "host", o.key.host, "storyline", o.key.storyline, "error", o.err)
		next := o.of
		next.due = now.Add(again)
		e.wait(o.key, next)
		return
	}
	next := o.of
	switch {
	case o.gap && o.of.unheard < len(afterGap):
		next.due, next.unheard = now.Add(afterGap[o.of.unheard]), o.of.unheard+1
	case !o.gap && o.benign && !o.of.closed:
		next.due, next.closed = now.Add(afterBenign), true
	default:
		return
	}
	if len(e.later) < maxWaiting && e.laterOf[o.key.host] < maxLater {
		e.later[o.key] = next
		e.laterOf[o.key.host]++
	}
}

// forgetLater is for who has something new, or whose time has come.
func (e *Engine) forgetLater(key storyKey) {
	if _, has := e.later[key]; !has {
		return
	}
	delete(e.later, key)
	if e.laterOf[key.host]--; e.laterOf[key.host] <= 0 {
		delete(e.laterOf, key.host)
	}
}

// step takes in what is new and begins what is due.
func (e *Engine) step(ctx context.Context, begin func(storyKey, waiting) bool) error {
	if e.next == 0 {
		if err := e.begin(ctx); err != nil {
			return err
		}
	}
	if err := e.follow(ctx); err != nil {
		return err
	}
	now := e.cfg.Now()
	for key, w := range e.later {
		if !w.due.After(now) {
			e.forgetLater(key)
			e.wait(key, w)
		}
	}
	var due []storyKey
	for key, w := range e.waiting {
		if !w.due.After(now) && !e.looking[key] {
			due = append(due, key)
		}
	}
	slices.SortFunc(due, func(a, b storyKey) int { return e.waiting[a].due.Compare(e.waiting[b].due) })
	begun := 0
	for _, key := range due {
		if e.busy[key.host] >= atOneHost {
			continue
		}
		if begun == perTick || !begin(key, e.waiting[key]) {
			break
		}
		e.looking[key] = true
		e.busy[key.host]++
		e.drop(key)
		begun++
	}
	for key, until := range e.rests {
		if !until.After(now) {
			delete(e.rests, key)
		}
	}
	return nil
}

// begin finds what the leader before may have left.
func (e *Engine) begin(ctx context.Context) error {
	if err := e.cfg.Log.ReadBarrier(ctx); err != nil {
		return fmt.Errorf("catching up: %w", err)
	}
	from, err := e.cfg.DB.IndexBefore(ctx, e.cfg.Now().Add(-lookBack).UnixNano())
	if err != nil {
		return fmt.Errorf("finding where to begin: %w", err)
	}
	e.next = max(from, 1)
	return nil
}

func (e *Engine) follow(ctx context.Context) error {
	for {
		rows, next, err := e.cfg.DB.FindingsSince(ctx, e.next, store.MaxPage)
		if err != nil {
			return fmt.Errorf("reading findings: %w", err)
		}
		for _, row := range rows {
			if err := e.take(ctx, row); err != nil {
				return err
			}
		}
		if next == e.next {
			return nil
		}
		e.next = next
	}
}

// take has a finding's storyline looked at, unless a look since has known of it.
func (e *Engine) take(ctx context.Context, row *operatorv1.FindingRow) error {
	storyline := row.GetFinding().GetStoryline()
	if storyline == "" || len(storyline) > state.MaxStoryline {
		return nil // it is about the sensor, and no process did it
	}
	key := storyKey{row.GetHost(), storyline}
	if _, has := e.waiting[key]; has {
		return nil
	}
	now := e.cfg.Now()
	if age := now.UnixNano() - row.GetStoredAt(); age > int64(Within) {
		have, err := e.cfg.DB.Investigation(ctx, key.host, storyline)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("reading investigation: %w", err)
		}
		// By what it read, and not by clocks: nodes' differ, and a look takes a while. One that its
		// host did not answer is no look.
		if slices.Contains(have.GetFindings(), row.GetFinding().GetId()) && (have.GetAnswered() > 0 || have.GetVerdict() == state.VerdictIncident) {
			return nil
		}
	}
	due := now.Add(settle)
	if until := e.rests[key]; until.After(due) {
		due = until
	}
	e.forgetLater(key)
	e.wait(key, waiting{due: due, began: row.GetStoredAt()})
	return nil
}

func (e *Engine) wait(key storyKey, w waiting) {
	if len(e.waiting) >= maxWaiting || e.ofHost[key.host] >= maxOfHost {
		if e.left++; e.left&(e.left-1) == 0 { // at each doubling
			e.cfg.Logger.Warn("more storylines have findings than can be investigated: what makes an incident by itself still does", "host", key.host, "left_out", e.left)
		}
		return
	}
	e.waiting[key] = w
	e.ofHost[key.host]++
}

func (e *Engine) drop(key storyKey) {
	delete(e.waiting, key)
	if e.ofHost[key.host]--; e.ofHost[key.host] <= 0 {
		delete(e.ofHost, key.host)
	}
}

// look investigates one storyline and has the log keep what came of it.
func (e *Engine) look(ctx context.Context, key storyKey, of waiting) outcome {
	o := outcome{key: key, of: of}
	o.err = e.investigate(ctx, &o)
	return o
}

func (e *Engine) investigate(ctx context.Context, o *outcome) error {
	key := o.key
	ctx, cancel := context.WithTimeout(ctx, Within)
	defer cancel()
	c, err := e.gather(ctx, key)
	if err != nil || c == nil {
		return err
	}
	before, err := e.cfg.DB.Investigation(ctx, key.host, key.storyline)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("reading investigation: %w", err)
	}
	out := c.judge()
	out.Began, out.Ended, out.Rounds = o.of.began, e.cfg.Now().UnixNano(), before.GetRounds()+1
	if before.GetBegan() > 0 {
		out.Began = before.GetBegan()
	}
	o.rounds, o.gap, o.benign = out.GetRounds(), c.gap() != "", out.GetVerdict() == state.VerdictBenign
	fit(out)
	if !e.cfg.Log.IsLeader() {
		return errors.New("this node leads no more")
	}
	res, err := e.cfg.Log.Propose(ctx, &raftv1.Command{Time: e.cfg.Now().UnixNano(), Actor: "engine:investigate",
		Body: &raftv1.Command_PutInvestigation{PutInvestigation: &raftv1.PutInvestigation{Investigation: out}}})
	switch {
	case err != nil:
		return fmt.Errorf("keeping the investigation: %w", err)
	case res.GetRejected() == state.RejectUnknownHost:
		return nil // removed meanwhile
	case res.GetRejected() != "":
		return fmt.Errorf("keeping the investigation: %s: %s", res.GetRejected(), res.GetMessage())
	}
	e.cfg.Logger.Info("investigated", "host", key.host, "storyline", key.storyline, "verdict", out.GetVerdict(), "round", out.GetRounds())
	return nil
}
