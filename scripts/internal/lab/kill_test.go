package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// Ensure that a sensor which is ended or killed again and again, at any moment,
// never loses or repeats a finding that it had written down, never counts a
// behaviour twice, and says how often it was killed.
func TestSensorKilledAtAnyMoment(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	const rounds = 10
	var certain, all []string
	mark := func(i int, how string) string {
		m := fmt.Sprintf("%s-%d", how, i)
		all = append(all, m)
		r.run(t, shell, "-c", "true", m)
		return m
	}
	moment := func() { <-time.After(rand.N(300 * time.Millisecond)) }

	// Told to end: all that happened before is told, and counted exactly.
	for i := range rounds {
		certain = append(certain, mark(i, "term"))
		if i%2 == 0 {
			moment()
		}
		r.stop(t)
		r.again(t)
	}
	r.untilFound(t, 20*time.Second, shell, certain...)
	var d detail
	r.until(t, 10*time.Second, "the counts of all that was run", func(ctx context.Context) (bool, error) {
		now, err := r.detail(ctx)
		if err == nil {
			d = now
		}
		return d.execs(shell) >= rounds, err
	})
	if d.execs(shell) != rounds {
		t.Errorf("%d starts are counted, %d were made: %+v", d.execs(shell), rounds, d.Behaviours)
	}
	if n := d.lost("sensor", "unclean-stop"); n != 0 {
		t.Errorf("%d unclean stops are told of a sensor that was only told to end", n)
	}

	// Killed: what was in the spool is told once; the last moments may be gone, and that is told.
	for i := range rounds {
		m := mark(i, "kill")
		if i%2 == 0 {
			moment()
		} else {
			r.until(t, 5*time.Second, "the spool to have it", func(context.Context) (bool, error) { return r.spooled(t, m), nil })
			certain = append(certain, m)
		}
		r.sensor.Kill()
		r.again(t)
	}
	last := mark(0, "last")
	certain = append(certain, last)
	times := r.untilFound(t, 30*time.Second, shell, certain...)
	told := 0
	for _, m := range all {
		if strings.HasPrefix(m, "kill") && times[m] > 0 {
			told++
		}
		if times[m] > 1 {
			t.Errorf("%s is told %d times", m, times[m])
		}
	}
	r.until(t, 10*time.Second, "the losses", func(ctx context.Context) (bool, error) {
		now, err := r.detail(ctx)
		if err == nil {
			d = now
		}
		return d.lost("sensor", "unclean-stop") >= rounds, err
	})
	if n := d.lost("sensor", "unclean-stop"); n != rounds {
		t.Errorf("%d unclean stops are told of %d", n, rounds)
	}
	if n := d.execs(shell); n > uint64(len(all)) || n < rounds {
		t.Errorf("%d starts are counted of %d", n, len(all))
	}
	t.Logf("of %d starts while it was killed, %d are told and %d counted", rounds, told, d.execs(shell)-rounds)
}

// Ensure what is found while no coordinator can be reached comes later, once, in
// order, and that what the budget held back is counted, so that nothing is
// missing without a word.
func TestCoordinatorAway(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	r.cluster.Members["c1"].Kill()
	const (
		runs   = 200 // more than the findings that a host may tell in a minute
		others = 5
	)
	began := time.Now()
	for i := range runs {
		r.run(t, shell, "-c", "true", fmt.Sprintf("away-%03d", i))
	}
	t.Logf("%d starts in %s", runs, time.Since(began).Round(time.Millisecond))
	r.stop(t)
	r.again(t)
	if err := r.cluster.StartNode(t.Context(), r.cluster.Nodes[0]); err != nil {
		t.Fatal(err)
	}
	var d detail
	r.until(t, 20*time.Second, "all counts", func(ctx context.Context) (bool, error) {
		now, err := r.detail(ctx)
		if err == nil {
			d = now
		}
		return d.execs(shell) >= runs && d.Health.Records <= 1, err
	})
	if n := d.execs(shell); n != runs {
		t.Errorf("%d starts are counted, %d were made", n, runs)
	}
	found, err := r.found(t.Context(), shell)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, f := range found { // newest first
		told = append(told, f.Process.Argv[len(f.Process.Argv)-1])
	}
	slices.Reverse(told)
	if !slices.IsSorted(told) {
		t.Errorf("not in order: %v", told)
	}
	if len(slices.Compact(slices.Clone(told))) != len(told) {
		t.Errorf("told twice: %v", told)
	}
	held := d.lost("findings", "over-budget")
	t.Logf("%d findings are told, %d held back by the budget", len(told), held)
	// Whatever else is found meanwhile shares the budget, and is counted with it.
	if len(told) == 0 || uint64(len(told))+held < runs || uint64(len(told))+held > runs+others {
		t.Errorf("%d told and %d held back are not %d", len(told), held, runs)
	}
}
