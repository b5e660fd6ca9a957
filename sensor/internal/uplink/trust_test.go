package uplink_test

import (
	"crypto"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/trust"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

func trustBy(t *testing.T, people *linktest.CA, epoch uint64, issuer uint32, roots ...*linktest.CA) *sensorv1.SignedTrust {
	t.Helper()
	now := time.Now()
	ann := people.IssueBetween(link.KindOperator, "ann", "admin", now.Add(-time.Hour), now.Add(time.Hour))
	list := &sensorv1.Trust{ClusterId: linktest.Cluster, Epoch: epoch, SignedAt: now.UnixNano(), Operator: "ann", Issuer: issuer}
	for _, root := range roots {
		list.Roots = append(list.Roots, root.Certificate.Raw)
	}
	signed, err := trust.Sign(ann.PrivateKey.(crypto.Signer), ann.Certificate, list)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// Ensure a host follows from one authority to another by an admin's word and nobody else's:
// what it says that it holds is on its disk, it renews under the one that signs, never goes
// back, and knows nodes of the new one after a restart.
func TestFollowsTrust(t *testing.T) {
	old, next, people, stranger := linktest.NewCA(t), linktest.NewCA(t), linktest.NewCA(t), linktest.NewCA(t)
	st := newStore()
	n := startNode(t, old, "n1", "127.0.0.1:0", st)
	token := link.NewToken(old.Pin(), people.Pin())
	n.set(func(n *node) { n.operators, n.tokens[token.ID] = [][]byte{people.Certificate.Raw}, token.Secret[:] })
	dir := filepath.Join(t.TempDir(), "identity")
	id, err := uplink.Enroll(t.Context(), dir, []string{n.addr()}, token, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := startHost(t, id, dir, func(c *uplink.Config) {
		c.RenewSpread = time.Millisecond
		c.Revoked = func([][]byte) error { return nil }
	})
	if hello := <-n.hellos; hello.GetTrusted().GetEpoch() != 0 || !slices.Equal(hello.GetTrusted().GetRoot(), trust.Key(old.Certificate.Raw)) {
		t.Errorf("at first it says %v", hello.GetTrusted())
	}
	until(t, "a session", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.sessions) > 0 })
	push := func(signed *sensorv1.SignedTrust) {
		t.Helper()
		n.push(t, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Nodes{Nodes: &sensorv1.NodeList{Trust: signed}}})
	}
	push(trustBy(t, stranger, 9, 0, stranger))
	push(trustBy(t, old, 9, 0, stranger)) // the cluster's own authority is no operators'
	until(t, "the complaint", func() bool { return strings.Contains(h.log.String(), "not taken") })

	n.set(func(n *node) { n.ca = next })
	push(trustBy(t, people, 2, 1, old, next))
	if got := <-n.trusted; got.GetEpoch() != 2 || !slices.Equal(got.GetRoot(), trust.Key(old.Certificate.Raw)) {
		t.Fatalf("it says %v", got)
	}
	kept, err := uplink.LoadIdentity(dir)
	if err != nil || len(kept.Roots().Subjects()) != 2 { //nolint:staticcheck // a pool of our own
		t.Fatalf("on disk when it said so: %v", err)
	}
	if got := <-n.trusted; !slices.Equal(got.GetRoot(), trust.Key(next.Certificate.Raw)) {
		t.Fatalf("after its renewal it says %v", got)
	}
	push(trustBy(t, people, 1, 0, stranger)) // an older one: nothing happens
	push(trustBy(t, people, 3, 0, next))
	if got := <-n.trusted; got.GetEpoch() != 3 {
		t.Fatalf("it says %v", got)
	}
	addr := n.addr()
	h.stop()
	n.stop()

	again, err := uplink.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	second := startNode(t, next, "n1", addr, st)
	h = startHost(t, again, dir, nil)
	h.put(t, "after")
	until(t, "a record under the new authority", func() bool { return slices.Equal(st.taken(), []string{"after"}) })
	if hello := <-second.hellos; hello.GetTrusted().GetEpoch() != 3 {
		t.Errorf("after a restart it says %v", hello.GetTrusted())
	}
	second.stop()
	startNode(t, old, "n1", addr, st)
	until(t, "a node of the old one to be refused", func() bool { return strings.Contains(h.log.String(), "foreign-ca") })
}
