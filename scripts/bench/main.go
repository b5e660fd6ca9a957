// Command bench prints the figures of the whole system beside their targets: what
// an exec costs, what the sensor holds in memory and sends, what it loses when more
// happens than it can take, and how long it takes from an exec to the operator's
// screen. It runs the real programs on this host.
//
// Machine speed drifts within seconds, so that costs are gated on kernel
// nanoseconds, on the agent's CPU per operation and on ratios of runs that follow each
// other, beside a null control, never on one wall time; a latency is gated on its worst
// case against a target in seconds.
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

var firstPort = flag.Int("port", 17541, "first UDP port of the three coordinators; their operators' ports are ten above, those of the fleet's and the rows' three twenty and thirty, of the scale table's fifty and sixty")

func main() {
	bin := flag.String("bin", "bin", "folder of the built programs")
	only := flag.String("only", "", "take these figures alone, by comma: "+partNames())
	quick := flag.Bool("quick", false, "a tenth of the work, to try the bench itself: the figures are rough")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench: eBPF needs root: sudo make bench")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 80*time.Minute)
	defer cancel()
	if err := run(ctx, *bin, *only, *quick); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
