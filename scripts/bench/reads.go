package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// storedReads takes the time of what the CLI asks a node's state for, without the way to the
// node and back: each read many times, on a state with a million findings. Then that of the CLI
// itself, at a real node with such a state.
func storedReads(ctx context.Context, b *bench) []figure.Row {
	const unit, hosts, rounds = "ms", 10_000, 300
	findings := 1_000_000
	if b.quick {
		findings /= 10
	}
	took, err := goBench(ctx, "BenchmarkReads", "./coordinator/internal/store", fmt.Sprintf("%dx", b.times(rounds)),
		fmt.Sprintf("VEDETTE_READS=%d %d", hosts, findings))
	if err == nil && len(took) == 0 {
		err = fmt.Errorf("the benchmark printed no figure")
	}
	if err != nil {
		return []figure.Row{figure.Missing("a read of the state, p99", unit, "≤ 200", err)}
	}
	var rows []figure.Row
	for _, name := range slices.Sorted(maps.Keys(took)) {
		rows = append(rows, figure.AtMost("read of the state: "+strings.ReplaceAll(name, "_", " ")+", "+late(b.times(rounds)), took[name], 200, unit,
			fmt.Sprintf("%d hosts, %d findings; a page of 100; load %s", hosts, findings, loadNow())))
	}
	cli, err := cliReads(ctx, b, hosts, findings, b.times(cliRounds))
	if err != nil {
		cli = append(cli, figure.Missing("a list by the CLI, p99", unit, "≤ 200", err))
	}
	return append(rows, cli...)
}

// cliRounds is how often each command is run.
const cliRounds = 200

// late is what the run is called that 99 of 100 are faster than: of a hundred or fewer that is the slowest.
func late(rounds int) string {
	if rounds <= 100 {
		return fmt.Sprintf("slowest of %d", rounds)
	}
	return "p99"
}

// goBench runs a benchmark that stands beside what it measures, because nothing else may
// import that, and reads the last figure of each part of it by its name.
func goBench(ctx context.Context, name, folder, times, setting string) (map[string]float64, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-run", "^$", "-bench", "^"+name+"$", "-benchtime", times, "-timeout", "10m", folder)
	if setting != "" {
		cmd.Env = append(os.Environ(), setting)
	}
	printed, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("running %s: %w: %s", name, err, bytes.TrimSpace(printed))
	}
	figures := make(map[string]float64)
	for lines := bufio.NewScanner(bytes.NewReader(printed)); lines.Scan(); {
		fields := strings.Fields(lines.Text()) // BenchmarkX/three-2  1  123 ns/op  456 rows/s
		if len(fields) < 6 || !strings.HasPrefix(fields[0], name+"/") {
			continue
		}
		part := strings.TrimPrefix(fields[0], name+"/")
		part = part[:max(0, strings.LastIndexByte(part, '-'))]
		if figures[part], err = strconv.ParseFloat(fields[4], 64); err != nil {
			return nil, fmt.Errorf("reading what %s prints: %w", name, err)
		}
	}
	return figures, nil
}
