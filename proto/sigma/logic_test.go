package sigma

import (
	"strings"
	"testing"
	"time"
)

const threeRules = `title: A
name: a
logsource: {category: process_creation, product: linux}
detection: {s: {Image|endswith: /a}, condition: s}
---
title: B
name: b
logsource: {category: process_creation, product: linux}
detection: {s: {Image|endswith: /b}, condition: s}
---
title: C
name: c
logsource: {category: process_creation, product: linux}
detection: {s: {Image|endswith: /c}, condition: s}
---
title: T
correlation:
  type: temporal
  rules: [a, b, c]
  group-by: [User]
  timespan: 10s
  condition: `

var logicSchema = Schema{{Of: "p", Category: "process_creation", Fields: map[string]int{"Image": 0, "User": 1}}}

func logicCorrelator(t *testing.T, condition string) (*Correlator, map[string]*Matcher) {
	t.Helper()
	file, refused := ParseFile("t.yml", []byte(threeRules+condition+"\n"))
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	var all []*Matcher
	byName := map[string]*Matcher{}
	for _, r := range file.Rules {
		m, err := Compile(r, logicSchema)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m...)
		byName[r.Name] = m[0]
	}
	c, refused := NewCorrelator(DefaultCorrelatorLimits, all, file.Correlations)
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	return c, byName
}

// Ensure a condition in words is judged at once where more can only fulfil it, and at the
// end of its window where more could refute it.
func TestTemporalInWords(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(1000+int64(s), 0) }
	for _, tt := range []struct {
		condition string
		events    string // rules, a second each; "." is a second without
		want      string // seconds of hits
	}{
		{"a and (b or c)", "ab", "1"},
		{"a and (b or c)", "ac", "1"},
		{"a and (b or c)", "bc", ""},
		{"a and (b or c)", "a............b", ""},
		{"2 of them", "ab", "1"},
		{"a and not (b or c)", "a...........", "10"},
		{"a and not (b or c)", "a.b.........", ""},
		{"a and not (b or c)", "b.a.........", ""},
		{"a and b and not c", "ab..........", "10"},
		{"a and b and not c", "abc.........", ""},
	} {
		t.Run(tt.condition+" "+tt.events, func(t *testing.T) {
			c, rules := logicCorrelator(t, tt.condition)
			got := ""
			for i, e := range tt.events {
				hits := c.Advance(at(i))
				if e != '.' {
					hits = append(hits, c.Observe(at(i), rules[string(e)], Example{0: {"/" + string(e)}, 1: {"u"}}, nil)...)
				}
				for range hits {
					got += " " + at(i).Sub(at(0)).String()
				}
			}
			want := ""
			if tt.want != "" {
				want = " " + tt.want + "s"
			}
			if got != want {
				t.Errorf("hits at %q, want %q", got, want)
			}
		})
	}
}

// Ensure conditions in words that mean nothing here are refused with their reason.
func TestTemporalWordsRefused(t *testing.T) {
	for condition, want := range map[string]string{
		"a and d":           `names "d"`,
		"a and b":           "does not name c",
		"not (a or b or c)": "nothing is seen",
		"a and":             "ends where a search is expected",
	} {
		_, refused := ParseFile("t.yml", []byte(threeRules+condition+"\n"))
		if len(refused) != 1 || !strings.Contains(refused[0].Error(), want) {
			t.Errorf("%q: %v, want %q", condition, refused, want)
		}
	}
	_, refused := ParseFile("t.yml", []byte(strings.Replace(threeRules, "temporal", "temporal_ordered", 1)+"a and b and c\n"))
	if len(refused) != 1 || !refused[0].(*Error).Unsupported {
		t.Errorf("ordered: %v", refused)
	}
}

// Ensure what an unchanged correlation remembers goes on in another set of rules, and what a
// changed one remembered does not.
func TestAdopt(t *testing.T) {
	at := time.Unix(1000, 0)
	before, rules := logicCorrelator(t, "a and b and c")
	for _, name := range []string{"a", "b"} {
		before.Observe(at, rules[name], Example{0: {"/" + name}, 1: {"u"}}, nil)
	}
	same, again := logicCorrelator(t, "a and b and c")
	same.Adopt(before)
	if hits := same.Observe(at, again["c"], Example{0: {"/c"}, 1: {"u"}}, nil); len(hits) != 1 {
		t.Errorf("the same correlation forgot: %d hits", len(hits))
	}
	before, rules = logicCorrelator(t, "a and b and c")
	before.Observe(at, rules["a"], Example{0: {"/a"}, 1: {"u"}}, nil)
	other, _ := logicCorrelator(t, "a and b or c")
	other.Adopt(before)
	if other.Stats().Groups != 0 {
		t.Error("another correlation took over what this one remembered")
	}
	waiting, rules := logicCorrelator(t, "a and not (b or c)")
	waiting.Observe(at, rules["a"], Example{0: {"/a"}, 1: {"u"}}, nil)
	later, _ := logicCorrelator(t, "a and not (b or c)")
	later.Adopt(waiting)
	if hits := later.Advance(at.Add(time.Minute)); len(hits) != 1 {
		t.Errorf("a window that was open is not judged: %d hits", len(hits))
	}
}
