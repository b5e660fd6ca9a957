package uplink_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/spool"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logBuffer is a log that a test can read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// host is a sensor's half: identity, spool and uplink.
type host struct {
	id     *uplink.Identity
	dir    string
	spool  *spool.Spool
	uplink *uplink.Uplink
	log    *logBuffer
	stop   func()
}

func enrollAt(t *testing.T, n *node) (*uplink.Identity, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "identity")
	id, err := uplink.Enroll(t.Context(), dir, []string{n.addr()}, n.token(), &sensorv1.HostFacts{Name: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	return id, dir
}

// Ensure a sensor that is told to end says goodbye, waits for the node's word, and says
// of what it failed when it did.
func TestGoodbye(t *testing.T) {
	ca := linktest.NewCA(t)
	for _, tt := range []struct {
		name  string
		cause error
		want  string
	}{
		{"told to end", nil, ""},
		{"failed", errors.New("the ring is torn"), "the ring is torn"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := startNode(t, ca, "n1", "127.0.0.1:0", newStore())
			id, _ := enrollAt(t, n)
			sp, err := spool.Open(t.TempDir(), spool.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer sp.Close()
			u, err := uplink.New(uplink.Config{Identity: id, KernelBoot: []byte("a kernel's boot."), KeepAlive: 3 * time.Second}, sp)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(context.Background())
			done := make(chan error, 1)
			go func() { done <- u.Run(ctx) }()
			hello := <-n.hellos
			if string(hello.GetKernelBoot()) != "a kernel's boot." || len(hello.GetInstance()) != 16 || hello.GetKeepAliveMs() != 3000 {
				t.Errorf("hello: %v", hello)
			}
			if err := sp.Append(&sensorv1.Record{Time: 1, Body: &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{}}}, false); err != nil {
				t.Fatal(err)
			}
			until(t, "a session", func() bool { return len(n.store.taken()) > 0 })
			began := time.Now()
			cancel(tt.cause)
			if err := <-done; err != nil {
				t.Error(err)
			}
			n.mu.Lock()
			defer n.mu.Unlock()
			if len(n.goodbyes) != 1 || n.goodbyes[0] != tt.want {
				t.Errorf("goodbyes: %q, want %q", n.goodbyes, tt.want)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func startHost(t *testing.T, id *uplink.Identity, dir string, change func(*uplink.Config)) *host {
	t.Helper()
	h := &host{id: id, dir: dir, log: new(logBuffer)}
	var err error
	if h.spool, err = spool.Open(t.TempDir(), spool.Config{}); err != nil {
		t.Fatal(err)
	}
	cfg := uplink.Config{
		Identity: id, Version: "test", Silence: 400 * time.Millisecond, DialTimeout: 500 * time.Millisecond, MaxBackoff: 200 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(h.log, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	if h.uplink, err = uplink.New(cfg, h.spool); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.uplink.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, h.spool.Close()); err != nil {
			t.Errorf("uplink: %v", err)
		}
	})
	t.Cleanup(h.stop)
	return h
}

func (h *host) put(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		rec := &sensorv1.Record{Time: 1, Body: &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{Storyline: n}}}
		if err := h.spool.Append(rec, false); err != nil {
			t.Fatal(err)
		}
	}
}

func newStore() *store { return &store{position: make(map[string]uint64)} }

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(15 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited 15 s for: %s", what)
		case <-tick.C:
		}
	}
}

func counted(from, to int) []string {
	var names []string
	for i := from; i < to; i++ {
		names = append(names, fmt.Sprint(i))
	}
	return names
}

// Ensure a token is traded for an identity that survives being loaded, and
// works once.
func TestEnroll(t *testing.T) {
	ca := linktest.NewCA(t)
	n := startNode(t, ca, "n1", "127.0.0.1:0", newStore())
	dir := filepath.Join(t.TempDir(), "identity")
	if _, err := uplink.LoadIdentity(dir); !errors.Is(err, uplink.ErrNotEnrolled) || !strings.Contains(err.Error(), "vedette-sensor enroll") {
		t.Errorf("before: %v", err)
	}
	token := n.token()
	id, err := uplink.Enroll(t.Context(), dir, []string{n.addr()}, token, &sensorv1.HostFacts{})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := uplink.LoadIdentity(dir)
	if err != nil || loaded.HostID != "h-test" || loaded.Cluster != linktest.Cluster || loaded.HostID != id.HostID || !slices.Equal(loaded.Nodes(), []string{n.addr()}) {
		t.Fatalf("loaded %+v, %v", loaded, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
	}
	var refused *uplink.RefusedError
	if _, err := uplink.Enroll(t.Context(), t.TempDir(), []string{n.addr()}, token, nil); !errors.As(err, &refused) || refused.Code != "bad-token" {
		t.Errorf("second use: %v", err)
	}
	stranger := startNode(t, linktest.NewCA(t), "evil", "127.0.0.1:0", newStore())
	if _, err := uplink.Enroll(t.Context(), t.TempDir(), []string{stranger.addr()}, n.token(), nil); !errors.Is(err, link.ErrForeignCA) {
		t.Errorf("at another cluster's node: %v", err)
	}
	n.set(func(n *node) { n.roots = [][]byte{stranger.ca.Certificate.Raw} })
	if _, err := uplink.Enroll(t.Context(), t.TempDir(), []string{n.addr()}, n.token(), nil); !errors.Is(err, link.ErrForeignCA) {
		t.Errorf("with another CA to trust: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "host.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := uplink.LoadIdentity(dir); !errors.Is(err, uplink.ErrDamagedIdentity) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable key: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "identity.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := uplink.LoadIdentity(dir); !errors.Is(err, uplink.ErrDamagedIdentity) {
		t.Errorf("damaged: %v", err)
	}
}

// Ensure a host that is sent away because many enrol at once does so later, and does not
// wait for what will not change.
func TestEnrollTriesAgain(t *testing.T) {
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", newStore())
	n.set(func(n *node) { n.away = 1 })
	token := n.token()
	if _, err := uplink.Enroll(t.Context(), filepath.Join(t.TempDir(), "identity"), []string{n.addr()}, token, nil); err != nil {
		t.Errorf("at a busy node: %v", err)
	}
	n.set(func(n *node) { n.away = 1 << 20 })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var refused *uplink.RefusedError
	if _, err := uplink.Enroll(ctx, filepath.Join(t.TempDir(), "identity"), []string{n.addr()}, token, nil); !errors.As(err, &refused) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stopped while it waits: %v", err)
	}
}

// Ensure records arrive once and in order, over many batches, and leave the spool.
func TestDelivery(t *testing.T) {
	st := newStore()
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", st)
	id, dir := enrollAt(t, n)
	h := startHost(t, id, dir, nil)
	h.put(t, counted(0, 3000)...)
	until(t, "all to arrive", func() bool { return len(st.taken()) == 3000 })
	if !slices.Equal(st.taken(), counted(0, 3000)) {
		t.Error("out of order")
	}
	until(t, "an empty spool", func() bool { return h.spool.Stats().Records == 0 })
	if st.gaps != 0 {
		t.Errorf("%d batches did not fit", st.gaps)
	}
	if hello := <-n.hellos; hello.GetSensorVersion() != "test" || len(hello.GetBoot()) != 16 {
		t.Errorf("hello: %v", hello)
	}
}

// Ensure a node that stops, and one that dies without a word, cost no record
// and little time.
func TestFailover(t *testing.T) {
	ca, st := linktest.NewCA(t), newStore()
	nodes := []*node{startNode(t, ca, "n1", "127.0.0.1:0", st), startNode(t, ca, "n2", "127.0.0.1:0", st)}
	id, dir := enrollAt(t, nodes[0])
	h := startHost(t, id, dir, func(c *uplink.Config) { c.Nodes = []string{nodes[1].addr()} })
	h.put(t, counted(0, 10)...)
	until(t, "the first ten", func() bool { return len(st.taken()) == 10 })
	serving := 0
	if len(nodes[1].hellos) > 0 {
		serving = 1
	}
	nodes[serving].stop()
	began := time.Now()
	h.put(t, counted(10, 20)...)
	until(t, "the next ten at the other node", func() bool { return len(st.taken()) == 20 })
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %s after an orderly end", took)
	}
	if !slices.Equal(st.taken(), counted(0, 20)) {
		t.Errorf("got %v", st.taken())
	}
}

// Ensure silence on the wire is noticed and the other node is used.
func TestSilentNode(t *testing.T) {
	ca, st := linktest.NewCA(t), newStore()
	n1, n2 := startNode(t, ca, "n1", "127.0.0.1:0", st), startNode(t, ca, "n2", "127.0.0.1:0", st)
	front := newRelay(t, n1.listener.Addr())
	id, dir := enrollAt(t, n1)
	// Its list names n1 directly: hide it behind the relay.
	n1.set(func(n *node) {
		n.nodes = &sensorv1.NodeList{Nodes: []*sensorv1.Node{{Id: "n1", Address: front.addr()}}}
	})
	h := startHost(t, id, dir, nil)
	until(t, "the node list", func() bool { return slices.Equal(h.uplink.Nodes(), []string{front.addr()}) })
	n1.stop()
	n1 = startNode(t, ca, "n1", n1.addr(), st)
	n1.set(func(n *node) {
		n.nodes = &sensorv1.NodeList{Nodes: []*sensorv1.Node{{Id: "n1", Address: front.addr()}, {Id: "n2", Address: n2.addr()}}}
	})
	h.put(t, counted(0, 10)...)
	until(t, "the first ten through the relay", func() bool { return len(st.taken()) == 10 && len(n1.hellos) > 0 })
	front.cut()
	began := time.Now()
	h.put(t, counted(10, 20)...)
	until(t, "the rest at the other node", func() bool { return len(st.taken()) == 20 })
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	if !slices.Equal(st.taken(), counted(0, 20)) {
		t.Errorf("got %v", st.taken())
	}
}

// Ensure what a store that lags or leads says is followed, without a record
// lost or doubled.
func TestResume(t *testing.T) {
	ca, st := linktest.NewCA(t), newStore()
	n := startNode(t, ca, "n1", "127.0.0.1:0", st)
	id, dir := enrollAt(t, n)
	n.set(func(n *node) { n.mute = true })
	h := startHost(t, id, dir, nil)
	h.put(t, counted(0, 5000)...)
	boot := (<-n.hellos).GetBoot()
	until(t, "a full window that is not answered", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.swallowed == 4 })
	n.set(func(n *node) { n.mute = false })
	n.push(t, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Resume{Resume: &sensorv1.Resume{Boot: boot}}})
	for range 3 {
		n.push(t, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Resume{Resume: &sensorv1.Resume{Boot: boot}}})
	}
	until(t, "all", func() bool { return len(st.taken()) == 5000 })
	if !slices.Equal(st.taken(), counted(0, 5000)) {
		t.Error("out of order")
	}
	if st.gaps != 0 {
		t.Errorf("%d batches were sent that did not fit the position it had been told", st.gaps)
	}
	until(t, "an empty spool", func() bool { return h.spool.Stats().Records == 0 })
}

// Ensure a grant is acted upon and answered in the session.
func TestGrants(t *testing.T) {
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", newStore())
	id, dir := enrollAt(t, n)
	at := []netip.AddrPort{netip.MustParseAddrPort(n.addr())}
	var h *host
	h = startHost(t, id, dir, func(c *uplink.Config) {
		c.OnGrant = func(ctx context.Context, g *sensorv1.SignedGrant) *sensorv1.GrantResult {
			// what the responder's self-test does
			if err := h.uplink.Reachable(ctx, at); err != nil {
				t.Errorf("Reachable: %v", err)
			}
			return &sensorv1.GrantResult{Nonce: g.GetPayload()}
		}
	})
	until(t, "a session", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.sessions) == 1 })
	n.push(t, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Grant{Grant: &sensorv1.SignedGrant{Payload: []byte("nonce")}}})
	if r := <-n.results; string(r.GetNonce()) != "nonce" {
		t.Errorf("got %v", r)
	}
	n.stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := h.uplink.Reachable(ctx, at); !errors.Is(err, link.ErrUnreachable) && !errors.Is(err, link.ErrPeerLost) {
		t.Errorf("with no node: %v", err)
	}
}

// Ensure the certificate is renewed from half-life on, on disk and in use, and
// that the next session presents the new one.
func TestRenewal(t *testing.T) {
	ca, st := linktest.NewCA(t), newStore()
	n := startNode(t, ca, "n1", "127.0.0.1:0", st)
	n.validity = 30 * time.Second // of a minute and a half: past half-life
	id, dir := enrollAt(t, n)
	before, err := id.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	n.set(func(n *node) { n.validity = time.Hour })
	h := startHost(t, id, dir, nil)
	until(t, "the renewal", func() bool {
		now, err := id.Certificate()
		return err == nil && now.Leaf.NotAfter.After(before.Leaf.NotAfter)
	})
	loaded, err := uplink.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	onDisk, _ := loaded.Certificate()
	inUse, _ := id.Certificate()
	if !onDisk.Leaf.Equal(inUse.Leaf) {
		t.Error("disk and memory differ")
	}
	addr := n.addr()
	n.stop()
	startNode(t, ca, "n1", addr, st)
	h.put(t, "after")
	until(t, "a record by the new certificate", func() bool { return slices.Equal(st.taken(), []string{"after"}) })
}

// Ensure a refusal and a wrong clock are logged once and say what to do, and
// that the session comes when the reason is gone.
func TestClearLogs(t *testing.T) {
	st := newStore()
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", st)
	id, dir := enrollAt(t, n)
	n.set(func(n *node) {
		n.refuse, n.ahead = &sensorv1.Refusal{Code: "unknown-host", Message: "not here"}, time.Hour
	})
	h := startHost(t, id, dir, nil)
	h.put(t, "a")
	for range 4 {
		<-n.hellos
	}
	if got := strings.Count(h.log.String(), "unknown-host"); got == 0 || strings.Count(h.log.String(), "level=") != 1 || !strings.Contains(h.log.String(), "vedette-sensor enroll") {
		t.Errorf("logged:\n%s", h.log.String())
	}
	n.set(func(n *node) { n.refuse = nil })
	until(t, "the record", func() bool { return len(st.taken()) == 1 })
	until(t, "the clock's warning", func() bool { return strings.Contains(h.log.String(), "clock differs") })
	if skew := h.uplink.Skew(); skew < 59*time.Minute || skew > 61*time.Minute {
		t.Errorf("skew %s", skew)
	}
}

// Ensure a crash in the middle of a renewal leaves a usable identity.
func TestInterruptedRenewal(t *testing.T) {
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", newStore())
	_, older := enrollAt(t, n)
	_, newer := enrollAt(t, n)
	read := func(dir, name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	write := func(dir, name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name    string
		prepare func(dir string)
	}{
		{"before the certificate", func(dir string) { write(dir, "host.key.new", read(newer, "host.key")) }},
		{"after the certificate", func(dir string) {
			write(dir, "host.key.new", read(newer, "host.key"))
			write(dir, "host.crt", read(newer, "host.crt"))
		}},
		{"half a key", func(dir string) { write(dir, "host.key.new", []byte("-----BEGIN")) }},
	} {
		dir := filepath.Join(t.TempDir(), "identity")
		if err := os.CopyFS(dir, os.DirFS(older)); err != nil {
			t.Fatal(err)
		}
		tt.prepare(dir)
		if err := os.Chmod(filepath.Join(dir, "host.key"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := uplink.LoadIdentity(dir); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "host.key.new")); err == nil {
			t.Errorf("%s: the new key still lies beside", tt.name)
		}
	}
}
