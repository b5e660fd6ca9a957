// Command isolation floods an isolated host on every path that is known and prints
// what reached the other side: with the cut applied, with its process killed, while
// nftables is flushed, and after a reboot; with a guest also over real boots of it. It runs the tests of respond/isolation,
// which make namespaces of their own; this machine's network is not touched. The matrix
// is isolated by a second program, of the sensor's own tests, with both layers and by
// the sensor's responder.
//
// A row is ok when nothing leaked and the path was seen to be one without the cut.
// What this kernel has no driver for is skipped, and measured in vmtest's guest.
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
	var cfg config
	flag.Float64Var(&cfg.seconds, "seconds", 5, "how long each phase is; from 60 on the tests beside the matrix repeat in full as well")
	flag.StringVar(&cfg.guest, "guest", "", "also measure in vmtest's guest: kernel series 6.1 or 6.12")
	flag.BoolVar(&cfg.guestOnly, "guest-only", false, "measure in the guest alone")
	flag.IntVar(&cfg.reboots, "reboots", 0, "how often the isolated guest really boots; 0 is 3, and 50 from 60 seconds on")
	flag.Parse()
	if cfg.reboots == 0 {
		cfg.reboots = fewReboots
		if cfg.seconds >= fullFrom {
			cfg.reboots = manyReboots
		}
	}
	if cfg.seconds <= 0 || cfg.reboots < 0 || cfg.guestOnly && cfg.guest == "" {
		fmt.Fprintln(os.Stderr, "isolation: want -seconds above 0, -reboots not below, and -guest with -guest-only")
		os.Exit(2)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "isolation: network namespaces need root: sudo make isolation")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "isolation:", err)
		os.Exit(1)
	}
}
