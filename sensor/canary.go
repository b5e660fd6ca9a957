package sensor

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"
)

const (
	canaryEvery    = 15 * time.Second
	canaryPatience = time.Second
	// canaryMisses in a row end the sensor: systemd starts a new one, and the gap
	// is seen at the coordinator. One miss can be a machine under heavy load.
	canaryMisses = 3
)

// errBlind ends a sensor that no longer sees what certainly happens.
var errBlind = errors.New("the sensor is blind")

// canary proves the whole way from the kernel to the pipeline by a process that
// the sensor must see, and calls alive (which feeds systemd's watchdog) while it
// does. Each miss is counted as a loss.
func (s *Sensor) canary(ctx context.Context, alive func()) error {
	tick := time.NewTicker(canaryEvery)
	defer tick.Stop()
	misses := 0
	for {
		seen, err := s.chirp(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			// A host that cannot fork tells nothing about our sight.
			s.log.Warn("starting the canary process", "error", err)
			alive()
		case seen:
			misses = 0
			alive()
		default:
			misses++
			s.losses.add("kernel", "canary-unseen", 1)
			s.log.Error("a process that the sensor started was not seen by it", "misses", misses)
			if misses >= canaryMisses {
				return fmt.Errorf("%w: %d canary processes in a row were not seen", errBlind, misses)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// chirp starts one canary and waits for it to come out of the kernel.
func (s *Sensor) chirp(ctx context.Context) (seen bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, canaryPatience+5*time.Second)
	defer cancel()
	before := s.canaries.Load()
	if err := exec.CommandContext(ctx, "/proc/self/exe", "--version").Run(); err != nil {
		return false, err
	}
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	deadline := time.After(canaryPatience)
	for s.canaries.Load() == before {
		select {
		case <-poll.C:
		case <-deadline:
			return s.canaries.Load() != before, nil
		}
	}
	return true, nil
}

// tickle calls alive at the canary's pace.
func tickle(ctx context.Context, alive func()) error {
	tick := time.NewTicker(canaryEvery)
	defer tick.Stop()
	for {
		alive()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
