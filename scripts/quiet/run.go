package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

const sensorName = "quiet"

// mark is an argument of each work's shell, by which what comes of it is known. No rule knows it.
const mark = "vquiet-"

// player does the work in the sensor's cgroup.
type player struct {
	dir    string
	group  *os.File
	done   map[string]int
	failed map[string]error
	skips  []figure.Row
}

func run(ctx context.Context, cfg config) (err error) {
	dir, err := os.MkdirTemp("/var/lib", "vedette-quiet-")
	if err != nil {
		return fmt.Errorf("making the run's folder: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // some work is done by other accounts
		return fmt.Errorf("making the run's folder: %w", err)
	}
	l, err := lab.New(cfg.bin, dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		err = errors.Join(err, l.Close())
		if err == nil || errors.Is(err, figure.ErrMissed) {
			err = errors.Join(err, os.RemoveAll(dir))
		} else {
			fmt.Fprintf(os.Stderr, "quiet: logs are in %s/logs\n", dir)
		}
	}()
	p := &player{dir: dir, done: map[string]int{}, failed: map[string]error{}}
	path, err := p.cgroup(l)
	if err != nil {
		return err
	}
	c, err := l.StartCluster(ctx, []lab.NodeSpec{{ID: "c1", Listen: "127.0.0.1:17841", Operator: "127.0.0.1:17851"}}, func(string) {})
	if err != nil {
		return err
	}
	sensor, err := c.StartSensor(ctx, lab.SensorSpec{Name: sensorName, Scope: "cgroup:" + path, SummaryInterval: 5 * time.Second, Window: 10 * time.Second, KnownWindows: 3, LearnFor: cfg.teach})
	if err != nil {
		return err
	}
	err = lab.Until(ctx, 200*time.Millisecond, "the sensor to report", func(ctx context.Context) (bool, error) {
		hosts, err := c.Hosts(ctx)
		return hosts[sensorName].State == "online", err
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, sensor.Tail())
	}
	began := time.Now()
	mine := p.choose(cfg.only)
	ready := p.begin(ctx, mine)
	fmt.Fprintf(os.Stderr, "quiet: %d kinds of work for %s, of which %s teach\n", len(ready), cfg.total, cfg.teach)
	p.play(ctx, ready, began.Add(cfg.total), cfg.seed)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return p.report(ctx, c, cfg, began)
}

// cgroup makes the one that is the host, and has whoever is left in it ended at the end.
func (p *player) cgroup(l *lab.Lab) (path string, err error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("looking for cgroup v2: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		before, _, ok := strings.Cut(line, " - cgroup2 ")
		if !ok {
			continue
		}
		path = fmt.Sprintf("/vedette-quiet-%d", os.Getpid())
		dir := filepath.Join(strings.Fields(before)[4], path)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", fmt.Errorf("making a cgroup: %w", err)
		}
		if p.group, err = os.Open(dir); err != nil {
			return "", errors.Join(err, os.Remove(dir))
		}
		l.OnClose(func() error {
			// The kernel ends whoever is in it, whatever its number is by now.
			err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			return errors.Join(err, p.group.Close(), lab.Until(ctx, 50*time.Millisecond, "the cgroup to be empty", func(context.Context) (bool, error) {
				err := os.Remove(dir)
				return err == nil, err
			}))
		})
		return path, nil
	}
	return "", errors.New("no cgroup v2 hierarchy is mounted")
}

// choose leaves out what this machine lacks the programs for, and says so.
func (p *player) choose(only []string) (mine []work) {
	for _, w := range all {
		if len(only) > 0 && !slices.Contains(only, w.name) {
			continue
		}
		missing := ""
		for _, program := range w.needs {
			if _, err := exec.LookPath(program); err != nil {
				missing = program
			}
		}
		if missing != "" {
			p.skips = append(p.skips, figure.Skipped("work "+w.name, "rounds", "the program "+missing))
			continue
		}
		mine = append(mine, w)
	}
	return mine
}

func (p *player) begin(ctx context.Context, mine []work) (ready []work) {
	for _, w := range mine {
		err := os.MkdirAll(p.folder(w), 0o755)
		if err == nil && w.as != "" {
			var uid, gid int
			if uid, gid, err = account(w.as); err == nil {
				err = os.Chown(p.folder(w), uid, gid)
			}
		}
		if err == nil && w.begin != "" {
			err = p.shell(ctx, w, w.begin)
		}
		if err != nil {
			p.failed[w.name] = fmt.Errorf("preparing: %w", err)
			continue
		}
		ready = append(ready, w)
	}
	return ready
}

func (p *player) play(ctx context.Context, ready []work, until time.Time, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // to be repeated
	for time.Now().Before(until) && ctx.Err() == nil && len(ready) > 0 {
		for _, i := range random.Perm(len(ready)) {
			if ctx.Err() != nil || time.Now().After(until) {
				return
			}
			w := ready[i]
			if err := p.shell(ctx, w, w.round); err != nil {
				p.failed[w.name] = err
				continue
			}
			p.done[w.name]++
		}
	}
}

func (p *player) folder(w work) string { return filepath.Join(p.dir, "work", w.name) }

// shell has a part done in the cgroup; its output goes to a file, as a daemon that it leaves
// behind would hold a pipe open.
func (p *player) shell(ctx context.Context, w work, script string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	log, err := os.OpenFile(filepath.Join(p.dir, "logs", "work-"+w.name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, spawnRole, w.as, "/bin/bash", "-c", script, mark+w.name)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.folder(w), log, log
	cmd.Env = append(os.Environ(), "Q="+p.folder(w), "P="+strconv.Itoa(w.port))
	cmd.ExtraFiles = []*os.File{p.group}
	if err := cmd.Run(); err != nil {
		tail, _ := os.ReadFile(log.Name()) // for the words; its absence is no further fault
		tail = tail[max(0, len(tail)-300):]
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(tail)))
	}
	return nil
}

const spawnRole = "spawn"

// spawn starts a program in the cgroup, as an account when one is named, and waits for it. It
// stands outside, and each begins a storyline of its own, as sessions and services do on a host.
func spawn(args []string) int {
	const group = 3 // ExtraFiles begin there
	syscall.CloseOnExec(group)
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: group, Pdeathsig: syscall.SIGKILL}
	if args[0] != "" {
		uid, gid, err := account(args[0])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)} //nolint:gosec // of the system's own list
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func account(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("the account of this work: %w", err)
	}
	uid, errUID := strconv.Atoi(u.Uid)
	gid, errGID := strconv.Atoi(u.Gid)
	return uid, gid, errors.Join(errUID, errGID)
}
