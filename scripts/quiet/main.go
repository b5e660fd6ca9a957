// Command quiet does an hour of ordinary work on this machine with a real sensor and a real
// cluster beside it, and prints what was made of it: findings, investigations, incidents.
// None of it is an attack, so no incident may surface and the findings must stay within the
// alert budget.
//
// The sensor sees one cgroup, and the work runs in it: what else the machine does is no part
// of the figure. A part of the time is teaching, as on a host in its first days; it is told
// apart, and incidents count in it too.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

type config struct {
	bin   string
	only  []string
	total time.Duration
	teach time.Duration
	seed  uint64
}

func main() {
	var cfg config
	flag.StringVar(&cfg.bin, "bin", "bin", "folder of the built programs")
	only := flag.String("only", "", "only this work, separated by commas")
	minutes := flag.Float64("minutes", 60, "how long, teaching included; a nightly run takes 480")
	flag.DurationVar(&cfg.teach, "teach", 0, "of that, teaching (default: a quarter, ten minutes at most)")
	flag.Uint64Var(&cfg.seed, "seed", 1, "the order of the work")
	flag.Parse()
	if flag.Arg(0) == spawnRole {
		os.Exit(spawn(flag.Args()[1:]))
	}
	if *only != "" {
		cfg.only = strings.Split(*only, ",")
	}
	cfg.total = time.Duration(*minutes * float64(time.Minute))
	if cfg.teach <= 0 {
		cfg.teach = min(cfg.total/4, 10*time.Minute)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "quiet: eBPF and other people's daemons need root: sudo make quiet")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, cfg.total+15*time.Minute)
	defer cancel()
	if err := run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "quiet:", err)
		os.Exit(1)
	}
}
