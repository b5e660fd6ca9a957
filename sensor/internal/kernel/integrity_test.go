package kernel

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

func tamperOf(what string) func(*event.Tamper) bool {
	return func(e *event.Tamper) bool { return e.What == what }
}

// Ensure that a link that root detaches is told and attached again, so that what it
// saw is seen.
func TestDetachedLinkIsPutBack(t *testing.T) {
	ns := newNetNS(t)
	w := open(t, Config{Scope: Scope{Kind: ScopeNetNS, Path: ns.path}})
	w.SetSelf(event.ProcessKey{PID: uint32(os.Getpid()), Start: 1})
	w.mu.Lock()
	for _, a := range w.links {
		if a.name == bpf.VedetteProgDatagramOut || a.name == bpf.VedetteProgUdpCreate {
			if err := a.link.Detach(); err != nil {
				t.Error(err)
			}
		}
	}
	w.mu.Unlock()
	for _, name := range []string{bpf.VedetteProgDatagramOut, bpf.VedetteProgUdpCreate} {
		told := first(w, "the tampering with "+name, func(e *event.Tamper) bool {
			return e.What == event.TamperDetached && strings.Contains(e.Detail, name)
		})
		if told.Process.PID != uint32(os.Getpid()) {
			t.Errorf("told of process %d", told.Process.PID)
		}
	}
	ns.do(func() { resolve(t, "udp4", "127.0.0.1:53", "back.example.") })
	first(w, "a look-up after it was put back", func(e *event.DNS) bool { return e.Name == "back.example" })
	if n := len(filter(w.all(), tamperOf(event.TamperDetached))); n != 2 {
		t.Errorf("told %d times, want one for each program", n)
	}
}

// Ensure that a sensor that did not run says so when it runs again.
func TestStoppedIsTold(t *testing.T) {
	if role := os.Getenv("VEDETTE_TEST_ROLE"); role != "" {
		return
	}
	needKernel(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "VEDETTE_TEST_ROLE=watch")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	lines := make(chan string)
	go func() {
		defer close(lines)
		buf := make([]byte, 4096)
		for {
			n, err := out.Read(buf)
			if err != nil {
				return
			}
			lines <- string(buf[:n])
		}
	}()
	wait := func(what string) {
		t.Helper()
		select {
		case line, open := <-lines:
			if !open || !strings.Contains(line, what) {
				t.Fatalf("got %q, want %s", line, what)
			}
		case <-time.After(6 * patience): // a program of its own that loads all of ours
			t.Fatalf("waited for %s", what)
		}
	}
	wait("ready")
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	<-time.After(stoppedAfter + time.Second) // the time itself is what is told
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	wait("stopped")
}
