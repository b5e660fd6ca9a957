package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

const out = "out"

// part has a cluster of its own, and a share of the time, so that a slow machine does
// something of each.
type part struct {
	name string
	// share is an ordinary run's, night that of a night, in its minutes: two cores took an hour
	// for its kills, two for its operations, and three quarters of one for its 2 GiB.
	share, night int
	run          func(context.Context, config, string) []figure.Row
}

// parts in their order.
var parts = []part{
	{"kills", 18, 90, kills},
	{"answers", 4, 150, answers},
	{"checker", 1, 5, checker},
	{"power", 2, 25, power},
	{"clocks", 2, 10, clocks},
	{"catch-up", 4, 70, catchUp},
	{"corruptions", 6, 130, corruptions},
}

// allotted is how much of what is left of the time the first of these parts has.
func allotted(cfg config, left time.Duration, these []part) time.Duration {
	share := func(p part) time.Duration {
		if cfg.nightly {
			return time.Duration(p.night)
		}
		return time.Duration(p.share)
	}
	var all time.Duration
	for _, p := range these {
		all += share(p)
	}
	return left * share(these[0]) / all
}

func partNames() []string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// run is the whole of it, in namespaces of its own.
func run(ctx context.Context, cfg config) error {
	if err := alone(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(cfg.minutes*float64(time.Minute)))
	defer cancel()
	dir, err := os.MkdirTemp("", "vedette-torture-")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	if !cfg.keep {
		defer func() { _ = os.Remove(dir) }() // what a failed part left stays
	}
	fmt.Printf("torture: seed %d\n", cfg.seed)
	var rows []figure.Row
	asked := strings.Split(cfg.only, ",")
	var chosen []part
	for _, p := range parts {
		if cfg.only == "" || slices.Contains(asked, p.name) {
			chosen = append(chosen, p)
		}
	}
	for i, p := range chosen {
		deadline, _ := ctx.Deadline()
		part, end := context.WithTimeout(ctx, allotted(cfg, time.Until(deadline), chosen[i:]))
		began := time.Now()
		fmt.Printf("torture: %s …\n", p.name)
		rows = append(rows, p.run(part, cfg, filepath.Join(dir, p.name))...)
		end()
		fmt.Printf("torture: %s took %.0f s\n", p.name, time.Since(began).Seconds())
	}
	if len(rows) == 0 {
		return fmt.Errorf("no part is named %q: there are %s", cfg.only, strings.Join(partNames(), " "))
	}
	return figure.Report(os.Stdout, out, "torture", rows)
}

// brief tells people the whole of an error, nodes' logs and all, and the table its first line.
func brief(cfg config, err error) error {
	fmt.Fprintf(os.Stderr, "torture: seed %d: %v\n", cfg.seed, err)
	first, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Errorf("seed %d: %s", cfg.seed, first)
}
