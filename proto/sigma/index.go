package sigma

import (
	"math/bits"
	"slices"
	"strings"
)

// Index finds among many matchers those that match a record, and looks at few of them: each
// is found by the texts that a record must have for it. Those that need none are always
// looked at. It is not changed after it was made, but for what Possible remembers.
type Index struct {
	matchers []*Matcher
	about    []Fields // of the texts that each is found by
	always   []int32
	fields   []fieldIndex
	loose    map[Fields][]int32
}

// Scratch is what a search needs for itself; it may be used again by the next, and by one
// goroutine at a time.
type Scratch struct {
	seen  []uint32 // by matcher: the round in which it was found
	round uint32
	found []int32
	// Looked counts the conditions that were evaluated.
	Looked uint64
}

// fieldIndex finds matchers by one field's values.
type fieldIndex struct {
	field int
	equal map[string][]int32
	// begins and ends are by the first and last bytes of a text, four at most; at
	// [n-1] are those by n bytes.
	begins, ends [keyLength]map[uint32][]anchored
	long, short  grams
}

// keyLength is how many bytes a table is asked by.
const keyLength = 4

// minInner is the shortest text that is looked for anywhere in a value.
const minInner = 2

type anchored struct {
	literal  string
	matchers []int32
}

// NewIndex makes an Index. The number of a matcher is its place in the list.
func NewIndex(matchers []*Matcher) *Index {
	x := &Index{matchers: matchers, about: make([]Fields, len(matchers)), loose: map[Fields][]int32{}}
	byAtom := map[atom][]int32{}
	var order []atom
	for i, m := range matchers {
		atoms, _ := m.source.needed(m.expr)
		number := int32(i) //nolint:gosec // some thousands
		if len(atoms) == 0 {
			x.always = append(x.always, number)
			continue
		}
		for _, a := range atoms {
			x.about[i] = x.about[i].With(a.field)
			if list := byAtom[a]; len(list) > 0 && list[len(list)-1] == number {
				continue
			}
			if byAtom[a] == nil {
				order = append(order, a)
			}
			byAtom[a] = append(byAtom[a], number)
		}
	}
	places := map[int]int{}
	for _, a := range order {
		place, known := places[a.field]
		if !known {
			place = len(x.fields)
			places[a.field] = place
			x.fields = append(x.fields, fieldIndex{field: a.field, equal: map[string][]int32{}})
		}
		x.fields[place].add(a, byAtom[a])
	}
	for i := range x.fields {
		x.fields[i].long.seal(keyLength)
		x.fields[i].short.seal(minInner)
	}
	return x
}

func (f *fieldIndex) add(a atom, matchers []int32) {
	switch a.shape {
	case shapeEqual:
		f.equal[a.literal] = matchers
	case shapePrefix:
		put(&f.begins, a.literal[:min(len(a.literal), keyLength)], anchored{a.literal, matchers})
	case shapeSuffix:
		put(&f.ends, a.literal[max(0, len(a.literal)-keyLength):], anchored{a.literal, matchers})
	default:
		if len(a.literal) >= keyLength {
			f.long.add(inner{literal: a.literal, matchers: matchers})
			return
		}
		f.short.add(inner{literal: a.literal, matchers: matchers})
	}
}

func put(tables *[keyLength]map[uint32][]anchored, key string, a anchored) {
	table := &tables[len(key)-1]
	if *table == nil {
		*table = map[uint32][]anchored{}
	}
	k := packed(key)
	(*table)[k] = append((*table)[k], a)
}

func packed(key string) (k uint32) {
	for i := range len(key) {
		k = k<<8 | uint32(key[i])
	}
	return k
}

// Match returns the numbers of the matchers that match, in order, until the next search
// with the same Scratch.
func (x *Index) Match(r Record, s *Scratch) []int32 {
	x.find(r, s, nil)
	s.found = append(s.found, x.always...)
	slices.Sort(s.found)
	s.Looked += uint64(len(s.found))
	kept := s.found[:0]
	for _, n := range s.found {
		if x.matchers[n].expr.eval(r) {
			kept = append(kept, n)
		}
	}
	return kept
}

// Possible says whether any matcher may match a record with the known fields of r and any
// others whatever. r is asked for known fields only.
func (x *Index) Possible(r Record, known Fields, s *Scratch) bool {
	x.find(r, s, &known)
	for _, n := range s.found {
		if !x.matchers[n].Excluded(r, known) {
			return true
		}
	}
	for _, n := range x.looseOf(known) {
		if !x.matchers[n].Excluded(r, known) {
			return true
		}
	}
	return false
}

// looseOf are the matchers that known fields alone do not find.
func (x *Index) looseOf(known Fields) []int32 {
	list, made := x.loose[known]
	if made {
		return list
	}
	list = slices.Clone(x.always)
	for i, about := range x.about {
		if !known.covers(about) {
			list = append(list, int32(i)) //nolint:gosec // some thousands
		}
	}
	if len(x.loose) >= maxLoose {
		clear(x.loose)
	}
	x.loose[known] = list
	return list
}

// maxLoose bounds for how many sets of fields is remembered which matchers they do not find.
const maxLoose = 64

// find lists the matchers one of whose texts is there, each once.
func (x *Index) find(r Record, s *Scratch, known *Fields) {
	if len(s.seen) < len(x.matchers) {
		s.seen, s.round = make([]uint32, len(x.matchers)), 0
	}
	if s.round++; s.round == 0 {
		clear(s.seen)
		s.round = 1
	}
	s.found = s.found[:0]
	for i := range x.fields {
		f := &x.fields[i]
		if known != nil && !known.covers(FieldsOf(f.field)) {
			continue
		}
		for _, v := range r.Folded(f.field) {
			f.find(v, s)
		}
	}
}

func (s *Scratch) add(matchers []int32) {
	for _, n := range matchers {
		if s.seen[n] != s.round {
			s.seen[n] = s.round
			s.found = append(s.found, n)
		}
	}
}

func (f *fieldIndex) find(v string, s *Scratch) {
	if len(f.equal) > 0 {
		if matchers, ok := f.equal[v]; ok {
			s.add(matchers)
		}
	}
	for n := 1; n <= min(keyLength, len(v)); n++ {
		if table := f.begins[n-1]; table != nil {
			for _, a := range table[packed(v[:n])] {
				if strings.HasPrefix(v, a.literal) {
					s.add(a.matchers)
				}
			}
		}
		if table := f.ends[n-1]; table != nil {
			for _, a := range table[packed(v[len(v)-n:])] {
				if strings.HasSuffix(v, a.literal) {
					s.add(a.matchers)
				}
			}
		}
	}
	f.long.find(v, keyLength, s)
	f.short.find(v, minInner, s)
}

// grams finds texts anywhere in a value, each by some bytes of it that are rare: a filter
// of bits says of most places that nothing is there.
type grams struct {
	texts  []inner
	table  map[uint32][]inner
	filter []uint64
	shift  uint
}

type inner struct {
	literal  string
	at       int // where in the literal the bytes are that it is found by
	matchers []int32
}

// spread is 2^32 by the golden ratio: it spreads neighbouring numbers.
const spread = 0x9e3779b1

// bitsPerGram keeps most of a filter empty.
const bitsPerGram = 64

func (g *grams) add(t inner) { g.texts = append(g.texts, t) }

// seal chooses by which bytes each text is found.
func (g *grams) seal(length int) {
	if len(g.texts) == 0 {
		return
	}
	g.table = map[uint32][]inner{}
	for _, t := range g.texts {
		best := -1
		for at := 0; at+length <= len(t.literal); at++ {
			key := t.literal[at : at+length]
			worse := 4 * len(g.table[packed(key)])
			if strings.Contains(ordinary, key) {
				worse += 64
			}
			if best < 0 || worse < best {
				best, t.at = worse, at
			}
		}
		key := packed(t.literal[t.at : t.at+length])
		g.table[key] = append(g.table[key], t)
	}
	size := bits.Len(uint(len(g.table) * bitsPerGram)) // 2^size bits
	size = max(size, 6)
	g.shift = uint(32 - size)
	g.filter = make([]uint64, 1<<size/64)
	for key := range g.table {
		h := key * spread >> g.shift
		g.filter[h/64] |= 1 << (h % 64)
	}
	g.texts = nil
}

func (g *grams) find(v string, length int, s *Scratch) {
	if g.table == nil || len(v) < length {
		return
	}
	mask := uint32(1<<(8*length) - 1)
	key := packed(v[:length-1])
	for i := length - 1; i < len(v); i++ {
		key = (key<<8 | uint32(v[i])) & mask
		h := key * spread >> g.shift
		if g.filter[h/64]>>(h%64)&1 != 0 {
			g.verify(v, i-length+1, key, s)
		}
	}
}

func (g *grams) verify(v string, at int, key uint32, s *Scratch) {
	for _, t := range g.table[key] {
		if from := at - t.at; from >= 0 && strings.HasPrefix(v[from:], t.literal) {
			s.add(t.matchers)
		}
	}
}
