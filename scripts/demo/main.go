// Command demo tells the whole story on one machine in under three minutes:
// three coordinator nodes and four hosts in network namespaces, a short time of
// learning, an attack that hops over real sshd, the findings, the incident, the
// isolation, the proof by packets, the release, and a clean exit.
//
// It exits with 1 when any step's evidence is missing, after removing all that
// it made.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// The demo's own folder: not below /tmp, where a program that connects out is a finding.
const home = "/run/vedette-demo"

func main() {
	bin := flag.String("bin", "bin", "folder of the built programs")
	keep := flag.Bool("keep-logs", false, "leave the logs in "+home+" at the end")
	handsOff := flag.Bool("hands-off", false, "people set beforehand what automation may do, and type nothing when it happens")
	flag.Parse()
	if flag.Arg(0) == "role" {
		if err := role(flag.Args()[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "demo: network namespaces and eBPF need root: sudo make demo")
		os.Exit(1)
	}
	if err := settle(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// The story takes about a minute and a half; three minutes is the promise.
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("the demo took longer than its three minutes"))
	defer cancel()
	if err := run(ctx, *bin, *keep, *handsOff); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: FAILED: %v\n", err)
		os.Exit(1)
	}
}
