package sigma

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// CorrelatorLimits bound what a Correlator remembers. When one is reached, the group that
// was touched the longest ago is forgotten with all that it counted, whatever correlation
// it is of; Stats says exactly how many were and how many events they held.
type CorrelatorLimits struct {
	Groups, Entries int
}

// DefaultCorrelatorLimits are some 4 MiB at the most.
var DefaultCorrelatorLimits = CorrelatorLimits{Groups: 4096, Entries: 65536}

// maxHits bounds what one event can fulfil: correlations of correlations could multiply it.
const maxHits = 256

// CorrelatorStats counts, since the beginning but for Groups and Entries, which are now's.
type CorrelatorStats struct {
	Groups, Entries int
	Hits            uint64
	// EvictedGroups were forgotten for want of room, with EvictedEvents that they had counted.
	EvictedGroups, EvictedEvents uint64
	// Late events were older than what is still waited for in their group.
	Late uint64
	// Unfollowed hits of one event were more than maxHits, and neither told nor counted on.
	Unfollowed uint64
	// Ungrouped events lacked a field of group-by, or the one that is counted.
	Ungrouped uint64
}

// Hit is a correlation that was fulfilled.
type Hit struct {
	Correlation *Correlation
	First, Last time.Time
	// Count is what the condition was compared with.
	Count int
	// Group are the values of group-by, in its order; several values of one field are
	// joined by ", ", and long ones cut.
	Group []string
	// Ref is what was given to Observe with the newest event of the group.
	Ref any
}

// Correlator counts what rules match. It knows time only by its events: windows are over
// the events' own times, and one whose count may yet rise too far is judged when an event
// of any kind that is as late as its end comes (Advance).
//
// A condition of gt and gte alone is judged over a sliding window, at each event; the
// events that fulfilled it are used up. Any other is judged once for each window that
// began with the first event of a group.
type Correlator struct {
	limits CorrelatorLimits
	all    []*correlating
	steps  map[*Matcher][]step
	groups map[groupKey]*group
	recent *list.List // of *group, the one touched last in front
	stats  CorrelatorStats
	now    int64
}

// correlating is a correlation with its place among the others.
type correlating struct {
	*Correlation
	number  int
	need    int
	sliding bool
	above   int // a count that no further event can make a difference to
	print   Fingerprint
	due     *list.List // of *group whose windows end at a known time, the earliest in front
	steps   []step     // of the correlations that refer to this one
}

// step is one rule's place in one correlation, with the fields that it is grouped by.
type step struct {
	of     *correlating
	places []int // in Rules
	group  []int // numbers of fields, or, of what a correlation gives, of its group-by; -1: it has none
	values []int
}

type groupKey struct {
	correlation int
	values      digest
}

type digest [16]byte

type group struct {
	key     groupKey
	of      *correlating
	values  []string
	entries []entry
	count   int
	seen    uint64 // events that were counted
	first   int64
	newest  int64
	ref     any // the newest event's, where it is judged later
	recent  *list.Element
	due     *list.Element
}

// entry is an event that is waited with: its time, and of value_count and temporal what
// is counted. Of temporal_ordered it is the chain of rules up to one, began and ended.
type entry struct {
	at, end int64
	what    digest
}

// NewCorrelator compiles correlations over compiled rules. A correlation that cannot be is
// refused alone, with an *Error.
func NewCorrelator(limits CorrelatorLimits, rules []*Matcher, correlations []*Correlation) (*Correlator, []error) {
	c := &Correlator{limits: limits, steps: map[*Matcher][]step{}, groups: map[groupKey]*group{}, recent: list.New()}
	names := newNames(rules, correlations)
	var refused []error
	made := map[*Correlation]*correlating{}
	for _, wanted := range names.inOrder(correlations, func(err error) { refused = append(refused, err) }) {
		if err := c.add(wanted, names, made); err != nil {
			refused = append(refused, err)
		}
	}
	return c, refused
}

// add compiles a correlation all of whose references are compiled.
func (c *Correlator) add(wanted *Correlation, names names, made map[*Correlation]*correlating) error {
	need, sliding := wanted.need()
	of := &correlating{Correlation: wanted, number: len(c.all), need: need, sliding: sliding, due: list.New()}
	for _, b := range wanted.bounds {
		of.above = max(of.above, b.n+1)
	}
	if wanted.tree != nil {
		of.above = len(wanted.Rules) + 1
	}
	var targets []Fingerprint
	matched, inner := map[*Matcher]step{}, map[*correlating]step{}
	for place, reference := range wanted.Rules {
		line := wanted.lines[reference]
		refuse := func(format string, args ...any) error {
			return &Error{Path: wanted.Path, Line: line, Msg: fmt.Sprintf(format, args...)}
		}
		target, err := names.find(reference)
		if err != nil {
			return refuse("rules: %v", err)
		}
		if target.correlation != nil {
			from := made[target.correlation]
			if from == nil {
				return refuse("rules: %s is refused itself", reference)
			}
			s, known := inner[from]
			if !known {
				number := func(name string) int { return slices.Index(from.GroupBy, name) }
				if s, err = wanted.step(of, reference, number); err != nil {
					return err
				}
			}
			s.places = append(s.places, place)
			inner[from] = s
			targets = append(targets, from.print)
			continue
		}
		usable, why := false, error(nil)
		for _, m := range target.matchers {
			s, known := matched[m]
			if !known {
				number := func(name string) int {
					if n, ok := m.source.Fields[name]; ok {
						return n
					}
					return -1
				}
				if s, err = wanted.step(of, reference, number); err != nil {
					why = err
					continue
				}
			}
			usable = true
			s.places = append(s.places, place)
			matched[m] = s
		}
		if !usable {
			return why
		}
		targets = append(targets, target.matchers[0].Rule.Fingerprint())
	}
	of.print = wanted.print(targets)
	c.all = append(c.all, of)
	made[wanted] = of
	for m, s := range matched {
		c.steps[m] = append(c.steps[m], s)
	}
	for from, s := range inner {
		from.steps = append(from.steps, s)
	}
	return nil
}

// step finds the fields of one rule that a correlation needs.
func (c *Correlation) step(of *correlating, reference string, number func(string) int) (step, error) {
	s := step{of: of}
	for i, name := range append(slices.Clone(c.GroupBy), c.Values...) {
		line := c.lines[reference]
		for _, a := range c.aliases {
			if a.name == name && a.rule == reference {
				name, line = a.field, a.line
			}
		}
		n := number(name)
		if n < 0 {
			return s, &Error{Path: c.Path, Line: line, Unsupported: true,
				Msg: fmt.Sprintf("field %q is not known of %s; a correlation that is referred to has its group-by alone", name, reference)}
		}
		if i < len(c.GroupBy) {
			s.group = append(s.group, n)
			continue
		}
		s.values = append(s.values, n)
	}
	return s, nil
}

// Correlations are those that are used.
func (c *Correlator) Correlations() (used []*Correlation) {
	for _, of := range c.all {
		used = append(used, of.Correlation)
	}
	return used
}

// Stats is what was counted.
func (c *Correlator) Stats() CorrelatorStats { return c.stats }

// Wants says whether any correlation is about what m matches.
func (c *Correlator) Wants(m *Matcher) bool { return len(c.steps[m]) > 0 }

// Advance tells that time has come as far as t, and returns what that decides.
func (c *Correlator) Advance(t time.Time) (hits []Hit) {
	c.now = max(c.now, t.UnixNano())
	for _, of := range c.all {
		for front := of.due.Front(); front != nil; front = of.due.Front() {
			g := front.Value.(*group)
			if g.first+int64(of.Timespan) > c.now {
				break
			}
			hits = c.judge(hits, g)
		}
	}
	return hits
}

// judge ends a window whose length is over.
func (c *Correlator) judge(hits []Hit, g *group) []Hit {
	c.forget(g)
	if !g.holds() {
		return hits
	}
	return c.hit(hits, g, g.count, g.first, g.newest, g.ref)
}

// holds says whether a count fulfils the whole condition.
func (c *Correlation) holds(count int) bool {
	for _, b := range c.bounds {
		if !b.holds(count) {
			return false
		}
	}
	return true
}

// Observe tells that m matches r, and returns what that fulfils. Call Advance first.
func (c *Correlator) Observe(t time.Time, m *Matcher, r Record, ref any) (hits []Hit) {
	for _, s := range c.steps[m] {
		hits = c.count(hits, s, t.UnixNano(), r.Field, ref)
	}
	return hits
}

// count adds one event to its group.
func (c *Correlator) count(hits []Hit, s step, at int64, field func(int) []string, ref any) []Hit {
	key, ok := digestOf(s.group, field)
	what, counted := digestOf(s.values, field)
	if !ok || !counted {
		c.stats.Ungrouped++
		return hits
	}
	hits, g := c.group(hits, groupKey{s.of.number, key}, s, at, field)
	if at < g.newest-int64(s.of.Timespan) || !s.of.sliding && at < g.first {
		c.stats.Late++
		return hits
	}
	g.seen++
	if at >= g.newest {
		g.newest = at
		if !s.of.sliding {
			g.ref = ref
		}
	}
	before := len(g.entries)
	switch {
	case s.of.Type == "temporal_ordered":
		g.chain(s.places, at)
	case s.of.Type == "event_count" && !s.of.sliding:
		g.count = min(g.count+1, s.of.above)
	default:
		if s.of.Type == "temporal" {
			what = digest{byte(s.places[0] + 1)}
		}
		g.add(at, what, s.of)
	}
	c.stats.Entries += len(g.entries) - before
	if s.of.sliding {
		if first, fulfilled := g.fulfilled(); fulfilled {
			count := max(len(g.entries), s.of.need)
			c.forget(g)
			return c.hit(hits, g, count, first, g.newest, ref)
		}
	}
	c.evict(g)
	return hits
}

// hit tells of a group, first to the correlations that wait for it.
func (c *Correlator) hit(hits []Hit, g *group, count int, first, last int64, ref any) []Hit {
	if len(hits) >= maxHits {
		c.stats.Unfollowed++
		return hits
	}
	c.stats.Hits++
	hits = append(hits, Hit{g.of.Correlation, time.Unix(0, first).UTC(), time.Unix(0, last).UTC(), count, g.values, ref})
	for _, s := range g.of.steps {
		hits = c.count(hits, s, last, func(n int) []string { return g.values[n : n+1] }, ref)
	}
	return hits
}

func (c *Correlator) group(hits []Hit, key groupKey, s step, at int64, field func(int) []string) ([]Hit, *group) {
	if g, ok := c.groups[key]; ok {
		if s.of.sliding || at < g.first+int64(s.of.Timespan) {
			c.recent.MoveToFront(g.recent)
			return hits, g
		}
		hits = c.judge(hits, g)
	}
	g := &group{key: key, of: s.of, first: at, newest: at}
	for _, n := range s.group {
		g.values = append(g.values, shown(field(n)))
	}
	c.groups[key] = g
	g.recent = c.recent.PushFront(g)
	if !s.of.sliding {
		g.schedule()
	}
	c.stats.Groups++
	return hits, g
}

// maxShown bounds a value of group-by as it is kept, and so as a chained correlation sees it.
const maxShown = 256

func shown(values []string) string {
	text := strings.Join(values, ", ")
	return strings.Clone(text[:min(len(text), maxShown)])
}

func (c *Correlator) forget(g *group) {
	delete(c.groups, g.key)
	c.recent.Remove(g.recent)
	if g.due != nil {
		g.of.due.Remove(g.due)
	}
	c.stats.Groups--
	c.stats.Entries -= len(g.entries)
}

func (c *Correlator) evict(keep *group) {
	for c.stats.Groups > c.limits.Groups || c.stats.Entries > c.limits.Entries {
		oldest := c.recent.Back().Value.(*group)
		if oldest == keep {
			return // alone, and bounded by maxNeed
		}
		c.forget(oldest)
		c.stats.EvictedGroups++
		c.stats.EvictedEvents += oldest.seen
	}
}

// digestOf is what tells groups and values apart; none when a field has no value.
func digestOf(fields []int, field func(int) []string) (d digest, ok bool) {
	if len(fields) == 0 {
		return d, true
	}
	h := sha256.New()
	var length [8]byte
	put := func(n int) { binary.LittleEndian.PutUint64(length[:], uint64(n)); h.Write(length[:]) }
	for _, n := range fields {
		values := field(n)
		if len(values) == 0 {
			return d, false
		}
		put(len(values))
		for _, v := range values {
			put(len(v))
			h.Write([]byte(v))
		}
	}
	return digest(h.Sum(nil)[:len(d)]), true
}

// add keeps an event, or the newest one of each different value, in the order of time.
func (g *group) add(at int64, what digest, of *correlating) {
	span := int64(of.Timespan)
	if of.sliding {
		old := 0
		for old < len(g.entries) && g.entries[old].at < g.newest-span {
			old++
		}
		g.entries = slices.Delete(g.entries, 0, old)
	} else if len(g.entries) >= of.above {
		return
	}
	if of.Type != "event_count" {
		if i := slices.IndexFunc(g.entries, func(e entry) bool { return e.what == what }); i >= 0 {
			if g.entries[i].at >= at {
				return
			}
			g.entries = slices.Delete(g.entries, i, i+1)
		}
	}
	i := len(g.entries)
	for i > 0 && g.entries[i-1].at > at {
		i--
	}
	g.entries = slices.Insert(g.entries, i, entry{at: at, what: what})
	g.count = len(g.entries)
}

// chain lengthens the chains of rules that an event may be the next of. Of all chains up
// to one rule that with the latest beginning is kept: no other can do what it cannot.
func (g *group) chain(places []int, at int64) {
	if g.entries == nil {
		g.entries = make([]entry, len(g.of.Rules))
	}
	for _, place := range slices.Backward(places) { // one event is one link, and what is no later is not after
		chained := entry{at: at, end: at, what: digest{1}}
		if place > 0 {
			before := g.entries[place-1]
			if before.what == (digest{}) || before.end >= at || at-before.at > int64(g.of.Timespan) {
				continue
			}
			chained.at = before.at
		}
		if old := g.entries[place]; old.what == (digest{}) || chained.at >= old.at {
			g.entries[place] = chained
		}
	}
}

// fulfilled says since when.
func (g *group) fulfilled() (first int64, ok bool) {
	if g.of.Type == "temporal_ordered" {
		last := g.entries[len(g.entries)-1]
		return last.at, last.what != (digest{})
	}
	if len(g.entries) < g.of.need || g.of.tree != nil && !g.holds() {
		return 0, false
	}
	return g.entries[0].at, true
}
