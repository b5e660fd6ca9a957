package sensor

import (
	"strings"
	"testing"
	"time"
)

// Ensure that the sensor leaves things out step by step while it costs too much, takes
// each step back when it costs little for a while, and declares all of it.
func TestBudget(t *testing.T) {
	b := budget{cpuShare: 0.02, rss: 60 << 20}
	now, used := time.Unix(1000, 0), usage{rss: 30 << 20}
	look := func(share float64) (changed bool) {
		now = now.Add(budgetEvery)
		used.cpu += time.Duration(share * float64(budgetEvery))
		changed, _ = b.note(now, used)
		return changed
	}
	look(0)
	want := func(level int, declared string) {
		t.Helper()
		got, said := b.state()
		if got != level || (declared == "") != (len(said) == 0) || !strings.Contains(strings.Join(said, "; "), declared) {
			t.Errorf("level %d, %q, want %d, %q", got, said, level, declared)
		}
	}
	look(0.5) // one burst
	look(0.005)
	want(0, "")
	for level := 1; level < len(degradation); level++ {
		look(0.03)
		if !look(0.03) {
			t.Error("a step is not told")
		}
		want(level, "sampled")
	}
	look(0.03)
	if !look(0.03) {
		t.Error("that nothing more can be left out is not told")
	}
	want(3, "more than its budget of 2.0 %")
	for range budgetEase {
		want(3, "sampled")
		look(0.015) // neither too much nor little
	}
	for level := 2; level >= 0; level-- {
		for range budgetEase {
			look(0.004)
		}
		want(level, degradation[level].says)
	}
	used.rss = 70 << 20
	if changed, giveBack := b.note(now.Add(time.Second), used); !changed || !giveBack {
		t.Errorf("too much memory: changed %v, given back %v", changed, giveBack)
	}
	want(0, "70 MiB")
}
