package respond

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func (b *bench) endLocally(reason string) (string, error) {
	return EndLocally(b.t.Context(), LocalEnd{
		StateDir: b.cfg.StateDir, NetNS: b.cfg.NetNS, By: "root on the host", Reason: reason, Logger: b.cfg.Logger, Clock: b.clock,
	})
}

// Ensure root can end an isolation only where no sensor would put it back, that
// nothing is left in force then, and that the next sensor says who did it, once.
func TestEndLocally(t *testing.T) {
	b := newBench(t, nil)
	b.isolate("op-1")
	if _, err := b.endLocally("too early"); !errors.Is(err, ErrInUse) {
		t.Errorf("with a running sensor: got %v, want %v", err, ErrInUse)
	}
	b.isIsolated("with a running sensor", true)
	b.stop()
	if ended, err := b.endLocally("it crashes"); ended != "op-1" || err != nil {
		t.Fatalf("got %q, %v", ended, err)
	}
	if got := b.leaks(); got != 2 {
		t.Errorf("afterwards: %d packets passed, want 2", got)
	}
	if ended, err := b.endLocally("again"); ended != "" || err != nil {
		t.Errorf("again: got %q, %v; want nothing to end", ended, err)
	}
	b.forget()
	b.start()
	status := b.await(released, "root on the host")
	b.expect("after the start", status, released, "it crashes", false)
	if status.GetOperation() != "op-1" || len(status.GetNonce()) == 0 || status.GetAppliedAt() == 0 {
		t.Errorf("got %v, want it to name the isolation it ended", status)
	}
	b.forget()
	b.restart()
	b.isolate("op-2")
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, status := range b.reports {
		if status.GetOperation() == "op-1" {
			t.Errorf("reported a second time: %v", status)
		}
	}
}

// Ensure an end that was never handed on is reported by a later start.
func TestEndLocallyIsKept(t *testing.T) {
	b := newBench(t, nil)
	b.isolate("op-1")
	b.stop()
	if _, err := b.endLocally("it crashes"); err != nil {
		t.Fatal(err)
	}
	f := stateFile{b.cfg.StateDir + "/isolation.lease"}
	kept, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	b.start() // dies before its report is on disk
	b.stop()
	if err := os.WriteFile(f.path, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	b.forget()
	b.start()
	b.await(released, "it crashes")
}

// Ensure what nobody remembers is removed as well: by a purged sensor's folder,
// by a damaged file, and in a namespace that is gone.
func TestEndLocallyWithoutRecord(t *testing.T) {
	tests := []struct {
		name   string
		spoil  func(*bench)
		want   string
		passes int
	}{
		{"purged", func(b *bench) {
			b.remove("/isolation.lease")
			b.remove("")
		}, recoveredOperation, 2},
		{"damaged", func(b *bench) {
			if err := os.WriteFile(b.cfg.StateDir+"/isolation.lease", []byte("x"), 0o600); err != nil {
				b.t.Fatal(err)
			}
		}, recoveredOperation, 2},
		{"namespace gone", func(b *bench) { b.cfg.NetNS = "/nonexistent" }, "op-1", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.isolate("op-1")
			b.stop()
			tt.spoil(b)
			if ended, err := b.endLocally("the package is removed"); ended != tt.want || err != nil {
				t.Errorf("got %q, %v; want %q", ended, err, tt.want)
			}
			if got := b.leaks(); got != tt.passes {
				t.Errorf("%d packets passed, want %d", got, tt.passes)
			}
		})
	}
}

func (b *bench) remove(name string) {
	b.t.Helper()
	if err := os.Remove(b.cfg.StateDir + name); err != nil {
		b.t.Fatal(err)
	}
}

// Ensure a reason is something that can be shown in one line.
func TestEndLocallyReason(t *testing.T) {
	b := newBench(t, nil)
	b.stop()
	for _, reason := range []string{"", "two\nlines", "\x1b[2J", "\xff", strings.Repeat("x", maxLocalReason+1)} {
		if _, err := b.endLocally(reason); !errors.Is(err, ErrBadReason) {
			t.Errorf("%.20q: got %v, want %v", reason, err, ErrBadReason)
		}
	}
	if ended, err := b.endLocally("nothing to end"); ended != "" || err != nil {
		t.Errorf("got %q, %v", ended, err)
	}
	if _, err := os.Stat(b.cfg.StateDir + "/isolation.lease"); err == nil {
		if r, _, err := (stateFile{b.cfg.StateDir + "/isolation.lease"}).load(); err != nil || r.LocalEnd != nil {
			t.Errorf("remembered: %+v, %v", r.LocalEnd, err)
		}
	}
}
