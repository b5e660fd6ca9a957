package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// failure is what took the blame: a test, or a package when no test of it did.
type failure struct{ pkg, test string }

func (f failure) String() string { return strings.TrimSpace(f.pkg + " " + f.test) }

// top is the function that go test runs for it.
func (f failure) top() string {
	name, _, _ := strings.Cut(f.test, "/")
	return name
}

const (
	// maxAgain bounds the tests that are run again. Where more fail it is the code.
	maxAgain = 3
	// timesAgain is how often each must then pass.
	timesAgain = 2
)

// again runs the tests that failed once more, each alone, and returns those that pass: they
// depend on what runs beside them, most often on time. They are no failure of the tree, and
// are named at the end of every run until somebody mends them.
func again(ctx context.Context, cfg config, failed []failure, out io.Writer) (unsteady []failure) {
	var tops []failure
	for _, f := range failed {
		if f.test == "" {
			return nil
		}
		if top := (failure{f.pkg, f.top()}); !slices.Contains(tops, top) {
			tops = append(tops, top)
		}
	}
	if len(tops) > maxAgain {
		return nil
	}
	for _, top := range tops {
		alone := cfg
		alone.packages, alone.run, alone.count = []string{top.pkg}, "^"+top.test+"$", timesAgain
		fmt.Fprintf(out, "again, alone and %d times: %s\n", timesAgain, top)
		tally, err := runTests(ctx, alone, out)
		if err != nil || tally.counts.failed > 0 || tally.counts.passed == 0 || tally.counts.skipped > 0 {
			continue
		}
		for _, f := range failed {
			if f.pkg == top.pkg && f.top() == top.test {
				unsteady = append(unsteady, f)
			}
		}
	}
	return unsteady
}
