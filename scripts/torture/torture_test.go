package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

const root = "../.."

// Ensure a seed's plan is the same each time, part by part, and another seed's another.
func TestPlan(t *testing.T) {
	plan := func(seed uint64) string {
		var out bytes.Buffer
		if err := printPlan(&out, config{seed: seed, kills: 200}); err != nil {
			t.Fatal(err)
		}
		_, steps, _ := strings.Cut(out.String(), "\n")
		return steps
	}
	if first, again := plan(7), plan(7); first != again {
		t.Error("the same seed has two plans")
	}
	if plan(7) == plan(8) {
		t.Error("two seeds have one plan")
	}
	leaders, places := 0, map[string]int{}
	for _, k := range planKills(7, killsOfAllPlaces(), nodes) {
		if k.leader {
			leaders++
		}
		places[k.at.name]++
	}
	if leaders != 5*len(points) {
		t.Errorf("%d kills are of leaders, want five for each place", leaders)
	}
	for _, p := range points {
		if places[p.name] == 0 {
			t.Errorf("six kills for each place never come to %s", p.name)
		}
	}
}

// Ensure torture knows every place where the coordinator can be told to die, and no other.
func TestPoints(t *testing.T) {
	hit := regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`)
	var placed, known []string
	err := filepath.WalkDir(filepath.Join(root, "coordinator"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range hit.FindAllStringSubmatch(string(text), -1) {
			placed = append(placed, m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		known = append(known, p.name)
	}
	slices.Sort(placed)
	slices.Sort(known)
	if !slices.Equal(slices.Compact(placed), known) {
		t.Errorf("the coordinator has %q, torture knows %q", placed, known)
	}
}

// Ensure a released coordinator cannot be told to die: it holds neither the variable nor a
// place's name.
func TestReleaseHasNoFailpoint(t *testing.T) {
	bin := os.Getenv("VEDETTE_BIN")
	if bin == "" {
		t.Skip("SKIP: needs the built programs (VEDETTE_BIN)")
	}
	program, err := os.ReadFile(filepath.Join(bin, "vedette-coordinator"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"VEDETTE_FAILPOINT", "failpoint reached", "read-barrier", "log.sync", "trailing-logs"}, pointNames()...) {
		if bytes.Contains(program, []byte(name)) {
			t.Errorf("the released coordinator holds %q", name)
		}
	}
}

func pointNames() (names []string) {
	for _, p := range points {
		names = append(names, p.name)
	}
	return names
}

// Ensure the model takes what one machine could have answered and nothing else.
func TestModel(t *testing.T) {
	take := func(value string, epoch uint64) input {
		return input{object: "host", do: doOrder, value: value, epoch: epoch}
	}
	apply := func(prev, value string) input {
		return input{object: doApply, do: doApply, prev: prev, value: value}
	}
	look, spend := input{object: "host", do: doRead}, input{object: "token", do: doEnrol, value: "spent"}
	type call struct {
		from, to int64 // to 0: no answer
		in       input
		out      output
	}
	for _, tt := range []struct {
		name  string
		calls []call
		want  bool
	}{
		{"one after the other", []call{{1, 2, take("a", 1), output{came: yes}}, {3, 4, look, output{yes, "a"}}}, true},
		{"a stale read", []call{{1, 2, take("a", 1), output{came: yes}}, {3, 4, take("b", 2), output{came: yes}}, {5, 6, look, output{yes, "a"}}}, false},
		{"a read beside the write", []call{{1, 2, take("a", 1), output{came: yes}}, {3, 7, take("b", 2), output{came: yes}}, {4, 5, look, output{yes, "a"}}}, true},
		{"a read that goes back", []call{{1, 9, take("b", 2), output{came: yes}}, {2, 3, look, output{yes, "b"}}, {4, 5, look, output{yes, ""}}}, false},
		{"an epoch taken twice", []call{{1, 2, take("a", 1), output{came: yes}}, {3, 4, take("b", 1), output{came: yes}}}, false},
		{"a refusal without a reason", []call{{1, 2, take("a", 1), output{came: no}}}, false},
		{"no answer, and it happened", []call{{1, 0, take("a", 1), output{came: unknown}}, {3, 4, look, output{yes, "a"}}}, true},
		{"no answer, and it did not", []call{{1, 0, take("a", 1), output{came: unknown}}, {3, 4, look, output{yes, ""}}}, true},
		{"no answer, and it happened later", []call{{1, 0, take("a", 1), output{came: unknown}}, {3, 4, look, output{yes, ""}}, {5, 6, look, output{yes, "a"}}}, true},
		{"no answer, and it happened and did not", []call{{1, 0, take("a", 1), output{came: unknown}}, {3, 4, look, output{yes, "a"}}, {5, 6, look, output{yes, ""}}}, false},
		{"two follow one intent", []call{{1, 2, apply("", "a"), output{came: yes}}, {3, 4, apply("", "b"), output{came: yes}}}, false},
		{"an intent that nobody saw", []call{{1, 0, apply("", "a"), output{came: unknown}}, {3, 4, apply("", "b"), output{came: yes}}}, true},
		{"an intent that was seen, and another before it", []call{{1, 0, apply("", "a"), output{came: unknown}}, {3, 4, input{object: doApply, do: doRead}, output{yes, "a"}}, {5, 6, apply("", "b"), output{came: yes}}}, false},
		{"an epoch that one without an answer took", []call{{1, 0, take("a", 1), output{came: unknown}}, {3, 4, take("b", 1), output{came: no}}}, true},
		{"an epoch that nobody took", []call{{1, 0, take("a", 1), output{came: unknown}}, {3, 4, take("b", 2), output{came: no}}}, false},
		{"a token spent twice", []call{{1, 5, spend, output{came: yes}}, {2, 6, spend, output{came: yes}}}, false},
		{"a token raced for", []call{{1, 5, spend, output{came: no}}, {2, 6, spend, output{came: yes}}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHistory()
			for _, c := range tt.calls {
				op := porcupine.Operation{Input: c.in, Output: c.out, Call: c.from, Return: c.to}
				if c.to == 0 {
					op.Return = 1 << 62
				}
				h.by[c.in.object] = append(h.by[c.in.object], op)
			}
			if got := h.check(time.Minute).violations == 0; got != tt.want {
				t.Errorf("accepted: %v, want %v", got, tt.want)
			}
		})
	}
}

// Ensure a plan has every kind of fault, and a cut of one direction is one of two nodes.
func TestFaults(t *testing.T) {
	kinds := map[string]int{}
	for _, f := range planFaults(3, 70) {
		kinds[f.kind]++
		if f.from == f.to || f.from >= nodes || f.to >= nodes {
			t.Errorf("%+v", f)
		}
	}
	for _, kind := range faultKinds {
		if kinds[kind] != 10 {
			t.Errorf("of 70 faults %d are %q, want 10", kinds[kind], kind)
		}
	}
	if !reflect.DeepEqual(planCuts(3, 9, nodes), planCuts(3, 9, nodes)) {
		t.Error("the same seed cuts the power twice in two ways")
	}
}

// Ensure a minute of the real thing finds nothing: all operators at all nodes while every kind
// of fault comes and goes.
func TestSlice(t *testing.T) {
	bin, err := filepath.Abs(os.Getenv("VEDETTE_BIN"))
	if os.Geteuid() != 0 || os.Getenv("VEDETTE_BIN") == "" || err != nil {
		t.Skip("SKIP: needs root and the built programs (VEDETTE_BIN)")
	}
	if _, err := os.Stat(filepath.Join(bin, "vedette-torture")); err != nil {
		t.Skip("SKIP: needs make bin/vedette-torture bin/failpoint/vedette-coordinator")
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "vedette-torture"), "-bin", bin, "-only", "answers", "-lasts", "60s", "-ops", "500", "-minutes", "3", "-brief")
	cmd.Dir = t.TempDir()
	began := time.Now()
	said, err := cmd.CombinedOutput()
	t.Logf("%s", said)
	if err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < time.Minute {
		t.Errorf("it took %s, want a minute of operations", took)
	}
	printed, err := os.Open(filepath.Join(cmd.Dir, out, "torture.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = printed.Close() }()
	var rows []figure.Row
	for lines := json.NewDecoder(printed); lines.More(); {
		var r figure.Row
		if err := lines.Decode(&r); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	for name, least := range map[string]int{"operations checked": 500, "faults meanwhile": len(faultKinds), "kinds of faults meanwhile": len(faultKinds), "histories checked": 1} {
		if r := row(t, rows, name); r.Value < float64(least) {
			t.Errorf("%s: %v, want %d and more", name, r.Value, least)
		}
	}
	for _, name := range []string{"histories that no single machine could have given", "histories whose checking did not end"} {
		if r := row(t, rows, name); r.Value != 0 {
			t.Errorf("%s: %v", name, r.Value)
		}
	}
}

// Ensure that answers which were given while little was wrong do not pass for those that were
// given under every kind of fault.
func TestAnswersAreJudged(t *testing.T) {
	each := func(kinds []string, times int) map[string]int {
		faults := map[string]int{}
		for _, kind := range kinds {
			faults[kind] = times
		}
		return faults
	}
	for _, tt := range []struct {
		name   string
		cfg    config
		faults map[string]int
		want   bool
	}{
		{"a minute, each kind", config{lasts: time.Minute, brief: true}, each(faultKinds, 1), true},
		{"a minute, one is missing", config{lasts: time.Minute, brief: true}, each(faultKinds[1:], 2), false},
		{"a minute, none", config{lasts: time.Minute, brief: true}, nil, false},
		{"a run, each kind twice", config{}, each(faultKinds, 2), true},
		{"a run, each kind once", config{}, each(faultKinds, 1), false},
		{"the checker's", config{brief: true}, each(faultKinds[:1], 1), true},
		{"the checker's, none", config{brief: true}, nil, false},
	} {
		rows := (&answered{faults: tt.faults}).rows(tt.cfg, nil)
		if got := row(t, rows, "faults meanwhile").OK && row(t, rows, "kinds of faults meanwhile").OK; got != tt.want {
			t.Errorf("%s passes: %v, want %v", tt.name, got, tt.want)
		}
	}
}
