package kernel

import (
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that every missing capability is named, with what to do.
func TestProbeWithoutRights(t *testing.T) {
	needKernel(t) // only root can give up root
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"VEDETTE_TEST_ROLE=probe"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("child: %v: %s", err, out)
	}
	for _, want := range []string{"missing CAP_BPF", "missing CAP_PERFMON", "missing CAP_NET_ADMIN", "AmbientCapabilities=CAP_BPF"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("error %q does not say %q", out, want)
		}
	}
}

func TestProbe(t *testing.T) {
	needKernel(t)
	f, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	if f.Release == "" || len(f.Gaps) < len(standingGaps) {
		t.Errorf("features %+v", f)
	}
}

func TestConfigErrors(t *testing.T) {
	for name, cfg := range map[string]Config{
		"odd ring":     {CriticalRingBytes: 5000},
		"tiny ring":    {BulkRingBytes: 16},
		"no flows":     {MaxFlows: -1},
		"scope":        {Scope: Scope{Kind: "pod"}},
		"scope path":   {Scope: Scope{Kind: ScopeNetNS}},
		"cgroup path":  {Scope: Scope{Kind: ScopeCgroup}},
		"giant flows":  {MaxFlows: 1 << 30},
		"giant ring":   {CriticalRingBytes: 1 << 31},
		"negative one": {BulkRingBytes: -4096},
	} {
		if s, err := Open(cfg); err == nil {
			s.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

func TestClosed(t *testing.T) {
	needKernel(t)
	s, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context(), func(event.Event) {}) }()
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("Run returned %v", err)
	}
	if err := s.Run(t.Context(), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Run on a closed source: %v", err)
	}
	if _, err := s.Tasks(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Tasks on a closed source: %v", err)
	}
	s.Losses()
	s.CoverageGaps()
}

func TestBootID(t *testing.T) {
	id, err := BootID()
	if err != nil || id == [16]byte{} {
		t.Errorf("BootID() = %x, %v", id, err)
	}
	for _, bad := range []string{"", "x", "00112233", strings.Repeat("0", 34)} {
		if _, err := parseBootID(bad); err == nil {
			t.Errorf("parseBootID(%q): no error", bad)
		}
	}
}

func TestWallClock(t *testing.T) {
	now, err := bootTime()
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(WallClock(now)).Abs(); d > time.Second {
		t.Errorf("now is off by %v", d)
	}
}

// Ensure that what a process does is never told before the process is.
func TestCausesComeFirst(t *testing.T) {
	ns := newNetNS(t)
	w := open(t, Config{Scope: Scope{Kind: ScopeNetNS, Path: ns.path}})
	const children = 20
	ns.do(func() {
		for range children {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = []string{"VEDETTE_TEST_ROLE=connect"}
			run(t, cmd)
		}
	})
	events := w.await("flows of all children", func(events []event.Event) bool {
		return len(filter(events, func(*event.FlowClose) bool { return true })) == 2*children
	})
	known := map[event.ProcessKey]bool{}
	for _, e := range events {
		switch e := e.(type) {
		case *event.Exec:
			known[e.Process] = true
		case *event.FlowOpen:
			if !known[e.Process] {
				t.Errorf("flow of %v before its exec", e.Process)
			}
		}
	}
}
