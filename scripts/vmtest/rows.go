package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/vmtest/outcome"
)

// hooks are the subtests of TestHooks, each of which proves one of the kernel's
// attach points by a program that was seen to run.
var hooks = []string{"BTF", "tp_btf", "fentry", "fexit", "kprobe", "kprobe.multi", "LSM"}

// hookPackage is where TestHooks is.
const hookPackage = "sensor/internal/kernel"

// judge makes one row of each package and, when all tests ran, of each hook.
func judge(s series, report outcome.Report, filtered bool, took time.Duration) []figure.Row {
	name := func(of string) string { return report.Kernel + " " + of }
	var rows []figure.Row
	for _, p := range report.Packages {
		c := p.Counts()
		note := fmt.Sprintf("%d passed, %d skipped, %.0f s", c.Pass, c.Skip, p.Seconds)
		if c.Pass == 0 {
			rows = append(rows, figure.Missing(name(p.Name), "failed", "= 0", fmt.Errorf("no test passed: %s", note)))
			continue
		}
		rows = append(rows, figure.Exactly(name(p.Name), float64(c.Fail), 0, "failed", note))
	}
	for _, p := range report.Packages {
		if p.Name == hookPackage && !filtered {
			rows = append(rows, judgeHooks(s, name, p)...)
		}
	}
	return append(rows, figure.Info(name("guest"), took.Seconds(), "s", "from power-on to power-off"))
}

// judgeHooks takes a hook that is not told, as when TestHooks is gone, for a miss.
func judgeHooks(s series, name func(string) string, p outcome.Package) (rows []figure.Row) {
	for _, hook := range hooks {
		at := slices.IndexFunc(p.Tests, func(t outcome.Test) bool { return t.Name == "TestHooks/"+hook })
		if at < 0 {
			rows = append(rows, figure.Missing(name("hook "+hook), "proved", "= 1", errors.New("TestHooks did not tell it")))
			continue
		}
		t, why := p.Tests[at], s.lacks[hook]
		switch {
		case t.Verdict == outcome.Passed:
			rows = append(rows, figure.Exactly(name("hook "+hook), 1, 1, "proved", "a program was attached and ran"))
		case t.Verdict == outcome.Skipped && why != "":
			rows = append(rows, figure.Info(name("hook "+hook), 0, "proved", "not in this kernel: "+why))
		default:
			rows = append(rows, figure.Exactly(name("hook "+hook), 0, 1, "proved", t.Verdict+": "+t.Reason))
		}
	}
	return rows
}

// explain shows failures whole and skips with their reasons.
func explain(report outcome.Report) {
	for _, p := range report.Packages {
		if p.Error != "" {
			fmt.Printf("FAIL %s: %s\n", p.Name, p.Error)
		}
		for _, t := range p.Tests {
			switch t.Verdict {
			case outcome.Failed:
				fmt.Printf("FAIL %s %s (%.1f s)\n    %s\n", p.Name, t.Name, t.Seconds, strings.Join(t.Output, "\n    "))
			case outcome.Skipped:
				fmt.Printf("SKIP %s %s: %s\n", p.Name, t.Name, t.Reason)
			}
		}
	}
}
