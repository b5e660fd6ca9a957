package respond

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// Ensure a grant isolates and a grant releases, and both are reported.
func TestIsolateAndRelease(t *testing.T) {
	b := newBench(t, nil)
	b.isIsolated("at first", false)
	status := b.isolate("op-1")
	b.expect("isolate", status, applied, "coordinator 10.77.0.2:7700", true)
	if want := b.clock.Now().Add(time.Hour).UnixNano(); status.GetLeaseExpires() != want || status.GetOperation() != "op-1" {
		t.Errorf("got %v, want op-1 until %d", status, want)
	}
	if !strings.Contains(status.GetSelfTest(), "2 dropped") || !strings.Contains(status.GetSelfTest(), "coordinator answered") {
		t.Errorf("self-test: got %q", status.GetSelfTest())
	}
	b.await(applied, "left open")
	b.expect("release", b.release("op-2"), released, "ended the isolation of op-1", false)
	b.await(released, "released by op-2")
	b.expect("release again", b.release("op-3"), released, "was not isolated", false)
}

func TestRefusals(t *testing.T) {
	isolate := sensorv1.Action_ACTION_ISOLATE
	for _, tt := range []struct {
		name   string
		config func(*Config)
		signed func(b *bench) *sensorv1.SignedGrant
		want   string
	}{
		{"another host", nil, func(b *bench) *sensorv1.SignedGrant {
			return b.sign(b.order(isolate, "op"), "h-other")
		}, "not for this host"},
		{"expired", nil, func(b *bench) *sensorv1.SignedGrant {
			signed := b.sign(b.order(isolate, "op"))
			b.clock.pass(time.Hour, time.Hour)
			return signed
		}, "out of its time"},
		{"another cluster", nil, func(b *bench) *sensorv1.SignedGrant {
			g := b.order(isolate, "op")
			g.ClusterId = "c-other"
			return b.sign(g)
		}, "another cluster"},
		{"forged", nil, func(b *bench) *sensorv1.SignedGrant {
			signed := b.sign(b.order(isolate, "op"))
			signed.Signatures[0].Signature[0] ^= 1
			return signed
		}, "signature is wrong"},
		{"unknown action", nil, func(b *bench) *sensorv1.SignedGrant { return b.sign(b.order(7, "op")) }, ""},
		{"nothing", nil, func(*bench) *sensorv1.SignedGrant { return nil }, "malformed"},
		{"disabled", func(c *Config) { c.Enabled = false }, func(b *bench) *sensorv1.SignedGrant {
			return b.sign(b.order(isolate, "op"))
		}, "isolation.enabled is false"},
		{"cgroup scope", func(c *Config) { c.ScopeKind = "cgroup" }, func(b *bench) *sensorv1.SignedGrant {
			return b.sign(b.order(isolate, "op"))
		}, "scope is a cgroup"},
		{"no coordinator address", func(c *Config) { c.NodeAddresses = func() []netip.AddrPort { return nil } }, func(b *bench) *sensorv1.SignedGrant {
			return b.sign(b.order(isolate, "op"))
		}, "no coordinator address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, tt.config)
			b.expect(tt.name, b.r.Grant(t.Context(), tt.signed(b)).GetStatus(), refused, tt.want, false)
			b.await(refused, tt.want)
			if got := b.r.Counters().Refused; got != 1 {
				t.Errorf("counted %d refusals, want 1", got)
			}
		})
	}
}

// Ensure a nonce is honoured once, over restarts, and the very same grant
// repeated by an at-least-once delivery is answered and not carried out again.
func TestNonceIsHonouredOnce(t *testing.T) {
	b := newBench(t, nil)
	isolate := b.sign(b.order(sensorv1.Action_ACTION_ISOLATE, "op-1"))
	first := b.r.Grant(t.Context(), isolate).GetStatus()
	b.expect("first", first, applied, "", true)
	b.clock.pass(time.Minute, time.Minute)
	again := b.r.Grant(t.Context(), isolate).GetStatus()
	b.expect("repeated while in force", again, applied, "repeated", true)
	if again.GetLeaseExpires() != first.GetLeaseExpires() {
		t.Error("the repetition moved the end of the lease")
	}
	release := b.sign(b.order(sensorv1.Action_ACTION_RELEASE, "op-2"))
	b.expect("release", b.r.Grant(t.Context(), release).GetStatus(), released, "ended", false)
	b.expect("release repeated", b.r.Grant(t.Context(), release).GetStatus(), released, "repeated", false)
	b.expect("replayed after its end", b.r.Grant(t.Context(), isolate).GetStatus(), refused, "honoured before", false)
	b.restart()
	b.expect("replayed after a restart", b.r.Grant(t.Context(), isolate).GetStatus(), refused, "honoured before", false)
	b.expect("a new one", b.isolate("op-3"), applied, "", true)
	b.expect("an old release replayed", b.r.Grant(t.Context(), release).GetStatus(), refused, "honoured before", true)
	// Another payload under a used nonce.
	g := b.order(sensorv1.Action_ACTION_RELEASE, "op-4")
	g.Nonce = b.r.record.Lease.Nonce
	b.expect("a nonce used twice", b.r.Grant(t.Context(), b.sign(g)).GetStatus(), refused, "honoured before", true)
}

func TestNonceMemoryIsBounded(t *testing.T) {
	b := newBench(t, nil)
	b.r.mu.Lock()
	for i := range maxNonces {
		b.r.record.Nonces = append(b.r.record.Nonces, usedNonce{Nonce: []byte{byte(i), byte(i >> 8)}, Until: b.clock.Now().Add(time.Hour).UnixNano()})
	}
	b.r.mu.Unlock()
	b.expect("full", b.isolate("op-1"), refused, "still in their time", false)
	b.clock.pass(time.Hour, time.Hour)
	b.expect("after their time", b.isolate("op-2"), applied, "", true)
	if got := len(b.r.record.Nonces); got != 1 {
		t.Errorf("%d nonces are remembered, want 1", got)
	}
}

// Ensure an isolation that cuts the coordinator off too is undone.
func TestSelfTestFailureReverts(t *testing.T) {
	b := newBench(t, nil)
	b.reachable = func(context.Context) error { return errors.New("no answer") }
	b.expect("unreachable", b.isolate("op-1"), failed, "no coordinator answered", false)
	b.await(failed, "no answer")
	b.reachable = func(context.Context) error { return nil }
	b.expect("reachable", b.isolate("op-2"), applied, "", true)
	// A second isolation that fails its test leaves the first in force.
	b.reachable = func(context.Context) error { return errors.New("no answer") }
	b.expect("unreachable again", b.isolate("op-3"), failed, "isolation of op-2 stays in force", true)
}

// Ensure the coordinator has the whole time of the self-test to be back.
func TestSelfTestWaitsForTheCoordinator(t *testing.T) {
	b := newBench(t, nil)
	asked := 0
	b.reachable = func(context.Context) error {
		if asked++; asked < 3 {
			return errors.New("not yet")
		}
		return nil
	}
	b.expect("third time", b.isolate("op-1"), applied, "", true)
}

func TestLaterIsolationSupersedes(t *testing.T) {
	b := newBench(t, nil)
	b.isolate("op-1")
	b.clock.pass(30*time.Minute, 30*time.Minute)
	b.expect("second", b.isolate("op-2"), applied, "", true)
	b.await(released, "superseded by op-2")
	b.clock.pass(45*time.Minute, 45*time.Minute)
	b.isIsolated("beyond the first lease", true)
	b.clock.pass(16*time.Minute, 16*time.Minute)
	if got := b.await(expired, "lease ended"); got.GetOperation() != "op-2" {
		t.Errorf("expired: got %v", got)
	}
}

func TestLeaseExpires(t *testing.T) {
	for _, tt := range []struct {
		name string
		turn func(*bench)
		want bool // still isolated
	}{
		{"in time", func(b *bench) { b.clock.pass(59*time.Minute, 59*time.Minute) }, true},
		{"over", func(b *bench) { b.clock.pass(time.Hour, time.Hour) }, false},
		{"over while suspended", func(b *bench) { b.clock.pass(2*time.Hour, 2*time.Hour) }, false},
		{"the wall clock jumps forward", func(b *bench) { b.clock.pass(time.Minute, 1000*time.Hour) }, true},
		{"over, the wall clock jumps back", func(b *bench) { b.clock.pass(time.Hour, -1000*time.Hour) }, false},
		{"restart in time", func(b *bench) { b.stop(); b.clock.pass(59*time.Minute, 59*time.Minute); b.start() }, true},
		{"restart when over", func(b *bench) { b.stop(); b.clock.pass(time.Hour, time.Hour); b.start() }, false},
		{"reboot in time", func(b *bench) { b.stop(); b.clock.reboot(59 * time.Minute); b.start() }, true},
		{"reboot when over", func(b *bench) { b.stop(); b.clock.reboot(time.Hour); b.start() }, false},
		{"reboot, wall clock in the past, in time", func(b *bench) {
			b.stop()
			b.clock.reboot(-9000 * time.Hour)
			b.start()
			b.clock.pass(59*time.Minute, 59*time.Minute)
		}, true},
		{"reboot, wall clock in the past, over", func(b *bench) {
			b.stop()
			b.clock.reboot(-9000 * time.Hour)
			b.start()
			b.clock.pass(time.Hour, time.Hour)
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.expect("isolate", b.isolate("op-1"), applied, "", true)
			b.forget()
			tt.turn(b)
			if !tt.want {
				if got := b.await(expired, "lease ended"); got.GetOperation() != "op-1" {
					t.Errorf("expired: got %v", got)
				}
			}
			b.isIsolated(tt.name, tt.want)
			if present, err := b.r.barrier.Present(); err != nil || present != tt.want {
				t.Errorf("the table is in the kernel: %t, %v; want %t", present, err, tt.want)
			}
		})
	}
}

func TestLeaseLength(t *testing.T) {
	for _, tt := range []struct {
		seconds uint64
		want    time.Duration
	}{{0, 4 * time.Hour}, {1, time.Second}, {86400, 24 * time.Hour}, {86401, 24 * time.Hour}, {1 << 63, 24 * time.Hour}} {
		if got, _ := leaseLength(tt.seconds); got != tt.want {
			t.Errorf("%d seconds: got %s, want %s", tt.seconds, got, tt.want)
		}
	}
}

// Ensure the cut has no gap when the sensor dies, and is in force again before
// New returns when the kernel lost it.
func TestRestart(t *testing.T) {
	b := newBench(t, nil)
	b.isolate("op-1")
	b.stop()
	if got := b.leaks(); got != 0 {
		t.Errorf("%d packets passed while no sensor was there", got)
	}
	flush(t, b)
	if got := b.leaks(); got != 2 {
		t.Fatalf("%d packets passed a flushed ruleset, want 2", got)
	}
	r, err := New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.leaks(); got != 0 || r.State() != "full" {
		t.Errorf("after New: %d packets passed in state %q", got, r.State())
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// Ensure an isolation is reapplied within a second of its removal, and reported.
func TestTampering(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Tick = time.Minute; c.Clock = systemClock{} })
	b.expect("isolate", b.isolate("op-1"), applied, "", true)
	for range 3 {
		b.r.barrier.Disown() // else the kernel does not let anybody
		present := time.Now()
		flush(t, b)
		for {
			if there, err := b.r.barrier.Present(); err != nil {
				t.Fatal(err)
			} else if there {
				break
			}
			if time.Since(present) > slow.Deadline(time.Second) {
				t.Fatal("not reapplied within a second")
			}
		}
		t.Logf("in the kernel again %s after the flush began", time.Since(present))
		b.isIsolated("reapplied", true)
	}
	b.await(applied, "another program changed or removed the isolation")
}

func flush(t *testing.T, b *bench) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIP: needs the nft command")
	}
	b.host.Must(t, "flushing", func() error { return exec.Command("nft", "flush", "ruleset").Run() })
}

func TestDamagedState(t *testing.T) {
	damage := func(t *testing.T, b *bench, content string, age time.Duration) {
		path := filepath.Join(b.cfg.StateDir, "isolation.lease")
		when := b.clock.Now().Add(-age)
		if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chtimes(path, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("isolated", func(t *testing.T) {
		b := newBench(t, nil)
		old := b.sign(b.order(sensorv1.Action_ACTION_RELEASE, "op-old"))
		b.isolate("op-1")
		b.stop()
		damage(t, b, "vedette-isolation-state-1 0000\n{", 23*time.Hour)
		b.forget()
		b.clock.pass(time.Second, time.Second)
		b.start()
		b.expect("kept", b.await(applied, "damaged"), applied, "longest lease", true)
		b.expect("signed before", b.r.Grant(t.Context(), old).GetStatus(), refused, "sign a new one", true)
		if _, err := os.Stat(filepath.Join(b.cfg.StateDir, "isolation.lease.damaged")); err != nil {
			t.Error(err)
		}
		b.clock.pass(time.Hour, time.Hour)
		b.await(expired, "lease ended")
		b.isIsolated("24 hours after the file's last change", false)
	})
	t.Run("isolated, long ago", func(t *testing.T) {
		b := newBench(t, nil)
		b.isolate("op-1")
		b.stop()
		damage(t, b, "", 25*time.Hour)
		b.start()
		b.await(expired, "lease ended")
		b.isIsolated("too old", false)
	})
	t.Run("isolated, release works", func(t *testing.T) {
		b := newBench(t, nil)
		b.isolate("op-1")
		b.stop()
		damage(t, b, "rubbish", -time.Hour)
		b.start()
		b.clock.pass(time.Second, time.Second)
		b.expect("release", b.release("op-2"), released, "ended the isolation", false)
	})
	t.Run("not isolated", func(t *testing.T) {
		b := newBench(t, nil)
		b.stop()
		damage(t, b, "rubbish", 0)
		b.start()
		b.expect("reported", b.await(released, "damaged"), released, "not isolated", false)
	})
	t.Run("no file, but a table", func(t *testing.T) {
		b := newBench(t, nil)
		b.isolate("op-1")
		b.stop()
		if err := os.Remove(filepath.Join(b.cfg.StateDir, "isolation.lease")); err != nil {
			t.Fatal(err)
		}
		b.start()
		b.expect("kept", b.await(applied, "no lease belongs"), applied, "", true)
	})
}

// Ensure a sensor that dies in the middle of a self-test goes on with it.
func TestResumedSelfTest(t *testing.T) {
	for _, tt := range []struct {
		name      string
		reachable error
		want      sensorv1.IsolationState
		words     string
		isolated  bool
	}{
		{"passes", nil, applied, "proved after a restart", true},
		{"fails", errors.New("gone"), failed, "gone", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, func(c *Config) { // time to stop it in the middle
				c.SelfTestTimeout, c.ResumeTimeout = slow.Deadline(c.SelfTestTimeout), slow.Deadline(c.ResumeTimeout)
			})
			asked := make(chan struct{})
			b.reachable = func(ctx context.Context) error {
				close(asked)
				<-ctx.Done()
				return ctx.Err()
			}
			result := make(chan *sensorv1.GrantResult, 1)
			signed := b.sign(b.order(sensorv1.Action_ACTION_ISOLATE, "op-1"))
			go func() { result <- b.r.Grant(t.Context(), signed) }()
			<-asked
			b.stop()
			if got := (<-result).GetStatus().GetState(); got != sensorv1.IsolationState_ISOLATION_STATE_PENDING {
				t.Errorf("stopped in the middle: got %s", got)
			}
			b.reachable = func(context.Context) error { return tt.reachable }
			b.start()
			b.expect(tt.name, b.await(tt.want, tt.words), tt.want, "", tt.isolated)
		})
	}
}

// Ensure a host on which isolation was turned off is let go at the next start.
func TestTurnedOff(t *testing.T) {
	b := newBench(t, nil)
	b.isolate("op-1")
	b.stop()
	b.cfg.Enabled = false
	b.start()
	b.expect("turned off", b.await(released, "isolation.enabled"), released, "", false)
}

// Ensure a disk that takes nothing does not protect an intruder.
func TestUnsavable(t *testing.T) {
	b := newBench(t, nil)
	if err := os.Remove(b.cfg.StateDir + "/isolation.lease"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(b.cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	b.expect("isolate", b.isolate("op-1"), applied, "not saved", true)
	b.expect("release", b.release("op-2"), released, "could not be saved", false)
}

// Ensure a flood of bad grants is counted and does not fill the spool.
func TestRefusalsAreBounded(t *testing.T) {
	b := newBench(t, nil)
	for range 3 * windowReports {
		b.r.Grant(t.Context(), nil)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if got := len(b.reports); got != windowReports {
		t.Errorf("%d refusals are reported, want %d", got, windowReports)
	}
	if got := b.r.Counters().Refused; got != 3*windowReports {
		t.Errorf("%d refusals are counted, want %d", got, 3*windowReports)
	}
}

func TestConfig(t *testing.T) {
	_, err := New(Config{})
	for _, field := range []string{"StateDir", "NodeAddresses", "Roots", "ClusterID", "HostID", "Reachable", "Report"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("got %v, want it to name %s", err, field)
		}
	}
}

func TestMissingNamespace(t *testing.T) {
	b := newBench(t, nil)
	b.cfg.NetNS = "/nonexistent"
	if _, err := New(b.cfg); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
}
