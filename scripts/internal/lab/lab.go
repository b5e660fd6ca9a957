// Package lab runs the real programs, as an operator would: coordinator nodes,
// sensors and the CLI as child processes, on loopback or in network namespaces
// that it makes. What it starts it ends: a lab's Close leaves no process, no
// namespace and no link behind, also after a failure half-way.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Lab is the folder of the programs, the folder of what they write, and all that was started.
type Lab struct {
	Bin string // folder with vedette, vedette-sensor, vedette-coordinator
	Dir string // state and logs

	mu       sync.Mutex
	children []*Process
	cleanups []func() error
	starts   chan func()
	done     chan struct{}
}

// New makes a lab. Its children die with this process, however it ends.
func New(bin, dir string) (*Lab, error) {
	for _, name := range []string{"vedette", "vedette-sensor", "vedette-coordinator"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return nil, fmt.Errorf("looking for the built programs (run make build): %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o700); err != nil {
		return nil, fmt.Errorf("making the lab's folder: %w", err)
	}
	l := &Lab{Bin: bin, Dir: dir, starts: make(chan func()), done: make(chan struct{})}
	go l.startLoop()
	return l, nil
}

// startLoop owns the one thread that starts children: the kernel sends the
// parent-death signal when the *thread* that forked ends, so that it must live
// as long as the lab does.
func (l *Lab) startLoop() {
	defer close(l.done)
	runtime.LockOSThread()
	for start := range l.starts {
		start()
	}
}

// Process is one child.
type Process struct {
	Name    string
	LogPath string
	cmd     *exec.Cmd
	log     *os.File
	exited  chan struct{}
	err     error
}

// Start starts a program, its output in logs/NAME.log, in a namespace when ns is not nil.
func (l *Lab) Start(ns *Namespace, name string, cmd *exec.Cmd) (*Process, error) {
	return l.start(ns, name, 0, cmd)
}

// start gives the program a timer slack, 0: the kernel's default.
func (l *Lab) start(ns *Namespace, name string, slack time.Duration, cmd *exec.Cmd) (*Process, error) {
	logPath := filepath.Join(l.Dir, "logs", name+".log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening a log: %w", err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	p := &Process{Name: name, LogPath: logPath, cmd: cmd, log: log, exited: make(chan struct{})}
	result := make(chan error, 1)
	l.starts <- func() {
		// A child has the slack of the thread that starts it.
		if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0); err != nil {
			result <- fmt.Errorf("setting timer slack: %w", err)
			return
		}
		result <- ns.enter(cmd.Start)
	}
	if err := <-result; err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", name, err), log.Close())
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	l.mu.Lock()
	l.children = append(l.children, p)
	l.mu.Unlock()
	return p, nil
}

// PID of the child.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the child has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Tail is the end of what the child wrote, for an error message.
func (p *Process) Tail() string {
	raw, err := os.ReadFile(p.LogPath)
	if err != nil {
		return err.Error()
	}
	const most = 6000
	if len(raw) > most {
		raw = raw[len(raw)-most:]
	}
	return string(raw)
}

// Stop asks the child and its children to end and insists after a grace of ten
// seconds: first by SIGQUIT, by which a Go program says in its log where it hung.
func (p *Process) Stop() error {
	select {
	case <-p.exited:
		return p.closeLog()
	default:
	}
	_ = syscall.Kill(-p.PID(), syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		_ = syscall.Kill(-p.PID(), syscall.SIGQUIT)
		select {
		case <-p.exited:
		case <-time.After(2 * time.Second):
		}
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
		<-p.exited
		return errors.Join(fmt.Errorf("%s did not end within 10 s of SIGTERM and was killed; see %s\n%s", p.Name, p.LogPath, p.hung()), p.closeLog())
	}
	return p.closeLog()
}

// hung is where a Go program stood when it was told SIGQUIT, and what it had said before: a
// test's folder is gone when somebody asks.
func (p *Process) hung() string {
	raw, err := os.ReadFile(p.LogPath)
	if err != nil {
		return err.Error()
	}
	const before, after = 2000, 8000
	at := bytes.LastIndex(raw, []byte("SIGQUIT: quit"))
	if at < 0 {
		return p.Tail()
	}
	return string(raw[max(0, at-before):min(len(raw), at+after)])
}

// closeLog may be called again: what was stopped is stopped once more by Close.
func (p *Process) closeLog() error {
	if err := p.log.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("closing a log: %w", err)
	}
	return nil
}

// Kill ends the child at once, as a crash would.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// OnClose registers an undo, run in reverse order when the lab closes.
func (l *Lab) OnClose(undo func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cleanups = append(l.cleanups, undo)
}

// Close ends every child, newest first, then undoes the rest.
func (l *Lab) Close() error {
	l.mu.Lock()
	children, cleanups := l.children, l.cleanups
	l.children, l.cleanups = nil, nil
	l.mu.Unlock()
	var problems []error
	for i := len(children) - 1; i >= 0; i-- {
		problems = append(problems, children[i].Stop())
	}
	for i := len(cleanups) - 1; i >= 0; i-- {
		problems = append(problems, cleanups[i]())
	}
	if l.starts != nil {
		close(l.starts)
		<-l.done
		l.starts = nil
	}
	return errors.Join(problems...)
}

// Until polls what is wanted until it holds, a child dies, or ctx ends.
func Until(ctx context.Context, every time.Duration, what string, holds func(context.Context) (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last error
	for {
		ok, err := holds(ctx)
		if ok {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if last != nil {
				return fmt.Errorf("waiting for %s: %w; last: %w", what, context.Cause(ctx), last)
			}
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
