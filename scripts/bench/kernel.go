package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// kernelCost reads the kernel benchmark of the sensor's programs: bpf_stats can
// only be attributed by who loaded them, so that it lives beside the loader.
func kernelCost(ctx context.Context) []figure.Row {
	const name = "kernel run time per exec of /bin/true, every exec told"
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkExec$", "-benchtime", "1x", "-count", "3", "./sensor/internal/kernel")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return []figure.Row{figure.Missing(name, "ns", "≤ 1500", fmt.Errorf("%w: %s", err, bytes.TrimSpace(out)))}
	}
	best, err := smallest(string(out), "kernel-ns/exec")
	if err != nil {
		return []figure.Row{figure.Missing(name, "ns", "≤ 1500", err)}
	}
	return []figure.Row{figure.AtMost(name, best, 1500, "ns", "bpf_stats of all programs, best of 3 runs (the machine's own noise only adds)")}
}

// smallest value of a metric in the output of go test -bench.
func smallest(out, unit string) (float64, error) {
	best, found := 0.0, false
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		for i := 1; i < len(fields); i++ {
			if fields[i] != unit {
				continue
			}
			value, err := strconv.ParseFloat(fields[i-1], 64)
			if err != nil {
				return 0, err
			}
			if !found || value < best {
				best, found = value, true
			}
		}
	}
	if !found {
		return 0, errors.New("the benchmark printed no " + unit)
	}
	return best, nil
}
