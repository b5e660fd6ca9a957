package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"text/tabwriter"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// config says what to try, and on what.
type config struct {
	bin    string
	only   string
	forks  int
	settle time.Duration
}

// rowTimeout is far beyond what the longest row takes.
const rowTimeout = 8 * time.Minute

// errNothing is returned when no technique has the name that was asked for.
var errNothing = errors.New("no technique matches (-list names them)")

func run(ctx context.Context, cfg config) (err error) {
	chosen, err := choose(techniques(cfg.forks), cfg.only)
	if err != nil {
		return err
	}
	// Not below /run, which is often mounted noexec, nor where everybody may write,
	// which is a finding of its own.
	dir, err := os.MkdirTemp("/var/lib", "vedette-evasion-")
	if err != nil {
		return fmt.Errorf("making the suite's folder: %w", err)
	}
	l, err := lab.New(cfg.bin, dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		err = errors.Join(err, l.Close())
		if err == nil || errors.Is(err, figure.ErrMissed) {
			err = errors.Join(err, os.RemoveAll(dir))
		} else {
			fmt.Fprintf(os.Stderr, "evasion: logs are in %s/logs\n", dir)
		}
	}()
	h, err := newHost(ctx, l, dir, cfg.settle)
	if err != nil {
		return err
	}
	var rows []figure.Row
	for _, t := range chosen {
		rows = append(rows, try(ctx, h, t))
		if ctx.Err() != nil {
			break
		}
	}
	rows = append(rows, h.losses(ctx))
	return figure.Report(os.Stdout, "out", "evasion", rows)
}

// choose is the techniques whose name matches a pattern; an empty one matches all.
func choose(all []technique, pattern string) ([]technique, error) {
	if pattern == "" {
		return all, nil
	}
	var chosen []technique
	for _, t := range all {
		matches, err := path.Match(pattern, t.name)
		if err != nil {
			return nil, fmt.Errorf("reading -only %q: %w", pattern, err)
		}
		if matches {
			chosen = append(chosen, t)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("%q: %w", pattern, errNothing)
	}
	return chosen, nil
}

// try is one row of the table. What was wrong is printed at once, with examples.
func try(ctx context.Context, h *host, t technique) figure.Row {
	const target = "= 0"
	unit := fmt.Sprintf("wrong of %d", t.times)
	fmt.Printf("… %s\n", t.name)
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, rowTimeout, fmt.Errorf("not within %s", rowTimeout))
	defer cancel()
	v, err := t.try(ctx, h, t.times)
	took := time.Since(began).Round(100 * time.Millisecond)
	for _, example := range v.examples {
		fmt.Printf("  %s: %s\n", t.name, example)
	}
	if err != nil {
		return figure.Missing(t.name, unit, target, fmt.Errorf("%w (after %s)", err, took))
	}
	note := fmt.Sprintf("%s; %s", t.what, took)
	if v.remark != "" {
		note += "; " + v.remark
	}
	return figure.Exactly(t.name, float64(v.wrong), 0, unit, note)
}

func printTechniques(w io.Writer, all []technique) {
	table := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	defer table.Flush()
	for _, t := range all {
		fmt.Fprintf(table, "%s\t%d\t%s\n", t.name, t.times, t.what)
	}
}
