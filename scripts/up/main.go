// Command up runs the whole system on this machine: three coordinator nodes on
// loopback and a sensor on this host under real eBPF, and shows live what the
// host does. Ctrl-C ends all of it; the state stays and the next run resumes it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	bin := flag.String("bin", "bin", "folder of the built programs")
	state := flag.String("state", ".vedette", "folder of the state, kept between runs")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "up: eBPF needs root: sudo make up")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, *bin, *state); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "up:", err)
		os.Exit(1)
	}
}
