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

// parts in their order; each has a cluster of its own, and a share of the time, so that a
// slow machine does something of each.
var parts = []struct {
	name  string
	share int
	run   func(context.Context, config, string) []figure.Row
}{
	{"kills", 18, kills},
	{"answers", 4, answers},
	{"checker", 1, checker},
	{"power", 2, power},
	{"clocks", 2, clocks},
	{"catch-up", 4, catchUp},
	{"corruptions", 6, corruptions},
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
	chosen, shares := parts[:0:0], 0
	for _, p := range parts {
		if cfg.only == "" || slices.Contains(asked, p.name) {
			chosen = append(chosen, p)
			shares += p.share
		}
	}
	for _, p := range chosen {
		deadline, _ := ctx.Deadline()
		part, end := context.WithTimeout(ctx, time.Until(deadline)*time.Duration(p.share)/time.Duration(shares))
		shares -= p.share
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
