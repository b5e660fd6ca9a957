package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// auditRule is what auditd is asked to watch: what a host's security team would.
var auditRule = strings.Fields("always,exit -F arch=b64 -S execve -S connect")

// auditConfig writes to a log of its own and lets the host's configuration alone.
const auditConfig = `local_events = yes
write_logs = yes
log_file = %[1]s/audit.log
log_group = root
log_format = RAW
flush = INCREMENTAL_ASYNC
freq = 50
max_log_file = 8
num_logs = 2
max_log_file_action = ROTATE
name_format = NONE
space_left = 10
space_left_action = IGNORE
admin_space_left = 5
admin_space_left_action = IGNORE
disk_full_action = IGNORE
disk_error_action = IGNORE
q_depth = 2000
plugin_dir = %[1]s/plugins
`

// auditd of the machine's own package, started for a turn. Auditing is a thing of the
// whole kernel: while it lasts, every program of this machine is audited.
func auditd(ctx context.Context, b *bench) (watcher, error) {
	for _, program := range []string{"auditd", "auditctl"} {
		if _, err := exec.LookPath(program); err != nil {
			return watcher{}, fmt.Errorf("%s (package auditd)", program)
		}
	}
	status, err := exec.CommandContext(ctx, "auditctl", "-s").CombinedOutput()
	switch {
	case err != nil:
		return watcher{}, fmt.Errorf("a kernel that can be audited from here: auditctl -s: %w: %s", err, lastLines(status))
	case !strings.Contains(string(status), "enabled 0") || !strings.Contains(string(status), "pid 0"):
		return watcher{}, errors.New("a machine that nobody audits already; its audit rules are left alone")
	}
	dir := filepath.Join(b.dir, "audit")
	if err := errors.Join(os.MkdirAll(dir+"/plugins", 0o700),
		os.WriteFile(dir+"/auditd.conf", fmt.Appendf(nil, auditConfig, dir), 0o600)); err != nil {
		return watcher{}, fmt.Errorf("a folder for its log: %w", err)
	}
	control := func(args ...string) error {
		// Not with the caller's context: what was changed is changed back after an interrupt too.
		out, err := exec.Command("auditctl", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("auditctl %v: %w: %s", args, err, lastLines(out))
		}
		return nil
	}
	begin := func(ctx context.Context) (func() (time.Duration, error), func() error, error) {
		p, err := b.lab.Start(nil, "auditd", exec.Command("auditd", "-n", "-c", dir, "-s", "enable"))
		if err != nil {
			return nil, nil, err
		}
		end := func() error {
			err := control(append([]string{"-d"}, auditRule...)...)
			return errors.Join(err, control("-e", "0"), control("-b", "64"), p.Stop())
		}
		ready, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("not within 10 s"))
		defer cancel()
		err = lab.Until(ready, 50*time.Millisecond, "auditd", func(ctx context.Context) (bool, error) {
			out, err := exec.CommandContext(ctx, "auditctl", "-s").Output()
			return strings.Contains(string(out), fmt.Sprintf("pid %d", p.PID())), err
		})
		if err == nil {
			// What Debian's own rules set it to: with the kernel's 64 it would only lose.
			err = errors.Join(control("-b", "8192"), control(append([]string{"-a"}, auditRule...)...))
		}
		if err != nil {
			return nil, nil, errors.Join(err, end())
		}
		return func() (time.Duration, error) { return cpu(p.PID()) }, end, nil
	}
	// Tried once, so that a machine that refuses is told of and the other figures are taken.
	used, end, err := begin(ctx)
	if err != nil {
		return watcher{}, fmt.Errorf("an audit subsystem that takes a rule: %w", err)
	}
	_, err = used()
	return watcher{"auditd", begin}, errors.Join(err, end())
}

// traceExec is a line that many start with.
const traceExec = `tracepoint:sched:sched_process_exec { printf("%s %d\n", str(args->filename), pid); }`

// bpftrace of the machine's own package, started for a turn. It needs tracefs, which is
// mounted for it alone where it is missing.
func bpftrace(ctx context.Context, b *bench) (watcher, error) {
	if _, err := exec.LookPath("bpftrace"); err != nil {
		return watcher{}, errors.New("bpftrace (package bpftrace)")
	}
	const tracefs = "/sys/kernel/tracing"
	if _, err := os.Stat(tracefs + "/events"); err != nil {
		if err := unix.Mount("tracefs", tracefs, "tracefs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return watcher{}, fmt.Errorf("tracefs: %w", err)
		}
		b.lab.OnClose(func() error { return unix.Unmount(tracefs, 0) })
	}
	begin := func(ctx context.Context) (func() (time.Duration, error), func() error, error) {
		p, err := b.lab.Start(nil, "bpftrace", exec.Command("bpftrace", "-e", traceExec))
		if err != nil {
			return nil, nil, err
		}
		seen, err := os.Stat(p.LogPath)
		if err != nil {
			return nil, nil, errors.Join(err, p.Stop())
		}
		ready, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("not within 20 s"))
		defer cancel()
		err = lab.Until(ready, 50*time.Millisecond, "bpftrace", func(ctx context.Context) (bool, error) {
			select {
			case <-p.Exited():
				return false, errors.New(p.Tail())
			default:
			}
			if err := exec.CommandContext(ctx, "/bin/true").Run(); err != nil {
				return false, err
			}
			now, err := os.Stat(p.LogPath)
			// "Attaching 1 probe..." alone is shorter.
			return err == nil && now.Size() > seen.Size()+64, err
		})
		if err != nil {
			return nil, nil, errors.Join(err, p.Stop())
		}
		end := func() error {
			_ = syscall.Kill(p.PID(), syscall.SIGINT) // how it is ended by hand
			select {
			case <-p.Exited():
			case <-time.After(time.Minute): // it first prints all that it still has
			}
			return p.Stop()
		}
		return func() (time.Duration, error) { return cpu(p.PID()) }, end, nil
	}
	_, end, err := begin(ctx)
	if err != nil {
		return watcher{}, fmt.Errorf("a kernel that bpftrace can trace: %w", err)
	}
	return watcher{"bpftrace", begin}, end()
}
