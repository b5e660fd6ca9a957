// Command torture breaks a real cluster on purpose and counts what was lost: it kills
// nodes between the system calls that matter and at any other time, cuts, delays and
// loses what they say to each other, takes away what was not yet on disk, and holds every
// answer to what a single machine could have answered.
//
// A run follows a plan that its seed alone decides (-plan prints it): which node is hit,
// how, when, and which faults the network has. That is replayed exactly. What the nodes
// are doing at that moment is not, since processes and disks have their own pace: a
// failing seed is run again with more rounds until it fails again.
//
// Everything happens in network and mount namespaces of its own, on the loopback there.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// config says how much is done.
type config struct {
	bin     string
	seed    uint64
	kills   int
	ops     int
	minutes float64
	only    string
	plan    bool
	defect  string
	keep    bool
	brief   bool
}

const (
	// inside tells the program that it is in its own namespaces already.
	inside = "VEDETTE_TORTURE_INSIDE"
	// A night's work.
	nightlyKills, nightlyOps, nightlyMinutes = 1000, 1_000_000, 480
)

func main() {
	var cfg config
	nightly := flag.Bool("nightly", false, fmt.Sprintf("a night's work: %d kills, %d operations", nightlyKills, nightlyOps))
	flag.StringVar(&cfg.bin, "bin", "bin", "folder of the built programs; failpoint/ in it has the coordinator that can be told where to die")
	flag.Uint64Var(&cfg.seed, "seed", 0, "decides the plan; 0 draws one, which is printed")
	flag.IntVar(&cfg.kills, "kills", 140, "how many nodes are killed; of the first 140 of each 200 a hundred lead")
	flag.IntVar(&cfg.ops, "ops", 6000, "how many operations are held to a single machine's answers")
	flag.Float64Var(&cfg.minutes, "minutes", 10, "stop after so many, in good order; what was not done is a row that is missing")
	flag.StringVar(&cfg.only, "only", "", "these parts alone, by comma: "+strings.Join(partNames(), " "))
	flag.BoolVar(&cfg.plan, "plan", false, "print the seed's plan and do nothing")
	flag.StringVar(&cfg.defect, "defect", "", "a defect to be found: read-barrier (reads without one), log.sync (a log that is not synced)")
	flag.BoolVar(&cfg.keep, "keep", false, "keep the folder with the nodes' logs and data")
	flag.BoolVar(&cfg.brief, "brief", false, "without what takes its time however little is asked for")
	flag.Parse()
	if *nightly {
		cfg.kills, cfg.ops, cfg.minutes = nightlyKills, nightlyOps, nightlyMinutes
	}
	if cfg.seed == 0 {
		cfg.seed = uint64(time.Now().UnixNano()) % 1_000_000 //nolint:gosec // not negative
	}
	if err := start(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}

func start(cfg config) error {
	if cfg.plan {
		return printPlan(os.Stdout, cfg)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if os.Getenv(inside) != "" {
		return run(ctx, cfg)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("network and mount namespaces need root: sudo make torture")
	}
	// Again, in namespaces that end with it. It is told to end when this thread does.
	runtime.LockOSThread()
	args := append(os.Args[1:len(os.Args):len(os.Args)], "-seed", fmt.Sprint(cfg.seed))
	again := exec.CommandContext(ctx, "/proc/self/exe", args...)
	again.Env = append(os.Environ(), inside+"=1")
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	again.Cancel = func() error { return again.Process.Signal(syscall.SIGTERM) }
	again.WaitDelay = 30 * time.Second
	return again.Run()
}
