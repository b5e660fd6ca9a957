package respond

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testHost = "h-000000000001"

// fakeClock is a boot clock, a wall clock and a boot id that tests turn.
type fakeClock struct {
	mu   sync.Mutex
	wall time.Time
	boot time.Duration
	id   string
}

func (c *fakeClock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.wall }

func (c *fakeClock) Boot() time.Duration { c.mu.Lock(); defer c.mu.Unlock(); return c.boot }

func (c *fakeClock) BootID() string { c.mu.Lock(); defer c.mu.Unlock(); return c.id }

func (c *fakeClock) pass(boot, wall time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boot, c.wall = c.boot+boot, c.wall.Add(wall)
}

func (c *fakeClock) reboot(off time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boot, c.wall, c.id = 5*time.Second, c.wall.Add(off), c.id+"'"
}

// bench is one host with a responder, an operator and somebody who reads its reports.
type bench struct {
	t          *testing.T
	epoch      uint64
	host, peer *netnstest.Namespace
	ca         *linktest.CA
	alice      tls.Certificate
	clock      *fakeClock
	cfg        Config
	r          *Responder
	reachable  func(context.Context) error
	stop       func()

	mu      sync.Mutex
	reports []*sensorv1.IsolationStatus
	news    chan struct{}
}

func newBench(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	now := time.Now()
	b := &bench{
		t: t, ca: linktest.NewCA(t), news: make(chan struct{}, 1), stop: func() {},
		clock:     &fakeClock{wall: now, boot: time.Hour, id: "boot"},
		reachable: func(context.Context) error { return nil },
	}
	b.host, b.peer = netnstest.Pair(t)
	b.alice = b.ca.IssueBetween(link.KindOperator, "alice", "responder", now.Add(-time.Hour), now.Add(100*time.Hour))
	b.cfg = Config{
		StateDir:      t.TempDir(),
		NodeAddresses: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("10.77.0.2:7700")} },
		Roots:         b.ca.Roots, ClusterID: linktest.Cluster, HostID: testHost, Enabled: true, ScopeKind: "netns",
		NetNS: b.host.Path(), Reachable: func(ctx context.Context, _ []netip.AddrPort) error { return b.reachable(ctx) },
		Report: b.take, Logger: slog.New(slog.DiscardHandler), Clock: b.clock,
		SelfTestTimeout: time.Second, ResumeTimeout: time.Second, Tick: 10 * time.Millisecond,
	}
	if change != nil {
		change(&b.cfg)
	}
	b.start()
	if err := b.r.barrier.Supported(); errors.Is(err, isolation.ErrNoEgress) || errors.Is(err, isolation.ErrNoPermission) {
		t.Skipf("SKIP: %v", err)
	}
	t.Cleanup(func() { b.stop() })
	return b
}

// start makes the responder and runs it; halt stops it as a killed sensor would,
// without undoing anything.
func (b *bench) start() {
	b.t.Helper()
	r, err := New(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	b.r, b.stop = r, sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, r.Close()); err != nil {
			b.t.Errorf("stopping: %v", err)
		}
	})
}

func (b *bench) restart() { b.t.Helper(); b.stop(); b.start() }

func (b *bench) take(status *sensorv1.IsolationStatus) {
	b.mu.Lock()
	b.reports = append(b.reports, status)
	b.mu.Unlock()
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// await waits for a report in a state whose detail holds some words.
func (b *bench) await(state sensorv1.IsolationState, words string) *sensorv1.IsolationStatus {
	b.t.Helper()
	deadline := time.After(slow.Deadline(10 * time.Second))
	for {
		b.mu.Lock()
		for _, status := range b.reports {
			if status.GetState() == state && strings.Contains(status.GetDetail(), words) {
				b.mu.Unlock()
				return status
			}
		}
		seen := fmt.Sprint(b.reports)
		b.mu.Unlock()
		select {
		case <-b.news:
		case <-deadline:
			b.t.Fatalf("no report %s with %q; seen: %s", state, words, seen)
		}
	}
}

func (b *bench) forget() { b.mu.Lock(); defer b.mu.Unlock(); b.reports = nil }

// order is a grant for this host as a person would sign it.
func (b *bench) order(action sensorv1.Action, operation string) *sensorv1.Grant {
	nonce := make([]byte, grant.NonceSize)
	_, _ = rand.Read(nonce)
	now := b.clock.Now()
	b.epoch = max(b.epoch+1, uint64(now.UnixNano()))
	return &sensorv1.Grant{
		Nonce: nonce, Action: action, LeaseSeconds: 3600, Epoch: b.epoch,
		IssuedAt: now.UnixNano(), NotAfter: now.Add(10 * time.Minute).UnixNano(),
		Operator: "alice", Reason: "test", Operation: operation, ClusterId: linktest.Cluster,
	}
}

// sign makes g a grant for this host among others, or for those that are named.
func (b *bench) sign(g *sensorv1.Grant, hosts ...string) *sensorv1.SignedGrant {
	b.t.Helper()
	if len(hosts) == 0 {
		hosts = []string{"h-a", testHost, "h-z"}
	}
	set, err := grant.Address(g, hosts...)
	if err != nil {
		b.t.Fatal(err)
	}
	signed, err := grant.Sign(b.alice.PrivateKey.(crypto.Signer), b.alice.Certificate, g)
	if err != nil {
		b.t.Fatal(err)
	}
	signed.Proof = set.Prove(testHost)
	return signed
}

func (b *bench) isolate(operation string) *sensorv1.IsolationStatus {
	b.t.Helper()
	return b.r.Grant(b.t.Context(), b.sign(b.order(sensorv1.Action_ACTION_ISOLATE, operation))).GetStatus()
}

func (b *bench) release(operation string) *sensorv1.IsolationStatus {
	b.t.Helper()
	return b.r.Grant(b.t.Context(), b.sign(b.order(sensorv1.Action_ACTION_RELEASE, operation))).GetStatus()
}

// leaks says how many of an ordinary sender's datagrams reach the peer.
func (b *bench) leaks() int {
	b.t.Helper()
	capture := netnstest.NewCapture(b.t, b.peer, netnstest.PeerDevice)
	b.host.Must(b.t, "sending", func() error {
		return errors.Join(
			netnstest.SendUDP("", "10.77.0.2:9999", []byte("ordinary")),
			netnstest.SendUDP("", "[fd77::2]:9999", []byte("ordinary")))
	})
	return capture.Count(b.t, []byte("ordinary"))
}

const (
	applied  = sensorv1.IsolationState_ISOLATION_STATE_APPLIED
	released = sensorv1.IsolationState_ISOLATION_STATE_RELEASED
	refused  = sensorv1.IsolationState_ISOLATION_STATE_REFUSED
	failed   = sensorv1.IsolationState_ISOLATION_STATE_FAILED
	expired  = sensorv1.IsolationState_ISOLATION_STATE_EXPIRED
)

// expect checks an outcome and both of its sides: what is said and what passes.
func (b *bench) expect(what string, status *sensorv1.IsolationStatus, want sensorv1.IsolationState, words string, isolated bool) {
	b.t.Helper()
	if status.GetState() != want || !strings.Contains(status.GetDetail(), words) {
		b.t.Errorf("%s: got %s %q, want %s with %q", what, status.GetState(), status.GetDetail(), want, words)
	}
	b.isIsolated(what, isolated)
}

func (b *bench) isIsolated(what string, want bool) {
	b.t.Helper()
	state, leaks := StateNone, 2
	if want {
		state, leaks = "full", 0
		if level := b.r.State(); level != StateNone {
			state = level // each is asked for by its test
		}
	}
	b.is(what, state, leaks)
}

func (b *bench) is(what, state string, leaks int) {
	b.t.Helper()
	if got := b.r.State(); got != state {
		b.t.Errorf("%s: the state is %q, want %q", what, got, state)
	}
	if got := b.leaks(); got != leaks {
		b.t.Errorf("%s: %d packets passed, want %d", what, got, leaks)
	}
}
