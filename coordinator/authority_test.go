package coordinator_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func text(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// thief is an operator as whoever took a node's disk can make one: certified by
// the cluster's authority, whose key every node has.
func thief(t *testing.T, c *testCluster, name string) (key ed25519.PrivateKey, chain [][]byte) {
	t.Helper()
	node, err := identity.Load(c.nodes[0].cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	der, err := node.Authority().KeyDER()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	public, key, _ := ed25519.GenerateKey(rand.Reader)
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		Subject:   pkix.Name{CommonName: name, Organization: []string{c.admin.ClusterID}, OrganizationalUnit: []string{operator.RoleAdmin}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{link.PeerURI(c.admin.ClusterID, link.KindOperator, name)},
	}, node.Authority().Certificate(), public, signer)
	if err != nil {
		t.Fatal(err)
	}
	return key, [][]byte{leaf, node.Authority().Certificate().Raw}
}

// Ensure whoever has all of a node's files is no operator: not at the API, and not
// by a grant that a real operator would carry in for them.
func TestStolenNodeIsNoOperator(t *testing.T) {
	c := startCluster(t, 1)
	sensor := c.enrol(0)
	key, chain := thief(t, c, "admin")
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	stolen := *c.admin
	stolen.Certificate, stolen.Key = text("CERTIFICATE", chain[0])+text("CERTIFICATE", chain[1]), text("PRIVATE KEY", pkcs8)
	api, err := client.New(&stolen, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	if _, err := api.Status(t.Context()); !errors.Is(err, client.ErrDenied) {
		t.Errorf("status: got %v", err)
	}
	if _, err := stolen.NewOperator(client.NewOperator{Name: "eve", Role: "admin"}); err != nil {
		t.Fatal(err) // it still is the admin's context; what a node lacks is next
	}
	stolen.AuthorityKey = ""
	if _, err := stolen.NewOperator(client.NewOperator{Name: "eve", Role: "admin"}); !errors.Is(err, client.ErrNoAuthority) {
		t.Errorf("without the key: got %v", err)
	}

	now := time.Now()
	g := &sensorv1.Grant{Nonce: newBoot(), Action: sensorv1.Action_ACTION_ISOLATE, LeaseSeconds: 600, Epoch: uint64(now.UnixNano()),
		IssuedAt: now.UnixNano(), NotAfter: now.Add(time.Hour).UnixNano(), Operator: "admin", Reason: "test", Operation: "op-stolen", ClusterId: c.admin.ClusterID}
	set, err := grant.Address(g, sensor.id)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := grant.Sign(key, chain, g)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.api.SubmitGrant(t.Context(), &operatorv1.SubmitGrantRequest{Grant: signed, Hosts: set.Hosts(), IdempotencyKey: "k1"})
	if !errors.Is(err, client.ErrDenied) || !strings.Contains(err.Error(), "not trusted") {
		t.Errorf("a grant signed by a node's key: got %v", err)
	}
}

// Ensure the operators' key is in the first admin's context and in no other file of
// any node, and that an admin makes operators whom every node knows.
func TestOperatorsKeyIsOnNoNode(t *testing.T) {
	c := startCluster(t, 2)
	block, _ := pem.Decode([]byte(c.admin.AuthorityKey))
	if block == nil {
		t.Fatal("the first admin has no authority")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	seed := key.(ed25519.PrivateKey).Seed()
	line := []byte(strings.Split(c.admin.AuthorityKey, "\n")[1])
	for _, n := range c.nodes {
		err := filepath.WalkDir(n.cfg.Data, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Base(path) == coordinator.AdminContext {
				return err
			}
			raw, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // the node runs: its log goes on
			}
			if bytes.Contains(raw, seed) || bytes.Contains(raw, line) {
				t.Errorf("%s holds the operators' key", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(c.nodes[0].cfg.Data, coordinator.AdminContext))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the first admin's context: %v, %v", info, err)
	}

	second, err := c.admin.NewOperator(client.NewOperator{Name: "bob", Role: operator.RoleAdmin, Authority: true})
	if err != nil {
		t.Fatal(err)
	}
	third, err := second.NewOperator(client.NewOperator{Name: "cleo", Role: operator.RoleResponder, Nodes: []string{c.nodes[1].cfg.OperatorAdvertise}})
	if err != nil {
		t.Fatal(err)
	}
	if third.AuthorityKey != "" {
		t.Error("a responder got an authority")
	}
	for _, made := range []*client.Context{second, third} {
		api, err := client.New(made, client.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(api.Close)
		if _, err := api.Status(t.Context()); err != nil {
			t.Errorf("%s: %v", made.Operator, err)
		}
	}
	if _, err := second.NewOperator(client.NewOperator{Name: "dan", Role: operator.RoleAdmin, Authority: true}); !errors.Is(err, operator.ErrMayNotDelegate) {
		t.Errorf("an admin of the second level made one with authority: %v", err)
	}
	if _, err := third.NewOperator(client.NewOperator{Name: "eve", Role: operator.RoleViewer}); !errors.Is(err, client.ErrNoAuthority) {
		t.Errorf("a responder made an operator: %v", err)
	}
}

// Ensure nobody joins a cluster whose operators are not the token's, and no admin is
// given a token that would make others trust strangers.
func TestTokenNamesTheOperators(t *testing.T) {
	c := startCluster(t, 1)
	token, err := link.ParseToken(c.token("node"))
	if err != nil {
		t.Fatal(err)
	}
	token.Operators[0] ^= 1
	err = coordinator.Join(t.Context(), newConfig(t, "n2"), c.nodes[0].cfg.Advertise, token.String())
	if !errors.Is(err, coordinator.ErrRefused) || !strings.Contains(err.Error(), "operators' authority") {
		t.Errorf("joining with other operators in the token: got %v", err)
	}
	token, err = link.ParseToken(c.token("sensor"))
	if err != nil {
		t.Fatal(err)
	}
	reply, err := ask(t, c.nodes[0].cfg.Advertise, token.CA, func() *sensorv1.EnrollRequest {
		_, _, request := enrolRequest(t, token.String())
		return request
	}())
	if err != nil {
		t.Fatal(err)
	}
	if root, err := link.Pinned(reply.GetEnrolled().GetOperatorRoots(), token.Operators); err != nil || text("CERTIFICATE", root.Raw) != c.admin.Operators {
		t.Errorf("the operators' authority that an enrolment brings: %v", err)
	}

	// To a context of other operators, this cluster's nodes are as if stolen.
	other, err := operator.New(c.admin.ClusterID)
	if err != nil {
		t.Fatal(err)
	}
	deceived := *c.admin
	deceived.Operators = text("CERTIFICATE", other.Root().Raw)
	api, err := client.New(&deceived, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	res, err := api.CreateToken(t.Context(), &operatorv1.CreateTokenRequest{Kind: "sensor", TtlSeconds: 60})
	if !errors.Is(err, client.ErrUntrusted) || res.GetToken() != "" || !strings.Contains(err.Error(), "do not use the token") {
		t.Errorf("a token of another authority: got %v, %v", res, err)
	}
}
