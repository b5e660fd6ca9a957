// Package detect turns observations into findings: by rules in the Sigma format,
// by behaviour that is new and unusual for this host, and by what a process does
// after it has a finding.
//
// Invariant: a finding tells one thing once. The same rule on the same process
// is one finding; the same behaviour or rule in one storyline is told a few
// times a minute and then counted; and what was not told is an exact number.
package detect

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Config is what an Engine can be told. Zero values take the defaults.
type Config struct {
	// RulesDir is a folder of Sigma rules (*.yml, *.yaml, any depth) that are used
	// beside the built-in ones; empty: none. A rule that cannot be used is refused
	// by itself, logged and listed by Rejected.
	RulesDir string
	// NoBuiltin leaves the built-in rules out: to see what oddness finds alone.
	NoBuiltin bool
	// MinLevel is the lowest level that becomes a finding (default low).
	MinLevel event.Severity
	// AlertBudget is how many findings a day may be of odd behaviour alone (default
	// 0.5), rules not counted: what is odder than all but so many storylines a day is told.
	AlertBudget float64
	// Window is the length of the windows that oddness is measured in (default 10m).
	Window time.Duration
	// Odds is what an earlier run measured, from Engine.Odds, and Told what it told, from
	// Engine.Told; nil: nothing.
	Odds, Told []byte
	// Budget is the number of findings a minute that this host may tell, whatever
	// happens (default 120): a flood must not become the coordinator's flood.
	// StoryBudget is the same for one storyline (default 40), so that one cannot
	// silence the others. RepeatBudget is the same for one behaviour or rule with one
	// program and command in one storyline (default 3); what goes on is told ever
	// more rarely, down to once an hour, with its count.
	Budget, StoryBudget, RepeatBudget int
	// NoteBudget is the number of flow notes a minute for one storyline (default 120).
	NoteBudget int
	// MaxStorylines and MaxProcesses bound what is remembered; the least recently
	// used goes first. Defaults 2048 and 8192.
	MaxStorylines, MaxProcesses int
	// MaxCost is what all rules together may take of the processor for one event (default
	// 100 µs): rules that would take more are not taken up. The built-in ones take some 2 µs.
	MaxCost time.Duration
	// Now and Entropy make the ids; defaults the clock and crypto/rand.
	Now     func() time.Time
	Entropy io.Reader
	Logger  *slog.Logger
}

func (c Config) withDefaults() Config {
	set := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	set(&c.Budget, 120)
	set(&c.StoryBudget, 40)
	set(&c.RepeatBudget, 3)
	set(&c.NoteBudget, 120)
	set(&c.MaxStorylines, 2048)
	set(&c.MaxProcesses, 8192)
	if c.MinLevel == "" {
		c.MinLevel = event.Low
	}
	if c.AlertBudget <= 0 {
		c.AlertBudget = 0.5
	}
	if c.Window <= 0 {
		c.Window = 10 * time.Minute
	}
	if c.MaxCost <= 0 {
		c.MaxCost = 100 * time.Microsecond
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Entropy == nil {
		c.Entropy = rand.Reader
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Odds is how odd this host's storylines are, for Config.Odds of the next run.
func (e *Engine) Odds() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.odds.encode()
}

// MarkLoss says that events of the current window were lost: how odd it was, nobody knows.
func (e *Engine) MarkLoss() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.odds.excluded = true
}

// Stats counts what was told and what was not.
type Stats struct {
	Rules, Rejected int
	Findings        uint64
	Suppressed      uint64 // findings that the limits held back
	OverBudget      uint64 // those of them that no later finding's count may tell, and odd ones that the corrected budget leaves out
	Anomalies       uint64 // findings of odd behaviour alone, which the alert budget is of
	// TellFrom is the score in bits that is told at present, and Realised how many
	// findings a day that was of late.
	TellFrom, Realised  float64
	NotesSuppressed     uint64
	Storylines, Tainted int
	// Correlations is what the rules about more than one event hold, and what they forgot.
	Correlations sigma.CorrelatorStats
}

// Engine is the stage. Evaluate is for one goroutine; Stats may be called from any.
type Engine struct {
	cfg   Config
	ulids ulids

	mu sync.Mutex
	*book
	recent    recent
	stories   *lru[event.ProcessKey, *story]
	marked    *lru[event.ProcessKey, mark]     // processes with findings
	told      *once                            // (rule or behaviour, process)
	accepting *lru[event.ProcessKey, struct{}] // processes that accepted connections
	servers   *lru[string, struct{}]           // programs that did
	young     *lru[string, time.Time]          // images first seen after learning
	strangers *lru[netip.AddrPort, struct{}]   // who logged in from where nobody did before
	repeats   *lru[repeatKey, *repeat]         // (rule or behaviour, storyline)
	odds      *calibration
	last      Oddness // of the observation at hand
	budget    window
	weak      window // of budget, what is weak has taken
	// tamperBudget is apart, so that a flood of findings does not hide why it is there.
	tamperBudget window

	stats  Stats
	record record
}

// rule is a matcher with what a finding needs of it.
type rule struct {
	*sigma.Matcher
	id         string
	severity   event.Severity
	techniques []string
	print      sigma.Fingerprint
	silent     bool // it is told by the correlations that refer to it alone
}

// mark is why a process is watched.
type mark struct {
	rule       string
	title      string
	techniques []string
	severity   event.Severity
}

type tellKey struct {
	what string
	who  event.ProcessKey
	peer string
}

type repeatKey struct {
	what   string
	anchor event.ProcessKey
}

// New loads the built-in rules and those of RulesDir.
func New(cfg Config) (*Engine, error) {
	cfg = cfg.withDefaults()
	e := &Engine{
		cfg:       cfg,
		ulids:     ulids{entropy: cfg.Entropy},
		book:      newBook(cfg),
		stories:   newLRU[event.ProcessKey, *story](cfg.MaxStorylines),
		marked:    newLRU[event.ProcessKey, mark](cfg.MaxProcesses),
		told:      newOnce(cfg.MaxProcesses),
		accepting: newLRU[event.ProcessKey, struct{}](cfg.MaxProcesses),
		servers:   newLRU[string, struct{}](1024),
		young:     newLRU[string, time.Time](1024),
		strangers: newLRU[netip.AddrPort, struct{}](1024),
		repeats:   newLRU[repeatKey, *repeat](cfg.MaxStorylines),
	}
	if _, ok := e.severity[cfg.MinLevel]; !ok {
		return nil, fmt.Errorf("choosing the lowest level: %q is none", cfg.MinLevel)
	}
	e.odds = newCalibration(cfg.AlertBudget, cfg.Window)
	if len(cfg.Odds) > 0 {
		if err := e.odds.decode(cfg.Odds); err != nil {
			cfg.Logger.Warn("what was measured of this host's storylines cannot be read; it is measured anew", "error", err)
		}
	}
	if len(cfg.Told) > 0 {
		if err := e.odds.decodeTold(cfg.Told); err != nil {
			cfg.Logger.Warn("what was told cannot be read; what people say of it changes nothing here", "error", err)
		}
	}
	if err := e.load(Set{}); err != nil {
		return nil, err
	}
	return e, nil
}

// Rejected are the rules that are not used, each with file, line and reason.
func (e *Engine) Rejected() []error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.rejected
}

// Stats is a consistent reading of the counters.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats
	s.Rejected = len(e.rejected)
	s.Storylines, s.Tainted = e.stories.len(), e.marked.len()
	s.Rules = len(e.ids)
	s.Correlations = e.correlator.Stats()
	s.Anomalies, s.TellFrom, s.Realised = e.odds.anomalies, e.odds.need, e.odds.realised
	return s
}

// Evaluate decides on one observation. Findings are complete but for Losses and
// for hashes that are still being taken.
func (e *Engine) Evaluate(o *event.Observation, v event.Verdict) (findings []*event.Finding, notes []*event.FlowNote) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t, ok := o.Event.(*event.Tamper); ok {
		if f := e.tamper(o, t); f != nil {
			findings = append(findings, f)
		}
		return findings, nil
	}
	e.recent.note(o)
	e.odds.advance(o.Time, v.Learning || v.Early)
	e.odds.frozen = e.odds.frozen || v.Paused
	e.last = Oddness{}
	story := e.follow(o)
	if open, ok := o.Event.(*event.FlowOpen); ok && open.Dir == event.Inbound && !open.Failed {
		e.serves(o.Process)
		if isNamed(o.Process.Image, sessions) && v.New && !v.Learning && !open.Remote.Addr().IsLoopback() {
			e.strangers.put(open.Remote, struct{}{})
		}
	}
	if _, ok := o.Event.(*event.Exec); ok && v.ImageNew && !v.Learning && ageOf(o) < oldFile {
		e.young.put(o.Process.Image, o.Time)
	}

	ended := e.correlated(e.correlator.Advance(o.Time), v) // of what came before
	var hits []sigma.Hit
	for _, r := range e.matching(o, v) {
		hits = append(hits, e.correlator.Observe(o.Time, r.Matcher, &e.record, o)...)
		if r.silent || !e.tells(r.severity) {
			continue
		}
		if f := e.ruleFinding(o, v, story, r); f != nil {
			findings = append(findings, f)
		}
	}
	findings = append(findings, e.correlated(hits, v)...)
	// What a rule says weakly must not stand for what is odd or of a suspect.
	if !e.grave(findings) {
		if f := e.anomaly(o, v, story); f != nil {
			findings = append(findings, f)
		}
	}
	if !e.grave(findings) {
		if f := e.followUp(o, v, story); f != nil {
			findings = append(findings, f)
		}
	}
	if note := e.note(o, story); note != nil {
		notes = append(notes, note)
	}
	return append(findings, ended...), notes
}

// grave says whether one of them is medium or more.
func (e *Engine) grave(findings []*event.Finding) bool {
	return slices.ContainsFunc(findings, func(f *event.Finding) bool { return !e.isWeak(f.Severity) })
}

func (e *Engine) isWeak(level event.Severity) bool {
	return e.severity[level] < e.severity[event.Medium]
}

// weakPart: findings below medium have this part of the budgets.
const weakPart = 4

// tell applies the limits; a finding that passes them is counted and marks its process.
func (e *Engine) tell(f *event.Finding, what string, story *story) *event.Finding {
	now := f.Time
	same := repeatKey{what + " " + alike(f.Process), f.Process.Anchor}
	r, ok := e.repeats.get(same)
	if !ok {
		r = &repeat{}
		e.repeats.put(same, r)
	}
	// The mark is set even when nothing is told: what follows is of the same storyline.
	if !e.isWeak(f.Severity) {
		e.marked.put(f.Process.Key, mark{f.RuleID, f.Title, f.Techniques, f.Severity})
		story.mark(now)
		e.odds.taint(f.Process.Anchor)
	}
	if !r.allow(now, e.cfg.RepeatBudget) {
		r.held++
		e.stats.Suppressed++
		return nil
	}
	// What is weak has a part of both budgets, so that no noise takes the place of what is grave.
	if e.isWeak(f.Severity) && (!story.weak.allow(now, max(e.cfg.StoryBudget/weakPart, 1)) || !e.weak.allow(now, max(e.cfg.Budget/weakPart, 1))) ||
		!story.told.allow(now, e.cfg.StoryBudget) || !e.budget.allow(now, e.cfg.Budget) {
		r.held++
		e.stats.Suppressed++
		e.stats.OverBudget++
		return nil
	}
	if r.held > 0 {
		f.Reason += fmt.Sprintf(" The same was seen %d more times in this storyline and is not told one by one.", r.held)
		r.held = 0
	}
	f.ID = e.ulids.make(e.cfg.Now())
	e.stats.Findings++
	return f
}
