package kernel

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("VEDETTE_TEST_ROLE"); role != "" {
		os.Exit(playRole(role))
	}
	goleak.VerifyTestMain(m)
}

// needKernel skips, naming what is missing, where the programs cannot be loaded.
func needKernel(t testing.TB) {
	t.Helper()
	_, err := Probe()
	var missing *MissingCapabilityError
	switch {
	case errors.As(err, &missing):
		t.Skipf("SKIP: needs %s", missing.Capability)
	case err != nil:
		t.Skipf("SKIP: needs a kernel that the programs run on: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root")
	}
}

// watch is a Source whose events are kept.
type watch struct {
	*Source
	t      testing.TB
	mu     sync.Mutex
	events []event.Event
	more   chan struct{}
}

// open starts a Source that is closed when the test ends.
func open(t testing.TB, cfg Config) *watch {
	t.Helper()
	return openWith(t, cfg, func(*Source) {})
}

// openWith is open with a last change before reading begins.
func openWith(t testing.TB, cfg Config, change func(*Source)) *watch {
	t.Helper()
	needKernel(t)
	source, err := Open(cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	change(source)
	return read(t, source)
}

// read has a Source read, until the test ends and it is closed.
func read(t testing.TB, source *Source) *watch {
	t.Helper()
	w := &watch{Source: source, t: t, more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx, w.sink) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := source.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return w
}

func (w *watch) sink(e event.Event) {
	w.mu.Lock()
	w.events = append(w.events, e)
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (w *watch) all() []event.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]event.Event(nil), w.events...)
}

// patience is the longest that an event may take from its cause to the test.
var patience = slow.Deadline(5 * time.Second)

// await waits until enough says that what came is all it wants.
func (w *watch) await(what string, enough func([]event.Event) bool) []event.Event {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		events := w.all()
		if enough(events) {
			return events
		}
		select {
		case <-w.more:
		case <-deadline:
			w.t.Fatalf("waited %v for %s; losses %v; gaps %v", patience, what, w.Losses(), w.CoverageGaps())
		}
	}
}

// first waits for the first event of type E that match takes.
func first[E event.Event](w *watch, what string, match func(E) bool) E {
	w.t.Helper()
	var found E
	w.await(what, func(events []event.Event) bool {
		for _, e := range events {
			if typed, ok := e.(E); ok && match(typed) {
				found = typed
				return true
			}
		}
		return false
	})
	return found
}

// filter keeps the events of type E that match takes.
func filter[E event.Event](events []event.Event, match func(E) bool) (out []E) {
	for _, e := range events {
		if typed, ok := e.(E); ok && match(typed) {
			out = append(out, typed)
		}
	}
	return out
}

// run runs a command to its end and returns its pid.
func run(t testing.TB, cmd *exec.Cmd) uint32 {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		t.Fatalf("running %v: %v: %s", cmd.Args, err, out)
	}
	return uint32(cmd.Process.Pid)
}

func byPID(pid uint32) func(*event.Exec) bool {
	return func(e *event.Exec) bool { return e.Process.PID == pid }
}

func argv(e *event.Exec) (out []string) {
	for _, a := range e.Argv {
		out = append(out, string(a))
	}
	return out
}

// netNS is a network namespace with lo up that lives as long as the test.
type netNS struct {
	t    testing.TB
	work chan func()
	path string
}

func newNetNS(t testing.TB) *netNS {
	t.Helper()
	needKernel(t)
	n := &netNS{t: t, work: make(chan func())}
	ready := make(chan error)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.path = "/proc/self/task/" + itoa(unix.Gettid()) + "/ns/net"
			err = loopbackUp()
		}
		ready <- err
		for f := range n.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("making network namespace: %v", err)
	}
	t.Cleanup(func() { close(n.work); <-finished })
	return n
}

// do runs f inside the namespace.
func (n *netNS) do(f func()) {
	done := make(chan struct{})
	n.work <- func() { defer close(done); f() }
	<-done
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}
