package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// Ensure a tally is even only when each fact is told as often as it happened, and
// that one mistake counts once.
func TestTally(t *testing.T) {
	type fact struct{ subject, claim string }
	tests := []struct {
		name            string
		happened, told  []fact
		wrong, examples int
	}{
		{name: "nothing at all"},
		{
			name:     "all told, in another order",
			happened: []fact{{"1", "a"}, {"2", "b"}}, told: []fact{{"2", "b"}, {"1", "a"}},
		},
		{
			name:     "told before it is known to have happened",
			happened: []fact{{"1", "a"}}, told: []fact{{"1", "a"}},
		},
		{
			name:     "missing",
			happened: []fact{{"1", "a"}, {"2", "b"}}, told: []fact{{"1", "a"}}, wrong: 1, examples: 1,
		},
		{
			name: "never happened",
			told: []fact{{"1", "a"}}, wrong: 1, examples: 1,
		},
		{
			name:     "wrong claim is one mistake",
			happened: []fact{{"1", "a"}}, told: []fact{{"1", "b"}}, wrong: 1, examples: 1,
		},
		{
			name:     "told twice",
			happened: []fact{{"1", "a"}}, told: []fact{{"1", "a"}, {"1", "a"}}, wrong: 1, examples: 1,
		},
		{
			name:     "happened twice, told once",
			happened: []fact{{"1", "a"}, {"1", "a"}}, told: []fact{{"1", "a"}}, wrong: 1, examples: 1,
		},
		{
			name:     "told of another subject is two mistakes",
			happened: []fact{{"1", "a"}}, told: []fact{{"2", "a"}}, wrong: 2, examples: 2,
		},
		{
			name:     "examples are few",
			happened: []fact{{"1", "a"}, {"2", "a"}, {"3", "a"}, {"4", "a"}, {"5", "a"}}, wrong: 5, examples: shown,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tally := newTally[string, string]()
			for i := range max(len(tt.happened), len(tt.told)) {
				if i < len(tt.told) {
					tally.told(tt.told[i].subject, tt.told[i].claim)
				}
				if i < len(tt.happened) {
					tally.happened(tt.happened[i].subject, tt.happened[i].claim)
				}
			}
			v := tally.verdict()
			if v.wrong != tt.wrong || len(v.examples) != tt.examples {
				t.Errorf("got %d wrong with %q, want %d with %d examples", v.wrong, v.examples, tt.wrong, tt.examples)
			}
		})
	}
}

// Ensure an example says what was missing and what was told in its place.
func TestTallyExample(t *testing.T) {
	tally := newTally[who, string]()
	tally.happened(newWho(7, 30), "became a")
	tally.told(newWho(7, 30), "became b")
	got := strings.Join(tally.verdict().examples, "\n")
	if want := "7@30: not told 1× [became a] told but untrue 1× [became b]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Ensure things and names are held to be one to one.
func TestNaming(t *testing.T) {
	tests := []struct {
		name  string
		calls [][2]string
		wrong int
	}{
		{"one to one", [][2]string{{"a", "1"}, {"b", "2"}, {"a", "1"}}, 0},
		{"two names of one thing", [][2]string{{"a", "1"}, {"a", "2"}}, 1},
		{"one name of two things", [][2]string{{"a", "1"}, {"b", "1"}}, 1},
		{"no name", [][2]string{{"a", ""}, {"b", ""}}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNaming()
			for _, call := range tt.calls {
				n.called(call[0], call[1])
			}
			if n.verdict.wrong != tt.wrong {
				t.Errorf("got %d wrong (%q), want %d", n.verdict.wrong, n.verdict.examples, tt.wrong)
			}
		})
	}
}

// Ensure a process is the same to /proc, in ticks, and to the sensor, in nanoseconds.
func TestWho(t *testing.T) {
	for _, tt := range []struct {
		ns    uint64
		ticks uint64
	}{{0, 0}, {9_999_999, 0}, {10_000_000, 1}, {123_456_789_012, 12345}} {
		if got, want := whoAt(4_194_303, tt.ns), newWho(4_194_303, tt.ticks); got != want {
			t.Errorf("at %d ns: got %v, want %v", tt.ns, got, want)
		}
	}
	if newWho(1, 2) == newWho(2, 1) || newWho(0, 1) == newWho(1, 0) {
		t.Error("two processes are one")
	}
}

// Ensure what is not UTF-8 is read back to the byte.
func TestText(t *testing.T) {
	var got []text
	if err := json.Unmarshal([]byte(`["plain","é",{"base64":"/wD+"}]`), &got); err != nil {
		t.Fatal(err)
	}
	for i, want := range []text{"plain", "é", "\xff\x00\xfe"} {
		if got[i] != want {
			t.Errorf("got %q, want %q", got[i], want)
		}
	}
	for _, bad := range []string{`[1]`, `[{"base64":"?"}]`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s is read as %q", bad, got)
		}
	}
}

// Ensure techniques have names of their own, and that a pattern chooses among them.
func TestChoose(t *testing.T) {
	all := techniques(1000)
	seen := map[string]bool{}
	for _, tech := range all {
		if seen[tech.name] || tech.times <= 0 || tech.what == "" || tech.try == nil {
			t.Errorf("%q is not whole, or there twice", tech.name)
		}
		seen[tech.name] = true
	}
	for pattern, want := range map[string]int{"": len(all), "io_uring-*": 9, "int80-exec": 1} {
		if got, err := choose(all, pattern); err != nil || len(got) != want {
			t.Errorf("%q chooses %d (%v), want %d", pattern, len(got), err, want)
		}
	}
	for _, bad := range []string{"none-such", "[", "int80"} {
		if got, err := choose(all, bad); err == nil {
			t.Errorf("%q chooses %d, want an error", bad, len(got))
		}
	}
}

// Ensure a race that one side always won is no proof.
func TestRaced(t *testing.T) {
	images := func(a, b int) []truth {
		all := make([]truth, 0, a+b)
		for range a {
			all = append(all, truth{Image: "/x/ran-a"})
		}
		for range b {
			all = append(all, truth{Image: "/x/ran-b"})
		}
		return all
	}
	for _, tt := range []struct {
		a, b int
		want bool
	}{{50, 50, true}, {99, 1, true}, {1, 199, false}, {100, 0, false}, {0, 0, false}} {
		if err := raced((*truth).ranAs)(images(tt.a, tt.b)); (err == nil) != tt.want {
			t.Errorf("%d against %d: got %v, want a race: %v", tt.a, tt.b, err, tt.want)
		}
	}
}

// Ensure the hash of arguments is read as a number or a text, and its absence too.
func TestArgvHash(t *testing.T) {
	for line, want := range map[string]string{
		`{"argv_hash":18446744073709551615}`: "18446744073709551615", `{"argv_hash":"00ff"}`: "00ff",
		`{"argv_hash":0}`: "", `{"argv_hash":null}`: "", `{"argv_hash":""}`: "", `{}`: "",
	} {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.argvHash() != want {
			t.Errorf("%s: got %q (%v), want %q", line, r.argvHash(), err, want)
		}
	}
}
