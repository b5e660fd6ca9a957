package respond

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// fake replaces a remedy by one whose outcomes the test writes.
func (b *containBench) fake(action sensorv1.Action, apply, undo func() error) {
	b.r.contain.acting.Lock()
	defer b.r.contain.acting.Unlock()
	b.r.contain.remedies[action] = &remedy{
		check: func(context.Context, *sensorv1.Target) (string, error) { return "would", nil },
		apply: func(context.Context, *containment, func()) (string, error) { return "proof", apply() },
		undo:  func(context.Context, *containment) (string, error) { return "", undo() },
	}
}

func fine() error { return nil }

// Ensure what cannot be proved is undone, and an undo that does not work is tried
// until it does, and said.
func TestContainFails(t *testing.T) {
	b := newContainBench(t, nil)
	undone := 0
	broken := errors.New("broken")
	b.fake(lockAccount, func() error { return broken }, func() error { undone++; return nil })
	status := b.give(lockAccount, "op-1", &sensorv1.Target{Account: "alice"}, nil)
	if status.GetState() != failed || !strings.Contains(status.GetDetail(), "broken; reverted") || undone != 1 || len(b.r.Containments()) != 0 {
		t.Errorf("got %v, undone %d times", status, undone)
	}
	stuck := true
	b.fake(lockAccount, fine, func() error {
		if stuck {
			return broken
		}
		return nil
	})
	b.give(lockAccount, "op-2", &sensorv1.Target{Account: "alice"}, nil)
	if status := b.undo("op-2"); status.GetState() != failed || !strings.Contains(status.GetDetail(), "tried again") || len(b.r.Containments()) != 1 {
		t.Errorf("got %v", status)
	}
	b.await(failed, "it could not be undone and is tried again: broken")
	b.r.contain.acting.Lock()
	stuck = false
	b.r.contain.acting.Unlock()
	b.await(released, "released by op-undo-op-2")
	if got := b.r.Containments(); len(got) != 0 {
		t.Errorf("in force: %v", got)
	}
}

// Ensure there is an end to how many are in force, and it is said.
func TestContainIsBounded(t *testing.T) {
	b := newContainBench(t, nil)
	b.fake(lockAccount, fine, fine)
	b.r.contain.acting.Lock()
	for i := range MaxContainments {
		o := order{operation: fmt.Sprintf("op-%d", i), action: lockAccount, target: &sensorv1.Target{Account: fmt.Sprint("u", i)}, length: time.Hour}
		b.r.contain.change(func(r *containRecord) { r.Active = append(r.Active, b.r.contain.make(o)) })
	}
	b.r.contain.change(func(r *containRecord) {
		for _, c := range r.Active {
			c.Phase = phaseApplied
		}
	})
	b.r.contain.acting.Unlock()
	if status := b.give(lockAccount, "op-more", &sensorv1.Target{Account: "alice"}, nil); status.GetState() != refused || !strings.Contains(status.GetDetail(), "no more may be") {
		t.Errorf("got %v", status)
	}
	if status := b.give(lockAccount, "op-same", &sensorv1.Target{Account: "u7"}, nil); status.GetState() != applied {
		t.Errorf("a renewal: got %v", status)
	}
	b.clock.pass(time.Hour, time.Hour)
	b.r.contain.wake()
	b.await(expired, "the lease ended")
}

// Ensure refusals say why and change nothing.
func TestContainRefusals(t *testing.T) {
	b := newContainBench(t, nil)
	for _, tt := range []struct {
		action sensorv1.Action
		target *sensorv1.Target
		want   string
	}{
		{freeze, nil, "does not fit"},
		{kill, &sensorv1.Target{Process: &sensorv1.ProcessTarget{Pid: 1}}, "pid and start"},
		{kill, &sensorv1.Target{Storyline: "x", Process: &sensorv1.ProcessTarget{Pid: 1, Start: 1}}, "not both"},
		{blockAddress, nil, "does not fit"},
		{blockAddress, &sensorv1.Target{Prefixes: []string{"0.0.0.0/0"}}, "isolate instead"},
		{blockName, &sensorv1.Target{Name: "com"}, "top-level"},
		{blockImage, &sensorv1.Target{ImageSha256: []byte("short")}, "does not fit"},
		{lockAccount, &sensorv1.Target{Account: "root"}, "is root"},
		{quarantine, &sensorv1.Target{Path: []byte("/etc/passwd")}, "does not work without"},
		{quarantine, &sensorv1.Target{}, "does not fit"},
	} {
		if status := b.give(tt.action, "op-1", tt.target, nil); status.GetState() != refused || !strings.Contains(status.GetDetail(), tt.want) {
			t.Errorf("%v %v: got %v, want %q", tt.action, tt.target, status, tt.want)
		}
	}
	if status := b.give(lockAccount, "../op", &sensorv1.Target{Account: "alice"}, nil); status.GetState() != refused {
		t.Errorf("an id that is a path: got %v", status)
	}
	none := newBench(t, nil)
	g := none.order(lockAccount, "op-1")
	if status := none.r.Grant(t.Context(), none.sign(g)).GetStatus(); status.GetState() != refused || !strings.Contains(status.GetDetail(), "only isolation is") {
		t.Errorf("without containments: got %v", status)
	}
}

// Ensure this host's own order is carried out and told as its own.
func TestContainLocally(t *testing.T) {
	b := newContainBench(t, nil)
	o := LocalOrder{
		Action: lockAccount, Target: &sensorv1.Target{Account: "alice"}, Lease: time.Hour, Evidence: []string{"f-1"},
		IntentVersion: 7, Policies: []string{"p-1"}, Preview: true,
	}
	if status := b.r.Contain(t.Context(), o); status.GetState() != previewed || len(b.r.Containments()) != 0 {
		t.Errorf("preview: got %v", status)
	}
	o.Preview = false
	status := b.r.Contain(t.Context(), o)
	if status.GetState() != applied || !status.GetLocal() || status.GetIntentVersion() != 7 || len(status.GetEvidence()) != 1 || len(status.GetPolicies()) != 1 ||
		len(status.GetOperation()) != 15 || !strings.HasPrefix(status.GetOperation(), "op-") {
		t.Fatalf("got %v", status)
	}
	b.restart()
	if status := b.undo(status.GetOperation()); status.GetState() != released {
		t.Errorf("undo by an operator: got %v", status)
	}
	if got := b.await(released, "released by op-undo-"); !got.GetLocal() {
		t.Errorf("got %v", got)
	}
}

// Ensure a disk that takes nothing protects no intruder, and that is said.
func TestContainFullDisk(t *testing.T) {
	b := newContainBench(t, nil)
	full, err := os.Create(filepath.Join(b.programs, "full"))
	if err != nil {
		t.Fatal(err)
	}
	for some := make([]byte, 1<<20); err == nil || len(some) > 1; {
		if _, err = full.Write(some); err != nil {
			some = some[:len(some)/2]
		}
	}
	_ = full.Close()
	status := b.give(lockAccount, "op-1", &sensorv1.Target{Account: "alice"}, nil)
	if status.GetState() != applied || !strings.Contains(status.GetDetail(), "not saved") {
		t.Errorf("got %v", status)
	}
	if status := b.give(quarantine, "op-2", &sensorv1.Target{Path: []byte("/tmp/evil")}, nil); status.GetState() != failed || !strings.Contains(status.GetDetail(), "no space left") {
		t.Errorf("got %v", status)
	}
	if _, err := os.Stat(filepath.Join(b.root, "tmp/evil")); err != nil {
		t.Errorf("a file that could not be described was taken: %v", err)
	}
	// What is not on record is found by itself.
	b.restart()
	b.await(applied, "found in force without a record")
	if status := b.undo("op-1"); status.GetState() != released {
		t.Errorf("got %v", status)
	}
	if raw, _ := os.ReadFile(filepath.Join(b.root, "etc/shadow")); string(raw) != testShadow {
		t.Errorf("got %s", raw)
	}
}

func FuzzContainFile(f *testing.F) {
	dir := f.TempDir()
	file := newContainFile(dir)
	good := containRecord{Serial: 1, Active: []*containment{{ID: "op-1", lease: lease{Operation: "op-1", Phase: phaseApplied, Length: time.Hour}}}}
	raw, err := file.copies[0].encode(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(containMagic + " \n{}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r containRecord
		if file.copies[0].decode(raw, &r) != nil || r.sane() != nil {
			return
		}
		if again, err := json.Marshal(r); err != nil {
			t.Errorf("%v: %s", err, again)
		}
	})
}

// Ensure root can end everything while no sensor runs, which is told afterwards.
func TestContainEndedLocally(t *testing.T) {
	b := newContainBench(t, nil)
	cases := b.cases()
	for i, tt := range cases {
		if tt.preview != "" && i != 1 {
			if status := b.give(tt.action, fmt.Sprintf("op-%d", i), tt.target, nil); status.GetState() != applied {
				t.Fatalf("got %v", status)
			}
		}
	}
	want := len(b.r.Containments())
	end := LocalEnd{StateDir: b.cfg.StateDir, NetNS: b.host.Path(), By: "root", Reason: "test", Logger: b.cfg.Logger, Clock: b.clock}
	if _, err := EndContainmentsLocally(t.Context(), end, *b.cfg.Contain); !errors.Is(err, ErrInUse) {
		t.Errorf("beside a sensor: got %v", err)
	}
	b.stop()
	ended, err := EndContainmentsLocally(t.Context(), end, *b.cfg.Contain)
	if err != nil || len(ended) != want {
		t.Errorf("got %v, %v; want %d", ended, err, want)
	}
	b.start()
	for i, tt := range cases {
		if tt.shows() {
			t.Errorf("%d %v shows still", i, tt.action)
		}
	}
	b.await(released, "ended by root, without a grant")
	if got := b.r.Containments(); len(got) != 0 {
		t.Errorf("in force: %v", got)
	}
	b.restart()
	b.stop()
	if ended, err := EndContainmentsLocally(t.Context(), end, *b.cfg.Contain); err != nil || len(ended) != 0 {
		t.Errorf("again: got %v, %v", ended, err)
	}
}

// Ensure a sensor that may not contain any more ends what it finds.
func TestContainDisabled(t *testing.T) {
	b := newContainBench(t, nil)
	b.give(lockAccount, "op-1", &sensorv1.Target{Account: "alice"}, nil)
	b.give(blockAddress, "op-2", &sensorv1.Target{Prefixes: []string{"fd77::2"}}, nil)
	b.stop()
	b.cfg.Contain.Disabled = true
	b.start()
	b.await(released, ErrContainDisabled.Error())
	deadline := time.Now().Add(slow.Deadline(5 * time.Second))
	for len(b.r.Containments()) > 0 && time.Now().Before(deadline) {
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
	}
	if raw, _ := os.ReadFile(filepath.Join(b.root, "etc/shadow")); string(raw) != testShadow || b.blocks() || len(b.r.Containments()) != 0 {
		t.Errorf("in force still: %v", b.r.Containments())
	}
	if status := b.give(lockAccount, "op-3", &sensorv1.Target{Account: "alice"}, nil); status.GetState() != refused {
		t.Errorf("got %v", status)
	}
}

// Ensure two sensors of one kernel leave each other's alone.
func TestContainForeign(t *testing.T) {
	b := newContainBench(t, nil)
	b.give(lockAccount, "op-1", &sensorv1.Target{Account: "alice"}, nil)
	b.give(freeze, "op-2", &sensorv1.Target{Process: b.sleep()}, nil)
	other := newBench(t, func(c *Config) {
		c.HostID, c.ScopeKind = "h-another", "host"
		c.Contain = &ContainConfig{Root: b.root, ExecDead: -1}
	})
	if got := other.r.Containments(); len(got) != 0 {
		t.Errorf("took over %v", got)
	}
	b.undo("op-1")
	b.undo("op-2")
}

// Ensure a host on which nothing is contained rests: to begin to watch is to be told to
// look, which must not be a reason to begin again.
func TestNothingContainedRests(t *testing.T) {
	b := newContainBench(t, nil)
	b.stop()
	r, err := New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	if r.contain.network == nil {
		t.Fatal("nothing to watch")
	}
	<-r.contain.kick // of the start
	for range 20 {
		r.contain.watch(t.Context())
	}
	if len(r.contain.kick) != 0 {
		t.Error("a round in which nothing was contained asks for the next")
	}
}
