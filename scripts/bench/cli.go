package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// asked is what an operator runs, as they run it: a process of its own, its TLS and a page.
var asked = []string{
	"finding list --limit 100", "finding list --since 1h --limit 100", "finding list --since 8760h --limit 100 -o json", "finding list --host web-17 --limit 100",
	"host list --limit 100", "host list --limit 500 -o wide", "host list -l role=web --limit 100", "host list -l role=web -l site=s-3", "host show web-17",
	"incident list --status open --limit 100", "isolation list --active --limit 100", "operation list --limit 100", "audit list --limit 100", "status",
}

// whole are lists to their end.
var whole = []string{"host list -o json", "finding list -o jsonl"}

// wholeMemory is what the CLI may hold of a list without an end, itself included, in MiB.
const wholeMemory = 96

// cliReads fills a real node's state while it stands still, and takes the time of the CLI's
// processes from their start to their end.
func cliReads(ctx context.Context, b *bench, hosts, findings, rounds int) (rows []figure.Row, err error) {
	dir := filepath.Join(b.dir, "reads")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the node's folder: %w", err)
	}
	l, err := lab.New(b.bin, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	spec := lab.NodeSpec{ID: "q1", Listen: fmt.Sprintf("127.0.0.1:%d", *firstPort+40), Operator: fmt.Sprintf("127.0.0.1:%d", *firstPort+45)}
	c, err := l.StartCluster(ctx, []lab.NodeSpec{spec}, func(string) {})
	if err != nil {
		return nil, err
	}
	if err := c.Members[spec.ID].Stop(); err != nil {
		return nil, err
	}
	fill := exec.CommandContext(ctx, "go", "test", "-count=1", "-run", "^TestFill$", "-timeout", "20m", "./coordinator/internal/store")
	fill.Env = append(os.Environ(), "VEDETTE_FILL="+filepath.Join(dir, "coordinator-q1", "state.db"), fmt.Sprintf("VEDETTE_READS=%d %d", hosts, findings))
	if said, err := fill.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("filling the state: %w: %s", err, strings.TrimSpace(string(said)))
	}
	if err := c.StartNode(ctx, spec); err != nil {
		return nil, err
	}
	starting, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := lab.Until(starting, 200*time.Millisecond, "the node to answer", func(ctx context.Context) (bool, error) {
		_, err := c.CLI(ctx, "status")
		return err == nil, err
	}); err != nil {
		return nil, err
	}
	for _, line := range asked {
		var took, used []time.Duration
		for range rounds {
			wall, cpu, _, err := timed(ctx, c, line)
			if err != nil {
				return rows, err
			}
			took, used = append(took, wall), append(used, cpu)
		}
		slices.Sort(took)
		slices.Sort(used)
		rows = append(rows, figure.AtMost("vedette "+line+", "+late(rounds), milliseconds(took[len(took)*99/100]), 200, "ms",
			fmt.Sprintf("process, TLS and answer, %d runs; median %.0f ms, its own processor time %.0f ms; load %s", rounds, milliseconds(took[len(took)/2]), milliseconds(used[len(used)/2]), loadNow())))
	}
	for _, line := range whole {
		wall, cpu, most, err := timed(ctx, c, line)
		if err != nil {
			return rows, err
		}
		rows = append(rows, figure.AtMost("vedette "+line+", to the end: memory", float64(most)/1024, wholeMemory, "MiB",
			fmt.Sprintf("%d hosts, %d findings; %.1f s, its own processor time %.1f s", hosts, findings, wall.Seconds(), cpu.Seconds())))
	}
	return rows, nil
}

// timed runs the CLI with its output thrown away; most is its largest resident size, in KiB,
// by looks at it: the system's account of an ended process begins with the size of whoever
// started it.
func timed(ctx context.Context, c *lab.Cluster, line string) (wall, cpu time.Duration, most int64, err error) {
	cmd := c.Command(ctx, append(strings.Fields(line), "--timeout", "5m")...)
	var said strings.Builder
	cmd.Stderr = &said
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, 0, fmt.Errorf("starting vedette %s: %w", line, err)
	}
	ended, looked := make(chan struct{}), make(chan int)
	go func() { looked <- largest(cmd.Process.Pid, ended) }()
	err = cmd.Wait()
	wall = time.Since(began)
	close(ended)
	most = int64(<-looked)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("running vedette %s: %w: %s", line, err, strings.TrimSpace(said.String()))
	}
	return wall, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), most, nil
}

// lookEvery is how often a process is asked how large it has been: what it grew by after the
// last look is not known.
const lookEvery = 5 * time.Millisecond

func largest(pid int, ended <-chan struct{}) (kib int) {
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	for {
		if now, err := statusKiB(pid, "VmHWM:"); err == nil {
			kib = max(kib, now)
		}
		select {
		case <-ended:
			return kib
		case <-ticks.C:
		}
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()/100) / 10 }
