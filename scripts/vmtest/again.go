package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/scripts/vmtest/outcome"
)

// maxAgain bounds the tests that CI runs once more in a guest of their own.
const maxAgain = 2

// again runs what failed in another guest, alone, and lets what passes there stand as
// passed: the emulation shares its processors with another one, and now and then a deadline
// is missed. Each is named as unsteady, where the tests' runner finds it and says it last.
func again(ctx context.Context, cfg config, k kernel, dir string, report outcome.Report) error {
	for i, names := range failedIn(report) {
		p := report.Packages[i]
		alone := cfg
		alone.packages, alone.run = []string{p.Name}, "^("+strings.Join(names, "|")+")$"
		archive := filepath.Join(dir, "again.cpio")
		if err := pack(ctx, alone, k, dir, archive); err != nil {
			return err
		}
		fmt.Printf("  again, in a guest of their own: %s %s\n", p.Name, strings.Join(names, ", "))
		second, err := runGuest(ctx, alone, k, archive)
		if err != nil {
			return err
		}
		for _, name := range steadied(p, second) {
			fmt.Printf("UNSTEADY %s %s in Linux %s: failed beside other tests, passed alone; it needs mending\n", p.Name, name, report.Kernel)
		}
	}
	return nil
}

// failedIn are the test functions that failed, by the package's place; nil where too many did, or
// something that no test is to blame for.
func failedIn(report outcome.Report) map[int][]string {
	failed, count := map[int][]string{}, 0
	for i, p := range report.Packages {
		if p.Error != "" {
			return nil
		}
		for _, t := range p.Tests {
			name, _, _ := strings.Cut(t.Name, "/")
			if t.Verdict == outcome.Failed && !slices.Contains(failed[i], name) {
				failed[i] = append(failed[i], name)
				count++
			}
		}
	}
	if count > maxAgain {
		return nil
	}
	return failed
}

// steadied sets what failed in p and passed in the second report to passed, and names it.
func steadied(p outcome.Package, second outcome.Report) (names []string) {
	passed := map[string]bool{}
	for _, q := range second.Packages {
		for _, t := range q.Tests {
			passed[t.Name] = q.Name == p.Name && q.Error == "" && t.Verdict == outcome.Passed
		}
	}
	for i, t := range p.Tests {
		if t.Verdict == outcome.Failed && passed[t.Name] {
			p.Tests[i].Verdict, p.Tests[i].Output = outcome.Passed, nil
			names = append(names, t.Name)
		}
	}
	return names
}
