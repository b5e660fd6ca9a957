package respond

import (
	"crypto"
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/revocation"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func (n *nodesBench) revoke(by tls.Certificate, ago time.Duration, names ...string) {
	n.t.Helper()
	at := n.clock.Now().Add(-ago).UnixNano()
	l := &sensorv1.Revocations{ClusterId: linktest.Cluster, Serial: uint64(at), Operator: by.Leaf.Subject.CommonName} //nolint:gosec // after 1970
	for _, name := range names {
		l.Operators = append(l.Operators, &sensorv1.RevokedOperator{Name: name, At: at})
	}
	signed, err := revocation.Sign(by.PrivateKey.(crypto.Signer), by.Certificate, l)
	if err != nil {
		n.t.Fatal(err)
	}
	n.r.TakeRevocations(signed)
}

// Ensure a revoked operator's key isolates no host and releases none, after a restart as
// well, whatever older or unsigned list somebody brings; and that what was in force stays.
func TestRevokedOperator(t *testing.T) {
	n := newNodesBench(t, nil)
	const thief = "alice"
	admin := func(name string) tls.Certificate {
		return n.ca.IssueBetween(link.KindOperator, name, "admin", time.Now().Add(-time.Hour), time.Now().Add(100*time.Hour))
	}
	refused := func(what string) {
		t.Helper()
		n.expect(what, n.release("op-r"), sensorv1.IsolationState_ISOLATION_STATE_REFUSED, "operator is revoked", true)
	}
	n.isolate("op-1")
	n.revoke(n.ca.IssueBetween(link.KindOperator, "rex", "responder", time.Now().Add(-time.Hour), time.Now().Add(100*time.Hour)), time.Minute, thief)
	n.revoke(linktest.NewCA(t).IssueBetween(link.KindOperator, "root", "admin", time.Now().Add(-time.Hour), time.Now().Add(100*time.Hour)), time.Minute, thief)
	if err := n.r.Revoked(n.alice.Certificate); err != nil {
		t.Fatalf("a list that no admin signed is taken: %v", err)
	}
	n.revoke(n.admin, time.Minute, thief, "bob")
	refused("revoked")
	n.restart()
	refused("after a restart")
	n.revoke(n.admin, 2*time.Minute, "nobody")
	refused("an older list")
	n.revoke(admin("bob"), time.Second, "nobody")
	refused("a list of an admin who is revoked")
	n.r.TakeNodes(n.listBy(n.admin, 30*time.Second, oldNode))
	if n.r.signed.serial == 0 {
		t.Error("a list of nodes by an admin who is none of them is not taken")
	}
	held := n.r.signed.serial
	n.revoke(admin("ann"), 10*time.Second, "bob", "root", thief)
	n.r.TakeNodes(n.list(5*time.Second, newNode))
	if n.r.signed.serial != held {
		t.Error("a list of nodes by a revoked admin is taken")
	}
	// Damage costs the list, not the sensor; the next that comes is taken.
	path := filepath.Join(n.cfg.StateDir, "operators.revoked")
	if err := os.WriteFile(path, []byte("vedette"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.restart()
	if n.logged("revoked operators is damaged") != 1 {
		t.Errorf("the damage is not told: %s", n.log)
	}
	n.revoke(admin("ann"), 10*time.Second, thief)
	refused("after damage")
	if raw, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(raw), "vedette-revoked-operators-1 ") {
		t.Errorf("it is not kept: %v", err)
	}
}
