package main

import (
	"context"
	"errors"
	"fmt"
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
	// mostlyKept is the share of events from which on a thing counts as known.
	mostlyKept = 0.9
	// afterRun is for what the sensor does later: batches are read and images hashed.
	afterRun = 400 * time.Millisecond
)

// agentCost is the sensor's own CPU for each operation, known and new.
func agentCost(ctx context.Context, b *bench) (rows []figure.Row) {
	operations := []operation{
		{"exec of /bin/true", "spawn", "/bin/true", 3000, 1000, 10},
		{"vfork and exec of three instructions", "spawn", b.drive.Tiny, 10000, 1000, 10},
		{"TCP connection on loopback", "connect", "", 20000, 3000, 0},
	}
	if path, err := b.opened(); err != nil {
		rows = append(rows, figure.Missing("agent CPU per open for writing", "µs", "≤ 0.1", err))
	} else {
		operations = append(operations, operation{"open for writing on a watched path", "open", path, 50000, 10000, 0})
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
	before, err := h.settled(ctx)
	if err != nil {
		return nil, err
	}
	if known {
		// How much of each is kept back is said, and asked for, with its figure.
		err := h.learn(ctx, func() (err error) {
			for _, op := range operations {
				err = errors.Join(err, h.repeat(ctx, op, h.b.times(op.known)))
			}
			return err
		})
		if err != nil && !errors.Is(err, errNotKept) {
			return nil, err
		}
		if before, err = h.settled(ctx); err != nil {
			return nil, err
		}
	}
	for _, op := range operations {
		row, now := h.costOf(ctx, op, known, before)
		rows, before = append(rows, row), now
	}
	return rows, nil
}

// costOf one operation, and the host after it.
func (h *host) costOf(ctx context.Context, op operation, known bool, before lab.HostDetail) (figure.Row, lab.HostDetail) {
	name, n, runs, most := "agent CPU per "+op.name+", new", op.new, newRuns, op.mostNew
	if known {
		name, n, runs, most = "agent CPU per "+op.name+", known", op.known, knownRuns, mostKnown
	}
	n = h.b.times(n)
	target := fmt.Sprintf("≤ %g", most)
	if most == 0 {
		target = ""
	}
	now := before
	each, idle, err := h.paired(ctx, runs, func() error { return h.repeat(ctx, op, n) })
	if err == nil {
		now, err = h.settled(ctx)
	}
	made, kept := now.Total-before.Total, keptShare(before.Host, now.Host)
	if err == nil && made < uint64(n*runs) {
		err = fmt.Errorf("the sensor does not see this: %d events of %d", made, n*runs)
	}
	if err == nil && known && kept < mostlyKept {
		err = fmt.Errorf("the kernel keeps back %.1f %% of %d events only", 100*kept, made)
	}
	if err != nil {
		return figure.Missing(name, "µs", target, err), now
	}
	micros := each / float64(n) / 1000
	note := fmt.Sprintf("CPU clock of all threads, median of %d pairs of %d operations and as long idle (%.2f %% of a core idle); %.1f %% of %d events kept back",
		runs, n, 100*idle, 100*kept, made)
	if most == 0 {
		return figure.Info(name, micros, "µs", note), now
	}
	return figure.AtMost(name, micros, most, "µs", note), now
}

func (h *host) repeat(ctx context.Context, op operation, n int) error {
	_, err := h.do(ctx, h.b.drive.Repeat(ctx, op.kind, op.path, n, 0))
	return err
}

// paired is what the sensor spends for do in nanoseconds, beyond what it spends in as
// long a time of doing nothing right before or after it, and that as a share of a core.
func (h *host) paired(ctx context.Context, runs int, do func() error) (spent, idle float64, err error) {
	var differences, idles []float64
	took := time.Second
	busy := func() (time.Duration, error) {
		began := time.Now()
		used, err := h.spent(func() error {
			if err := do(); err != nil {
				return err
			}
			return pause(ctx, afterRun)
		})
		took = time.Since(began)
		return used, err
	}
	quiet := func() (time.Duration, error) { return h.spent(func() error { return pause(ctx, took) }) }
	if _, err := busy(); err != nil { // so that the first pause is as long as a run
		return 0, 0, err
	}
	for i := range runs {
		var with, without time.Duration
		var err error
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
			return 0, 0, err
		}
		differences = append(differences, float64(with-without))
		idles = append(idles, float64(without)/float64(took))
	}
	return median(differences), median(idles), nil
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
