package operator_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operator"
)

const cluster = "c-test"

func newRoot(t *testing.T) *operator.Authority {
	t.Helper()
	root, err := operator.New(cluster)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// verify is what nodes and hosts do with a chain.
func verify(root *x509.Certificate, chain [][]byte) (link.Peer, error) {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return link.Peer{}, err
	}
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	opts.Roots.AddCert(root)
	for _, der := range chain[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return link.Peer{}, err
		}
		opts.Intermediates.AddCert(cert)
	}
	if _, err := leaf.Verify(opts); err != nil {
		return link.Peer{}, err
	}
	return link.PeerOf(leaf)
}

// Ensure the root makes operators and admins who make operators, that a chain shows
// who made its holder, and that it goes no further down.
func TestAuthority(t *testing.T) {
	root := newRoot(t)
	public, _, _ := ed25519.GenerateKey(rand.Reader)
	chain, err := root.Sign(public, "ann", operator.RoleResponder, 0)
	if err != nil || len(chain) != 1 {
		t.Fatalf("signing: a chain of %d, %v", len(chain), err)
	}
	peer, err := verify(root.Root(), chain)
	if err != nil || peer.Kind != link.KindOperator || peer.ID != "ann" || peer.Role != operator.RoleResponder || peer.Cluster != cluster {
		t.Errorf("peer: got %+v, %v", peer, err)
	}
	if life := time.Until(peer.Certificate.NotAfter); life > operator.Lifetime || life < operator.Lifetime-time.Minute {
		t.Errorf("lifetime: got %s", life)
	}

	bob, err := root.Delegate("bob", 48*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if chain, err = bob.Sign(public, "cleo", operator.RoleViewer, 0); err != nil || len(chain) != 2 {
		t.Fatalf("signing: a chain of %d, %v", len(chain), err)
	}
	peer, err = verify(root.Root(), chain)
	if err != nil || peer.ID != "cleo" || peer.Certificate.Issuer.CommonName != "bob" {
		t.Errorf("got %+v by %s, %v", peer, peer.Certificate.Issuer, err)
	}
	if peer.Certificate.NotAfter.After(bob.Certificate().NotAfter) {
		t.Error("an operator outlives the authority that made them")
	}
	if _, err := link.PeerOf(bob.Certificate()); !errors.Is(err, link.ErrBadIdentity) {
		t.Errorf("an authority is itself an operator: %v", err)
	}
	if _, err := bob.Delegate("dan", 0); !errors.Is(err, operator.ErrMayNotDelegate) {
		t.Errorf("delegating twice: got %v", err)
	}
	// And whoever signs one all the same signs nothing that is accepted.
	dan := linktest.NewCA(t)
	template := *dan.Certificate
	der, err := x509.CreateCertificate(rand.Reader, &template, bob.Certificate(), dan.Certificate.PublicKey, bob.Key())
	if err != nil {
		t.Fatal(err)
	}
	leaf := dan.IssueBetween(link.KindOperator, "eve", operator.RoleAdmin, time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
	var invalid x509.CertificateInvalidError
	_, err = verify(root.Root(), [][]byte{leaf.Certificate[0], der, bob.Certificate().Raw})
	if !errors.As(err, &invalid) || invalid.Reason != x509.TooManyIntermediates {
		t.Errorf("an authority of the third level: got %v", err)
	}
}

// Ensure what is not an authority of this cluster is not taken for one, and that
// nobody is made with a name, a role or a time that must not be.
func TestRefused(t *testing.T) {
	root, other := newRoot(t), newRoot(t)
	bob, err := root.Delegate("bob", 0)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := operator.New("c-other")
	if err != nil {
		t.Fatal(err)
	}
	public, _, _ := ed25519.GenerateKey(rand.Reader)
	leaf := func() *x509.Certificate {
		chain, err := root.Sign(public, "ann", operator.RoleAdmin, 0)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(chain[0])
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}()
	for name, tt := range map[string]struct {
		root, own *x509.Certificate
		key       crypto.Signer
		want      error
	}{
		"another's child": {other.Root(), bob.Certificate(), bob.Key(), operator.ErrBadAuthority},
		"another's key":   {root.Root(), bob.Certificate(), root.Key(), operator.ErrBadAuthority},
		"an operator":     {root.Root(), leaf, root.Key(), operator.ErrBadAuthority},
		"another cluster": {foreign.Root(), foreign.Root(), foreign.Key(), operator.ErrBadRoot},
		"no root":         {bob.Certificate(), bob.Certificate(), bob.Key(), operator.ErrBadRoot},
	} {
		if _, err := operator.Open(cluster, tt.root, tt.own, tt.key); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
	if again, err := operator.Open(cluster, root.Root(), bob.Certificate(), bob.Key()); err != nil || again.Certificate() != bob.Certificate() {
		t.Errorf("opening what was given: %v", err)
	}
	for _, tt := range []struct {
		name, role string
		lifetime   time.Duration
		says       string
	}{
		{"Ann", operator.RoleViewer, 0, "a-z"},
		{"", operator.RoleViewer, 0, "1 to 63"},
		{"ann", "root", 0, "viewer, hunter, responder, admin"},
		{"ann", "", 0, "viewer, hunter, responder, admin"},
		{"ann", operator.RoleViewer, time.Second, "1m0s"},
		{"ann", operator.RoleViewer, operator.Lifetime + time.Hour, "8760h"},
	} {
		if _, err := root.Sign(public, tt.name, tt.role, tt.lifetime); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v: got %v", tt, err)
		}
	}
}
