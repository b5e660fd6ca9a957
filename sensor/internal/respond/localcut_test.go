package respond

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// first is a first cut that notes what it is told; the real one is the kernel stage's.
type first struct {
	mu      sync.Mutex
	told    []string
	nodes   []netip.AddrPort
	stopped []StoppedProcess
	shallow error // of Deepen
}

// open is what it was told last to leave open.
func (f *first) open() []netip.AddrPort { f.mu.Lock(); defer f.mu.Unlock(); return f.nodes }

// note leaves out what was told since the last end: it is told again all the time.
func (f *first) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.told) - 1; i >= 0 && f.told[i] != "lift"; i-- {
		if f.told[i] == what {
			return
		}
	}
	f.told = append(f.told, what)
}

func (f *first) Cut(level isolation.Level, nodes []netip.AddrPort) error {
	if len(nodes) == 0 {
		return errors.New("no nodes")
	}
	f.note("cut " + level.String())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes = nodes
	return nil
}

func (f *first) Deepen(lasting bool) ([]StoppedProcess, error) {
	what := "stop"
	if lasting {
		what = "deepen"
	}
	f.note(what)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stopped, f.shallow
}

func (f *first) NotCut() []string { return []string{"a gap"} }

func (f *first) Lift(stopped []StoppedProcess) error {
	f.note("lift")
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(stopped, f.stopped) && len(stopped) > 0 {
		return errors.New("other processes than were stopped")
	}
	return nil
}

func (f *first) want(t *testing.T, what ...string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.told, what) {
		t.Errorf("the first cut was told %q, want %q", f.told, what)
	}
	f.told = nil
}

var ownEvidence = LocalOrder{Action: sensorv1.Action_ACTION_ISOLATE, Lease: time.Hour, Evidence: []string{"f-1"}, IntentVersion: 7, Policies: []string{"web"}}

// Ensure a host isolates itself without any coordinator, stays so, says on what
// grounds, and that an operator ends it.
func TestIsolatesItself(t *testing.T) {
	f := &first{stopped: []StoppedProcess{{PID: 7, Start: 8, Comm: "sender"}}}
	b := newBench(t, func(c *Config) {
		c.First = f
		c.Reachable = func(context.Context, []netip.AddrPort) error { return errors.New("partition") }
		c.SelfTestTimeout = 300 * time.Millisecond
	})
	deadline := time.Now().Add(slow.Deadline(5 * time.Second))
	for !b.r.CutNow() { // until it knows what to leave open
		if time.Now().After(deadline) {
			t.Fatal("nothing was cut at the verdict")
		}
		runtime.Gosched()
	}
	status := b.r.Contain(t.Context(), ownEvidence)
	b.expect("in a partition", status, applied, "is stopped until the release", true)
	if !status.GetLocal() || status.GetIntentVersion() != 7 || !slices.Equal(status.GetEvidence(), []string{"f-1"}) || !slices.Equal(status.GetPolicies(), []string{"web"}) {
		t.Errorf("it does not say on what grounds: %v", status)
	}
	f.want(t, "cut full", "stop", "deepen")
	if b.r.CutNow() {
		t.Error("cut at once though it is isolated")
	}
	b.expect("again", b.r.Contain(t.Context(), ownEvidence), applied, "already in force", true)
	b.expect("release", b.release("op-1"), released, "ended the isolation", false)
	if got := b.r.record.Repeats; got != 0 {
		t.Errorf("%d repeats after an operator's grant", got)
	}
}

// Ensure a sensor that starts on an isolated host makes the cut whole again, and that who
// ends it without a sensor lets go on what was stopped.
func TestCutsWholeAfterARestart(t *testing.T) {
	f := &first{stopped: []StoppedProcess{{PID: 7, Start: 8, Comm: "sender"}}}
	b := newBench(t, func(c *Config) { c.First = f })
	b.expect("itself", b.r.Contain(t.Context(), ownEvidence), applied, "", true)
	f.want(t, "cut full", "stop", "deepen")
	b.restart()
	f.want(t, "cut full", "deepen")
	b.expect("an order over it", b.isolate("op-1"), applied, "sender (process 7) is stopped until the release", true)
	f.want(t, "cut full", "stop", "deepen")
	b.stop()
	var lifted []StoppedProcess
	end := LocalEnd{
		StateDir: b.cfg.StateDir, NetNS: b.cfg.NetNS, By: "root", Reason: "test", Logger: b.cfg.Logger, Clock: b.clock,
		Lift: func(stopped []StoppedProcess) error { lifted = stopped; return nil },
	}
	if _, err := EndLocally(t.Context(), end); err != nil || !slices.Equal(lifted, f.stopped) {
		t.Errorf("ended without a sensor: %v let go on, %v; want %v", lifted, err, f.stopped)
	}
	end.Lift = func([]StoppedProcess) error { return errors.New("still there") }
	if _, err := EndLocally(t.Context(), end); err != nil {
		t.Errorf("a host that is not isolated: %v", err)
	}
}

// Ensure a verdict that cannot be carried out takes the first cut back, and that
// the fourth isolation in a row needs a person.
func TestRefusesToIsolateItself(t *testing.T) {
	f := &first{}
	b := newBench(t, func(c *Config) { c.First = f })
	for range maxRepeats {
		b.expect("itself", b.r.Contain(t.Context(), ownEvidence), applied, "", true)
		b.clock.pass(2*time.Hour, 2*time.Hour)
		b.r.tick()
		b.await(sensorv1.IsolationState_ISOLATION_STATE_EXPIRED, "the lease ended")
	}
	f.want(t, "cut full", "stop", "deepen", "lift", "cut full", "stop", "deepen", "lift", "cut full", "stop", "deepen", "lift")
	if b.r.CutNow() {
		t.Error("cut at once though a person must look first")
	}
	b.expect("once more", b.r.Contain(t.Context(), ownEvidence), refused, "a person must", false)
	f.want(t, "lift")
	b.restart()
	b.expect("after a restart", b.r.Contain(t.Context(), ownEvidence), refused, "a person must", false)
	b.expect("an operator may", b.isolate("op-1"), applied, "", true)
	b.expect("and ends it", b.release("op-2"), released, "", false)
	b.expect("then it may again", b.r.Contain(t.Context(), ownEvidence), applied, "", true)
}

// Ensure levels do what they say, and jump needs openings.
func TestIsolationLevels(t *testing.T) {
	current := &sensorv1.Intent{}
	b := newBench(t, func(c *Config) { c.Intent = func() *sensorv1.Intent { return current } })
	at := func(level sensorv1.IsolationLevel, operation string) *sensorv1.IsolationStatus {
		g := b.order(sensorv1.Action_ACTION_ISOLATE, operation)
		g.Level = level
		return b.r.Grant(t.Context(), b.sign(g)).GetStatus()
	}
	b.expect("jump without openings", at(sensorv1.IsolationLevel_ISOLATION_LEVEL_JUMP, "op-1"), refused, "opens nothing to a jump host", false)
	current = &sensorv1.Intent{Jump: []*sensorv1.Opening{{Prefix: "10.77.0.0/24", Protocol: 6, Port: 22, Inbound: true}}}
	b.expect("jump", at(sensorv1.IsolationLevel_ISOLATION_LEVEL_JUMP, "op-2"), applied, "port 22 of this host", true)
	if got := b.r.State(); got != "jump" {
		t.Errorf("state %q, want jump", got)
	}
	b.expect("egress only", at(sensorv1.IsolationLevel_ISOLATION_LEVEL_EGRESS_ONLY, "op-3"), applied, "", true)
	if got := b.r.State(); got != "egress-only" {
		t.Errorf("state %q, want egress-only", got)
	}
	b.expect("a level from the future", at(99, "op-4"), refused, "does not know the grant's isolation level", true)
	g := b.order(sensorv1.Action_ACTION_ISOLATE, "op-5")
	g.Preview = true
	b.expect("preview", b.r.Grant(t.Context(), b.sign(g)).GetStatus(), sensorv1.IsolationState_ISOLATION_STATE_PREVIEWED, "left open", true)
}

// Ensure a report names what passes by both layers, and by the table where the other is
// not there, or not whole.
func TestReportOfBothLayers(t *testing.T) {
	const ofTable = "AF_PACKET sockets of this host"
	for _, test := range []struct {
		name  string
		first FirstCut
		level sensorv1.IsolationLevel
		alone bool
	}{
		{"the table alone", nil, 0, true},
		{"both", &first{}, 0, false},
		{"the other not whole", &first{shallow: errors.New("no room")}, 0, true},
		{"jump", &first{}, sensorv1.IsolationLevel_ISOLATION_LEVEL_JUMP, true},
	} {
		b := newBench(t, func(c *Config) {
			c.First = test.first
			c.Intent = func() *sensorv1.Intent {
				return &sensorv1.Intent{Jump: []*sensorv1.Opening{{Prefix: "10.77.0.0/24", Protocol: 6, Port: 22, Inbound: true}}}
			}
		})
		g := b.order(sensorv1.Action_ACTION_ISOLATE, "op-1")
		g.Level = test.level
		detail := b.r.Grant(t.Context(), b.sign(g)).GetStatus().GetDetail()
		if strings.Contains(detail, ofTable) != test.alone || strings.Contains(detail, "a gap") == test.alone {
			t.Errorf("%s: %q", test.name, detail)
		}
		if whole := test.name != "the other not whole"; strings.Contains(detail, "not whole (no room)") == whole {
			t.Errorf("%s: %q", test.name, detail)
		}
	}
}
