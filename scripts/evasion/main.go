// Command evasion tries on the real sensor what has blinded others: a program for
// each technique does it many times and says what the kernel then says was done,
// and each of these is looked for in what the sensor recorded.
//
// A technique's row is ok when nothing is wrong: nothing missing, nothing told that
// did not happen, nobody else named. What could not be tried is not ok either.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var cfg config
	list := flag.Bool("list", false, "name the techniques and end")
	flag.StringVar(&cfg.bin, "bin", "bin", "folder of the built programs")
	flag.StringVar(&cfg.only, "only", "", "try only the techniques that match, as in io_uring-*")
	flag.IntVar(&cfg.forks, "forks", 1_000_000, "forks whose parents are looked at, of both kinds together")
	flag.DurationVar(&cfg.settle, "settle", 2*time.Minute, "how long the sensor may take to record what was done")
	flag.Parse()
	if *list {
		printTechniques(os.Stdout, techniques(cfg.forks))
		return
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "evasion: eBPF needs root: sudo make evasion")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	if err := run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "evasion:", err)
		os.Exit(1)
	}
}
