// Command eval prints how well what Vedette decides holds against histories whose truth
// is known: each table is one part of deciding. Its rows go to out/eval.jsonl and its
// pictures to out/eval/.
//
// Histories are made by seeded generators of this project and are nobody's real hosts.
// Parameters were fixed on development seeds; the seeds of a run are others, and are
// named in it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// config says what to evaluate, and on what.
type config struct {
	out   string // folder of pictures and rows
	only  string // one table's name; empty: all
	hosts int    // per role
	seed  uint64 // of the first host; others follow
	quick bool
	words bool // print what was told of ordinary work
}

// developed is the first seed that parameters were never looked at with.
const developed = 1000

// tables are the parts of deciding, in their order.
var tables = []struct {
	name string
	run  func(context.Context, io.Writer, config) ([]figure.Row, error)
}{
	{"baseline", baselineTable},
}

func main() {
	var cfg config
	_ = flag.String("bin", "bin", "folder of the built programs; not needed yet")
	flag.StringVar(&cfg.out, "out", "out", "folder for eval.jsonl and eval/")
	flag.StringVar(&cfg.only, "only", "", "one table alone: baseline")
	flag.IntVar(&cfg.hosts, "hosts", 8, "hosts of each role")
	flag.Uint64Var(&cfg.seed, "seed", developed+1, "seed of the first host")
	flag.BoolVar(&cfg.quick, "quick", false, "two hosts of each role: to try the evaluation itself")
	flag.BoolVar(&cfg.words, "words", false, "print what was told of ordinary work, with its terms")
	flag.Parse()
	if cfg.quick {
		cfg.hosts = 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var rows []figure.Row
	var err error
	for _, t := range tables {
		if cfg.only != "" && cfg.only != t.name {
			continue
		}
		more, failed := t.run(ctx, os.Stdout, cfg)
		rows, err = append(rows, more...), errors.Join(err, failed)
	}
	if err = errors.Join(err, figure.Report(os.Stdout, cfg.out, "eval", rows)); err != nil {
		fmt.Fprintln(os.Stderr, "eval:", err)
		os.Exit(1)
	}
}
