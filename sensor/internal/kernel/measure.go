package kernel

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// ExecCost is what the kernel ran of one sensor's programs, per exec of /bin/true.
type ExecCost struct {
	Exec     time.Duration // the exec program alone
	Whole    time.Duration // with the fork before it and the exit after it
	Measured uint64        // execs that the figure stands on
}

// MeasureExec starts /bin/true n times under a Source of its own, with a reader,
// and returns the kernel's own account of the programs' run time (bpf_stats,
// 5.8). Other execs on the machine meanwhile are part of the average.
func MeasureExec(ctx context.Context, n int) (cost ExecCost, err error) {
	s, err := Open(Config{})
	if err != nil {
		return cost, err
	}
	defer s.Close()
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return cost, fmt.Errorf("enabling program statistics: %w", err)
	}
	defer stats.Close()
	reading, stop := context.WithCancel(ctx)
	read := make(chan error, 1)
	go func() { read <- s.Run(reading, func(event.Event) {}) }()
	for range n {
		if err = exec.CommandContext(ctx, "/bin/true").Run(); err != nil {
			err = fmt.Errorf("running /bin/true: %w", err)
			break
		}
	}
	stop()
	if runErr := <-read; err == nil {
		err = runErr
	}
	if err != nil {
		return cost, err
	}
	for _, name := range processPrograms {
		stats, err := s.collection.Programs[name].Stats()
		if err != nil {
			return cost, fmt.Errorf("reading statistics of %s: %w", name, err)
		}
		if stats.RunCount == 0 {
			return cost, fmt.Errorf("reading statistics of %s: it did not run", name)
		}
		// The fork and exit programs also run for threads, at next to nothing: all
		// their time is put on the execs.
		if name == bpf.VedetteProgProcessExec {
			cost.Exec = stats.Runtime / time.Duration(stats.RunCount)
			cost.Measured = stats.RunCount
		}
		cost.Whole += stats.Runtime
	}
	cost.Whole /= time.Duration(cost.Measured)
	return cost, nil
}

// measure is the kernel's own account of what one program ran while f did.
func (s *Source) measure(program string, f func()) (time.Duration, error) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return 0, fmt.Errorf("enabling program statistics: %w", err)
	}
	defer stats.Close()
	before, err := s.collection.Programs[program].Stats()
	if err != nil {
		return 0, fmt.Errorf("reading statistics of %s: %w", program, err)
	}
	f()
	after, err := s.collection.Programs[program].Stats()
	if err != nil {
		return 0, fmt.Errorf("reading statistics of %s: %w", program, err)
	}
	return after.Runtime - before.Runtime, nil
}
