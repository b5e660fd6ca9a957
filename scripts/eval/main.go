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
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// config says what to evaluate, and on what.
type config struct {
	out   string // folder of pictures and rows
	only  string // names of tables, by comma; empty: all
	hosts int    // per role
	seed  uint64 // of the first host; others follow
	sigma string // folder of rules that others wrote
	quick bool
	full  bool
	words bool // print what was told of ordinary work, and what of rules and campaigns is amiss
}

// developed is the first seed that parameters were never looked at with.
const developed = 1000

func main() {
	var cfg config
	_ = flag.String("bin", "bin", "folder of the built programs; not needed yet")
	flag.StringVar(&cfg.out, "out", "out", "folder for eval.jsonl and eval/")
	flag.StringVar(&cfg.only, "only", "", "these tables alone, by comma: "+names())
	flag.IntVar(&cfg.hosts, "hosts", 0, "hosts of each role for the baseline; 0: 8, 32 with -full")
	flag.Uint64Var(&cfg.seed, "seed", developed+1, "seed of the baseline's first host")
	flag.StringVar(&cfg.sigma, "sigma", sigmaDir(), "folder of Sigma rules to judge")
	flag.BoolVar(&cfg.quick, "quick", false, "as little of each as there can be: to try the evaluation itself")
	flag.BoolVar(&cfg.full, "full", false, "all hosts and weeks that the targets are of")
	flag.BoolVar(&cfg.words, "words", false, "print what was told of ordinary work, with its terms, rules that are not mapped, campaigns that are wrong")
	flag.Parse()
	if cfg.hosts <= 0 {
		cfg.hosts = 8
		switch {
		case cfg.quick:
			cfg.hosts = 2
		case cfg.full:
			cfg.hosts = 32
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "eval:", err)
		os.Exit(1)
	}
}
