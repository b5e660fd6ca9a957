package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/scripts/internal/drive"
	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// bench is what the parts share. Coordinators are started by the first that needs them.
type bench struct {
	bin, dir string
	quick    bool
	lab      *lab.Lab
	cluster  *lab.Cluster
	drive    *drive.Driver
}

// parts in the order that they are run in. From rows on they end the coordinators of the others and
// start their own.
var parts = []struct {
	name  string
	about string
	take  func(context.Context, *bench) []figure.Row
}{
	{"kernel", "the programs' run time, by the kernel's own account", kernelCost},
	{"cut", "the pre-armed cut: what it costs, and how soon it is there", cutLatency},
	{"host", "a sensor of the whole host: memory, and exec → visible", wholeHost},
	{"agent", "the sensor's CPU for each operation", agentCost},
	{"wall", "how much slower programs start, beside auditd and bpftrace", wallCost},
	{"known", "a host that does the same things all the time", knownRates},
	{"storm", "as many new events as the machine can make", newStorm},
	{"uplink", "what a mixed workload sends up", steadyUplink},
	{"rows", "behaviours that three nodes count together, beside raft-wal and SQLite alone", replicatedRows},
	{"reads", "what operators ask a large state for", storedReads},
	{"history", "a year of ten thousand hosts: its size, and entries that remove what is old", storedHistory},
	{"fleet", "an order for a thousand sensors, and for ten thousand, until all have answered", fleetSpeed},
	{"scale", "a thousand sessions that report, and the leader killed under them", scaleTable},
	{"failover", "the leader killed twenty times under load", failover},
	{"disks", "a leader whose disk is full, fails, or stalls for a minute", troubledDisks},
	{"restore", "a backup of 2 GiB of state, into an empty folder", restoredState},
	{"tokens", "a thousand hosts with one join token", tokenRacers},
	{"rotation", "an authority that is followed by another under a thousand sensors", rotation},
}

func partNames() string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return strings.Join(names, " ")
}

// times is how often to do what is done so often for a figure that counts.
func (b *bench) times(n int) int {
	if b.quick {
		return max(1, n/10)
	}
	return n
}

// span is how long to do what is done so long for a figure that counts.
func (b *bench) span(d time.Duration) time.Duration {
	if b.quick {
		return max(d/6, 10*time.Second).Truncate(time.Second)
	}
	return d
}

func run(ctx context.Context, bin, only string, quick bool) (err error) {
	var wanted []string
	if only != "" {
		wanted = strings.Split(only, ",")
	}
	for _, name := range wanted {
		if !slices.Contains(strings.Fields(partNames()), name) {
			return fmt.Errorf("there is no part %q: want some of %s", name, partNames())
		}
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return fmt.Errorf("finding the programs: %w", err)
	}
	dir, err := os.MkdirTemp("/run", "vedette-bench-")
	if err != nil {
		return fmt.Errorf("making the bench's folder: %w", err)
	}
	b := &bench{bin: bin, dir: dir, quick: quick}
	if b.lab, err = lab.New(bin, dir); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, b.lab.Close())
		if err == nil || errors.Is(err, figure.ErrMissed) {
			err = errors.Join(err, os.RemoveAll(dir))
		} else {
			fmt.Fprintf(os.Stderr, "bench: logs are in %s/logs\n", dir)
		}
	}()
	// Beside the programs: what runs from a folder for temporary files is suspect.
	if b.drive, err = drive.Build(ctx, filepath.Join(bin, "drive")); err != nil {
		return err
	}
	fmt.Println(machine())
	var rows []figure.Row
	for _, p := range parts {
		if len(wanted) > 0 && !slices.Contains(wanted, p.name) {
			continue
		}
		began := time.Now()
		fmt.Fprintf(os.Stderr, "  … %s: %s\n", p.name, p.about)
		rows = append(rows, p.take(ctx, b)...)
		fmt.Fprintf(os.Stderr, "  ✓ %s, %s\n", p.name, time.Since(began).Round(time.Second))
		if ctx.Err() != nil { // what was measured before is shown all the same
			fmt.Println("interrupted: what is missing below was not measured, and the last rows may be of half a run")
			return errors.Join(context.Cause(ctx), figure.Report(os.Stdout, "out", "bench", rows))
		}
	}
	fmt.Println(machine())
	if quick {
		fmt.Println("quick: a tenth of the work was done; these figures are rough")
	}
	return figure.Report(os.Stdout, "out", "bench", rows)
}

func machine() string {
	var name unix.Utsname
	release := "unknown"
	if unix.Uname(&name) == nil {
		release = unix.ByteSliceToString(name.Release[:])
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		load = []byte("unknown")
	}
	return fmt.Sprintf("machine: Linux %s, %d CPUs, load now: %s", release, runtime.NumCPU(), strings.TrimSpace(string(load)))
}

// start runs three coordinators on loopback, once.
func (b *bench) start(ctx context.Context) (*lab.Cluster, error) {
	if b.cluster != nil {
		return b.cluster, nil
	}
	var nodes []lab.NodeSpec
	for i := range 3 {
		nodes = append(nodes, lab.NodeSpec{
			ID:     fmt.Sprintf("c%d", i+1),
			Listen: fmt.Sprintf("127.0.0.1:%d", *firstPort+i), Operator: fmt.Sprintf("127.0.0.1:%d", *firstPort+10+i),
		})
	}
	c, err := b.lab.StartCluster(ctx, nodes, func(string) {})
	if err == nil {
		b.cluster = c
	}
	return c, err
}
