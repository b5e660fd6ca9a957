package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// kernelRow is one figure out of the benchmarks beside the loader: bpf_stats can only
// be attributed by who loaded the programs.
type kernelRow struct {
	name   string
	bench  string // and its part: BenchmarkExec/known
	metric string
	most   float64 // 0: no target
	more   []string
	note   string
}

var kernelRows = []kernelRow{
	{"kernel run time per exec of /bin/true, new", "BenchmarkExec/new", "kernel-ns/exec", 1500, []string{"kernel-ns/fork+exec+exit"}, "the program of the exec"},
	{"kernel run time per exec of /bin/true, known", "BenchmarkExec/known", "kernel-ns/exec", 800, []string{"kernel-ns/fork+exec+exit"}, "the program of the exec"},
	{"kernel run time per TCP connection, new", "BenchmarkConnect/new", "kernel-ns/connect", 0, []string{"kernel-ns/states", "kernel-ns/packets", "kernel-ns/side"}, "all programs, from socket to close, who connects and who accepts together"},
	{"kernel run time per TCP connection, known", "BenchmarkConnect/known", "kernel-ns/connect", 600, []string{"kernel-ns/states", "kernel-ns/packets", "kernel-ns/side"}, "all programs, from socket to close, who connects and who accepts together"},
	{"kernel run time per open for writing, new", "BenchmarkOpen/new", "kernel-ns/open", 0, nil, "of a watched file"},
	{"kernel run time per open for writing, known", "BenchmarkOpen/known", "kernel-ns/open", 0, nil, "of a watched file"},
	{"kernel run time per open for writing, not watched", "BenchmarkOpen/unwatched", "kernel-ns/open", 0, nil, ""},
	{"kernel run time per system call of no interest", "BenchmarkSyscall", "kernel-ns/call", 0, nil, "getppid: what the program at the end of every system call costs"},
}

// kernelCost reads the kernel's own benchmarks, and whether the verifier still sees as
// many instructions as are written down.
func kernelCost(ctx context.Context, _ *bench) (rows []figure.Row) {
	const golden = "verified instructions of each program as recorded"
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^TestVerifiedInstructions$", "-v", "-bench", "^Benchmark(Exec|Connect|Open|Syscall)$",
		"-benchtime", "1x", "-count", "3", "./sensor/internal/kernel")
	out, err := cmd.CombinedOutput()
	best := smallest(string(out))
	for _, r := range kernelRows {
		value, found := best[r.bench+" "+r.metric]
		if !found {
			why := fmt.Errorf("%s printed no %s", r.bench, r.metric)
			if err != nil {
				why = fmt.Errorf("%w: %s", err, lastLines(out))
			}
			rows = append(rows, figure.Missing(r.name, "ns", r.target(), why))
			continue
		}
		note := "best of 3 (the machine's noise only adds)"
		if r.note != "" {
			note = r.note + "; " + note
		}
		for _, metric := range r.more {
			note += fmt.Sprintf("; %s %.0f ns", strings.TrimPrefix(metric, "kernel-ns/"), best[r.bench+" "+metric])
		}
		if r.most > 0 {
			rows = append(rows, figure.AtMost(r.name, value, r.most, "ns", note))
		} else {
			rows = append(rows, figure.Info(r.name, value, "ns", note))
		}
	}
	text := string(out)
	switch {
	case strings.Contains(text, "--- SKIP: TestVerifiedInstructions"):
		rows = append(rows, figure.Skipped(golden, "", "the kernel that they were recorded on"))
	case strings.Contains(text, "--- PASS: TestVerifiedInstructions"):
		rows = append(rows, figure.Info(golden, 1, "", "sensor/internal/kernel/testdata/instructions.json, within 5 %"))
	default:
		rows = append(rows, figure.Missing(golden, "", "yes", fmt.Errorf("TestVerifiedInstructions failed: %s", lastLines(out))))
	}
	return rows
}

func (r kernelRow) target() string {
	if r.most == 0 {
		return ""
	}
	return fmt.Sprintf("≤ %g", r.most)
}

var cpuSuffix = regexp.MustCompile(`-\d+$`)

// smallest value of each "Benchmark metric" in the output of go test -bench.
func smallest(out string) map[string]float64 {
	best := map[string]float64{}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := cpuSuffix.ReplaceAllString(fields[0], "")
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				continue
			}
			key := name + " " + fields[i+1]
			if old, found := best[key]; !found || value < old {
				best[key] = value
			}
		}
	}
	return best
}

// lastLines of what a program printed, for an error.
func lastLines(out []byte) string {
	const most = 300
	out = bytes.TrimSpace(out)
	if len(out) > most {
		out = out[len(out)-most:]
	}
	return strings.Join(strings.Fields(string(out)), " ")
}
