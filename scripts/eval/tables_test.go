package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/campaigneval"
	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/sensor/ruleeval"
)

// Ensure tables are chosen by name, in their own order, and that a wrong name is told.
func TestChosen(t *testing.T) {
	some, err := chosen("campaigns,baseline")
	if err != nil || len(some) != 2 || some[0].name != "baseline" || some[1].name != "campaigns" {
		t.Errorf("%v, %v", some, err)
	}
	if all, err := chosen(""); err != nil || len(all) != len(tables) {
		t.Errorf("%d tables, %v", len(all), err)
	}
	if _, err := chosen("baseline,bogus"); !errors.Is(err, errTable) || !strings.Contains(err.Error(), `"bogus"`) {
		t.Error(err)
	}
}

// Ensure a table that cannot be made is a miss, and the next is printed and written all the same.
func TestRunGoesOn(t *testing.T) {
	was := tables
	defer func() { tables = was }()
	broken := errors.New("it is broken")
	tables = []table{
		{"first", func(context.Context, io.Writer, config) ([]figure.Row, error) { return nil, broken }},
		{"second", func(context.Context, io.Writer, config) ([]figure.Row, error) {
			return []figure.Row{figure.AtMost("second: one", 1, 2, "s", "")}, nil
		}},
	}
	var out bytes.Buffer
	dir := t.TempDir()
	err := run(t.Context(), &out, config{out: dir})
	if !errors.Is(err, broken) || !errors.Is(err, figure.ErrMissed) {
		t.Errorf("got %v", err)
	}
	if strings.Count(out.String(), "FIGURE") != 2 || !strings.Contains(out.String(), "second: one") {
		t.Errorf("printed\n%s", out.String())
	}
	raw, err := os.ReadFile(filepath.Join(dir, "eval.jsonl"))
	if err != nil || strings.Count(string(raw), "\n") != 2 {
		t.Errorf("%s, %v", raw, err)
	}
}

// Ensure the rules' table says why it is not there, and that each shortfall is one.
func TestRulesTable(t *testing.T) {
	rows, err := rulesTable(t.Context(), io.Discard, config{sigma: filepath.Join(t.TempDir(), "none")})
	if err != nil || len(rows) != 1 || !rows[0].OK || !strings.HasPrefix(rows[0].Note, "SKIP: needs ") {
		t.Errorf("%v, %v", rows, err)
	}
	good := ruleeval.Result{Files: 210, Parsed: 210, Compiled: 210, Mapped: 190, PerEvent: 9000,
		Theirs: ruleeval.Tried{Rules: 210, Used: 190, Positive: 190, Negative: 190}, Ours: ruleeval.Tried{Rules: 50, Used: 50, Positive: 50, Negative: 50}}
	missed := func(r ruleeval.Result) (names []string) {
		for _, row := range rulesRows(r) {
			if !row.OK {
				names = append(names, row.Name)
			}
		}
		return names
	}
	if bad := missed(good); len(bad) > 0 {
		t.Errorf("missed: %v", bad)
	}
	for name, spoil := range map[string]func(*ruleeval.Result){
		"parsed": func(r *ruleeval.Result) { r.Parsed-- }, "compiled": func(r *ruleeval.Result) { r.Compiled-- },
		"mapped, every": func(r *ruleeval.Result) { r.Mapped, r.Theirs.Positive, r.Theirs.Negative = 189, 189, 189 },
		"that match":    func(r *ruleeval.Result) { r.Theirs.Positive-- }, "leave one": func(r *ruleeval.Result) { r.Theirs.Negative-- },
		"all loaded": func(r *ruleeval.Result) { r.PerEvent = 10_001 }, "both events": func(r *ruleeval.Result) { r.Ours.Negative-- },
	} {
		r := good
		spoil(&r)
		if bad := missed(r); len(bad) != 1 || !strings.Contains(bad[0], name) {
			t.Errorf("%s: missed %v", name, bad)
		}
	}
	if bad := missed(ruleeval.Result{}); len(bad) != 1 {
		t.Errorf("an empty folder: missed %v", bad)
	}
}

// Ensure a campaign's curve goes from the strongest to all, equal ones in one step.
func TestJoinedCurve(t *testing.T) {
	s := campaigneval.Score{Attacks: 4, Told: []campaigneval.Told{
		{Strength: 0.5, True: true}, {Strength: 0.9, Whole: true, True: true}, {Strength: 0.5}, {Strength: 0.7, Whole: true, True: true},
	}}
	want := []point{{0.25, 1}, {0.5, 1}, {0.5, 0.75}}
	got := joinedCurve(s)
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

// Ensure a role's rate is judged only when chance is smaller than what is judged.
func TestRoleRow(t *testing.T) {
	if few := roleRow("web", 1, 56); few.Target != "" || !few.OK || !strings.Contains(few.Note, "± 19 %") {
		t.Errorf("%+v", few)
	}
	if low, fit := roleRow("web", 60, 224), roleRow("web", 100, 224); low.OK || !fit.OK || fit.Target != "0.35 to 0.65" {
		t.Errorf("%+v, %+v", low, fit)
	}
}

// Ensure the investigator's table has what the last runs of drills and of ordinary work said
// of him, with its misses and its time, and says which of them was not run.
func TestInvestigatorTable(t *testing.T) {
	dir := t.TempDir()
	if err := figure.Write(dir, "drill", []figure.Row{figure.Info("drills done", 3, "", ""), figure.Exactly("investigator: closed", 1, 0, "drills", "x")}); err != nil {
		t.Fatal(err)
	}
	rows, err := investigatorTable(t.Context(), io.Discard, config{out: dir})
	if err != nil || len(rows) != 2 {
		t.Fatalf("%v, %v", rows, err)
	}
	if r := rows[0]; r.Name != "drill, investigator: closed" || r.OK || !strings.Contains(r.Note, "x (run of 20") {
		t.Errorf("%+v", r)
	}
	if r := rows[1]; !strings.Contains(r.Note, "make quiet") {
		t.Errorf("%+v", r)
	}
}
