package respond

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// The coordinators of these tests, and what a stolen one names.
const (
	oldNode  = "10.77.0.2:7700"
	newNode  = "10.77.0.2:7701"
	attacker = "10.77.0.2:9999"
)

// nodesBench is a bench whose cluster names what a test likes, with an admin.
type nodesBench struct {
	*bench
	admin tls.Certificate
	log   *bytes.Buffer

	state  sync.Mutex
	known  []netip.AddrPort
	answer []netip.AddrPort
}

func endpoints(texts ...string) []netip.AddrPort {
	all := make([]netip.AddrPort, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParseAddrPort(text)
	}
	return all
}

func newNodesBench(t *testing.T, change func(*Config)) *nodesBench {
	t.Helper()
	n := &nodesBench{log: new(bytes.Buffer), known: endpoints(oldNode), answer: endpoints(oldNode)}
	n.bench = newBench(t, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&lockedWriter{w: n.log, mu: &n.state}, nil))
		c.NodeAddresses = func() []netip.AddrPort { n.state.Lock(); defer n.state.Unlock(); return slices.Clone(n.known) }
		c.Reachable = func(_ context.Context, at []netip.AddrPort) error {
			n.state.Lock()
			defer n.state.Unlock()
			if slices.ContainsFunc(at, func(a netip.AddrPort) bool { return slices.Contains(n.answer, a) }) {
				return nil
			}
			return errors.New("nobody answers")
		}
		c.SelfTestTimeout, c.ResumeTimeout = 300*time.Millisecond, 300*time.Millisecond
		if change != nil {
			change(c)
		}
	})
	n.admin = n.ca.IssueBetween(link.KindOperator, "root", "admin", time.Now().Add(-time.Hour), time.Now().Add(100*time.Hour))
	return n
}

type lockedWriter struct {
	w  *bytes.Buffer
	mu *sync.Mutex
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (n *nodesBench) logged(words string) int {
	n.state.Lock()
	defer n.state.Unlock()
	return strings.Count(n.log.String(), words)
}

// names is what the cluster says without a signature.
func (n *nodesBench) names(nodes ...string) {
	n.state.Lock()
	defer n.state.Unlock()
	n.known = endpoints(nodes...)
}

// answers sets which nodes are there.
func (n *nodesBench) answers(nodes ...string) {
	n.state.Lock()
	defer n.state.Unlock()
	n.answer = endpoints(nodes...)
}

// list is a list that the admin signed so long ago.
func (n *nodesBench) list(ago time.Duration, nodes ...string) *sensorv1.SignedNodes {
	n.t.Helper()
	return n.listBy(n.admin, ago, nodes...)
}

func (n *nodesBench) listBy(cert tls.Certificate, ago time.Duration, nodes ...string) *sensorv1.SignedNodes {
	n.t.Helper()
	now := n.clock.Now()
	l := &sensorv1.NodeAddresses{ClusterId: linktest.Cluster, Serial: uint64(now.Add(-ago).UnixNano()), NotAfter: now.Add(90 * time.Minute).UnixNano(), Operator: "root"}
	for _, node := range nodes {
		l.Nodes = append(l.Nodes, &sensorv1.NodeAddress{Id: "n1", Address: node})
	}
	signed, err := nodelist.Sign(cert.PrivateKey.(crypto.Signer), cert.Certificate, l)
	if err != nil {
		n.t.Fatal(err)
	}
	return signed
}

// passes says which of some destinations a datagram of an ordinary sender reaches.
func (n *nodesBench) passes(to ...string) (reached []string) {
	n.t.Helper()
	for _, remote := range to {
		capture := netnstest.NewCapture(n.t, n.peer, netnstest.PeerDevice)
		n.host.Must(n.t, "sending", func() error { return netnstest.SendUDP("", remote, []byte("to "+remote)) })
		if capture.Count(n.t, []byte("to "+remote)) > 0 {
			reached = append(reached, remote)
		}
	}
	return reached
}

// open waits until exactly these of the three are open.
func (n *nodesBench) open(what string, want ...string) {
	n.t.Helper()
	deadline := time.Now().Add(slow.Deadline(5 * time.Second))
	for {
		got := n.passes(oldNode, newNode, attacker)
		if slices.Equal(got, want) {
			break
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: open to %v, want %v", what, got, want)
		}
	}
	var pinned []string
	for _, node := range n.r.Pinned() {
		pinned = append(pinned, node.String())
	}
	if slices.Sort(pinned); !slices.Equal(pinned, want) {
		n.t.Errorf("%s: %v are to be dialled, and %v are open", what, pinned, want)
	}
}

// looked waits until the responder has looked at the cluster's nodes again, twice.
func (n *nodesBench) looked() {
	n.t.Helper()
	deadline := time.Now().Add(slow.Deadline(5 * time.Second))
	for {
		n.r.mu.Lock()
		same := slices.Equal(n.r.known, n.cfg.NodeAddresses())
		n.r.mu.Unlock()
		if same {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatal("the cluster's nodes were not asked for")
		}
	}
}

// Ensure a node that is stolen cannot open an isolated host: what it names is not
// followed and told once, after a restart and with a new order as well, and is followed
// again after the release.
func TestUnsignedNodes(t *testing.T) {
	n := newNodesBench(t, nil)
	n.isolate("op-1")
	n.open("isolated", oldNode)
	n.names(oldNode, attacker)
	if status := n.await(applied, "no admin has signed"); !strings.Contains(status.GetDetail(), attacker) || strings.Contains(status.GetDetail(), oldNode) {
		t.Errorf("it says %q", status.GetDetail())
	}
	n.open("the cluster names another", oldNode)
	n.names(attacker)
	n.looked()
	n.open("the cluster names only another", oldNode)
	if got := n.logged("no admin has signed"); got != 1 {
		t.Errorf("warned %d times", got)
	}
	n.restart()
	n.open("after a restart", oldNode)
	n.expect("extended", n.isolate("op-2"), applied, "left open", true)
	n.open("extended", oldNode)
	if n.isolate("op-3"); n.release("op-4").GetState() != released {
		t.Fatal("not released")
	}
	if pinned := n.r.Pinned(); pinned != nil {
		t.Errorf("%v are pinned after the release", pinned)
	}
	n.answers(attacker)
	n.isolate("op-5")
	n.open("with no signed list an isolation begins with what the cluster names", attacker)
}

// Ensure an isolated host follows a signed list: the old nodes stay open until a new one
// answers; it outlasts a restart, and neither an older list nor a forged one undoes it.
func TestSignedNodes(t *testing.T) {
	n := newNodesBench(t, nil)
	n.isolate("op-1")
	n.r.TakeNodes(n.list(time.Minute, newNode))
	n.open("signed, nobody answers there", oldNode, newNode)
	n.restart()
	n.open("after a restart, nobody answers there", oldNode, newNode)
	n.answers(newNode)
	if status := n.await(applied, "follows the list of nodes that root signed"); !strings.Contains(status.GetDetail(), newNode) {
		t.Errorf("it says %q", status.GetDetail())
	}
	n.open("reached", newNode)
	n.answers(oldNode, newNode, attacker)

	viewer := n.ca.IssueBetween(link.KindOperator, "root", "viewer", time.Now().Add(-time.Hour), time.Now().Add(100*time.Hour))
	foreign := linktest.NewCA(t).IssueBetween(link.KindOperator, "root", "admin", time.Now().Add(-time.Hour), time.Now().Add(100*time.Hour))
	node := n.ca.IssueBetween(link.KindNode, "root", "admin", time.Now().Add(-time.Hour), time.Now().Add(100*time.Hour))
	forged := n.list(0, newNode)
	forged.Payload = n.list(0, attacker).GetPayload()
	bad := []*sensorv1.SignedNodes{nil, {}, forged, n.list(2*time.Minute, attacker), n.list(time.Minute, attacker), n.list(-time.Hour, attacker),
		n.listBy(viewer, 0, attacker), n.listBy(foreign, 0, attacker), n.listBy(node, 0, attacker), n.listBy(n.alice, 0, attacker)}
	for i, signed := range bad {
		n.r.TakeNodes(signed)
		n.r.mu.Lock()
		if lease := n.r.record.Lease; lease.Next != nil || !slices.Equal(lease.Nodes, endpoints(newNode)) || !slices.Equal(n.r.signed.list.Nodes, endpoints(newNode)) {
			t.Errorf("bad list %d: open %v, then %v, held %v", i, lease.Nodes, lease.Next, n.r.signed.list)
		}
		n.r.mu.Unlock()
	}
	n.restart()
	for _, signed := range bad {
		n.r.TakeNodes(signed)
	}
	n.open("bad lists", newNode)
	n.expect("extended", n.isolate("op-2"), applied, "left open", true)
	n.open("extended", newNode)
	n.release("op-3")
	for _, signed := range bad {
		n.r.TakeNodes(signed)
	}
	n.names(attacker)
	n.isolate("op-4")
	n.open("isolated again, the list is held", newNode)
}

// Ensure an isolation begins with the list that is held, whatever the cluster names by
// then; and that a list which nobody renewed costs neither the isolation nor the host.
func TestBeginsWithSignedNodes(t *testing.T) {
	n := newNodesBench(t, nil)
	n.r.TakeNodes(n.list(0, oldNode))
	n.names(attacker)
	n.answers(oldNode, attacker)
	n.looked()
	if status := n.r.Grant(t.Context(), n.sign(preview(n.order(sensorv1.Action_ACTION_ISOLATE, "op-0")))).GetStatus(); !strings.Contains(status.GetDetail(), oldNode) || strings.Contains(status.GetDetail(), attacker) {
		t.Errorf("previewed: %q", status.GetDetail())
	}
	n.expect("isolate", n.isolate("op-1"), applied, oldNode, true)
	n.open("isolated", oldNode)
	n.await(applied, "no admin has signed")
	n.release("op-2")
	n.forget()
	n.isolate("op-2b")
	n.await(applied, "no admin has signed") // of each isolation
	n.release("op-2c")

	n.names(newNode) // every node was replaced and nobody signed
	n.answers(newNode)
	n.looked()
	n.expect("with an old list", n.isolate("op-3"), applied, "no node of the list of nodes that root signed", true)
	n.open("with an old list", oldNode, newNode)
	n.restart()
	n.open("with an old list, after a restart", oldNode, newNode)
	n.answers(oldNode, newNode)
	n.open("a node of the list is back", oldNode)
	n.answers(newNode)
	n.r.TakeNodes(n.list(-time.Second, newNode))
	n.open("signed at last", newNode)
	n.release("op-4")

	n.names(newNode, attacker)
	n.answers()
	n.looked()
	n.expect("nobody answers", n.isolate("op-5"), failed, "no coordinator answered", false)
	if status := n.r.Contain(t.Context(), ownEvidence); status.GetState() != applied || !strings.Contains(status.GetDetail(), "no node of the list") {
		t.Errorf("nobody answers, by itself: %v", status)
	}
	n.open("nobody answers, by itself", newNode, attacker)
	n.answers(newNode)
	n.open("one of the list answers", newNode)
}

func preview(g *sensorv1.Grant) *sensorv1.Grant { g.Preview = true; return g }

// Ensure a verdict's first cut begins with the held list as well.
func TestCutNowWithSignedNodes(t *testing.T) {
	f := new(first)
	n := newNodesBench(t, func(c *Config) { c.First = f })
	n.r.TakeNodes(n.list(0, oldNode))
	n.names(attacker)
	n.looked()
	if !n.r.CutNow() || !slices.Equal(f.open(), endpoints(oldNode)) {
		t.Errorf("open at the verdict: %v", f.open())
	}
	n.expect("itself", n.r.Contain(t.Context(), ownEvidence), applied, "", true)
	n.r.TakeNodes(n.list(-time.Second, newNode))
	n.open("signed, nobody answers there", oldNode, newNode)
	if got := f.open(); !sameNodes(got, endpoints(oldNode, newNode)) {
		t.Errorf("the first cut is open to %v", got)
	}
}

// Ensure what is held is what was saved, and that no file of it keeps a sensor down or
// brings an older list back.
func TestSignedNodesFile(t *testing.T) {
	n := newNodesBench(t, nil)
	path := filepath.Join(n.cfg.StateDir, "nodes.signed")
	n.r.TakeNodes(n.list(time.Minute, newNode))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	held := func(what string, want ...string) {
		t.Helper()
		n.r.mu.Lock()
		defer n.r.mu.Unlock()
		var got []netip.AddrPort
		if n.r.signed.list != nil {
			got = n.r.signed.list.Nodes
		}
		if !slices.Equal(got, endpoints(want...)) {
			t.Errorf("%s: %v are held, want %v", what, got, want)
		}
	}
	n.restart()
	held("after a restart", newNode)
	n.r.TakeNodes(n.list(2*time.Minute, attacker))
	held("an older one", newNode)

	old := n.list(30*time.Minute, attacker)
	n.clock.pass(2*time.Hour, 2*time.Hour)
	n.answers(newNode)
	n.expect("the list has ended", n.isolate("op-1"), failed, "no coordinator answered", false) // as if none were held
	n.restart()
	held("the list has ended")
	n.clock.pass(-2*time.Hour, -2*time.Hour) // a clock that went back
	n.r.TakeNodes(old)
	held("an older one, when the list has ended")
	n.r.TakeNodes(n.list(0, newNode))
	held("a newer one", newNode)

	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	n.restart()
	held("damaged")
	if _, err := os.Stat(path + ".damaged"); err != nil {
		t.Error(err)
	}
	n.r.TakeNodes(n.list(0, oldNode))
	held("after damage", oldNode)
}

// Ensure an isolation of which no node is known takes the first that is: a damaged state
// must not make a host unreachable for a day.
func TestNodesKnownLate(t *testing.T) {
	n := newNodesBench(t, nil)
	n.isolate("op-1")
	n.stop()
	n.names()
	when := n.clock.Now()
	lease := filepath.Join(n.cfg.StateDir, "isolation.lease")
	if err := errors.Join(os.WriteFile(lease, []byte("damaged"), 0o600), os.Chtimes(lease, when, when)); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.open("no node is known")
	n.names(oldNode)
	n.open("one is", oldNode)
	n.names(newNode)
	n.looked()
	n.open("another is", oldNode)
}
