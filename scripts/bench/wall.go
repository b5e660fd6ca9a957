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

const (
	// wallCycles of every watcher in turn, the sensor before each other one. The machine's speed drifts by tens of
	// percents within seconds, so that each run is held against those right before and
	// right after it in which nobody watched.
	wallCycles = 8
	// wallOps in one block, wallBlocks in one turn; the fastest block is the turn's
	// time: what a neighbour on the machine takes is only ever added.
	wallOps    = 600
	wallBlocks = 6
	// afterWatch is for what a sensor's start leaves to do on the machine's other core.
	afterWatch = 2 * time.Second
	// mostSlower is what the sensor may add to the loop: 2 %.
	mostSlower = 1.02
)

// watcher is what may watch while programs start.
type watcher struct {
	name string
	// begin starts it; end stops it. used is its CPU since begin.
	begin func(context.Context) (used func() (time.Duration, error), end func() error, err error)
}

// turns of one watcher.
type turns struct {
	ratios []float64 // of its time to that of the runs beside it
	micros []float64 // of its CPU for each start
}

// wallCost is how much slower a loop of vfork and exec of three instructions is.
func wallCost(ctx context.Context, b *bench) []figure.Row {
	const (
		name     = "wall time of the vfork loop, with the sensor, known"
		nullName = "the same, null control: nobody watches either time"
		target   = "≤ 1.02"
	)
	h, err := b.host(ctx, "wall", lab.SensorSpec{})
	if err != nil {
		return []figure.Row{figure.Missing(name, "×", target, err)}
	}
	if err := h.learn(ctx, func() error { _, err := h.loop(ctx); return err }); err != nil {
		return []figure.Row{figure.Missing(name, "×", target, errors.Join(err, h.Stop()))}
	}
	if err := h.Stop(); err != nil {
		return []figure.Row{figure.Missing(name, "×", target, err)}
	}
	h.spec.SummaryInterval = defaultEvery
	sensor := watcher{"the sensor", h.watch}
	watchers := []watcher{sensor}
	var rows []figure.Row
	for _, r := range []struct {
		name string
		make func(context.Context, *bench) (watcher, error)
	}{{"auditd", auditd}, {"bpftrace", bpftrace}} {
		w, err := r.make(ctx, b)
		if err != nil {
			rows = append(rows, figure.Skipped("wall time of the vfork loop, with "+r.name, "×", err.Error()))
			continue
		}
		if len(watchers) > 1 {
			watchers = append(watchers, sensor)
		}
		watchers = append(watchers, w)
	}
	all, null, err := h.cycles(ctx, watchers)
	var kept float64
	if err == nil {
		kept, err = h.keptOfLoop(ctx)
	}
	if err != nil {
		return append(rows, figure.Missing(name, "×", target, err))
	}
	how := func(t *turns) string {
		return fmt.Sprintf("median of %d turns, each the best of %d × %d starts, held against the turns before and after it without", len(t.ratios), wallBlocks, wallOps)
	}
	mine := all[sensor.name]
	row := figure.AtMost(name, median(mine.ratios), mostSlower, "×", how(mine)+fmt.Sprintf("; %.1f %% of all events kept back", 100*kept))
	if kept < mostlyKept {
		row.OK = false
	}
	rows = append([]figure.Row{row,
		figure.Info(nullName, median(null), "×", fmt.Sprintf("median of %d; half of them within ±%.1f %%", len(null), 100*spread(null)))}, rows...)
	for _, w := range watchers {
		t := all[w.name]
		if t == mine {
			continue
		}
		rows = append(rows,
			figure.Info("wall time of the vfork loop, with "+w.name, median(t.ratios), "×", "for comparison; "+how(t)),
			figure.Info("agent CPU per exec of three instructions, "+w.name, median(t.micros), "µs", "for comparison; its CPU clock over the same turns, the kernel's own threads not in it"))
	}
	return append(rows, figure.Info("agent CPU per exec of three instructions, sensor in the same turns", median(mine.micros), "µs",
		"its start's own work is in it, as is that of the others; without: see agent CPU per vfork"))
}

// spread is the median distance from one.
func spread(ratios []float64) float64 {
	var far []float64
	for _, r := range ratios {
		far = append(far, math.Abs(r-1))
	}
	return median(far)
}

// loop is one turn: the time of the fastest block.
func (h *host) loop(ctx context.Context) (time.Duration, error) {
	best := time.Duration(math.MaxInt64)
	for range wallBlocks {
		done, err := h.do(ctx, h.b.drive.Repeat(ctx, "spawn", h.b.drive.Tiny, wallOps, 0))
		if err != nil {
			return 0, err
		}
		best = min(best, done.Took())
	}
	return best, nil
}

// cycles lets each watcher watch a turn, with one in which nobody does between any two.
func (h *host) cycles(ctx context.Context, watchers []watcher) (all map[string]*turns, null []float64, err error) {
	all = map[string]*turns{}
	for range max(2, h.b.times(wallCycles)) {
		before, err := h.loop(ctx)
		if err != nil {
			return nil, nil, err
		}
		for _, w := range watchers {
			used, end, err := w.begin(ctx)
			if err != nil {
				return nil, nil, fmt.Errorf("starting %s: %w", w.name, err)
			}
			with, micros, err := h.turn(ctx, used)
			if err = errors.Join(err, end()); err != nil {
				return nil, nil, fmt.Errorf("with %s: %w", w.name, err)
			}
			after, err := h.loop(ctx)
			if err != nil {
				return nil, nil, err
			}
			if all[w.name] == nil {
				all[w.name] = &turns{}
			}
			t := all[w.name]
			t.ratios = append(t.ratios, float64(with)/math.Sqrt(float64(before)*float64(after)))
			t.micros = append(t.micros, micros)
			null = append(null, float64(after)/float64(before))
			before = after
		}
	}
	return all, null, nil
}

// keptOfLoop is the share of the loop's events that a sensor keeps back that was
// started as for a turn.
func (h *host) keptOfLoop(ctx context.Context) (share float64, err error) {
	h.spec.SummaryInterval = 2 * time.Second
	_, end, err := h.watch(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, end()) }()
	before, err := h.settled(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := h.loop(ctx); err != nil {
		return 0, err
	}
	after, err := h.settled(ctx)
	return keptShare(before.Host, after.Host), err
}

func (h *host) turn(ctx context.Context, used func() (time.Duration, error)) (took time.Duration, micros float64, err error) {
	before, err := used()
	if err != nil {
		return 0, 0, err
	}
	if took, err = h.loop(ctx); err != nil {
		return 0, 0, err
	}
	// Who reads in batches has not read the last one.
	if err := pause(ctx, afterRun); err != nil {
		return 0, 0, err
	}
	after, err := used()
	return took, float64(after-before) / 1000 / (wallOps * wallBlocks), err
}

// watch starts the sensor, and lets it put into the kernel what it knows.
func (h *host) watch(ctx context.Context) (func() (time.Duration, error), func() error, error) {
	if err := h.start(ctx); err != nil {
		return nil, nil, err
	}
	_, err := h.loop(ctx)
	if err = errors.Join(err, pause(ctx, afterWatch)); err != nil {
		return nil, nil, errors.Join(err, h.Stop())
	}
	return func() (time.Duration, error) { return cpu(h.PID()) }, h.Stop, nil
}
