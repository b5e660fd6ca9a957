// Command bench prints the figures of the whole system beside their targets: what
// an exec costs, what the sensor holds in memory, and how long it takes from an
// exec to the operator's screen. It runs the real programs on this host.
//
// Machine speed drifts within seconds, so that costs are gated on kernel
// nanoseconds and on the agent's CPU per operation, never on one wall time; a
// latency is gated on its worst case against a target in seconds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

func main() {
	bin := flag.String("bin", "bin", "folder of the built programs")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench: eBPF needs root: sudo make bench")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := run(ctx, *bin); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string) (err error) {
	dir, err := os.MkdirTemp("/run", "vedette-bench-")
	if err != nil {
		return fmt.Errorf("making the bench's folder: %w", err)
	}
	l, err := lab.New(bin, dir)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, l.Close())
		if err == nil || errors.Is(err, figure.ErrMissed) {
			err = errors.Join(err, os.RemoveAll(dir))
		} else {
			fmt.Fprintf(os.Stderr, "bench: logs are in %s/logs\n", dir)
		}
	}()
	fmt.Println(machine())
	rows := kernelCost(ctx)

	c, sensor, err := start(ctx, l)
	if err != nil {
		return err
	}
	rows = append(rows, idleRSS(ctx, sensor)...)
	rows = append(rows, agentCost(ctx, sensor)...)
	rows = append(rows, latency(ctx, c)...)
	rows = append(rows, losses(ctx, c)...)
	return figure.Report(os.Stdout, "out", "bench", rows)
}

func machine() string {
	var name syscall.Utsname
	release := "unknown"
	if syscall.Uname(&name) == nil {
		var text strings.Builder
		for _, c := range name.Release {
			if c == 0 {
				break
			}
			text.WriteByte(byte(c))
		}
		release = text.String()
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		load = []byte("unknown")
	}
	return fmt.Sprintf("machine: Linux %s, %d CPUs, load before: %s", release, runtime.NumCPU(), strings.TrimSpace(string(load)))
}

// start runs three coordinators on loopback and a sensor on this host.
func start(ctx context.Context, l *lab.Lab) (*lab.Cluster, *lab.Process, error) {
	var nodes []lab.NodeSpec
	for i := range 3 {
		nodes = append(nodes, lab.NodeSpec{
			ID:     fmt.Sprintf("c%d", i+1),
			Listen: fmt.Sprintf("127.0.0.1:%d", 17541+i), Operator: fmt.Sprintf("127.0.0.1:%d", 17551+i),
		})
	}
	c, err := l.StartCluster(ctx, nodes, func(string) {})
	if err != nil {
		return nil, nil, err
	}
	sensor, err := c.StartSensor(ctx, lab.SensorSpec{
		Name: "bench", Scope: "host", SummaryInterval: 5 * time.Second,
		Window: time.Minute, KnownWindows: 3, LearnFor: time.Hour,
	})
	if err != nil {
		return nil, nil, err
	}
	online, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("not within 30 s"))
	defer cancel()
	return c, sensor, lab.Until(online, 200*time.Millisecond, "the sensor to report", func(ctx context.Context) (bool, error) {
		hosts, err := c.Hosts(ctx)
		return hosts["bench"].State == "online", err
	})
}

func idleRSS(ctx context.Context, sensor *lab.Process) []figure.Row {
	const name = "sensor RSS, idle"
	// Long enough for the start's garbage to be collected and returned.
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Second):
	}
	kib, err := statusKiB(sensor.PID(), "VmRSS:")
	if err != nil {
		return []figure.Row{figure.Missing(name, "MiB", "≤ 50", err)}
	}
	return []figure.Row{figure.AtMost(name, float64(kib)/1024, 50, "MiB", "VmRSS 20 s after the start")}
}

func statusKiB(pid int, key string) (int, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, key); ok {
			var kib int
			_, err := fmt.Sscan(value, &kib)
			return kib, err
		}
	}
	return 0, fmt.Errorf("%s is not in the process's status", key)
}

// cpu is what all threads of a process have run, from their schedstat.
func cpu(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d has no schedstat: %w", pid, errors.Join(err, os.ErrNotExist))
	}
	var sum time.Duration
	for _, f := range files {
		var ns int64
		raw, err := os.ReadFile(f)
		if err != nil {
			continue // the thread ended meanwhile
		}
		if _, err := fmt.Sscan(string(raw), &ns); err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// agentCost is the sensor's own CPU for each exec of a program that it knows.
func agentCost(ctx context.Context, sensor *lab.Process) []figure.Row {
	const (
		name   = "agent CPU per exec of /bin/true (fork, exec, exit)"
		target = 10
		rounds = 2000
	)
	quiet, err := spent(sensor, func() error { return pause(ctx, 2*time.Second) })
	if err != nil {
		return []figure.Row{figure.Missing(name, "µs", "≤ 10", err)}
	}
	began := time.Now()
	busy, err := spent(sensor, func() error {
		for range rounds {
			if err := exec.CommandContext(ctx, "/bin/true").Run(); err != nil {
				return err
			}
		}
		return pause(ctx, 500*time.Millisecond)
	})
	if err != nil {
		return []figure.Row{figure.Missing(name, "µs", "≤ 10", err)}
	}
	// What the idle sensor would have spent in that time is not the execs'.
	own := busy - time.Duration(float64(quiet)*time.Since(began).Seconds()/2)
	value := float64(own.Nanoseconds()) / rounds / 1000
	return []figure.Row{figure.AtMost(name, value, target, "µs", fmt.Sprintf("schedstat of all threads over %d execs; every exec still leaves the kernel: its baseline comes later", rounds))}
}

func spent(p *lab.Process, do func() error) (time.Duration, error) {
	before, err := cpu(p.PID())
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := cpu(p.PID())
	return after - before, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// latency is exec → visible in "vedette finding list", the CLI's own start included.
func latency(ctx context.Context, c *lab.Cluster) []figure.Row {
	const (
		name   = "exec → visible in finding list, worst"
		rounds = 20
	)
	var seen []time.Duration
	for i := range rounds {
		took, err := once(ctx, c, fmt.Sprintf("/dev/shm/vedette-bench-%d-%d", os.Getpid(), i))
		if err != nil {
			return []figure.Row{figure.Missing(name, "s", "≤ 2", err)}
		}
		seen = append(seen, took)
	}
	slices.Sort(seen)
	return []figure.Row{
		figure.AtMost(name, seen[rounds-1].Seconds(), 2, "s", fmt.Sprintf("of %d programs run from /dev/shm, three coordinators", rounds)),
		figure.Info("exec → visible in finding list, median", seen[rounds/2].Seconds(), "s", ""),
	}
}

func once(ctx context.Context, c *lab.Cluster, path string) (time.Duration, error) {
	raw, err := os.ReadFile("/bin/true")
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(path, raw, 0o700); err != nil {
		return 0, err
	}
	defer os.Remove(path)
	began := time.Now()
	if err := exec.CommandContext(ctx, path).Run(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 15*time.Second, errors.New("not within 15 s"))
	defer cancel()
	err = lab.Until(ctx, 20*time.Millisecond, "the finding of "+path, func(ctx context.Context) (bool, error) {
		out, err := c.CLI(ctx, "finding", "list", "-o", "json")
		return strings.Contains(string(out), path), err
	})
	return time.Since(began), err
}

func losses(ctx context.Context, c *lab.Cluster) []figure.Row {
	const name = "events lost during this bench"
	hosts, err := c.Hosts(ctx)
	if err != nil {
		return []figure.Row{figure.Missing(name, "events", "= 0", err)}
	}
	return []figure.Row{figure.Exactly(name, float64(hosts["bench"].Lost), 0, "events", fmt.Sprintf("of %d", hosts["bench"].Total))}
}
