package notify

import (
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
)

const (
	// maxSaid bounds what is kept of the program's stderr, for the log.
	maxSaid = 2 << 10
	// canExecute is X_OK of access(2).
	canExecute = 1
	// pipeTime is how long a program's children may hold its pipes when it has ended.
	pipeTime = time.Second
)

// environment is all that the program gets: this process's own may hold what is not its
// business.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/"}

// CheckProgram says why a program may not be run: it must be an executable file at an
// absolute path that nobody but root can change, nor put another in its place. It runs as
// the coordinator's own user.
func CheckProgram(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return fmt.Errorf("program %q: give an absolute path without dot segments", path)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("program: %w", err)
	}
	info, err := os.Stat(real)
	switch {
	case err != nil:
		return fmt.Errorf("program: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("program %s is no file", real)
	case syscall.Access(real, canExecute) != nil:
		return fmt.Errorf("program %s cannot be executed by the user that the coordinator runs as: chmod 755 %s", real, real)
	}
	// Of the way there, both as it is written and as it leads: whoever can rename in a
	// directory, or turn a link, chooses what is run.
	for _, start := range []string{real, path} {
		for at := start; ; at = filepath.Dir(at) {
			if err := onlyRoot(at); err != nil {
				return fmt.Errorf("program %s: %w", path, err)
			}
			if at == "/" {
				break
			}
		}
	}
	return nil
}

// onlyRoot says who else could change what is at path.
func onlyRoot(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid != 0 {
		return fmt.Errorf("%s must belong to root: chown root %s", path, path)
	}
	if info.Mode()&os.ModeSymlink != 0 {
		return nil // its mode says nothing, its directory is looked at
	}
	// In a sticky directory nobody can rename or remove what is root's.
	if info.Mode().Perm()&0o022 != 0 && (!info.IsDir() || info.Mode()&os.ModeSticky == 0) {
		return fmt.Errorf("%s must be writable by root alone: chmod go-w %s", path, path)
	}
	return nil
}

// work runs the program for one event after another.
func (e *Engine) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-e.queue:
			e.deliver(ctx, event)
		}
	}
}

// deliver runs the program until it succeeds or has failed often enough.
func (e *Engine) deliver(ctx context.Context, event Event) {
	for try := 0; ; try++ {
		err := e.run(ctx, event)
		if err == nil || ctx.Err() != nil {
			return
		}
		if try == len(e.cfg.Retries) {
			e.cfg.Logger.Error("notification not delivered", "event", event.ID, "text", event.Text, "program", e.cfg.Program, "tries", try+1, "error", err)
			return
		}
		e.cfg.Logger.Warn("notification failed; trying again", "event", event.ID, "program", e.cfg.Program, "in", e.cfg.Retries[try], "error", err)
		timer := time.NewTimer(e.cfg.Retries[try])
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// run gives the program one event: no shell, no arguments, and nothing of this process but
// its user. It and what it started are killed at the time-out.
func (e *Engine) run(ctx context.Context, event Event) error {
	if err := CheckProgram(e.cfg.Program); err != nil { // it may have been changed since
		return err
	}
	raw, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("encoding the event: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	said := &head{}
	c := exec.CommandContext(ctx, e.cfg.Program)
	c.Env, c.Dir = environment, "/"
	c.Stdin, c.Stderr = bytes.NewReader(append(raw, '\n')), said
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = pipeTime
	err = c.Run()
	// A program need not read all of its event.
	if errors.Is(err, syscall.EPIPE) && c.ProcessState != nil && c.ProcessState.Success() {
		err = nil
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("it took longer than %s and was killed", e.cfg.Timeout)
	case errors.Is(err, exec.ErrWaitDelay):
		return nil // it succeeded, and a child of its kept stderr
	case err != nil:
		return fmt.Errorf("%w: %s", err, line(strings.TrimSpace(said.String())))
	}
	return nil
}

// head keeps the beginning of what is written to it.
type head struct{ bytes.Buffer }

// Write implements io.Writer.
func (h *head) Write(p []byte) (int, error) {
	if room := maxSaid - h.Len(); room > 0 {
		_, _ = h.Buffer.Write(p[:min(room, len(p))]) // never fails
	}
	return len(p), nil
}
