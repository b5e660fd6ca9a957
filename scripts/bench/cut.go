package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// cutMost is how long after an event the last packet may leave.
const cutMost = 1 // ms

// cutLatency reads the benchmarks of the pre-armed cut beside its programs.
func cutLatency(ctx context.Context, b *bench) []figure.Row {
	const name = "detect → last packet out"
	count := "3"
	if b.quick {
		count = "1"
	}
	// One package after the other: both measure.
	out, err := exec.CommandContext(ctx, "go", "test", "-p", "1", "-run", "^$", "-bench", "^(BenchmarkCut|BenchmarkVerdict)", "-benchtime", "1x",
		"-count", count, "./sensor/internal/kernel", "./sensor").CombinedOutput()
	if err != nil || strings.Contains(string(out), "--- SKIP") {
		if err == nil {
			return []figure.Row{figure.Skipped(name, "ms", "tcx (6.6)")}
		}
		return []figure.Row{figure.Missing(name, "ms", fmt.Sprintf("≤ %d", cutMost), fmt.Errorf("%w: %s", err, lastLines(out)))}
	}
	best := smallest(string(out))
	latency := func(kind string) (p99 float64, note string) {
		of := func(metric string) float64 { return best["BenchmarkCutLatency/"+kind+" "+metric] }
		return of("ms/cut-p99"), fmt.Sprintf("p50 %.2f, worst %.2f; null control, a wake-up by another process in the same rounds: p99 %.2f; %.0f rounds, best of %s; from the kernel's time of an exec by way of the ring and its reader, no rule asked, while a process sends all it can",
			of("ms/cut-p50"), of("ms/cut-max"), of("ms/null-p99"), of("rounds"), count)
	}
	prompt, promptNote := latency("prompt")
	busy, busyNote := latency("prompt-busy")
	clock, clockNote := latency("clock")
	verdict := func(metric string) float64 { return best["BenchmarkVerdict "+metric] }
	packet := func(metric string) float64 { return best["BenchmarkCutPacket "+metric] }
	return []figure.Row{
		figure.AtMost("exec → verdict by rule and intent → first cut, p99", verdict("ms/cut-p99"), cutMost, "ms", fmt.Sprintf(
			"p50 %.2f, worst %.2f, %.0f rounds, best of %s; from the kernel's time of an exec to the store, through process tree, baseline, rules and policies; who makes it whole has the order after p50 %.2f, p99 %.2f",
			verdict("ms/cut-p50"), verdict("ms/cut-max"), verdict("rounds"), count, verdict("ms/handed-p50"), verdict("ms/handed-p99"))),
		figure.AtMost(name+", p99", prompt, cutMost, "ms", promptNote),
		figure.Info(name+", p99, fifty other new execs a second", busy, "ms", busyNote),
		figure.Info(name+", p99, a reader that is not prompt", clock, "ms", "an exec within 25 ms after another is read by the clock; "+clockNote),
		figure.Info("kernel run time per packet, armed and idle", packet("run-ns/idle")-packet("run-ns/null"), "ns",
			fmt.Sprintf("beside a program that does nothing (test run of a million: %.0f and %.0f); by the kernel's account on a flood: %.0f and %.0f",
				packet("run-ns/idle"), packet("run-ns/null"), packet("kernel-ns/idle"), packet("kernel-ns/null"))),
		figure.Info("kernel run time per packet, cut", packet("kernel-ns/drop"), "ns",
			fmt.Sprintf("dropped; the sensor's own to a coordinator: %.0f", packet("kernel-ns/coordinator"))),
	}
}
