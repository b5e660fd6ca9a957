package clustertest

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Member is one node, running or not.
type Member struct {
	ID    string
	Dir   string
	creds link.Credentials
	relay *relay

	mu       sync.Mutex
	node     *consensus.Node
	listener *link.Listener
	served   chan struct{}
	figures  *meter.Meter
}

// Node is the running node, nil when it is down.
func (m *Member) Node() *consensus.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node
}

// Figures are what the member exports now, as text.
func (m *Member) Figures() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.figures.Text()
}

// Cluster is N nodes and their network.
type Cluster struct {
	t       testing.TB
	Members []*Member
	tune    func(*consensus.Config)

	mu   sync.Mutex
	dead map[*Member]bool
	cut  map[[2]*Member]bool
}

// New starts a cluster of n nodes; the first bootstraps it and the others join.
// tune may change each node's configuration.
func New(t testing.TB, n int, tune func(*consensus.Config)) *Cluster {
	t.Helper()
	return NewOf(t, n, n, tune)
}

// NewOf is New of which only the first nodes are started; Join starts another.
func NewOf(t testing.TB, n, started int, tune func(*consensus.Config)) *Cluster {
	t.Helper()
	c := &Cluster{t: t, tune: tune, dead: make(map[*Member]bool), cut: make(map[[2]*Member]bool)}
	ca := linktest.NewCA(t)
	for i := range n {
		m := &Member{ID: fmt.Sprintf("n%d", i+1), Dir: t.TempDir()}
		m.creds = ca.Issue(link.KindNode, m.ID, "")
		r, err := newRelay(func(peer netip.AddrPort) bool { return c.passes(m, peer) })
		if err != nil {
			t.Fatalf("making relay: %v", err)
		}
		m.relay = r
		c.Members = append(c.Members, m)
	}
	t.Cleanup(c.Close)
	if started == 0 {
		return c
	}
	c.Start(c.Members[0])
	c.Leader()
	c.Must(&raftv1.Command{Time: 1, Actor: "node:n1", Body: &raftv1.Command_InitCluster{InitCluster: &raftv1.InitCluster{ClusterId: ca.Cluster}}})
	for _, m := range c.Members[1:started] {
		c.Join(m)
	}
	return c
}

// Join starts a member that is not part of the cluster yet, makes it one, and waits until it votes.
func (c *Cluster) Join(m *Member) {
	c.t.Helper()
	c.Start(m)
	self := &sensorv1.Node{Id: m.ID, Address: m.relay.addr()}
	c.Must(&raftv1.Command{Time: 1, Actor: "node:n1", Body: &raftv1.Command_PutNode{PutNode: &raftv1.PutNode{Node: self}}})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := m.Node().Join(ctx, []string{c.Leader().relay.addr()}, self); err != nil {
		c.t.Fatalf("joining %s: %v", m.ID, err)
	}
	c.Eventually(20*time.Second, "a vote of "+m.ID, func() bool { return c.Leader().Node().Votes(m.ID) })
}

// passes says whether datagrams pass between member m and the one that really sends from peer.
func (c *Cluster) passes(m *Member, peer netip.AddrPort) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead[m] {
		return false
	}
	for other := range c.cut {
		if other[0] == m && other[1].at(peer) {
			return false
		}
	}
	for other := range c.dead {
		if other.at(peer) {
			return false
		}
	}
	return true
}

func (m *Member) at(peer netip.AddrPort) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.listener != nil && m.listener.Addr().String() == peer.String()
}

// Start starts a member that is down, on the files that it left.
func (c *Cluster) Start(m *Member) {
	c.t.Helper()
	logger := slog.New(slog.DiscardHandler)
	if os.Getenv("VEDETTE_TEST_LOG") != "" {
		logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})).With("node", m.ID)
	}
	listener, err := link.Listen("127.0.0.1:0", link.ListenConfig{Credentials: m.creds, ALPNs: []string{link.ALPNRaft}, Logger: logger})
	if err != nil {
		c.t.Fatalf("listening: %v", err)
	}
	m.relay.retarget(listener.Addr())
	cfg := consensus.Config{
		ID: m.ID, Address: m.relay.addr(), DataDir: m.Dir, Listener: listener,
		Bootstrap: m == c.Members[0], Logger: logger, SteerPeriod: 20 * time.Millisecond,
	}
	if c.tune != nil {
		c.tune(&cfg)
	}
	if cfg.Meter == nil {
		cfg.Meter = meter.New(consensus.Kinds()...)
	}
	m.mu.Lock()
	m.figures = cfg.Meter
	m.listener = listener
	m.mu.Unlock()
	c.mu.Lock()
	delete(c.dead, m)
	c.mu.Unlock()
	node, err := consensus.Open(cfg)
	if err != nil {
		c.t.Fatalf("opening %s: %v", m.ID, err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = listener.Serve(context.Background(), map[string]func(context.Context, *link.Conn){link.ALPNRaft: node.ServeConn})
	}()
	m.mu.Lock()
	m.node, m.served = node, served
	m.mu.Unlock()
}

// Kill takes a member away without a word, as the death of its machine would:
// its datagrams stop, so that nothing it does on its way down reaches anybody.
// The function that it returns waits until its process has ended.
func (c *Cluster) Kill(m *Member) (ended func()) {
	c.mu.Lock()
	c.dead[m] = true
	c.mu.Unlock()
	return c.end(m)
}

// Stop ends a member in good order.
func (c *Cluster) Stop(m *Member) { c.end(m)() }

func (c *Cluster) end(m *Member) (ended func()) {
	m.mu.Lock()
	node, listener, served := m.node, m.listener, m.served
	m.node = nil
	m.mu.Unlock()
	if node == nil {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := node.Close(); err != nil {
			c.t.Errorf("closing %s: %v", m.ID, err)
		}
		_ = listener.Close()
		<-served
	}()
	return func() { <-done }
}

// Wipe removes a stopped member's files.
func (c *Cluster) Wipe(m *Member) {
	c.t.Helper()
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		c.t.Fatalf("wiping %s: %v", m.ID, err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(m.Dir, e.Name())); err != nil {
			c.t.Fatalf("wiping %s: %v", m.ID, err)
		}
	}
}

// Cut drops everything between two members, both ways, until Heal.
func (c *Cluster) Cut(a, b *Member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[[2]*Member{a, b}] = true
	c.cut[[2]*Member{b, a}] = true
}

// Isolate cuts a member from all others.
func (c *Cluster) Isolate(m *Member) {
	for _, other := range c.Members {
		if other != m {
			c.Cut(m, other)
		}
	}
}

// Heal ends all cuts.
func (c *Cluster) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.cut)
}

// Close ends everything.
func (c *Cluster) Close() {
	for _, m := range c.Members {
		c.Stop(m)
		m.relay.close()
	}
}

// Leader waits for a running member that leads.
func (c *Cluster) Leader() *Member {
	c.t.Helper()
	var leader *Member
	c.Eventually(30*time.Second, "a leader", func() bool {
		for _, m := range c.Members {
			if n := m.Node(); n != nil && n.IsLeader() {
				leader = m
				return true
			}
		}
		return false
	})
	return leader
}

// Any is a running member.
func (c *Cluster) Any() *Member {
	for _, m := range c.Members {
		if m.Node() != nil {
			return m
		}
	}
	c.t.Fatal("no member runs")
	return nil
}

// Must proposes on any member and wants the command accepted.
func (c *Cluster) Must(cmd *raftv1.Command) *raftv1.Result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	result, err := c.Any().Node().Propose(ctx, cmd)
	if err != nil {
		c.t.Fatalf("proposing: %v", err)
	}
	if result.GetRejected() != "" {
		c.t.Fatalf("proposing: rejected: %s: %s", result.GetRejected(), result.GetMessage())
	}
	return result
}

// Eventually polls until ok holds, and fails the test after the deadline.
func (c *Cluster) Eventually(within time.Duration, what string, ok func() bool) {
	c.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			c.t.Fatalf("no %s within %s", what, within)
		}
	}
}

// Converged waits until all running members stand at the same entry with the
// same rows, and returns the digest.
func (c *Cluster) Converged() string {
	c.t.Helper()
	var digest string
	c.Eventually(30*time.Second, "equal state on all members", func() bool {
		digest = ""
		for _, m := range c.Members {
			n := m.Node()
			if n == nil {
				continue
			}
			d, err := n.DB().Digest(context.Background())
			if err != nil {
				c.t.Fatalf("digesting %s: %v", m.ID, err)
			}
			if digest == "" {
				digest = d
			} else if d != digest {
				return false
			}
		}
		return true
	})
	return digest
}
