package uplink_test

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

// trusts says whether a pool vouches for an operator that ca has signed.
func trusts(pool *x509.CertPool, ca *linktest.CA) bool {
	now := time.Now()
	cert := ca.IssueBetween(link.KindOperator, "alice", "admin", now.Add(-time.Minute), now.Add(time.Hour))
	_, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil
}

// Ensure a host learns at its enrolment whose grants to honour, by the token's pin
// and by no node's word, keeps it, and never takes the cluster's own authority for it.
func TestOperatorsComeWithTheToken(t *testing.T) {
	ca, operators, stolen := linktest.NewCA(t), linktest.NewCA(t), linktest.NewCA(t)
	n := startNode(t, ca, "n1", "127.0.0.1:0", newStore())
	token := func() link.Token {
		token := link.NewToken(ca.Pin(), operators.Pin())
		n.set(func(n *node) { n.tokens[token.ID] = token.Secret[:] })
		return token
	}
	foreign := linktest.NewCAFor(t, "c-other")
	for name, roots := range map[string][][]byte{
		"none": nil, "the cluster's": {ca.Certificate.Raw}, "a stranger's": {stolen.Certificate.Raw}, "no certificate": {[]byte("x"), nil},
	} {
		n.set(func(n *node) { n.operators = roots })
		dir := filepath.Join(t.TempDir(), "identity")
		if _, err := uplink.Enroll(t.Context(), dir, []string{n.addr()}, token(), nil); !errors.Is(err, link.ErrForeignCA) || !strings.Contains(err.Error(), "operators") {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := uplink.LoadIdentity(dir); !errors.Is(err, uplink.ErrNotEnrolled) {
			t.Errorf("%s: something was kept: %v", name, err)
		}
	}
	wrong := link.NewToken(ca.Pin(), foreign.Pin())
	n.set(func(n *node) { n.operators, n.tokens[wrong.ID] = [][]byte{foreign.Certificate.Raw}, wrong.Secret[:] })
	if _, err := uplink.Enroll(t.Context(), t.TempDir(), []string{n.addr()}, wrong, nil); !errors.Is(err, operator.ErrBadRoot) {
		t.Errorf("another cluster's operators: got %v", err)
	}

	n.set(func(n *node) { n.operators = [][]byte{stolen.Certificate.Raw, operators.Certificate.Raw} })
	dir := filepath.Join(t.TempDir(), "identity")
	enrolled, err := uplink.Enroll(t.Context(), dir, []string{n.addr()}, token(), nil)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := uplink.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]*uplink.Identity{"enrolled": enrolled, "loaded": loaded} {
		if pool := id.OperatorRoots(); !trusts(pool, operators) || trusts(pool, ca) || trusts(pool, stolen) {
			t.Errorf("%s: honours operators %v, the cluster's authority %v, strangers %v", name, trusts(pool, operators), trusts(pool, ca), trusts(pool, stolen))
		}
		if trusts(id.Roots(), operators) {
			t.Errorf("%s: takes who is signed by the operators' authority for a node", name)
		}
	}

	// A session may bring new nodes and certificates, and nothing about operators.
	n.set(func(n *node) {
		n.validity = 10 * time.Second
		n.nodes = &sensorv1.NodeList{Nodes: []*sensorv1.Node{{Id: "n1", Address: n.addr()}, {Id: "n2", Address: "127.0.0.1:9"}}}
	})
	startHost(t, loaded, dir, nil)
	until(t, "the new nodes", func() bool {
		again, err := uplink.LoadIdentity(dir)
		return err == nil && len(again.Nodes()) == 2 && trusts(again.OperatorRoots(), operators) && !trusts(again.OperatorRoots(), ca)
	})
}

// Ensure a host that does not know the operators' authority says so, and what to do.
func TestIdentityWithoutOperators(t *testing.T) {
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", newStore())
	_, dir := enrollAt(t, n)
	path := filepath.Join(dir, "identity.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(map[string]any){
		"older release":   func(m map[string]any) { delete(m, "operators") },
		"damaged":         func(m map[string]any) { m["operators"] = "AAAA" },
		"another cluster": func(m map[string]any) { m["operators"] = linktest.NewCAFor(t, "c-other").Certificate.Raw },
	} {
		var fields map[string]any
		if err := json.Unmarshal(data, &fields); err != nil {
			t.Fatal(err)
		}
		change(fields)
		changed, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = uplink.LoadIdentity(dir)
		if !errors.Is(err, uplink.ErrDamagedIdentity) || !strings.Contains(err.Error(), "vedette-sensor enroll") {
			t.Errorf("%s: got %v", name, err)
		}
		if name == "older release" && !strings.Contains(err.Error(), "--force") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := uplink.Enroll(t.Context(), dir, []string{n.addr()}, n.token(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := uplink.LoadIdentity(dir); err != nil {
		t.Errorf("enrolled again: %v", err)
	}
}
