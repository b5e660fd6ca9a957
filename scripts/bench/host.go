package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/drive"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
	"github.com/vedette-edr/vedette/scripts/internal/wire"
)

// host is a network namespace and the sensor that sees it and nothing else, so that
// what the rest of the machine does is no part of a figure.
type host struct {
	*lab.Process
	b    *bench
	c    *lab.Cluster
	ns   *lab.Namespace
	spec lab.SensorSpec
}

// host starts one. What spec leaves out is short, so that things become known in seconds.
func (b *bench) host(ctx context.Context, name string, spec lab.SensorSpec) (*host, error) {
	c, err := b.start(ctx)
	if err != nil {
		return nil, err
	}
	ns, err := b.lab.Namespace(fmt.Sprintf("vdt-%s-%d", name, os.Getpid()))
	if err != nil {
		return nil, err
	}
	spec.Name, spec.Scope = name, "netns:"+ns.Path()
	if spec.SummaryInterval == 0 {
		spec.SummaryInterval = 2 * time.Second
	}
	if spec.Window == 0 {
		spec.Window = time.Second
	}
	if spec.TellKnownEvery == 0 {
		spec.TellKnownEvery = tellKnown
	}
	if spec.KnownWindows == 0 {
		spec.KnownWindows = 3
	}
	spec.LearnFor = 24 * time.Hour
	h := &host{b: b, c: c, ns: ns, spec: spec}
	return h, h.start(ctx)
}

// start starts the sensor, perhaps again, and waits until its programs are attached.
func (h *host) start(ctx context.Context) (err error) {
	before, err := h.b.hosts(ctx)
	if err != nil {
		return err
	}
	if h.Process, err = h.c.StartSensor(ctx, h.spec); err != nil {
		return err
	}
	online, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("not within 30 s"))
	defer cancel()
	return lab.Until(online, 100*time.Millisecond, "the sensor of "+h.spec.Name+" to report", func(ctx context.Context) (bool, error) {
		select {
		case <-h.Exited():
			return false, errors.New("it ended: " + h.Tail())
		default:
		}
		hosts, err := h.b.hosts(ctx)
		now := hosts[h.spec.Name]
		return now.State == "online" && now.LastSeen != before[h.spec.Name].LastSeen, err
	})
}

func (b *bench) hosts(ctx context.Context) (map[string]lab.Host, error) { return b.cluster.Hosts(ctx) }

// tap counts what the sensor sends to the coordinators.
func (h *host) tap() (*wire.Tap, error) {
	first := uint16(*firstPort)
	return wire.Open(h.PID(), first, first+1, first+2)
}

// do runs the driver in the namespace.
func (h *host) do(ctx context.Context, cmd *exec.Cmd) (drive.Done, error) {
	out, err := h.b.lab.Run(h.ns, cmd)
	if err != nil {
		return drive.Done{}, err
	}
	return drive.Parse(out)
}

// settled is the host after two more summaries: all that happened before is in it.
func (h *host) settled(ctx context.Context) (lab.HostDetail, error) {
	if err := pause(ctx, 2*h.spec.SummaryInterval+time.Second); err != nil {
		return lab.HostDetail{}, err
	}
	return h.c.Host(ctx, h.spec.Name)
}

// mostRounds of doing a thing until it is known: three windows and twice more should do.
const mostRounds = 8

// errNotKept is returned by learn when much of what was done still leaves the kernel.
var errNotKept = errors.New("it is not known")

// learn does a thing until nearly all of it stays in the kernel.
func (h *host) learn(ctx context.Context, do func() error) error {
	var share float64
	before, err := h.settled(ctx)
	if err != nil {
		return err
	}
	for range mostRounds {
		if err := do(); err != nil {
			return err
		}
		after, err := h.settled(ctx)
		if err != nil {
			return err
		}
		if share = keptShare(before.Host, after.Host); share > 0.95 {
			return nil
		}
		before = after
	}
	return fmt.Errorf("the kernel keeps back %.1f %% of it only, after it was done %d times: %w", 100*share, mostRounds, errNotKept)
}

// keptShare of what was made between two looks stayed in the kernel.
func keptShare(before, after lab.Host) float64 {
	if after.Total <= before.Total {
		return 0
	}
	return float64(after.Suppressed-before.Suppressed) / float64(after.Total-before.Total)
}

// opened is a file on a watched path that may be opened for writing, and removed again.
func (b *bench) opened() (string, error) {
	dir := fmt.Sprintf("/var/www/vedette-bench-%d", os.Getpid())
	made := missingParents(dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making a watched folder: %w", err)
	}
	b.lab.OnClose(func() error {
		err := os.RemoveAll(dir)
		for _, parent := range made {
			err = errors.Join(err, os.Remove(parent))
		}
		return err
	})
	path := dir + "/page.html"
	return path, os.WriteFile(path, nil, 0o600)
}
