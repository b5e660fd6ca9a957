package main

import (
	"testing"
	"time"

	"github.com/vedette-edr/vedette/scripts/vmtest/outcome"
)

// Ensure that a skipped hook counts as missed, unless the series is known to be
// built without it, and that a package in which nothing passed is no success.
func TestJudge(t *testing.T) {
	test := func(name, verdict string) outcome.Test {
		return outcome.Test{Name: name, Verdict: verdict, Reason: "why"}
	}
	report := outcome.Report{Kernel: "k", Packages: []outcome.Package{
		{Name: hookPackage, Tests: []outcome.Test{
			test("TestHooks/LSM", outcome.Skipped), test("TestHooks/kprobe.multi", outcome.Skipped), test("TestHooks/fentry", outcome.Passed),
		}},
		{Name: "all skipped", Tests: []outcome.Test{test("TestX", outcome.Skipped)}},
		{Name: "one failed", Tests: []outcome.Test{test("TestX", outcome.Failed), test("TestY", outcome.Passed)}},
	}}
	s := series{lacks: map[string]string{"kprobe.multi": "not built"}}
	got := map[string]bool{}
	for _, row := range judge(s, report, false, time.Second) {
		got[row.Name] = row.OK
	}
	for name, want := range map[string]bool{
		"k " + hookPackage: true, "k all skipped": false, "k one failed": false,
		"k hook LSM": false, "k hook kprobe.multi": true, "k hook fentry": true, "k hook BTF": false, "k guest": true,
	} {
		if ok, there := got[name]; !there || ok != want {
			t.Errorf("%s: got %t (row there: %t), want %t", name, ok, there, want)
		}
	}
}
