package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Ensure the areas are those of small cases that a person can count, ties included.
func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name           string
		cases          []scored
		auc, precision float64
	}{
		{"all right", []scored{{3, true}, {2, true}, {1, false}, {0, false}}, 1, 1},
		{"all wrong", []scored{{3, false}, {2, true}}, 0, 0.5},
		{"all the same", []scored{{1, true}, {1, false}, {1, true}, {1, false}}, 0.5, 0.5},
		{"one between", []scored{{3, true}, {2, false}, {1, true}, {0, false}}, 0.75, 0.5 + 0.5*2/3},
	} {
		j := judge(tt.cases)
		if math.Abs(j.auc-tt.auc) > 1e-9 || math.Abs(j.precision-tt.precision) > 1e-9 {
			t.Errorf("%s: area %.3f and precision %.3f, want %.3f and %.3f", tt.name, j.auc, j.precision, tt.auc, tt.precision)
		}
	}
	j := judge([]scored{{3, true}, {2, false}, {1, true}, {0, false}})
	if j.recallAt(0) != 0.5 || j.recallAt(1) != 1 {
		t.Errorf("recall %.1f and %.1f", j.recallAt(0), j.recallAt(1))
	}
}

// Ensure the forest finds the point that is far from all others.
func TestForest(t *testing.T) {
	var points [][]float64
	for i := range 400 {
		points = append(points, []float64{math.Sin(float64(i)), math.Cos(float64(i) * 1.3)})
	}
	f := plant(points, 1)
	if in, out := f.score([]float64{0.1, 0.1}), f.score([]float64{9, -9}); out < in+0.03 {
		t.Errorf("inside %.2f, outside %.2f", in, out)
	}
}

// Ensure a seed is a history: the same twice, and with attacks the same ordinary work
// until the first of them.
func TestHistoryRepeats(t *testing.T) {
	told := func(n int, attacked bool) (h history, deeds int) {
		h, planned, err := live(t.TempDir(), n, 7, roles[0], attacked)
		if err != nil {
			t.Fatal(err)
		}
		if attacked == (len(planned) == 0) {
			t.Errorf("%d attacks are planned", len(planned))
		}
		for _, u := range h.journal.order {
			if d := h.journal.units[u]; d.label == "" && d.at.Before(judgedFrom()) {
				deeds += int(d.events)
			}
		}
		return h, deeds
	}
	a, before := told(0, false)
	b, again := told(0, false)
	if len(a.journal.order) != len(b.journal.order) || a.from != b.from {
		t.Errorf("%d and %d units, told from %.1f and %.1f bits", len(a.journal.order), len(b.journal.order), a.from, b.from)
	}
	if _, attacked := told(0, true); before != again || before != attacked || before < 10000 {
		t.Errorf("%d, %d and with attacks %d events in the weeks before", before, again, attacked)
	}
}

// Ensure a picture is well-formed enough to be looked at.
func TestDraw(t *testing.T) {
	path := filepath.Join(t.TempDir(), "eval", "x.svg")
	if err := draw(path, "title", "x", "y", []series{{"one", []point{{0, 0}, {0.5, 1}, {1, 1}}}}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(raw); !strings.HasPrefix(s, "<svg") || !strings.Contains(s, "M56.0 476.0L266.0 56.0L476.0 56.0") {
		t.Errorf("got %s", s)
	}
}
