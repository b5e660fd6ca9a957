package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

func run(ctx context.Context, bin, state string) (err error) {
	state, err = filepath.Abs(state)
	if err != nil {
		return err
	}
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	unlock, err := lock(state)
	if err != nil {
		return err
	}
	defer unlock()
	started := time.Now()
	report := func(text string) { fmt.Printf("[%5.1f s] %s\n", time.Since(started).Seconds(), text) }

	l, err := lab.New(bin, state)
	if err != nil {
		return err
	}
	defer func() {
		fmt.Println("stopping the sensor and the coordinator nodes …")
		err = errors.Join(err, l.Close())
		fmt.Printf("stopped; nothing is attached or filtered any more. State is kept in %s (make up resumes it, make clean removes it)\n", state)
	}()
	var nodes []lab.NodeSpec
	for i := range 3 {
		nodes = append(nodes, lab.NodeSpec{
			ID:     fmt.Sprintf("c%d", i+1),
			Listen: fmt.Sprintf("127.0.0.1:%d", 17741+i), Operator: fmt.Sprintf("127.0.0.1:%d", 17751+i),
		})
	}
	report("starting three coordinator nodes on loopback")
	cluster, err := l.StartCluster(ctx, nodes, report)
	if err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("reading the host's name: %w", err)
	}
	report("starting the sensor on this host: eBPF programs are attached now")
	sensor, err := cluster.StartSensor(ctx, lab.SensorSpec{
		Name: name, Scope: "host", SummaryInterval: 5 * time.Second,
		Window: 10 * time.Minute, KnownWindows: 3, LearnFor: 24 * time.Hour,
	})
	if err != nil {
		return err
	}
	if err := online(ctx, cluster, sensor, name); err != nil {
		return err
	}
	report("live: " + name + " is enrolled, seen and learnt")
	return watch(ctx, cluster, sensor, hints(bin, cluster))
}

func online(ctx context.Context, c *lab.Cluster, sensor *lab.Process, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("not within 30 s"))
	defer cancel()
	ctx, died := context.WithCancelCause(ctx)
	defer died(nil)
	go func() {
		select {
		case <-sensor.Exited():
			died(fmt.Errorf("the sensor ended:\n%s", sensor.Tail()))
		case <-ctx.Done():
		}
	}()
	return lab.Until(ctx, 200*time.Millisecond, "the sensor to report", func(ctx context.Context) (bool, error) {
		hosts, err := c.Hosts(ctx)
		return hosts[name].State == "online", err
	})
}

// lock lets one run at a time have the state.
func lock(state string) (unlock func(), err error) {
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, fmt.Errorf("making the state's folder: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(state, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another make up has %s: end it first (Ctrl-C in its terminal)", state), file.Close())
	}
	return func() { _ = io.Closer(file).Close() }, nil
}
