// Package drill does on this host what proto/drill describes: each drill in processes of
// its own, in a scratch folder and, where files or a network are touched, in namespaces of
// its own, bounded in time and cleaned up.
//
// Its one idea: nothing of the host is changed that is not made by the drill itself.
// Files that a technique is about are overlays in memory in a private mount namespace, so that the
// sensor sees them change and the host does not. The few things that must be made on the host
// are in a journal on disk before they are made, so that Clean undoes them after any crash.
//
// The sensor knows nothing of it. A mark in the first process's arguments lets a report join
// what was found afterwards.
package drill

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/proto/drill"
)

const (
	// DefaultBase is where drills have their scratch folders: no place for temporary
	// files, where a program is odd by itself.
	DefaultBase = "/var/lib/vedette-drill"
	// limit is what one drill may take.
	limit = 45 * time.Second
	// lookUp is some times what a sensor takes that is not starved.
	lookUp = 2 * time.Second
	// programName is what this program is called as a drill. Rules leave the sensor's own name out.
	programName = "drill-work"

	envMark = "VEDETTE_DRILL"
	envDir  = "VEDETTE_DRILL_DIR"
	envLook = "VEDETTE_DRILL_LOOK_UP"
	toolsIn = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// exitSkip is how a drill's process says that the host lacks what it needs.
const exitSkip = 75

// ErrBusy: another run is going on.
var ErrBusy = errors.New("another run of drills is going on")

// Config of a run.
type Config struct {
	// Base holds the runs' folders, DefaultBase when empty. It must not be where everybody may write.
	Base string
	// ScopeKind and ScopePath are the sensor's scope: drills run within it.
	ScopeKind, ScopePath string
	// Drills are what is done, in this order.
	Drills []drill.Drill
	// LookUp is what the sensor may take to look up watched paths in a mount namespace that
	// something was executed in, 2 s when 0.
	LookUp time.Duration
	// Told is called after each drill; nil: nobody.
	Told func(drill.Done)
}

// Run does the drills, one after the other.
func Run(ctx context.Context, cfg Config) (*drill.Run, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("drills need root: for namespaces, and because most techniques are about root's files")
	}
	if cfg.Base == "" {
		cfg.Base = DefaultBase
	}
	if cfg.LookUp <= 0 {
		cfg.LookUp = lookUp
	}
	unlock, err := lock(cfg.Base)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := cleanAll(cfg.Base); err != nil {
		return nil, fmt.Errorf("cleaning up after an earlier run: %w", err)
	}
	r := &runner{cfg: cfg}
	if err := r.begin(); err != nil {
		return nil, errors.Join(err, cleanRun(r.dir))
	}
	run := &drill.Run{Nonce: r.nonce, Program: filepath.Join(r.dir, programName), Began: time.Now(), Shared: cfg.ScopeKind != "cgroup" && !r.units, Drills: []drill.Done{}}
	for _, d := range cfg.Drills {
		if ctx.Err() != nil {
			break
		}
		done := r.do(ctx, d)
		run.Drills = append(run.Drills, done)
		if cfg.Told != nil {
			cfg.Told(done)
		}
	}
	run.Ended = time.Now()
	return run, errors.Join(cleanRun(r.dir), context.Cause(ctx))
}

type runner struct {
	cfg    Config
	nonce  string
	dir    string
	cgroup *os.File // of the scope
	units  bool     // systemd starts each drill, as a service of its own
}

func (r *runner) begin() error {
	var raw [4]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return fmt.Errorf("drawing a nonce: %w", err)
	}
	r.nonce = hex.EncodeToString(raw[:])
	base, err := filepath.Abs(r.cfg.Base)
	if err == nil {
		base, err = filepath.EvalSymlinks(base) // as the sensor sees it
	}
	if err != nil {
		return fmt.Errorf("making the run's folder: %w", err)
	}
	dir := filepath.Join(base, r.nonce)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return fmt.Errorf("making the run's folder: %w", err)
	}
	r.dir = dir
	// Others may pass through but not look: some drills run as a service's account.
	if err := errors.Join(os.WriteFile(filepath.Join(dir, runMark), nil, 0o600), os.Chmod(dir, 0o711)); err != nil {
		return fmt.Errorf("making the run's folder: %w", err)
	}
	if err := copyProgram(filepath.Join(r.dir, programName)); err != nil {
		return err
	}
	switch r.cfg.ScopeKind {
	case "cgroup":
		mount, err := cgroupMount()
		if err != nil {
			return err
		}
		if r.cgroup, err = os.Open(filepath.Join(mount, r.cfg.ScopePath)); err != nil {
			return fmt.Errorf("opening the sensor's cgroup: %w", err)
		}
	case "", "host":
		_, err := os.Stat("/run/systemd/system") // sd_booted(3)
		_, missing := exec.LookPath("systemd-run")
		r.units = err == nil && missing == nil
	}
	return nil
}

// do is one drill from its first process to the proof that nothing is left.
func (r *runner) do(ctx context.Context, d drill.Drill) (done drill.Done) {
	done = drill.Done{ID: d.ID, Mark: drill.Mark(r.nonce, d.ID), Began: time.Now(), Left: []string{}}
	before := look(d)
	done.State, done.Why = r.perform(ctx, d, done.Mark)
	done.Ended = time.Now()
	if err := undo(r.dir, done.Mark); err != nil {
		done.Left = append(done.Left, err.Error())
	}
	done.Left = append(done.Left, before.differs(look(d))...)
	done.Clean = len(done.Left) == 0
	return done
}

func (r *runner) perform(ctx context.Context, d drill.Drill, mark string) (state, why string) {
	for _, tool := range strings.Fields(d.Needs) {
		if findTool(tool) == "" {
			return drill.StateSkipped, "needs " + tool
		}
	}
	if d.Network && r.cfg.ScopeKind == "netns" {
		return drill.StateSkipped, "needs a sensor that sees more than one network namespace"
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := r.command(ctx, d, mark)
	var said tail
	cmd.Stdout, cmd.Stderr = &said, &said
	// Whoever of it lives longer holds the pipe: not waited for.
	cmd.WaitDelay = time.Second
	err := r.inScope(cmd.Run)
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return drill.StateDone, ""
	case ctx.Err() != nil:
		return drill.StateFailed, fmt.Sprintf("it was stopped after %s", limit)
	case errors.As(err, &exit) && exit.ExitCode() == exitSkip:
		return drill.StateSkipped, said.last()
	default:
		return drill.StateFailed, strings.TrimSpace(fmt.Sprintf("%v: %s", err, said.last()))
	}
}

// command is a drill's first process. Each has a storyline of its own where that can be:
// what one did must not make the next one suspect.
func (r *runner) command(ctx context.Context, d drill.Drill, mark string) *exec.Cmd {
	program := filepath.Join(r.dir, programName)
	args := actArgs(mark, d.ID, "")
	env := []string{envMark + "=" + mark, envDir + "=" + r.dir, envLook + "=" + r.cfg.LookUp.String(), "PATH=" + toolsIn, "HOME=/root", "LANG=C.UTF-8"}
	if r.units {
		full := []string{"--quiet", "--collect", "--wait", "--pipe", "--unit=" + strings.ReplaceAll(mark, ".", "-"), "--property=RuntimeMaxSec=" + fmt.Sprint(int(limit.Seconds()))}
		for _, e := range env {
			full = append(full, "--setenv="+e)
		}
		return exec.CommandContext(ctx, "systemd-run", append(append(full, program), args...)...)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = env
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if r.cgroup != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(r.cgroup.Fd())
	}
	return cmd
}

// inScope runs start in the sensor's network namespace.
func (r *runner) inScope(start func() error) error {
	if r.cfg.ScopeKind != "netns" {
		return start()
	}
	result := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with its namespace.
		runtime.LockOSThread()
		ns, err := os.Open(r.cfg.ScopePath)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err != nil {
			result <- fmt.Errorf("entering the sensor's network namespace: %w", err)
			return
		}
		result <- start()
	}()
	return <-result
}

func actArgs(mark, id, part string, more ...string) []string {
	return append([]string{"drill", "act", mark, id, part}, more...)
}

// copyProgram puts this program somewhere else.
func copyProgram(to string) error {
	if err := copyFile("/proc/self/exe", to, 0o755); err != nil {
		return fmt.Errorf("copying this program: %w", err)
	}
	return nil
}

func copyFile(from, to string, mode os.FileMode) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close(), os.Chmod(to, mode)) }()
	_, err = io.Copy(out, in)
	return err
}

// findTool is a program's path in the system's folders, whatever PATH the caller has.
func findTool(name string) string {
	for _, dir := range strings.Split(toolsIn, ":") {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// cgroupMount is where cgroup v2 is mounted whole.
func cgroupMount() (string, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("looking for cgroup v2: %w", err)
	}
	for _, line := range strings.Split(string(raw), "\n") {
		before, after, ok := strings.Cut(line, " - ")
		if fields := strings.Fields(before); ok && strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 && fields[3] == "/" {
			return fields[4], nil
		}
	}
	return "", errors.New("the sensor's scope is a cgroup, and no cgroup v2 hierarchy is mounted")
}

// tail keeps the end of what a drill's processes say.
type tail struct{ text []byte }

const maxTail = 2048

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	if len(t.text) > maxTail {
		t.text = t.text[len(t.text)-maxTail:]
	}
	return len(p), nil
}

func (t *tail) last() string {
	lines := strings.Split(strings.TrimSpace(string(t.text)), "\n")
	return lines[len(lines)-1]
}
