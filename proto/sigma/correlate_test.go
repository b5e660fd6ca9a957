package sigma

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// What correlations are tried on: rules a, b and c, each for what its Image says.
const baseRules = `title: A
name: a
logsource: {category: process_creation}
detection: {s: {Image: /a}, condition: s}
---
title: B
name: b
id: 0b0b0b0b-0000-4000-8000-000000000001
logsource: {category: process_creation}
detection: {s: {Image: /b}, condition: s}
---
title: C
name: c
logsource: {category: process_creation}
detection: {s: {Image: /c}, condition: s}
---
`

func correlator(t *testing.T, limits CorrelatorLimits, text string) (*Correlator, []*Matcher, []error) {
	t.Helper()
	file, refused := ParseFile("c.yml", []byte(baseRules+text))
	if len(refused) > 0 {
		return nil, nil, refused
	}
	var all []*Matcher
	for _, rule := range file.Rules {
		m, err := Compile(rule, testSchema)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m...)
	}
	c, refused := NewCorrelator(limits, all, file.Correlations)
	return c, all, refused
}

// play tells events of the form "SECOND IMAGE USER LINE" and returns hits as "SECOND TITLE COUNT GROUP".
func play(c *Correlator, matchers []*Matcher, events string) (hits []string) {
	for line := range strings.Lines(events) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		var second float64
		fmt.Sscan(f[0], &second)
		at := time.Unix(1000, 0).Add(time.Duration(second * float64(time.Second)))
		tell := func(new []Hit) {
			for _, h := range new {
				hits = append(hits, fmt.Sprintf("%s %s %d %s", f[0], h.Correlation.Title, h.Count, strings.Join(h.Group, "+")))
			}
		}
		tell(c.Advance(at))
		if len(f) == 1 {
			continue
		}
		r := fields{{f[1]}, nil, nil, nil, nil, nil}
		if len(f) > 2 && f[2] != "-" {
			r[2] = []string{f[2]}
		}
		if len(f) > 3 {
			r[1] = []string{f[3]}
		}
		for _, m := range matchers {
			if m.Match(r) {
				tell(c.Observe(at, m, r, line))
			}
		}
	}
	return hits
}

// Ensure correlations mean what the specification says, over the events' own time.
func TestCorrelations(t *testing.T) {
	for _, tt := range []struct{ name, rules, events, want string }{
		{
			"count", "title: N\ncorrelation: {type: event_count, rules: [a], group-by: [User], timespan: 10s, condition: {gte: 3}}",
			"0 /a ann\n1 /a ann\n1 /a bob\n2 /b ann\n3 /a ann\n4 /a ann\n5 /a bob\n20 /a bob\n21 /a ann\n22 /a ann\n31 /a ann",
			"3 N 3 ann; 31 N 3 ann",
		},
		{
			"window slides", "title: N\ncorrelation: {type: event_count, rules: a, timespan: 10s, condition: {gt: 2}}",
			"0 /a\n9 /a\n11 /a\n19 /a\n20 /a", "19 N 3 ",
		},
		{
			"of several rules", "title: N\ncorrelation: {type: event_count, rules: [a, b], timespan: 1m, condition: {gte: 2}}",
			"0 /a\n1 /c\n2 /b", "2 N 2 ",
		},
		{
			"late within the window", "title: N\ncorrelation: {type: event_count, rules: a, timespan: 10s, condition: {gte: 3}}",
			"5 /a\n9 /a\n1 /a", "1 N 3 ",
		},
		{
			"too late", "title: N\ncorrelation: {type: event_count, rules: a, timespan: 10s, condition: {gte: 3}}",
			"5 /a\n20 /a\n1 /a\n21 /a\n22 /a", "22 N 3 ",
		},
		{
			"late, and then too old", "title: N\ncorrelation: {type: event_count, rules: a, timespan: 10s, condition: {gte: 3}}",
			"9 /a\n1 /a\n12 /a", "",
		},
		{
			"late at the beginning of a chain", "title: O\ncorrelation: {type: temporal_ordered, rules: [a, b], timespan: 10s}",
			"8 /a\n1 /a\n15 /b", "15 O 2 ",
		},
		{
			"values", "title: V\ncorrelation: {type: value_count, rules: a, group-by: [User], timespan: 10s, condition: {field: CommandLine, gte: 2}}",
			"0 /a ann x\n1 /a ann x\n2 /a bob y\n3 /a ann\n13 /a ann y\n14 /a ann x\n15 /a - z", "14 V 2 ann",
		},
		{
			"no more than", "title: L\ncorrelation: {type: event_count, rules: a, group-by: [User], timespan: 10s, condition: {lt: 3}}",
			"0 /a ann\n1 /a bob\n2 /a bob\n3 /a bob\n9.9\n10\n11\n12 /a ann\n30", "10 L 1 ann; 30 L 1 ann",
		},
		{
			"windows that begin out of order", "title: L\ncorrelation: {type: event_count, rules: a, group-by: [User], timespan: 10s, condition: {lt: 3}}",
			"5 /a ann\n3 /a bob\n13.5\n15", "13.5 L 1 bob; 15 L 1 ann",
		},
		{
			"a chain of windows", "title: L\nname: l\ncorrelation: {type: event_count, rules: a, group-by: [User], timespan: 10s, condition: {lt: 3}}\n---\n" +
				"title: E\ncorrelation: {type: event_count, rules: l, timespan: 4s, condition: {eq: 1}}",
			"0 /a ann\n7 /a bob\n60", "60 L 1 ann; 60 L 1 bob; 60 E 1 ; 60 E 1 ",
		},
		{
			"a range", "title: R\ncorrelation: {type: event_count, rules: a, group-by: [User], timespan: 10s, condition: {gte: 2, lte: 3}}",
			"0 /a a\n0 /a b\n0 /a c\n1 /a b\n1 /a c\n2 /a c\n3 /a c\n10", "10 R 2 b",
		},
		{
			"another window", "title: E\ncorrelation: {type: event_count, rules: a, timespan: 10s, condition: {eq: 1}}",
			"0 /a\n3 /a\n15 /a\n40 /c", "40 E 1 ",
		},
		{
			"all, in any order", "title: T\ncorrelation: {type: temporal, rules: [a, b, c], group-by: [User], timespan: 10s}",
			"0 /c ann\n1 /a ann\n2 /b bob\n3 /c ann\n4 /b ann\n5 /a ann", "4 T 3 ann",
		},
		{
			"not together", "title: T\ncorrelation: {type: temporal, rules: [a, b], timespan: 10s}",
			"0 /a\n11 /b\n12 /b\n21 /a", "21 T 2 ",
		},
		{
			"two of three", "title: T\ncorrelation: {type: temporal, rules: [a, b, c], timespan: 10s, condition: {gte: 2}}",
			"0 /a\n1 /a\n2 /c", "2 T 2 ",
		},
		{
			"in order", "title: O\ncorrelation: {type: temporal_ordered, rules: [a, b, c], group-by: [User], timespan: 10s}",
			"0 /b ann\n1 /a ann\n2 /c ann\n3 /b ann\n4 /c bob\n5 /c ann\n6 /c ann\n7 /b ann\n8 /c ann", "5 O 3 ann",
		},
		{
			"the latest beginning", "title: O\ncorrelation: {type: temporal_ordered, rules: [a, b], timespan: 10s}",
			"0 /a\n8 /a\n15 /b\n30 /a\n41 /b", "15 O 2 ",
		},
		{
			"one rule twice", "title: O\ncorrelation: {type: temporal_ordered, rules: [a, a, b], timespan: 10s}",
			"0 /a\n1 /b\n2 /a\n3 /b", "3 O 3 ",
		},
		{
			"at once is not after", "title: O\ncorrelation: {type: temporal_ordered, rules: [a, b], timespan: 10s}",
			"1 /a\n1 /b\n2 /b", "2 O 2 ",
		},
		{
			"aliases", "title: T\ncorrelation:\n  type: temporal\n  rules: [a, 0b0b0b0b-0000-4000-8000-000000000001]\n  timespan: 1m\n  group-by: [who]\n" +
				"  aliases: {who: {a: User, 0b0b0b0b-0000-4000-8000-000000000001: CommandLine}}",
			"0 /a ann x\n1 /b x ann", "1 T 2 ann",
		},
		{
			"a chain", "title: M\nname: many\ncorrelation: {type: event_count, rules: a, group-by: [User, Image], timespan: 10s, condition: {gte: 2}}\n---\n" +
				"title: T\ncorrelation: {type: temporal_ordered, rules: [many, b], group-by: [User], timespan: 1m}",
			"0 /a ann\n1 /b ann\n2 /a ann\n3 /b bob\n4 /b ann", "2 M 2 ann+/a; 4 T 2 ann",
		},
		{
			"a chain, written the other way round", "title: T\ncorrelation: {type: event_count, rules: [many], group-by: [User], timespan: 1m, condition: {gte: 2}}\n---\n" +
				"title: M\nname: many\ncorrelation: {type: event_count, rules: a, group-by: [User], timespan: 10s, condition: {gte: 2}}",
			"0 /a ann\n1 /a ann\n20 /a ann\n21 /a ann", "1 M 2 ann; 21 M 2 ann; 21 T 2 ann",
		},
	} {
		c, matchers, refused := correlator(t, DefaultCorrelatorLimits, tt.rules)
		if len(refused) > 0 {
			t.Errorf("%s: %v", tt.name, refused)
			continue
		}
		if got := strings.Join(play(c, matchers, tt.events), "; "); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		for _, g := range c.groups {
			if g.of.sliding && len(g.entries) > max(g.of.need, len(g.of.Rules)) {
				t.Errorf("%s: a group of %d entries", tt.name, len(g.entries))
			}
		}
	}
}

// Ensure what a correlation may remember is bounded, and what it forgot an exact number.
func TestCorrelatorLimits(t *testing.T) {
	count := "title: N\ncorrelation: {type: event_count, rules: a, group-by: [User], timespan: 1d, condition: {gte: 4}}\n---\n" +
		"title: L\ncorrelation: {type: event_count, rules: b, group-by: [User], timespan: 1d, condition: {lt: 2}}\n"
	c, matchers, refused := correlator(t, CorrelatorLimits{Groups: 10, Entries: 15}, count)
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	var events strings.Builder
	told := 0
	for i := range 500 {
		for range 1 + i%3 {
			fmt.Fprintf(&events, "%d /a u%d\n", i, i)
			told++
		}
		fmt.Fprintf(&events, "%d /b u%d\n", i, i)
		told++
	}
	hits := play(c, matchers, events.String())
	s := c.Stats()
	held := uint64(0)
	for _, g := range c.groups {
		held += g.seen
	}
	if len(hits) > 0 || s.Groups > 10 || s.Entries > 15 || s.Groups != len(c.groups) || s.Groups != c.recent.Len() {
		t.Errorf("%d hits, %+v", len(hits), s)
	}
	if s.EvictedGroups != 1000-uint64(s.Groups) || s.EvictedEvents != uint64(told)-held {
		t.Errorf("of %d events in 1000 groups %d are held in %d, evicted %d and %d", told, held, s.Groups, s.EvictedEvents, s.EvictedGroups)
	}
	if due := c.all[0].due.Len() + c.all[1].due.Len(); due > s.Groups {
		t.Errorf("%d windows wait for their end in %d groups", due, s.Groups)
	}
	// Who was touched last is kept.
	if hits := play(c, matchers, "600 /a u499\n601 /a u499\n602 /a u499\n603 /a u499"); !slices.Equal(hits, []string{"601 N 4 u499"}) {
		t.Errorf("got %q", hits) // u499 had been told of twice
	}
	c, matchers, _ = correlator(t, CorrelatorLimits{Groups: 2, Entries: 9}, "title: N\ncorrelation: {type: event_count, rules: a, group-by: [User], timespan: 1h, condition: {gte: 3}}\n")
	if hits := play(c, matchers, "1 /a ann\n2 /a bob\n3 /a ann\n4 /a cyd\n5 /a ann"); !slices.Equal(hits, []string{"5 N 3 ann"}) {
		t.Errorf("got %q", hits)
	}
	c, matchers, _ = correlator(t, DefaultCorrelatorLimits, "title: N\ncorrelation: {type: event_count, rules: a, group-by: [User], timespan: 10s, condition: {gte: 2}}\n")
	play(c, matchers, "1 /a -\n30 /a ann\n2 /a ann")
	if s := c.Stats(); s.Ungrouped != 1 || s.Late != 1 || s.Entries != 1 {
		t.Errorf("%+v", s)
	}
}

// Ensure one event cannot be multiplied without an end.
func TestCorrelatorFanOut(t *testing.T) {
	var text strings.Builder
	text.WriteString("title: C0\nname: c0\ncorrelation: {type: event_count, rules: a, timespan: 1m, condition: {gte: 1}}\n")
	for i := 1; i < 25; i++ {
		var all []string
		for j := range i {
			all = append(all, fmt.Sprint("c", j))
		}
		fmt.Fprintf(&text, "---\ntitle: C%d\nname: c%d\ncorrelation: {type: event_count, rules: [%s], timespan: 1m, condition: {gte: 1}}\n", i, i, strings.Join(all, ", "))
	}
	c, matchers, refused := correlator(t, DefaultCorrelatorLimits, text.String())
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	if hits := play(c, matchers, "0 /a"); len(hits) != maxHits {
		t.Errorf("%d hits", len(hits))
	}
	if s := c.Stats(); s.Unfollowed == 0 || s.Hits != maxHits {
		t.Errorf("%+v", s)
	}
}

// Ensure a bad correlation is refused alone, with its line.
func TestCorrelationRefused(t *testing.T) {
	const first = 17 // line of the title
	body := func(text string) string { return "title: X\ncorrelation:\n  " + text }
	for _, tt := range []struct {
		name, rule  string
		line        int
		want        string
		unsupported bool
	}{
		{"no title", "name: x\ncorrelation: {type: temporal, rules: [a, b], timespan: 1m}", 0, "title is missing", false},
		{"no type", body("rules: [a, b]\n  timespan: 1m"), 3, "type is missing", false},
		{"odd type", body("type: sequence"), 3, "type \"sequence\"", false},
		{"later type", body("type: value_sum"), 3, "not evaluated", true},
		{"no rules", body("type: temporal\n  timespan: 1m"), 3, "rules is missing", false},
		{"one rule", body("type: temporal\n  rules: [a]\n  timespan: 1m"), 3, "two at least", false},
		{"twice", body("type: temporal\n  rules: [a, a]\n  timespan: 1m"), 3, "twice", false},
		{"no timespan", body("type: temporal\n  rules: [a, b]"), 3, "timespan is missing", false},
		{"odd timespan", body("timespan: 5 minutes"), 3, "want a number and one of", false},
		{"long timespan", body("timespan: 2y"), 3, "does not remember", true},
		{"no condition", body("type: event_count\n  rules: a\n  timespan: 1m"), 3, "condition is missing", false},
		{"odd condition", body("condition: {above: 3}"), 3, `"above"`, false},
		{"much", body("condition: {gte: 100000}"), 3, "want a number from 0", false},
		{"none", body("condition: {lt: 1}"), 3, "no count", false},
		{"contradiction", body("condition: {gt: 5, lte: 5}"), 3, "no count", false},
		{"words", body("type: temporal_ordered\n  rules: [a, b]\n  timespan: 1m\n  condition: a and not b"), 6, "words belong to temporal", true},
		{"no field", body("type: value_count\n  rules: a\n  timespan: 1m\n  condition: {gte: 3}"), 3, "needs field", false},
		{"field", body("type: event_count\n  rules: a\n  timespan: 1m\n  condition: {gte: 3, field: User}"), 3, "belongs to value_count", false},
		{"some in order", body("type: temporal_ordered\n  rules: [a, b, c]\n  timespan: 1m\n  condition: {gte: 2}"), 3, "waits for all", false},
		{"unknown rule", body("type: temporal\n  rules: [a, z]\n  timespan: 1m"), 4, `"z"`, false},
		{"unknown field", body("type: temporal\n  rules: [a, b]\n  timespan: 1m\n  group-by: [Colour]"), 4, `field "Colour"`, true},
		{"unknown alias", body("type: temporal\n  rules: [a, b]\n  timespan: 1m\n  group-by: [who]\n  aliases: {who: {a: User}}"), 4, `field "who"`, true},
		{"detection too", body("type: temporal\n  rules: [a, b]\n  timespan: 1m\ndetection: {s: {Image: x}, condition: s}"), 6, "none of its own", false},
		{"itself", "title: X\nname: x\ncorrelation: {type: event_count, rules: x, timespan: 1m, condition: {gte: 2}}", 0, "refers to itself: \"X\" → \"X\"", false},
		{
			"a cycle", "title: X\nname: x\ncorrelation: {type: event_count, rules: y, timespan: 1m, condition: {gte: 2}}\n---\n" +
				"title: Y\nname: y\ncorrelation: {type: event_count, rules: x, timespan: 1m, condition: {gte: 2}}", 0, `"X" → "Y" → "X"`, false,
		},
		{
			"a group that is not handed on", "title: X\nname: x\ncorrelation: {type: event_count, rules: a, timespan: 1m, condition: {gte: 2}}\n---\n" +
				"title: Y\ncorrelation: {type: event_count, rules: x, timespan: 1m, group-by: [User], condition: {gte: 2}}", 6, "group-by alone", true,
		},
		{"ambiguous", "title: X\nname: a\ncorrelation: {type: event_count, rules: a, timespan: 1m, condition: {gte: 2}}", 3, "more than one rule", false},
	} {
		c, _, errs := correlator(t, DefaultCorrelatorLimits, tt.rule)
		if c != nil && len(c.all) > 1 || len(errs) == 0 {
			t.Errorf("%s: got %v", tt.name, errs)
			continue
		}
		var refused *Error
		if !errors.As(errs[0], &refused) {
			t.Errorf("%s: got %v, want an *Error", tt.name, errs[0])
			continue
		}
		line := tt.line
		if line > 0 {
			line += first - 1
		}
		if line > 0 && refused.Line != line || !strings.Contains(refused.Msg, tt.want) || refused.Unsupported != tt.unsupported {
			t.Errorf("%s: got %v (unsupported %v), want %q at line %d, unsupported %v", tt.name, refused, refused.Unsupported, tt.want, line, tt.unsupported)
		}
	}
}

// Ensure rules are told by themselves unless correlations alone use them.
func TestSilent(t *testing.T) {
	file, refused := ParseFile("c.yml", []byte(baseRules+"title: X\ncorrelation: {type: temporal, rules: [a, b], timespan: 1m}\n---\n"+
		"title: Y\ngenerate: true\ncorrelation: {type: temporal, rules: [b, c], timespan: 1m}\n---\ntitle: Z\ncorrelation: {type: temporal, rules: [b, c], timespan: 1m, generate: false}"))
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	if s := Silent(file.Correlations); !s["a"] || s["b"] || s["c"] {
		t.Errorf("got %v", s)
	}
}

func FuzzCorrelations(f *testing.F) {
	f.Add("title: N\ncorrelation: {type: event_count, rules: [a, b], group-by: [User], timespan: 10s, condition: {gte: 2}}", []byte("a0b1c2a0"))
	f.Add("title: N\nname: n\ncorrelation: {type: value_count, rules: a, timespan: 1m, condition: {field: CommandLine, lt: 2}}\n---\ntitle: O\ncorrelation: {type: temporal_ordered, rules: [n, b], timespan: 1h, generate: true}", []byte("a9b1c2a0"))
	f.Add("title: T\ncorrelation:\n  type: temporal\n  rules: [a, b]\n  timespan: 1w\n  group-by: [x]\n  aliases: {x: {a: User, b: Image}}\n", []byte("abab"))
	f.Fuzz(func(t *testing.T, text string, events []byte) {
		c, matchers, refused := correlator(t, CorrelatorLimits{Groups: 3, Entries: 9}, text)
		for _, err := range refused {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("odd error %T: %v", err, err)
			}
		}
		if c == nil || len(events) > 2000 {
			return
		}
		at := time.Unix(1000, 0)
		for _, b := range events {
			at = at.Add(time.Duration(int(b)-90) * time.Second)
			r := fields{{"/" + string(rune('a'+b%3))}, {string(rune(b))}, {fmt.Sprint(b % 5)}, nil, nil, nil}
			hits := c.Advance(at)
			for _, m := range matchers {
				if m.Match(r) {
					hits = append(hits, c.Observe(at, m, r, nil)...)
				}
			}
			for _, h := range hits {
				if h.Count < 1 || h.First.After(h.Last) || h.Last.Sub(h.First) > h.Correlation.Timespan {
					t.Fatalf("%+v", h)
				}
			}
			s := c.Stats()
			if s.Groups > 3 && len(c.all) > 0 || s.Groups != len(c.groups) || s.Entries < 0 {
				t.Fatalf("%+v", s)
			}
		}
	})
}
