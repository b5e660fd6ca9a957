package sigma

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// odd are rules over few letters, so that they often match.
func odd(t *testing.T, random *rand.Rand, n int) (matchers []*Matcher) {
	t.Helper()
	word := func() string {
		b := make([]byte, 1+random.IntN(6))
		for i := range b {
			b[i] = "aBbc/*?"[random.IntN(7)]
		}
		return "'" + string(b) + "'"
	}
	modifier := func() string {
		return []string{"", "|contains", "|startswith", "|endswith", "|cased", "|contains|cased", "|contains|all", "|re|i", "|re"}[random.IntN(9)]
	}
	for len(matchers) < n {
		var s strings.Builder
		s.WriteString("title: T\nlogsource: {category: process_creation}\ndetection:\n")
		for search := range 1 + random.IntN(3) {
			fmt.Fprintf(&s, "  s%d:\n", search)
			for _, field := range []string{"Image", "CommandLine", "User"}[random.IntN(3):] {
				m := modifier()
				values := []string{word(), word(), word()}[random.IntN(3):]
				if strings.Contains(m, "re") {
					values = []string{strings.NewReplacer("*", ".*", "?", ".").Replace(word())}
				}
				fmt.Fprintf(&s, "    %s%s: [%s]\n", field, m, strings.Join(values, ", "))
			}
		}
		s.WriteString("  condition: " + []string{"1 of them", "all of them", "s0 and not s0 or s0", "not s0", "s0"}[random.IntN(5)] + "\n")
		rule, err := Parse("t.yml", []byte(s.String()))
		if err != nil {
			t.Fatalf("%v\n%s", err, s.String())
		}
		compiled, err := Compile(rule, testSchema)
		if err != nil {
			continue // it can never hold
		}
		matchers = append(matchers, compiled...)
	}
	return matchers
}

func oddRecord(random *rand.Rand) fields {
	r := make(fields, 6)
	for i := range 3 {
		for range random.IntN(3) {
			b := make([]byte, random.IntN(12))
			for j := range b {
				b[j] = "aAbBcC/"[random.IntN(7)]
			}
			r[i] = append(r[i], string(b))
		}
	}
	return r
}

// Ensure the index finds exactly what trying each rule finds, and excludes nothing that
// may match.
func TestIndex(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	matchers := odd(t, random, 400)
	x, s := NewIndex(matchers), &Scratch{}
	if len(x.always) > len(matchers)*2/3 {
		t.Errorf("%d of %d rules are always tried", len(x.always), len(matchers))
	}
	matched := 0
	for range 3000 {
		r := oddRecord(random)
		var want []int32
		for i, m := range matchers {
			if m.Match(r) {
				want = append(want, int32(i))
			}
		}
		matched += len(want)
		if got := x.Match(r, s); !slices.Equal(got, want) {
			t.Fatalf("%q: got %v, want %v", r, got, want)
		}
		known := [][]int{{0}, {0, 1}, {2}, {}, {0, 1, 2}}[random.IntN(5)]
		set := FieldsOf(known...)
		possible := slices.ContainsFunc(matchers, func(m *Matcher) bool { return !m.Excluded(r, set) })
		if got := x.Possible(r, set, s); got != possible {
			t.Fatalf("%q with %v known: possible %v, want %v", r, known, got, possible)
		}
	}
	if matched == 0 {
		t.Error("nothing matched: the comparison says nothing")
	}
	few, fewScratch := matchers[:0:0], &Scratch{}
	for _, m := range matchers[:40] { // few enough that most of the time none is possible
		if atoms, _ := m.source.needed(m.expr); len(atoms) > 0 {
			few = append(few, m)
		}
	}
	x = NewIndex(few)
	none := 0
	for range 3000 {
		r := oddRecord(random)
		set := FieldsOf([][]int{{0, 1, 2}, {0, 1}}[random.IntN(2)]...)
		possible := slices.ContainsFunc(few, func(m *Matcher) bool { return !m.Excluded(r, set) })
		if got := x.Possible(r, set, fewScratch); got != possible {
			t.Fatalf("%q: possible %v, want %v", r, got, possible)
		}
		if !possible {
			none++
		}
	}
	if none == 0 {
		t.Error("something was always possible: the comparison says nothing")
	}
}

// Ensure that a search allocates nothing.
func TestIndexAllocates(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	x, s := NewIndex(odd(t, random, 200)), &Scratch{}
	var r Record = folded{oddRecord(random)}
	x.Match(r, s)
	x.Possible(r, FieldsOf(0, 1), s)
	if n := testing.AllocsPerRun(100, func() { x.Match(r, s); x.Possible(r, FieldsOf(0, 1), s) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// folded is a record whose values are so already.
type folded struct{ fields }

func (f folded) Folded(n int) []string { return f.fields[n] }

func FuzzIndex(f *testing.F) {
	f.Add("title: T\nlogsource: {category: process_creation}\ndetection:\n  s:\n    Image|endswith: /sh\n    CommandLine|contains|all: [' -c ', k]\n  t:\n    CommandLine|re: '(?i)kks'\n  condition: s or t\n", "/bin/true", "x -c \u212aks", uint8(3))
	f.Add("title: T\nlogsource: {service: syslog}\ndetection:\n  s: [a, 'b*c']\n  condition: s\n", "b", "xbyycz", uint8(1))
	f.Fuzz(func(t *testing.T, text, image, line string, known uint8) {
		file, _ := ParseFile("f.yml", []byte(text))
		var all []*Matcher
		for _, rule := range file.Rules {
			m, err := Compile(rule, testSchema)
			if err != nil {
				continue
			}
			all = append(all, m...)
		}
		r := fields{{image}, {line, image}, {"root"}, {"10.0.0.1"}, {"22"}, {"PATH"}}
		x, s := NewIndex(all), &Scratch{}
		var want []int32
		for i, m := range all {
			if m.Match(r) {
				want = append(want, int32(i))
			}
		}
		if got := x.Match(r, s); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		var set Fields
		for n := range 6 {
			if known>>n&1 != 0 {
				set = set.With(n)
			}
		}
		possible := slices.ContainsFunc(all, func(m *Matcher) bool { return !m.Excluded(r, set) })
		if got := x.Possible(r, set, s); got != possible {
			t.Errorf("possible %v, want %v", got, possible)
		}
		if len(want) > 0 && !possible {
			t.Error("what matches was excluded")
		}
	})
}
