package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// storming makes this program the one that makes the events: in a network
// namespace of its own, which a sensor of its own watches.
var storming = flag.String("storm", "", "make events instead: execs, or all (connections too) for 10 s; internal")

const (
	lostInStorm = "events lost in a storm and not counted"

	stormFor  = 10 * time.Second
	stormRate = 90000 // events/s
	// stormExecs is how many execs a cost is the average of.
	stormExecs = 6000
	// An exec is told with its fork and exit; a connection on loopback four times:
	// opened and closed, at either end.
	eventsPerExec       = 3
	eventsPerConnection = 4
	// execsPerSecond in a storm: with its fork and exit an exec costs the machine
	// a millisecond, so that the bulk of a storm are connections.
	execsPerSecond = 200
)

// made is what the storm says of itself.
type made struct {
	Execs       uint64
	Connections uint64
	Seconds     float64
}

func (m made) events() uint64 {
	return eventsPerExec*m.Execs + eventsPerConnection*m.Connections
}

// makeStorm is the child's part.
func makeStorm(kind string) error {
	var m made
	began := time.Now()
	switch kind {
	case "execs":
		for range stormExecs {
			if err := execTrue(); err != nil {
				return err
			}
			m.Execs++
		}
	case "all":
		failed := make(chan error, 1)
		stop := time.After(stormFor)
		go func() { failed <- connect(&m.Connections, began) }()
		tick := time.NewTicker(time.Second / execsPerSecond)
		defer tick.Stop()
		for done := false; !done; {
			select {
			case <-stop:
				done = true
			case <-tick.C:
				if err := execTrue(); err != nil {
					return err
				}
				m.Execs++
			}
		}
		if err := <-failed; err != nil {
			return err
		}
	default:
		return fmt.Errorf("storm of %q: want execs or all", kind)
	}
	m.Seconds = time.Since(began).Seconds()
	return json.NewEncoder(os.Stdout).Encode(m)
}

func execTrue() error {
	pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
	if err != nil {
		return fmt.Errorf("starting /bin/true: %w", err)
	}
	for {
		if _, err = syscall.Wait4(pid, nil, 0, nil); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// connect makes connections to itself, as many as make the rate, until the storm's end.
func connect(n *uint64, began time.Time) error {
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("making a listener: %w", err)
	}
	defer unix.Close(listener)
	address := unix.SockaddrInet4{Port: 7777, Addr: [4]byte{127, 0, 0, 1}}
	if err := errors.Join(unix.Bind(listener, &address), unix.Listen(listener, 16)); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	// What execs do not make of the rate.
	const perSecond = (stormRate*11/10 - execsPerSecond*eventsPerExec) / eventsPerConnection
	for {
		passed := time.Since(began)
		if passed >= stormFor {
			return nil
		}
		if due := uint64(passed.Seconds() * perSecond); *n >= due {
			<-time.After(time.Millisecond)
			continue
		}
		if err := connectOnce(listener, &address); err != nil {
			return fmt.Errorf("connecting: %w", err)
		}
		*n++
	}
}

func connectOnce(listener int, address unix.Sockaddr) error {
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(client, address); err != nil {
		return errors.Join(err, unix.Close(client))
	}
	server, _, err := unix.Accept(listener)
	if err != nil {
		return errors.Join(err, unix.Close(client))
	}
	// Reset, so that no port waits and none runs out.
	err = unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	return errors.Join(err, unix.Close(client), unix.Close(server))
}

// storm runs both kinds under a sensor that sees nothing else, and prints what the
// sensor spent and lost.
func storm(ctx context.Context, l *lab.Lab, c *lab.Cluster) []figure.Row {
	rows, err := tryStorm(ctx, l, c)
	if err != nil {
		rows = append(rows, figure.Missing(lostInStorm, "events", "= 0", err))
	}
	return rows
}

func tryStorm(ctx context.Context, l *lab.Lab, c *lab.Cluster) (rows []figure.Row, err error) {
	ns, err := l.Namespace(fmt.Sprintf("vdt-storm-%d", os.Getpid()))
	if err != nil {
		return nil, err
	}
	sensor, err := c.StartSensor(ctx, lab.SensorSpec{
		Name: "storm", Scope: "netns:" + ns.Path(), SummaryInterval: 5 * time.Second,
		Window: time.Minute, KnownWindows: 3, LearnFor: time.Hour,
	})
	if err != nil {
		return nil, err
	}
	online, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("not within 30 s"))
	defer cancel()
	if err := lab.Until(online, 200*time.Millisecond, "the storm's sensor to report", func(ctx context.Context) (bool, error) {
		hosts, err := c.Hosts(ctx)
		return hosts["storm"].State == "online", err
	}); err != nil {
		return nil, err
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return nil, err
	}
	for _, kind := range []string{"execs", "all"} {
		more, err := stormOf(ctx, l, c, ns, sensor, kind)
		rows = append(rows, more...)
		if err != nil {
			return rows, err
		}
	}
	return rows, nil
}

func stormOf(ctx context.Context, l *lab.Lab, c *lab.Cluster, ns *lab.Namespace, sensor *lab.Process, kind string) ([]figure.Row, error) {
	before, err := c.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	spent, err := processCPU(sensor.PID())
	if err != nil {
		return nil, err
	}
	out, err := l.Run(ns, exec.CommandContext(ctx, self, "-storm", kind))
	if err != nil {
		return nil, err
	}
	var m made
	if err := json.Unmarshal(out, &m); err != nil {
		return nil, fmt.Errorf("reading what the storm says: %w", err)
	}
	if err := pause(ctx, 500*time.Millisecond); err != nil {
		return nil, err
	}
	after, err := processCPU(sensor.PID())
	if err != nil {
		return nil, err
	}
	spent = after - spent
	var host lab.Host
	told, cancel := context.WithTimeoutCause(ctx, 15*time.Second, errors.New("not within 15 s"))
	defer cancel()
	err = lab.Until(told, 200*time.Millisecond, "the sensor to tell of the storm", func(ctx context.Context) (bool, error) {
		hosts, err := c.Hosts(ctx)
		host = hosts["storm"]
		return host.Total+host.Lost >= before["storm"].Total+before["storm"].Lost+m.events(), err
	})
	if err != nil {
		return nil, err
	}
	if kind == "execs" {
		each := float64(spent.Nanoseconds()) / float64(m.Execs) / 1000
		return []figure.Row{figure.AtMost("agent CPU per exec, sensor of one namespace", each, 10, "µs",
			fmt.Sprintf("the process's own clock over %d execs at %.0f/s, all it did meanwhile included", m.Execs, float64(m.Execs)/m.Seconds))}, nil
	}
	kib, err := statusKiB(sensor.PID(), "VmRSS:")
	if err != nil {
		return nil, err
	}
	lost, seen := host.Lost-before["storm"].Lost, host.Total-before["storm"].Total
	// What a full ring lost is in both counts, what the kernel skipped in one.
	silent := max(0, float64(m.events())-float64(seen)-float64(lost))
	return []figure.Row{
		figure.Info("events/s made in a storm", float64(m.events())/m.Seconds, "events/s",
			fmt.Sprintf("%d execs and %d connections in %.1f s, on the sensor's own cores", m.Execs, m.Connections, m.Seconds)),
		figure.Exactly(lostInStorm, silent, 0, "events", fmt.Sprintf("of %d made; %d told, %d lost and counted by cause", m.events(), seen, lost)),
		figure.Info("agent CPU per event in a storm", float64(spent.Nanoseconds())/float64(m.events())/1000, "µs", ""),
		figure.AtMost("sensor RSS after a storm", float64(kib)/1024, 60, "MiB", ""),
	}, nil
}

// processCPU is what all threads of a process have run, ended ones included: its
// CPU-time clock (clock_getcpuclockid(3)).
func processCPU(pid int) (time.Duration, error) {
	const schedClock = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|schedClock, &ts); err != nil {
		return 0, fmt.Errorf("reading the CPU clock of process %d (%s): %w", pid, filepath.Base(os.Args[0]), err)
	}
	return time.Duration(ts.Nano()), nil
}
