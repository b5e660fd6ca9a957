package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/vmtest/outcome"
)

const (
	emulator = "qemu-system-x86_64"
	// processor of the guest: one that has SSE4 and not AVX; with "max" the same tests took
	// 40 % more in the one run that was made of each.
	processor = "Nehalem"
	// memory holds the archive twice while it is moved, and the tests' rings.
	memory = "1024"
	// shownLines of the console are shown when the guest ends badly.
	shownLines = 50
	// maxConsole bounds the console's log.
	maxConsole = 64 << 20
)

// commandLine of the kernel. bpf is among the security modules because Debian's own
// list, from 6.12 on, may be cut by a boot loader's; lockdown and apparmor are left
// as a cloud image has them. A panic ends the guest at once. Grace periods are
// expedited because tests attach and detach a lot. The test of the timer's wiring fails when
// the emulator gets no processor for a while.
const commandLine = "console=ttyS0 no_timer_check panic=-1 quiet loglevel=4 mitigations=off rcupdate.rcu_expedited=1 lsm=landlock,lockdown,yama,apparmor,bpf"

// runGuest boots and reads what the guest tells. The console goes to a log.
func runGuest(ctx context.Context, cfg config, k kernel, archive string) (outcome.Report, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.timeout, fmt.Errorf("the guest did not end within %v", cfg.timeout))
	defer cancel()
	if err := os.MkdirAll(cfg.out, 0o755); err != nil {
		return outcome.Report{}, fmt.Errorf("making the figures' folder: %w", err)
	}
	log := filepath.Join(cfg.out, "vmtest-"+cfg.series+".log")
	console, err := os.Create(log)
	if err != nil {
		return outcome.Report{}, fmt.Errorf("making the console's log: %w", err)
	}
	defer func() { _ = console.Close() }()
	reader, writer, err := os.Pipe()
	if err != nil {
		return outcome.Report{}, fmt.Errorf("making the report's pipe: %w", err)
	}
	defer func() { _ = reader.Close() }()

	cmd := exec.CommandContext(ctx, emulator, append(machine(k, archive),
		"-no-reboot", "-serial", "stdio", "-serial", "file:/dev/fd/3")...)
	cmd.Stdout = &bounded{out: console, left: maxConsole}
	cmd.Stderr = cmd.Stdout
	cmd.ExtraFiles = []*os.File{writer}
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		_ = writer.Close()
		return outcome.Report{}, fmt.Errorf("starting %s: %w", emulator, err)
	}
	_ = writer.Close() // the guest's end is then the report's end
	report, readErr := outcome.Read(reader, func(p outcome.Package) {
		c := p.Counts()
		fmt.Printf("  %s: %d passed, %d failed, %d skipped (%.0f s)\n", p.Name, c.Pass, c.Fail, c.Skip, p.Seconds)
	})
	_, _ = io.Copy(io.Discard, reader)
	waitErr := cmd.Wait()
	if cause := context.Cause(ctx); cause != nil {
		readErr = errors.Join(cause, readErr)
	} else {
		readErr = errors.Join(readErr, waitErr)
	}
	if readErr != nil {
		return report, fmt.Errorf("%w\nthe console (%s) ended:\n%s", readErr, log, lastLines(log))
	}
	if report.Kernel != k.release {
		return report, fmt.Errorf("the guest ran kernel %q, want %q", report.Kernel, k.release)
	}
	return report, nil
}

// machine are the emulator's arguments for a guest without devices.
func machine(k kernel, archive string) []string {
	return []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none",
		// One thread for both processors: the kernel patches its own code when a tracepoint is
		// attached to, and with a thread for each the emulator lets one processor run into a
		// breakpoint that the other has taken out already ("Oops: int3", seen on 6.12).
		"-accel", "tcg,thread=single", "-cpu", processor, "-smp", "2", "-m", memory,
		"-kernel", k.image, "-initrd", archive, "-append", commandLine,
	}
}

// bounded drops what goes beyond it.
type bounded struct {
	out  io.Writer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	keep := p[:min(len(p), b.left)]
	b.left -= len(keep)
	if _, err := b.out.Write(keep); err != nil {
		return 0, err
	}
	return len(p), nil
}

func lastLines(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = file.Close() }()
	var lines []string
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, maxConsole)
	for scanner.Scan() {
		lines = append(lines, "    "+strings.TrimRight(scanner.Text(), "\r"))
		if len(lines) > shownLines {
			lines = lines[1:]
		}
	}
	return strings.Join(lines, "\n")
}
