package respond

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// Ensure each action is previewed without a trace, done and proved, answered when
// its grant comes again, kept over a restart and undone.
func TestContain(t *testing.T) {
	b := newContainBench(t, nil)
	for i, tt := range b.cases() {
		t.Run(fmt.Sprint(i, tt.action), func(t *testing.T) {
			op := fmt.Sprintf("op-%d", i)
			preview := b.give(tt.action, op, tt.target, func(g *sensorv1.Grant) { g.Preview = true })
			if tt.preview == "" {
				if preview.GetState() != refused || !strings.Contains(preview.GetDetail(), "coordinator node") {
					t.Errorf("got %v", preview)
				}
				return
			}
			if preview.GetState() != previewed || !strings.Contains(preview.GetDetail(), tt.preview) || tt.shows() || len(b.r.Containments()) != 0 {
				t.Fatalf("preview: got %v, shows %v", preview, tt.shows())
			}
			g := b.order(tt.action, op)
			g.Target = tt.target
			signed := b.sign(g)
			status := b.r.Grant(t.Context(), signed).GetStatus()
			if status.GetState() != applied || !tt.shows() || status.GetAction() != tt.action || !proto.Equal(status.GetTarget(), tt.target) ||
				status.GetLeaseExpires() != b.clock.Now().Add(time.Hour).UnixNano() || status.GetSelfTest() == "" {
				t.Fatalf("apply: got %v, shows %v", status, tt.shows())
			}
			if again := b.r.Grant(t.Context(), signed).GetStatus(); again.GetState() != applied || !strings.Contains(again.GetDetail(), "repeated") {
				t.Errorf("repeated: got %v", again)
			}
			if renewed := b.give(tt.action, op+"r", tt.target, nil); renewed.GetState() != applied || !strings.Contains(renewed.GetDetail(), "was in force as "+op) {
				t.Errorf("renewed: got %v", renewed)
			}
			b.await(released, "superseded by "+op+"r")
			b.restart()
			if got := b.r.Containments(); !slices.Equal(got, []string{op + "r"}) || !tt.shows() {
				t.Errorf("after a restart: %v, shows %v", got, tt.shows())
			}
			if status := b.undo(op); status.GetState() != refused || !tt.shows() {
				t.Errorf("the wrong operation: got %v", status)
			}
			if status := b.undo(op + "r"); status.GetState() != released || tt.shows() {
				t.Errorf("undo: got %v, shows %v", status, tt.shows())
			}
			if replayed := b.r.Grant(t.Context(), signed).GetStatus(); tt.shows() || strings.Contains(replayed.GetDetail(), "already in force") {
				t.Errorf("replayed: got %v", replayed)
			}
			b.forget()
		})
	}
	names, _ := filepath.Glob(filepath.Join(b.cfg.StateDir, "quarantine/*"))
	if len(names) != 0 {
		t.Errorf("left in the store: %v", names)
	}
}

// Ensure a kill is done, has no lease, is answered when it comes again, and cannot
// be undone.
func TestContainKill(t *testing.T) {
	b := newContainBench(t, nil)
	g := b.order(kill, "op-kill")
	g.Target = &sensorv1.Target{Process: b.sleep()}
	signed := b.sign(g)
	status := b.r.Grant(t.Context(), signed).GetStatus()
	if status.GetState() != applied || status.GetLeaseExpires() != 0 || !strings.Contains(status.GetDetail(), "there is no undo") || len(b.members()) != 0 || len(b.r.Containments()) != 0 {
		t.Errorf("got %v, %v", status, b.members())
	}
	b.restart()
	if again := b.r.Grant(t.Context(), signed).GetStatus(); again.GetState() != applied || !strings.Contains(again.GetDetail(), "repeated") {
		t.Errorf("repeated: got %v", again)
	}
	if status := b.undo("op-kill"); status.GetState() != refused || !strings.Contains(status.GetDetail(), "a kill cannot be undone") {
		t.Errorf("undo: got %v", status)
	}
	if status := b.give(kill, "op-none", &sensorv1.Target{Process: g.Target.Process}, nil); status.GetState() != refused || !strings.Contains(status.GetDetail(), "no living process") {
		t.Errorf("a dead one: got %v", status)
	}
}

// Ensure leases end by the boot clock, also when the wall clock jumps or a restart
// is between, and a reboot ends what it cannot hold.
func TestContainLease(t *testing.T) {
	b := newContainBench(t, nil)
	for i, tt := range b.cases() {
		if tt.preview == "" {
			continue
		}
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprint(i, tt.action, restarted), func(t *testing.T) {
				op := fmt.Sprintf("op-%d-%v", i, restarted)
				if status := b.give(tt.action, op, tt.target, nil); status.GetState() != applied {
					t.Fatalf("got %v", status)
				}
				b.clock.pass(59*time.Minute, -100*time.Hour)
				b.clock.pass(0, 200*time.Hour)
				b.clock.pass(0, -100*time.Hour)
				if b.forget(); len(b.r.Containments()) != 1 || !tt.shows() {
					t.Error("ended too early")
				}
				if restarted {
					b.stop()
				}
				b.clock.pass(2*time.Minute, 2*time.Minute)
				if restarted {
					b.start()
				}
				status := b.await(expired, "the lease ended")
				if status.GetOperation() != op || tt.shows() || len(b.r.Containments()) != 0 {
					t.Errorf("got %v, shows %v", status, tt.shows())
				}
				b.forget()
			})
		}
	}
	status := b.give(freeze, "op-boot", &sensorv1.Target{Storyline: "1.2"}, nil)
	if status.GetState() != applied {
		t.Fatalf("got %v", status)
	}
	b.give(lockAccount, "op-kept", &sensorv1.Target{Account: "alice"}, nil)
	b.stop()
	b.clock.reboot(time.Minute)
	b.start()
	b.await(released, "the host was rebooted")
	if got := b.r.Containments(); !slices.Contains(got, "op-kept") {
		t.Errorf("after a reboot: %v", got)
	}
	// The processes of this test live on: found without a record, they are kept.
	b.restart()
	b.await(applied, "found in force without a record")
	for _, op := range b.r.Containments() {
		b.undo(op)
	}
}

// Ensure a stop in the middle of an act is finished by the next start.
func TestContainInterrupted(t *testing.T) {
	b := newContainBench(t, nil)
	for i, tt := range b.cases() {
		if tt.preview == "" {
			continue
		}
		op := fmt.Sprintf("op-%d", i)
		b.r.contain.acting.Lock()
		half := b.r.contain.make(order{operation: op, action: tt.action, target: tt.target, length: time.Hour})
		b.r.contain.change(func(r *containRecord) { r.Active = append(r.Active, half) })
		err := b.r.contain.save()
		b.r.contain.change(func(r *containRecord) { r.Active = nil })
		b.r.contain.acting.Unlock()
		if err != nil || tt.shows() {
			t.Fatalf("%s: %v", op, err)
		}
		b.restart()
		if status := b.await(applied, "proved after a restart"); status.GetOperation() != op || !tt.shows() {
			t.Errorf("got %v, shows %v", status, tt.shows())
		}
		if status := b.undo(op); status.GetState() != released || tt.shows() {
			t.Errorf("undo: got %v", status)
		}
		b.forget()
	}
}

// Ensure one damaged copy costs nothing, and two leave nothing blocked for ever
// and nothing unsaid.
func TestContainDamaged(t *testing.T) {
	b := newContainBench(t, nil)
	for i, tt := range b.cases() {
		if tt.preview == "" {
			continue
		}
		t.Run(fmt.Sprint(i, tt.action), func(t *testing.T) {
			op := fmt.Sprintf("op-%d", i)
			damage := func(copies ...int) {
				b.stop()
				for _, n := range copies {
					if err := os.WriteFile(b.r.contain.file.copies[n].path, []byte("torn"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				b.start()
			}
			for copyOf := range 2 {
				if status := b.give(tt.action, fmt.Sprint(op, copyOf), tt.target, nil); status.GetState() != applied {
					t.Fatalf("got %v", status)
				}
				damage(copyOf)
				if got := b.r.Containments(); len(got) != 1 || !tt.shows() {
					t.Errorf("copy %d damaged: %v, shows %v", copyOf, got, tt.shows())
				}
			}
			damage(0, 1)
			b.await(failed, "both copies of the containments' state were damaged")
			adopted := b.r.Containments()
			if tt.shows() != (len(adopted) == 1) {
				t.Errorf("shows %v, on record %v", tt.shows(), adopted)
			}
			for _, op := range adopted {
				if status := b.undo(op); status.GetState() != released {
					t.Errorf("undo: got %v", status)
				}
			}
			if tt.shows() {
				t.Error("it shows still")
			}
			b.forget()
		})
	}
}

// Ensure what somebody else undoes is put back, at once or by the next look.
func TestContainKept(t *testing.T) {
	b := newContainBench(t, nil)
	for _, op := range []struct {
		action sensorv1.Action
		target *sensorv1.Target
		undo   func() error
		shows  func() bool
	}{
		{blockAddress, &sensorv1.Target{Prefixes: []string{"fd77::2"}}, func() error {
			other := b.r.contain.network.table
			return other.Remove()
		}, b.blocks},
		{lockAccount, &sensorv1.Target{Account: "alice"}, func() error {
			return os.WriteFile(filepath.Join(b.root, "etc/shadow"), []byte(testShadow), 0o640)
		}, func() bool {
			raw, _ := os.ReadFile(filepath.Join(b.root, "etc/shadow"))
			return strings.Contains(string(raw), "!vedette!")
		}},
	} {
		if status := b.give(op.action, "op-1", op.target, nil); status.GetState() != applied {
			t.Fatalf("got %v", status)
		}
		if err := op.undo(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(slow.Deadline(5 * time.Second))
		for !op.shows() && time.Now().Before(deadline) {
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
		}
		if !op.shows() {
			t.Errorf("%v was not put back", op.action)
		}
		b.undo("op-1")
		b.forget()
	}
}

// Ensure the answers that a blocked name gets later are blocked too, and those that
// the host needs are not.
func TestContainName(t *testing.T) {
	b := newContainBench(t, nil)
	b.resolved = []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.1.2.3")}
	status := b.give(blockName, "op-1", &sensorv1.Target{Name: "Evil.Example."}, nil)
	if status.GetState() != applied || !strings.Contains(status.GetDetail(), "203.0.113.9/32") || !strings.Contains(status.GetDetail(), "10.1.2.3 (private") || !strings.Contains(status.GetSelfTest(), "; 1 addresses") {
		t.Fatalf("got %v", status)
	}
	b.r.Answered("other.example", []netip.Addr{netip.MustParseAddr("203.0.113.50")})
	b.r.Answered("www.EVIL.example", []netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("127.0.0.1")})
	prefixes := func() string {
		b.r.contain.acting.Lock()
		defer b.r.contain.acting.Unlock()
		return fmt.Sprint(b.r.contain.network.spec().Prefixes)
	}
	deadline := time.Now().Add(slow.Deadline(5 * time.Second))
	for !strings.Contains(prefixes(), "203.0.113.10/32") && time.Now().Before(deadline) {
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
	}
	if got := prefixes(); got != "[203.0.113.9/32 203.0.113.10/32]" {
		t.Errorf("got %s", got)
	}
	b.restart()
	if got := prefixes(); got != "[203.0.113.9/32 203.0.113.10/32]" {
		t.Errorf("after a restart: got %s", got)
	}
	b.undo("op-1")
}

// Ensure a blocked image that ran all the same is killed.
func TestContainExecAllTheSame(t *testing.T) {
	b := newContainBench(t, nil)
	target := b.sleep()
	exe, err := os.ReadFile(fmt.Sprintf("/proc/%d/exe", target.GetPid()))
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(exe)
	status := b.give(blockImage, "op-1", &sensorv1.Target{ImageSha256: hash[:]}, nil)
	if status.GetState() != applied || !strings.Contains(status.GetDetail(), fmt.Sprintf("%d (", target.GetPid())) {
		t.Fatalf("got %v", status)
	}
	b.r.Exec(event.ProcessKey{PID: target.GetPid(), Start: target.GetStart()}, [32]byte{}, false)
	b.await(applied, "executed it all the same and was killed")
	b.undo("op-1")
}
