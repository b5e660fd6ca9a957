package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// table is one part of deciding: it prints what belongs beside its figures, writes its
// pictures, and returns the figures.
type table struct {
	name string
	run  func(context.Context, io.Writer, config) ([]figure.Row, error)
}

// tables are the parts of deciding, in their order; each has its file.
var tables = []table{
	{"baseline", baselineTable},
	{"dispositions", dispositionsTable},
	{"rules", rulesTable},
	{"investigator", investigatorTable},
	{"campaigns", campaignsTable},
}

// errTable: -only names a table that is none.
var errTable = errors.New("no such table")

func names() string {
	var all []string
	for _, t := range tables {
		all = append(all, t.name)
	}
	return strings.Join(all, ", ")
}

// chosen are the tables that -only names, in their order.
func chosen(only string) (some []table, err error) {
	if only == "" {
		return tables, nil
	}
	wanted := strings.Split(only, ",")
	for _, name := range wanted {
		if !slices.ContainsFunc(tables, func(t table) bool { return t.name == name }) {
			return nil, fmt.Errorf("%w: %q; there are %s", errTable, name, names())
		}
	}
	for _, t := range tables {
		if slices.Contains(wanted, t.name) {
			some = append(some, t)
		}
	}
	return some, nil
}

// run prints each table with its figures and writes all figures to one file. A table that
// cannot be made, or misses a figure, does not keep the others from being printed.
func run(ctx context.Context, w io.Writer, cfg config) error {
	which, err := chosen(cfg.only)
	if err != nil {
		return err
	}
	var all []figure.Row
	var failed []error
	missed := 0
	for _, t := range which {
		began := time.Now()
		fmt.Fprintf(w, "== %s ==\n\n", t.name)
		rows, err := t.run(ctx, w, cfg)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", t.name, err))
			rows = append(rows, figure.Missing(t.name, "", "", err))
		}
		missed += figure.Print(w, rows)
		all = append(all, rows...)
		fmt.Fprintf(w, "\n%s, %.0f s, load %s\n\n", t.name, time.Since(began).Seconds(), load())
	}
	failed = append(failed, figure.Write(cfg.out, "eval", all))
	if missed > 0 {
		failed = append(failed, fmt.Errorf("%w: %d of %d", figure.ErrMissed, missed, len(all)))
	}
	return errors.Join(failed...)
}

// load is the machine's of the last minute.
func load() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(raw), " ")
	return first
}
