// Testrun runs the Go tests of the tree, and whatever steps it is given, and
// ends with one plain line that counts what happened:
//
//	N passed, N failed, N skipped
//
// Its one idea: the line counts leaves. A test with subtests stands for them, so
// a table of nine cases counts nine; a package that does not build, panics or
// runs out of time counts as one failure even though no test says so. A failure
// is shown whole, a skip with its reason, and everything else in one line per
// package.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// everything is all packages, what takes the longest first: the last to begin would else
// run on alone, for minutes.
var everything = []string{"./scripts/internal/lab", "./scripts/internal/clusterlab", "./sensor/internal/kernel", "./..."}

func main() {
	var cfg config
	flag.DurationVar(&cfg.timeout, "timeout", 45*time.Minute, "the longest that one package may take")
	// Three on two processors: the longest ones wait, for leases, time-outs and elections, more than they work.
	flag.IntVar(&cfg.parallel, "p", 3, "packages tested at once")
	flag.Func("step", "a make target that counts as one test, or some with commas between, which are run side by side; may be repeated", func(name string) error {
		if slices.Contains(strings.Split(name, ","), "") {
			return errors.New("empty target")
		}
		cfg.steps = append(cfg.steps, name)
		return nil
	})
	flag.Func("beside", "a make target that counts as one test and runs while the Go tests do, standing back for them; may be repeated", func(name string) error {
		cfg.beside = append(cfg.beside, name)
		return nil
	})
	flag.Parse()
	cfg.packages = flag.Args()
	if len(cfg.packages) == 0 {
		cfg.packages = everything
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	counts, err := run(ctx, cfg, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
	}
	fmt.Println(counts)
	if err != nil || counts.failed > 0 {
		stop()
		os.Exit(1)
	}
}
