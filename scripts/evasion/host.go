package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

const (
	// telling is the sensor that the techniques are tried on: the kernel keeps
	// nothing back from it, so that every single event can be asked for.
	telling = "telling"
	// usual is a sensor as it is installed, at a host that it has learnt.
	usual = "usual"

	recorderBytes = 4 << 30 // holds what a million forks make
	lineMax       = 1 << 20 // bytes of one record as printed
)

// host is a cluster of one coordinator and the network namespaces, each with a
// sensor of its own, that programs run in.
type host struct {
	*workshop
	lab     *lab.Lab
	cluster *lab.Cluster
	watched string // a folder whose files the telling sensor watches
	settle  time.Duration
	spaces  map[string]*lab.Namespace // of the sensors that run
	runs    int
}

func newHost(ctx context.Context, l *lab.Lab, dir string, settle time.Duration) (*host, error) {
	w, err := newWorkshop(dir)
	if err != nil {
		return nil, err
	}
	h := &host{workshop: w, lab: l, watched: filepath.Join(dir, "watched"), settle: settle, spaces: map[string]*lab.Namespace{}}
	for _, path := range []string{h.file("a"), h.file("b")} {
		if err := errors.Join(os.MkdirAll(h.watched, 0o700), os.WriteFile(path, []byte(path), 0o600)); err != nil {
			return nil, fmt.Errorf("making a watched file: %w", err)
		}
	}
	if h.cluster, err = l.StartCluster(ctx, []lab.NodeSpec{{ID: "c1", Listen: "127.0.0.1:17641", Operator: "127.0.0.1:17651"}}, func(string) {}); err != nil {
		return nil, err
	}
	return h, h.start(ctx, telling, 24*time.Hour, fmt.Sprintf("kernel_baseline: false\nbudget:\n  cpu_percent: 100\nrecorder:\n  max_bytes: %d\nwatch:\n  paths:\n    - %q\n", recorderBytes, h.watched+"/"))
}

// file is one of the two watched files.
func (h *host) file(which string) string { return filepath.Join(h.watched, "file-"+which) }

// start starts a sensor over a network namespace of its own.
func (h *host) start(ctx context.Context, name string, learnFor time.Duration, more string) error {
	ns, err := h.lab.Namespace(fmt.Sprintf("vdt-evasion-%s-%d", name, os.Getpid()))
	if err != nil {
		return err
	}
	sensor, err := h.cluster.StartSensor(ctx, lab.SensorSpec{
		Name: name, Scope: "netns:" + ns.Path(), SummaryInterval: 5 * time.Second,
		Window: 10 * time.Minute, KnownWindows: 3, LearnFor: learnFor, More: more,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("not within 30 s"))
	defer cancel()
	err = lab.Until(ctx, 200*time.Millisecond, "the sensor to report", func(ctx context.Context) (bool, error) {
		select {
		case <-sensor.Exited():
			cancel()
		default:
		}
		hosts, err := h.cluster.Hosts(ctx)
		return hosts[name].State == "online", err
	})
	if err != nil {
		return fmt.Errorf("starting the %s sensor: %w\n%s", name, err, sensor.Tail())
	}
	h.spaces[name] = ns
	return nil
}

// losses is what the telling sensor itself says it lost, and why.
func (h *host) losses(ctx context.Context) figure.Row {
	const name = "losses that the sensor states"
	var detail struct {
		Lost   uint64 `json:"events_lost"`
		Total  uint64 `json:"events_total"`
		Losses []struct {
			Where string `json:"where"`
			Cause string `json:"cause"`
			Count uint64 `json:"count"`
		} `json:"losses"`
	}
	if err := h.cluster.JSON(ctx, &detail, "host", "show", telling); err != nil {
		return figure.Missing(name, "events", "", err)
	}
	note := fmt.Sprintf("of %d", detail.Total)
	for _, l := range detail.Losses {
		note += fmt.Sprintf("; %d %s %s", l.Count, l.Where, l.Cause)
	}
	return figure.Info(name, float64(detail.Lost), "events", note)
}

// performance is a program's run under a sensor that has recorded all of it.
type performance struct {
	host   *host
	sensor string
	began  uint64 // CLOCK_BOOTTIME, ns
	wall   time.Time
	said   string // file with what it printed: the truth
	remark string // what it complained of without failing
}

// perform runs a program to its end, and then waits until the sensor has recorded
// what it did.
func (h *host) perform(ctx context.Context, sensor, program string, args ...string) (*performance, error) {
	path, err := h.program(ctx, program)
	if err != nil {
		return nil, err
	}
	if _, err := h.ran(ctx); err != nil {
		return nil, err
	}
	h.runs++
	p := &performance{host: h, sensor: sensor, wall: time.Now(), said: filepath.Join(h.lab.Dir, fmt.Sprintf("said-%d", h.runs))}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return nil, fmt.Errorf("reading the clock: %w", err)
	}
	p.began = uint64(now.Nano())
	if p.remark, err = h.runInto(ctx, sensor, p.said, path, args...); err != nil {
		return nil, err
	}
	return p, h.untilRecorded(ctx, sensor)
}

// runInto runs a program in a sensor's namespace, its output in a file. Lines of
// many processes stay whole there, and nobody waits for a reader.
func (h *host) runInto(ctx context.Context, sensor, into, path string, args ...string) (complaint string, err error) {
	out, err := os.OpenFile(into, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return "", fmt.Errorf("opening a program's output: %w", err)
	}
	defer out.Close()
	var complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = out, &complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := h.spaces[sensor].Do(cmd.Run); err != nil {
		return "", fmt.Errorf("running %s %s: %w: %s", filepath.Base(path), strings.Join(args, " "), err, bytes.TrimSpace(complaints.Bytes()))
	}
	return strings.TrimSpace(complaints.String()), nil
}

// untilRecorded starts one more program and waits for its record: the recorder
// keeps events in their order, so that all before it are there then.
func (h *host) untilRecorded(ctx context.Context, sensor string) error {
	path, err := h.ran(ctx)
	if err != nil {
		return err
	}
	marker, since := fmt.Sprintf("recorded-by-now-%d", h.runs), time.Now()
	if _, err := h.runInto(ctx, sensor, os.DevNull, path, marker); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.settle, fmt.Errorf("not within %s", h.settle))
	defer cancel()
	return lab.Until(ctx, 250*time.Millisecond, "the sensor to record all of it", func(ctx context.Context) (bool, error) {
		found := false
		err := h.query(ctx, sensor, since, func(r *record) {
			argv := r.Process.Argv
			found = found || len(argv) > 1 && string(argv[1]) == marker
		}, typeExec)
		return found, err
	})
}

// query calls each with the sensor's records since a time; a record is each's only
// while it runs.
func (h *host) query(ctx context.Context, sensor string, since time.Time, each func(*record), types ...string) error {
	// The sensor's time of day is read from another clock than ours.
	const slack = time.Second
	cmd := exec.CommandContext(ctx, filepath.Join(h.lab.Bin, "vedette-sensor"), "recorder", "query",
		"--state-dir", h.lab.StateDir(sensor), "-o", "jsonl",
		"--since", since.Add(-slack).UTC().Format(time.RFC3339Nano), "--type", strings.Join(types, ","))
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("opening the recorder's answer: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("asking the recorder: %w", err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(make([]byte, 64<<10), lineMax)
	for lines.Scan() && err == nil {
		var r record
		if err = json.Unmarshal(lines.Bytes(), &r); err == nil {
			each(&r)
		}
	}
	err = errors.Join(err, lines.Err())
	if err != nil {
		_ = cmd.Process.Kill()
	}
	if err = errors.Join(err, cmd.Wait()); err != nil {
		return fmt.Errorf("asking the recorder: %w: %s", err, bytes.TrimSpace(complaints.Bytes()))
	}
	return nil
}

// records calls each with what was recorded since the program began.
func (p *performance) records(ctx context.Context, each func(*record), types ...string) error {
	return p.host.query(ctx, p.sensor, p.wall, func(r *record) {
		if r.BootNS >= p.began {
			each(r)
		}
	}, types...)
}

// truths are the program's lines, of which there must be want.
func (p *performance) truths(want int) ([]truth, error) {
	var all []truth
	err := p.lines(func(line []byte) error {
		var t truth
		if err := json.Unmarshal(line, &t); err != nil {
			return fmt.Errorf("reading what a program said: %w: %q", err, line)
		}
		all = append(all, t)
		return nil
	})
	if err == nil && len(all) < want {
		err = fmt.Errorf("the program did it %d times, not %d", len(all), want)
	}
	return all, err
}

func (p *performance) lines(each func([]byte) error) error {
	file, err := os.Open(p.said)
	if err != nil {
		return fmt.Errorf("opening what a program said: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if err := each(lines.Bytes()); err != nil {
			return err
		}
	}
	return lines.Err()
}
