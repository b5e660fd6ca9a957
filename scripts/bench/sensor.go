package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

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
