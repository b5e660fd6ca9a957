package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

func run(ctx context.Context, bin string) (err error) {
	if *storming != "" {
		return makeStorm(*storming)
	}
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
	if err := sensor.Stop(); err != nil {
		return err
	}
	rows = append(rows, storm(ctx, l, c)...)
	if err := l.Close(); err != nil {
		return err
	}
	fmt.Println("killing the leader twenty times; this takes a few minutes …")
	rows = append(rows, failover(ctx, bin, dir)...)
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
