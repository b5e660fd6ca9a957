package main

import (
	"maps"
	"slices"
	"testing"

	"github.com/vedette-edr/vedette/scripts/vmtest/outcome"
)

func tested(name string, verdicts ...string) outcome.Package {
	p := outcome.Package{Name: name}
	for i, verdict := range verdicts {
		p.Tests = append(p.Tests, outcome.Test{Name: "Test" + string(rune('A'+i)) + "/sub", Verdict: verdict})
	}
	return p
}

// Ensure few tests that failed are run again, and neither many nor a package that broke.
func TestFailedIn(t *testing.T) {
	report := outcome.Report{Packages: []outcome.Package{tested("p", outcome.Passed, outcome.Failed), tested("q", outcome.Failed, outcome.Skipped)}}
	want := map[int][]string{0: {"TestB"}, 1: {"TestA"}}
	if got := failedIn(report); !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %v, want %v", got, want)
	}
	report.Packages[1].Error = "signal: killed"
	if got := failedIn(report); got != nil {
		t.Errorf("of a package that broke: got %v", got)
	}
	if got := failedIn(outcome.Report{Packages: []outcome.Package{tested("p", outcome.Failed, outcome.Failed, outcome.Failed)}}); got != nil {
		t.Errorf("of many: got %v", got)
	}
}

// Ensure only what passes alone stands as passed.
func TestSteadied(t *testing.T) {
	p := tested("p", outcome.Failed, outcome.Failed, outcome.Failed, outcome.Passed)
	second := outcome.Report{Packages: []outcome.Package{tested("p", outcome.Passed, outcome.Failed, outcome.Skipped)}}
	if got := steadied(p, second); !slices.Equal(got, []string{"TestA/sub"}) {
		t.Errorf("got %v", got)
	}
	if p.Tests[0].Verdict != outcome.Passed || p.Tests[1].Verdict != outcome.Failed || p.Tests[2].Verdict != outcome.Failed {
		t.Errorf("verdicts: %v", p.Tests)
	}
	if got := steadied(tested("p", outcome.Failed), outcome.Report{Packages: []outcome.Package{tested("q", outcome.Passed)}}); got != nil {
		t.Errorf("another package's test: got %v", got)
	}
}
