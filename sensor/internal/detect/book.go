package detect

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/proto/taxonomy"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// book is all rules made ready. It is not changed after it was made, but for what its
// correlator remembers; other rules are another book.
type book struct {
	cfg          Config
	rules        map[string][]*rule // by kind of record
	sets         map[string]*ruleSet
	severity     map[event.Severity]int
	rejected     []error
	pushed       []error              // those of rejected that the cluster's set lost
	parsed       []*sigma.Correlation // until all rules are loaded
	correlator   *sigma.Correlator
	correlations map[*sigma.Correlation]*correlation
	ids          map[string]string // of rules, with the file
	set          uint64            // version of the cluster's set; 0: none
}

var severities = map[event.Severity]int{
	event.Informational: 0, event.Low: 1, event.Medium: 2, event.High: 3, event.Critical: 4,
}

func newBook(cfg Config) *book {
	return &book{
		cfg: cfg, rules: map[string][]*rule{}, sets: map[string]*ruleSet{}, severity: severities, ids: map[string]string{},
		correlations: map[*sigma.Correlation]*correlation{},
	}
}

// File is a file of rules that came from elsewhere than a folder.
type File struct {
	Path string
	Raw  []byte
}

// Set is the rules that the cluster gave this host, as an operator signed them.
type Set struct {
	Version uint64 // 0: none
	Files   []File
}

// Prepared are rules made ready beside the ones in use.
type Prepared struct {
	book *book
	// Cost is what the rules take of the processor for one event, see measure.
	Cost time.Duration
}

// Refused are the rules of the cluster's set that are not used, each with file, line and reason.
func (p *Prepared) Refused() []error { return p.book.pushed }

// ErrTooCostly says that rules would take more of the processor than they may.
var ErrTooCostly = errors.New("the rules take too much of the processor for each event")

// Prepare reads the built-in rules, the cluster's and those of RulesDir and makes them
// ready; what is in use stays. The error is about all of them together: a rule that cannot
// be used is refused alone. Rules that would take more than Config.MaxCost for an event are
// ErrTooCostly, unless those in use take as much: the way back is always open.
func (e *Engine) Prepare(set Set) (*Prepared, error) {
	b := newBook(e.cfg)
	if err := b.load(set); err != nil {
		return nil, err
	}
	by, current := e.ordinary()
	p := &Prepared{book: b, Cost: b.measure(by)}
	if p.Cost > e.cfg.MaxCost && p.Cost > current.measure(by) {
		return p, fmt.Errorf("%w: %s, and %s is allowed", ErrTooCostly, p.Cost, e.cfg.MaxCost)
	}
	return p, nil
}

// Use puts rules in place between two events, and returns the kinds of records that some
// rule is about that was not there before. Correlations that did not change go on with
// what they remember. Prepared rules serve once.
func (e *Engine) Use(p *Prepared) (changed []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for of, set := range p.book.sets {
		before := e.sets[of]
		for print := range set.prints {
			if before == nil || !before.prints[print] {
				changed = append(changed, of)
				break
			}
		}
	}
	p.book.correlator.Adopt(e.correlator)
	e.book = p.book
	slices.Sort(changed)
	return changed
}

// SetVersion is the version of the cluster's set that is in use; 0: none.
func (e *Engine) SetVersion() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.set
}

// recentEvents is how many observations are kept to measure other rules by.
const recentEvents = 64

// recent keeps every 16th observation that rules were asked about.
type recent struct {
	seen uint64
	last [recentEvents]*event.Observation
}

func (r *recent) note(o *event.Observation) {
	if r.seen%16 == 0 {
		r.last[r.seen/16%recentEvents] = o
	}
	r.seen++
}

// ordinary are observations to measure rules by, this host's own and some that are long, and
// the rules in use.
func (e *Engine) ordinary() (list []*event.Observation, current *book) {
	e.mu.Lock()
	defer e.mu.Unlock()
	list = slices.Clone(samples)
	for _, o := range e.recent.last {
		if o != nil {
			list = append(list, o)
		}
	}
	return list, e.book
}

// measureRounds is how often the observations are gone through; the cheapest round counts,
// because whatever else the machine does only makes one dearer.
const measureRounds = 5

// measureAtMost ends the first round: whoever takes so long for some events takes too long.
const measureAtMost = 300 * time.Millisecond

// measure is what the processor takes to try all rules on an event, on average over these.
func (b *book) measure(by []*event.Observation) (cost time.Duration) {
	r := &record{}
	var scratch sigma.Scratch
	taken, done := threadTime()
	defer done()
	for round := range measureRounds {
		from := taken()
		for i, o := range by {
			if set := b.sets[categoryOf(o.Event)]; set != nil {
				r.reset(o, event.Verdict{Known: true})
				set.index.Match(r, &scratch)
			}
			if so := taken(); round == 0 && so > measureAtMost {
				return so / time.Duration(i+1)
			}
		}
		took := (taken() - from) / time.Duration(len(by))
		if round == 0 || took < cost {
			cost = took
		}
	}
	return cost
}

// prints are the fingerprints of rules that are used.
func prints(rules []*rule) map[sigma.Fingerprint]bool {
	all := map[sigma.Fingerprint]bool{}
	for _, r := range rules {
		all[r.print] = true
	}
	return all
}

// Kinds are all kinds of records that rules can be about.
func Kinds() []string {
	kinds := map[string]bool{}
	for _, s := range taxonomy.Schema {
		kinds[s.Of] = true
	}
	return slices.Sorted(maps.Keys(kinds))
}
