package detect

import (
	"container/list"
	"hash/maphash"
	"io"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// lru is a bounded map; the least recently used goes first.
type lru[K comparable, V any] struct {
	limit int
	by    map[K]*list.Element
	order *list.List
}

type lruItem[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{limit: limit, by: map[K]*list.Element{}, order: list.New()}
}

func (l *lru[K, V]) len() int { return l.order.Len() }

func (l *lru[K, V]) get(key K) (value V, ok bool) {
	el := l.by[key]
	if el == nil {
		return value, false
	}
	l.order.MoveToBack(el)
	return el.Value.(*lruItem[K, V]).value, true //nolint:forcetypeassert // only items are in it
}

func (l *lru[K, V]) put(key K, value V) {
	if el := l.by[key]; el != nil {
		el.Value.(*lruItem[K, V]).value = value //nolint:forcetypeassert // as above
		l.order.MoveToBack(el)
		return
	}
	if l.order.Len() >= l.limit {
		oldest := l.order.Front()
		delete(l.by, oldest.Value.(*lruItem[K, V]).key) //nolint:forcetypeassert // as above
		l.order.Remove(oldest)
	}
	l.by[key] = l.order.PushBack(&lruItem[K, V]{key, value})
}

// once remembers the last so many things that were done, by 64 bits of each: two are taken for one
// another once in some 10^15, and who chooses a key does not know the seed.
type once struct {
	seed maphash.Seed
	done map[uint64]struct{}
	ring []uint64 // what was done, in order; next is the oldest when it is full
	next int
}

func newOnce(limit int) *once {
	return &once{seed: maphash.MakeSeed(), done: map[uint64]struct{}{}, ring: make([]uint64, 0, limit)}
}

// first says whether it is done for the first time.
func (o *once) first(key tellKey) bool {
	h := maphash.Comparable(o.seed, key)
	if _, ok := o.done[h]; ok {
		return false
	}
	o.done[h] = struct{}{}
	if len(o.ring) < cap(o.ring) {
		o.ring = append(o.ring, h)
		return true
	}
	delete(o.done, o.ring[o.next])
	o.ring[o.next], o.next = h, (o.next+1)%len(o.ring)
	return true
}

// window counts what happened in the current minute.
type window struct {
	minute int64
	count  int
}

func (w *window) allow(now time.Time, limit int) bool {
	if minute := now.Unix() / 60; minute != w.minute {
		w.minute, w.count = minute, 0
	}
	if w.count >= limit {
		return false
	}
	w.count++
	return true
}

// After its first few tellings a repeat is held back for a minute, and twice as
// long each time that it is told again; a quiet time begins anew.
const (
	firstHold = time.Minute
	maxHold   = time.Hour
	quiet     = 6 * time.Hour
)

// repeat is how often the same was told, and how often it was not.
type repeat struct {
	count int       // told since it began
	held  int       // not told since the last that was
	told  time.Time // last telling
	last  time.Time // last occurrence
	hold  time.Duration
}

func (r *repeat) allow(now time.Time, limit int) bool {
	if now.Sub(r.last) > quiet {
		r.count, r.hold = 0, firstHold
	}
	r.last = now
	if r.count >= limit {
		if now.Sub(r.told) < r.hold {
			return false
		}
		r.hold = min(2*r.hold, maxHold)
	}
	r.count++
	r.told = now
	return true
}

// alike is what repeats have in common: the program and how its command begins.
func alike(p *event.Process) string {
	const begins = 32
	s := p.Image
	for _, arg := range p.Argv {
		if len(s) > len(p.Image)+begins {
			break
		}
		s += "\x00" + arg
	}
	return s[:min(len(s), len(p.Image)+begins)]
}

const (
	storyFlows   = 16
	storyLookups = 16
	// storyFor is how long after its last finding a storyline's flows are noted, and
	// alertFor how long novelty in it needs a lower score.
	storyFor = 24 * time.Hour
	alertFor = time.Hour
	// carriedFor is the same of a storyline whose mark came from another host, as long as it
	// has no finding of its own: what comes from elsewhere must not last for ever.
	carriedFor = time.Hour
)

// story is what a storyline did lately.
type story struct {
	flows   []storyFlow // oldest first
	lookups []storyLookup
	marked  time.Time // last finding; zero: none
	carried time.Time // when the mark of another host's storyline came; zero: none did
	notes   window
	told    window
	weak    window   // of told, findings below medium
	shown   *showing // nil: nothing odd yet
}

type storyFlow struct {
	who  event.ProcessKey
	flow *event.Flow
}

type storyLookup struct {
	who  event.ProcessKey
	name string
}

// carriedAt says whether the mark of another host's storyline is on it.
func (s *story) carriedAt(now time.Time) bool {
	return !s.carried.IsZero() && now.Sub(s.carried) < carriedFor
}

func (s *story) mark(now time.Time) { s.marked = now }

func (s *story) within(d time.Duration, now time.Time) bool {
	return !s.marked.IsZero() && now.Sub(s.marked) < d
}

// follow finds or begins the storyline of an observation and adds what it shows.
func (e *Engine) follow(o *event.Observation) *story {
	s, ok := e.stories.get(o.Process.Anchor)
	if !ok {
		s = &story{}
		e.stories.put(o.Process.Anchor, s)
	}
	who := o.Process.Key
	switch ev := o.Event.(type) {
	case *event.FlowOpen:
		if len(s.flows) == storyFlows {
			s.flows = append(s.flows[:0], s.flows[1:]...)
		}
		s.flows = append(s.flows, storyFlow{who, o.Flow})
	case *event.FlowClose:
		for i := range s.flows {
			if s.flows[i].flow.ID == o.Flow.ID && s.flows[i].flow.Local == o.Flow.Local {
				s.flows[i].flow = o.Flow // now with its bytes
			}
		}
	case *event.DNS:
		if ev.Response {
			break
		}
		for _, l := range s.lookups {
			if l.who == who && l.name == ev.Name {
				return s
			}
		}
		if len(s.lookups) == storyLookups {
			s.lookups = append(s.lookups[:0], s.lookups[1:]...)
		}
		s.lookups = append(s.lookups, storyLookup{who, ev.Name})
	}
	return s
}

// evidence is what the process itself did, newest first, and then what its
// ancestors in the storyline did.
func (s *story) evidence(p *event.Process, current *event.Flow) (flows []*event.Flow, lookups []string) {
	if current != nil {
		flows = append(flows, current)
	}
	line := map[event.ProcessKey]bool{p.Key: true}
	for _, a := range p.Ancestors(16) {
		if a.Anchor == p.Anchor {
			line[a.Key] = true
		}
	}
	for _, own := range []bool{true, false} {
		for i := len(s.flows) - 1; i >= 0; i-- {
			f := s.flows[i]
			if line[f.who] && (f.who == p.Key) == own && f.flow != current && len(flows) < storyFlows {
				flows = append(flows, f.flow)
			}
		}
	}
	for i := len(s.lookups) - 1; i >= 0; i-- {
		if line[s.lookups[i].who] {
			lookups = append(lookups, s.lookups[i].name)
		}
	}
	return flows, lookups
}

// note tells a flow of a storyline with findings: what joins hosts.
func (e *Engine) note(o *event.Observation, s *story) *event.FlowNote {
	if o.Flow == nil || !s.within(storyFor, o.Time) && !s.carriedAt(o.Time) {
		return nil
	}
	if !s.notes.allow(o.Time, e.cfg.NoteBudget) {
		e.stats.NotesSuppressed++
		return nil
	}
	return &event.FlowNote{Storyline: storyline(o.Process), Process: o.Process, Flow: o.Flow}
}

// Carry marks the storyline of a process that serves a connection from another host's suspect
// storyline (from), and is the note of its end of it. Its flows are noted from now on; what is
// a finding in it does not change.
func (e *Engine) Carry(p *event.Process, flow *event.Flow, from string, now time.Time) *event.FlowNote {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.stories.get(p.Anchor)
	if !ok {
		s = &story{}
		e.stories.put(p.Anchor, s)
	}
	s.carried = now
	return &event.FlowNote{Storyline: storyline(p), Process: p, Flow: flow, Carried: from}
}

// ulids makes ids that sort by time (github.com/ulid/spec): 48 bits of
// milliseconds, 80 of entropy, in Crockford's base 32.
type ulids struct{ entropy io.Reader }

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

func (u ulids) make(now time.Time) string {
	var b [16]byte
	ms := uint64(now.UnixMilli()) //nolint:gosec // after 1970
	for i := range 6 {
		b[i] = byte(ms >> (40 - 8*i))
	}
	if _, err := io.ReadFull(u.entropy, b[6:]); err != nil {
		// crypto/rand does not fail; an injected source that does is a broken test.
		panic("reading entropy: " + err.Error())
	}
	var out [26]byte
	// 130 bits of text for 128 bits of id: the first digit has only three.
	var acc uint32
	bits, at := 2, 0
	for _, c := range b {
		acc = acc<<8 | uint32(c)
		bits += 8
		for bits >= 5 {
			bits -= 5
			out[at] = crockford[acc>>bits&31]
			at++
		}
	}
	return string(out[:])
}
