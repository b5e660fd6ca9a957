package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// wholeHost is a sensor as it is installed: it sees everything here.
func wholeHost(ctx context.Context, b *bench) []figure.Row {
	const idle = "sensor RSS, idle"
	missing := func(err error) []figure.Row { return []figure.Row{figure.Missing(idle, "MiB", "≤ 40", err)} }
	c, err := b.start(ctx)
	if err != nil {
		return missing(err)
	}
	sensor, err := c.StartSensor(ctx, lab.SensorSpec{
		Name: "bench", Scope: "host", SummaryInterval: 5 * time.Second,
		Window: time.Minute, KnownWindows: 3, LearnFor: time.Hour,
	})
	if err != nil {
		return missing(err)
	}
	online, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("not within 30 s"))
	defer cancel()
	if err := lab.Until(online, 200*time.Millisecond, "the sensor to report", func(ctx context.Context) (bool, error) {
		hosts, err := c.Hosts(ctx)
		return hosts["bench"].State == "online", err
	}); err != nil {
		return missing(err)
	}
	rows := idling(ctx, idle, sensor)
	rows = append(rows, latency(ctx, c)...)
	rows = append(rows, losses(ctx, c)...)
	if err := sensor.Stop(); err != nil {
		rows = append(rows, figure.Missing("the sensor ends when it is asked to", "", "yes", err))
	}
	return rows
}

// idleMost is the share of a processor that a sensor may take where next to nothing
// happens: more would be a loop that nobody meant.
const idleMost = 2 // %

func idling(ctx context.Context, name string, sensor *lab.Process) []figure.Row {
	const (
		settle = 10 * time.Second // the start's garbage is collected and returned
		watch  = 10 * time.Second
		share  = "sensor CPU idle"
	)
	failed := func(err error) []figure.Row {
		return []figure.Row{figure.Missing(name, "MiB", "≤ 40", err), figure.Missing(share, "%", fmt.Sprintf("≤ %d", idleMost), err)}
	}
	if err := pause(ctx, settle); err != nil {
		return failed(err)
	}
	before, err := cpu(sensor.PID())
	if err == nil {
		err = pause(ctx, watch)
	}
	if err != nil {
		return failed(err)
	}
	after, err := cpu(sensor.PID())
	if err != nil {
		return failed(err)
	}
	kib, err := statusKiB(sensor.PID(), "VmRSS:")
	if err != nil {
		return failed(err)
	}
	return []figure.Row{
		figure.AtMost(name, float64(kib)/1024, 40, "MiB", "VmRSS 20 s after the start, the whole host in scope"),
		figure.AtMost(share, 100*(after-before).Seconds()/watch.Seconds(), idleMost, "% of a core", "from the 10th to the 20th second, the whole host in scope, this bench's own looks in it"),
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
	const name = "events lost meanwhile"
	hosts, err := c.Hosts(ctx)
	if err != nil {
		return []figure.Row{figure.Missing(name, "events", "= 0", err)}
	}
	return []figure.Row{figure.Exactly(name, float64(hosts["bench"].Lost), 0, "events", fmt.Sprintf("of %d", hosts["bench"].Total))}
}
