// Command drill does every drill on this machine against a real sensor and a cluster of one
// node, and prints what was proven and missed. The sensor sees one cgroup, and the drills
// run in it, so that what the rest of the machine does is no part of the figure.
//
// A row is not ok when a drill could not be done, was not cleaned up, or when a control was
// found. What is missed is named and counted; the figure of it is for people to lower.
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

func main() {
	var cfg config
	flag.StringVar(&cfg.bin, "bin", "bin", "folder of the built programs")
	only := flag.String("only", "", "only these drills, separated by commas")
	flag.DurationVar(&cfg.teach, "teach", 40*time.Second, "how long the sensor learns ordinary work first; 0: rules alone, a host in its first day")
	flag.DurationVar(&cfg.settle, "settle", 30*time.Second, "how long findings may take")
	flag.DurationVar(&cfg.lookUp, "look-up", 3*time.Second, "what the sensor may take to look up watched paths in a new mount namespace")
	flag.StringVar(&cfg.layer, "layer", "out/drill-layer.json", "where the ATT&CK Navigator layer is written")
	flag.Parse()
	if *only != "" {
		cfg.only = strings.Split(*only, ",")
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "drill: eBPF and namespaces need root: sudo make drill")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 40*time.Minute)
	defer cancel()
	if err := run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "drill:", err)
		os.Exit(1)
	}
}
