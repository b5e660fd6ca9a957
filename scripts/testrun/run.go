package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// config says what to run.
type config struct {
	steps    []string
	beside   []string // steps that run while the Go tests do
	packages []string
	timeout  time.Duration
	parallel int
	run      string // as go test takes it; empty is all
	count    int    // how often; 0 is once
}

// counts is the closing line.
type counts struct{ passed, failed, skipped int }

func (c counts) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", c.passed, c.failed, c.skipped)
}

// summary gathers what is said once all has ended, where it is read.
type summary struct {
	counts
	skips, shaky, broken []string
}

func (s *summary) add(steps []step) {
	for _, one := range steps {
		switch one.verdict {
		case "pass":
			s.passed++
			s.shaky = append(s.shaky, one.unsteady...)
		case "skip":
			s.skipped++
			s.skips = append(s.skips, fmt.Sprintf("SKIP %s: %s", one.name, one.why))
		default:
			s.failed++
			s.broken = append(s.broken, append([]string{"make " + one.name}, failuresIn(one.report)...)...)
		}
	}
}

// run runs the steps, then the tests and what runs beside them. The error is about running
// them at all; what a test or a step found is in the counts.
func run(ctx context.Context, cfg config, out io.Writer) (counts, error) {
	var sum summary
	for _, group := range cfg.steps {
		sum.add(runGroup(ctx, strings.Split(group, ","), out))
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(out, "not root: the tests that need the kernel or namespaces will say SKIP")
	}
	besides := startBeside(ctx, cfg.beside, out)
	tally, err := runTests(ctx, cfg, out)
	sum.add(besides()) // before a test is tried again: that one shall have the machine to itself
	tested, blamed := tally.counts, tally.failed
	var unsteady []failure
	if err == nil {
		unsteady = again(ctx, cfg, blamed, out)
	}
	for _, line := range sum.skips { // last, where they are read
		fmt.Fprintln(out, line)
	}
	sum.passed += tested.passed + len(unsteady)
	sum.failed += tested.failed - len(unsteady)
	sum.skipped += tested.skipped
	if slowest := tally.slowest(slowestShown); slowest != "" {
		fmt.Fprintln(out, "slowest:", slowest)
	}
	// The names again, last: who reads the end of a log sees what to look for in it.
	for _, line := range sum.shaky {
		fmt.Fprintln(out, line)
	}
	for _, f := range unsteady {
		fmt.Fprintf(out, "UNSTEADY %s: failed beside other tests, passed alone; it needs mending\n", f)
	}
	for _, name := range sum.broken {
		fmt.Fprintln(out, "FAILED", name)
	}
	for _, f := range blamed {
		if !slices.Contains(unsteady, f) {
			fmt.Fprintln(out, "FAILED", f)
		}
	}
	return sum.counts, err
}

// slowestShown is how many tests are named for the time that they took.
const slowestShown = 12

// failuresIn are the names of what failed within a step that says so itself.
func failuresIn(report string) (names []string) {
	_, output, _ := strings.Cut(report, "\n")
	for _, line := range linesOf(output, "FAIL ") {
		names = append(names, strings.TrimPrefix(line, "FAIL "))
	}
	return names
}

func linesOf(output, word string) (lines []string) {
	for line := range strings.Lines(output) {
		if strings.HasPrefix(line, word) && len(lines) < maxLines {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// maxLines bounds what is repeated of one step.
const maxLines = 50

// step is a make target that was run.
type step struct {
	name         string
	verdict, why string
	report       string
	unsteady     []string // lines of a step that says so of its own tests
}

// runGroup runs make targets side by side, and shows what each came to in their order.
func runGroup(ctx context.Context, names []string, out io.Writer) []step {
	return startSteps(ctx, names, out, "make")()
}

// besideNice is how far what runs beside the tests stands back for them: they measure
// seconds, it has none to keep.
const besideNice = "8"

// startBeside is runGroup without waiting; wait does.
func startBeside(ctx context.Context, names []string, out io.Writer) (wait func() []step) {
	return startSteps(ctx, names, out, "nice", "-n", besideNice, "make")
}

func startSteps(ctx context.Context, names []string, out io.Writer, argv ...string) (wait func() []step) {
	steps := make([]step, len(names))
	var running sync.WaitGroup
	for i, name := range names {
		fmt.Fprintf(out, "…    %s\n", name)
		running.Go(func() { steps[i] = runStep(ctx, name, argv) })
	}
	return func() []step {
		running.Wait()
		for _, s := range steps {
			fmt.Fprint(out, s.report)
		}
		return steps
	}
}

// runStep runs one target of a make and reports its output whole when it fails. A step
// that cannot do its work here succeeds with "SKIP: why" as its last line.
func runStep(ctx context.Context, name string, argv []string) step {
	begin := time.Now()
	output, err := command(ctx, argv[0], slices.Concat(argv[1:], []string{name})...).CombinedOutput()
	took := time.Since(begin).Seconds()
	if err != nil {
		return step{name: name, verdict: "fail", report: fmt.Sprintf("FAIL %s %.1fs: %v\n%s", name, took, err, output)}
	}
	if why, ok := skipped(output); ok {
		return step{name: name, verdict: "skip", why: why, report: fmt.Sprintf("skip %s %.1fs\n", name, took)}
	}
	return step{name: name, verdict: "pass", report: fmt.Sprintf("ok   %s %.1fs\n", name, took), unsteady: linesOf(string(output), "UNSTEADY ")}
}

// skipped looks at the last line alone: a step may print the skips of tests.
func skipped(output []byte) (why string, ok bool) {
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	return strings.CutPrefix(lines[len(lines)-1], "SKIP: ")
}

// runTests returns the account whatever becomes of the run.
func runTests(ctx context.Context, cfg config, out io.Writer) (*tally, error) {
	tally := newTally(out)
	args := append([]string{
		"test", "-json", "-count=" + strconv.Itoa(max(1, cfg.count)), "-buildvcs=false",
		"-timeout=" + cfg.timeout.String(),
		"-p=" + strconv.Itoa(cfg.parallel),
	}, cfg.packages...)
	if cfg.run != "" {
		args = append(args, "-run", cfg.run)
	}
	cmd := command(ctx, "go", args...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	events, err := cmd.StdoutPipe()
	if err != nil {
		return tally, fmt.Errorf("opening the output of go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return tally, fmt.Errorf("starting go test: %w", err)
	}
	readErr := tally.read(events)
	waitErr := cmd.Wait()
	result := tally.close()
	switch {
	case ctx.Err() != nil:
		return tally, fmt.Errorf("interrupted: %w", ctx.Err())
	case readErr != nil:
		return tally, fmt.Errorf("reading the output of go test: %w", readErr)
	case waitErr != nil && result.failed == 0:
		// Nothing in the events explains it, for example a pattern that matches nothing.
		return tally, fmt.Errorf("running go test: %w\n%s", waitErr, strings.TrimSpace(complaints.String()))
	}
	return tally, nil
}

// command is a child in a process group of its own that gets the interrupt we got,
// so that go test can end its test programs and they can clean up after themselves.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}
