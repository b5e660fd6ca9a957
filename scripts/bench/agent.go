package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// operation is one thing that costs the sensor something, each time that it is done.
type operation struct {
	name       string
	kind, path string // for the driver
	known, new int    // how many in one run: so many that a tenth of a microsecond each shows
	mostNew    float64
}

const (
	mostKnown = 0.1 // µs
	knownRuns = 9
	newRuns   = 5
	// afterStart is for what a start leaves to do.
	afterStart = 10 * time.Second
	// mostlyKept is the share of events from which on a thing counts as known.
	mostlyKept = 0.9
	// afterRun is for what the sensor does later: batches are read and images hashed.
	afterRun = 400 * time.Millisecond
)

// agentCost is the sensor's own CPU for each operation, known and new.
func agentCost(ctx context.Context, b *bench) (rows []figure.Row) {
	operations := []operation{
		{"exec of /bin/true", "spawn", "/bin/true", 4000, 1000, 10},
		{"vfork and exec of three instructions", "spawn", b.drive.Tiny, 20000, 1000, 10},
		{"TCP connection on loopback", "connect", "", 40000, 3000, 0},
	}
	if path, err := b.opened(); err != nil {
		rows = append(rows, figure.Missing("agent CPU per open for writing", "µs", "≤ 0.1", err))
	} else {
		operations = append(operations, operation{"open for writing on a watched path", "open", path, 200000, 10000, 0})
	}
	for _, known := range []bool{false, true} {
		more, err := agentCosts(ctx, b, operations, known)
		rows = append(rows, more...)
		if err != nil {
			rows = append(rows, figure.Missing("agent CPU per operation", "µs", "≤ 0.1", err))
		}
	}
	return rows
}

func agentCosts(ctx context.Context, b *bench, operations []operation, known bool) (rows []figure.Row, err error) {
	name, more := "agent-known", ""
	if !known {
		name, more = "agent-new", "kernel_baseline: false\n"
	}
	h, err := b.host(ctx, name, lab.SensorSpec{More: more})
	if err != nil {
		return nil, err
	}
	defer func() {
		if stopped := h.Stop(); err == nil {
			err = stopped
		}
	}()
	if known {
		// How much of each is kept back is said, and asked for, with its figure. As few as of
		// new ones: a window that lost events, or left some out by the budget, teaches nothing.
		err := h.learn(ctx, func() error { return h.repeatAll(ctx, operations, false) })
		if err != nil && !errors.Is(err, errNotKept) {
			return nil, err
		}
	}
	seen := make([]sight, len(operations))
	before, err := h.settled(ctx)
	if err != nil {
		return nil, err
	}
	for i, op := range operations {
		if err := h.repeat(ctx, op, known); err != nil {
			return nil, err
		}
		now, err := h.settled(ctx)
		if err != nil {
			return nil, err
		}
		seen[i] = sight{made: now.Total - before.Total, kept: keptShare(before.Host, now.Host)}
		before = now
	}
	if known {
		// A tenth of a microsecond is less than what the short summaries of the learning
		// take: the rest is measured as the sensor is installed.
		if err := h.Stop(); err != nil {
			return nil, err
		}
		h.spec.SummaryInterval = defaultEvery
		if err := h.start(ctx); err != nil {
			return nil, err
		}
		for range 3 { // until all of it is in the kernel's table again
			if err := errors.Join(h.repeatAll(ctx, operations, false), pause(ctx, afterRun)); err != nil {
				return nil, err
			}
		}
	}
	// What its start left to do is not the first operation's.
	if err := pause(ctx, afterStart); err != nil {
		return nil, err
	}
	for i, op := range operations {
		rows = append(rows, h.costOf(ctx, op, known, seen[i]))
	}
	return rows, nil
}

// sight is what a sensor saw of one run.
type sight struct {
	made uint64
	kept float64 // share
}

// costOf one operation.
func (h *host) costOf(ctx context.Context, op operation, known bool, seen sight) figure.Row {
	name, n, runs, most := "agent CPU per "+op.name+", new", h.b.times(op.new), newRuns, op.mostNew
	if known {
		name, n, runs, most = "agent CPU per "+op.name+", known", h.b.times(op.known), knownRuns, mostKnown
	}
	target := fmt.Sprintf("≤ %g", most)
	if most == 0 {
		target = ""
	}
	switch {
	case seen.made < uint64(n):
		return figure.Missing(name, "µs", target, fmt.Errorf("the sensor does not see this: %d events of %d", seen.made, n))
	case known && seen.kept < mostlyKept:
		return figure.Missing(name, "µs", target, fmt.Errorf("the kernel keeps back %.1f %% of %d events only", 100*seen.kept, seen.made))
	}
	c, err := h.paired(ctx, runs, func() error { return h.repeat(ctx, op, known) })
	if err != nil {
		return figure.Missing(name, "µs", target, err)
	}
	micros := func(ns float64) float64 { return ns / float64(n) / 1000 }
	note := fmt.Sprintf("CPU clock of all threads, median of %d pairs of %d operations and as long idle (%.2f %% of a core idle; null control ± %.2f µs); %.1f %% of %d events of a run kept back",
		runs, n, 100*c.idle, micros(c.null), 100*seen.kept, seen.made)
	if most == 0 {
		return figure.Info(name, micros(c.spent), "µs", note)
	}
	return figure.AtMost(name, micros(c.spent), most, "µs", note)
}

// repeat is one run.
func (h *host) repeat(ctx context.Context, op operation, known bool) error {
	n := op.new
	if known {
		n = op.known
	}
	_, err := h.do(ctx, h.b.drive.Repeat(ctx, op.kind, op.path, h.b.times(n), 0))
	return err
}

func (h *host) repeatAll(ctx context.Context, operations []operation, known bool) (err error) {
	for _, op := range operations {
		err = errors.Join(err, h.repeat(ctx, op, known))
	}
	return err
}

// pairedCost is in nanoseconds of the sensor's CPU a run.
type pairedCost struct {
	spent float64 // beyond what it takes idle
	null  float64 // what this would be between idle times alone, about
	idle  float64 // share of a core
}

// paired is what the sensor spends for do, beyond what it spends in as long a time of
// doing nothing right before or after it.
func (h *host) paired(ctx context.Context, runs int, do func() error) (c pairedCost, err error) {
	var differences, idles, steps []float64
	took := time.Second
	busy := func() (time.Duration, error) {
		began := time.Now()
		used, err := h.spent(func() error { return errors.Join(do(), pause(ctx, afterRun)) })
		took = time.Since(began)
		return used, err
	}
	quiet := func() (time.Duration, error) { return h.spent(func() error { return pause(ctx, took) }) }
	if _, err := busy(); err != nil { // so that the first pause is as long as a run
		return c, err
	}
	var last time.Duration
	for i := range runs {
		var with, without time.Duration
		if i%2 == 0 {
			without, err = quiet()
		}
		if err == nil {
			with, err = busy()
		}
		if err == nil && i%2 == 1 {
			without, err = quiet()
		}
		if err != nil {
			return c, err
		}
		differences = append(differences, float64(with-without))
		idles = append(idles, float64(without)/float64(took))
		if i > 0 {
			steps = append(steps, math.Abs(float64(without-last)))
		}
		last = without
	}
	return pairedCost{median(differences), median(steps) / math.Sqrt(float64(runs)), median(idles)}, nil
}

func (h *host) spent(do func() error) (time.Duration, error) {
	before, err := cpu(h.PID())
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := cpu(h.PID())
	return after - before, err
}
