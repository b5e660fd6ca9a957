package grant_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func order(now time.Time) *sensorv1.Grant {
	return &sensorv1.Grant{
		Nonce: make([]byte, grant.NonceSize), Action: sensorv1.Action_ACTION_ISOLATE, Hosts: []string{"h-1"},
		LeaseSeconds: 3600, IssuedAt: now.UnixNano(), NotAfter: now.Add(time.Minute).UnixNano(),
		Operator: "alice", Operation: "op-1", ClusterId: linktest.Cluster,
	}
}

func sign(t *testing.T, cert tls.Certificate, g *sensorv1.Grant) *sensorv1.SignedGrant {
	t.Helper()
	sg, err := grant.Sign(cert.PrivateKey.(crypto.Signer), cert.Certificate, g)
	if err != nil {
		t.Fatal(err)
	}
	return sg
}

// Ensure an operator's grant is honoured, and nothing else is.
func TestVerify(t *testing.T) {
	now := time.Now()
	ca, foreign := linktest.NewCA(t), linktest.NewCA(t)
	issue := func(ca *linktest.CA, kind, id, role string) tls.Certificate {
		return ca.IssueBetween(kind, id, role, now.Add(-time.Hour), now.Add(time.Hour))
	}
	alice := issue(ca, link.KindOperator, "alice", "responder")
	with := func(change func(*sensorv1.Grant)) *sensorv1.Grant {
		g := order(now)
		change(g)
		return g
	}
	forged := sign(t, alice, order(now))
	forged.Payload, _ = proto.Marshal(with(func(g *sensorv1.Grant) { g.Hosts = []string{"h-1", "h-2"} }))
	unprefixed := sign(t, alice, order(now))
	unprefixed.Signature = ed25519.Sign(alice.PrivateKey.(ed25519.PrivateKey), unprefixed.GetPayload())
	stolen := sign(t, alice, order(now))
	stolen.Chain = issue(ca, link.KindOperator, "alice", "responder").Certificate
	twin := *ca
	twin.Cluster = "c-twin"

	for _, tt := range []struct {
		name string
		sg   *sensorv1.SignedGrant
		now  time.Time
		want error
	}{
		{"responder", sign(t, alice, order(now)), now, nil},
		{"admin", sign(t, issue(ca, link.KindOperator, "alice", "admin"), order(now)), now, nil},
		{"viewer", sign(t, issue(ca, link.KindOperator, "alice", "viewer"), order(now)), now, grant.ErrForbidden},
		{"node", sign(t, issue(ca, link.KindNode, "alice", "admin"), order(now)), now, grant.ErrForbidden},
		{"host", sign(t, issue(ca, link.KindHost, "alice", "admin"), order(now)), now, grant.ErrForbidden},
		{"in another's name", sign(t, alice, with(func(g *sensorv1.Grant) { g.Operator = "bob" })), now, grant.ErrForbidden},
		{"foreign CA", sign(t, issue(foreign, link.KindOperator, "alice", "admin"), order(now)), now, grant.ErrUntrusted},
		{"certificate expired", sign(t, alice, with(func(g *sensorv1.Grant) { g.NotAfter = now.Add(9 * time.Hour).UnixNano() })), now.Add(2 * time.Hour), grant.ErrUntrusted},
		{"other cluster's grant", sign(t, alice, with(func(g *sensorv1.Grant) { g.ClusterId = "c-other" })), now, grant.ErrForeign},
		{"other cluster's operator", sign(t, issue(&twin, link.KindOperator, "alice", "admin"), order(now)), now, grant.ErrForeign},
		{"at its end", sign(t, alice, order(now)), now.Add(time.Minute), grant.ErrExpired},
		{"from the future", sign(t, alice, with(func(g *sensorv1.Grant) {
			g.IssuedAt, g.NotAfter = now.Add(10*time.Minute).UnixNano(), now.Add(11*time.Minute).UnixNano()
		})), now, grant.ErrExpired},
		{"changed hosts", forged, now, grant.ErrSignature},
		{"signed without context", unprefixed, now, grant.ErrSignature},
		{"another key's certificate", stolen, now, grant.ErrSignature},
		{"no chain", &sensorv1.SignedGrant{Payload: forged.GetPayload()}, now, grant.ErrMalformed},
		{"rubbish chain", &sensorv1.SignedGrant{Chain: [][]byte{{1}}}, now, grant.ErrMalformed},
		{"nil", nil, now, grant.ErrMalformed},
	} {
		g, peer, err := grant.Verify(tt.sg, ca.Roots(), linktest.Cluster, tt.now)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
		if (err == nil) != (tt.want == nil) || (err != nil && (g != nil || peer.ID != "")) {
			t.Errorf("%s: got %v, %+v, %v", tt.name, g, peer, err)
		}
	}
}

// Ensure what nobody would honour is not signed.
func TestSignRefuses(t *testing.T) {
	now := time.Now()
	cert := linktest.NewCA(t).IssueBetween(link.KindOperator, "alice", "admin", now.Add(-time.Hour), now.Add(time.Hour))
	key := cert.PrivateKey.(crypto.Signer)
	weak, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := grant.Sign(weak, cert.Certificate, order(now)); err == nil {
		t.Error("an ECDSA key signed")
	}
	if _, err := grant.Sign(other, cert.Certificate, order(now)); err == nil {
		t.Error("another key signed")
	}
	if _, err := grant.Sign(key, nil, order(now)); err == nil {
		t.Error("signed without a certificate")
	}
	for _, change := range []func(*sensorv1.Grant){
		func(g *sensorv1.Grant) { g.Nonce = g.Nonce[:8] },
		func(g *sensorv1.Grant) { g.Action = 0 },
		func(g *sensorv1.Grant) { g.Hosts = nil },
	} {
		g := order(now)
		change(g)
		if _, err := grant.Sign(key, cert.Certificate, g); !errors.Is(err, grant.ErrMalformed) {
			t.Errorf("%v: got %v", g, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	now := time.Now()
	ca := linktest.NewCA(f)
	cert := ca.IssueBetween(link.KindOperator, "alice", "admin", now.Add(-time.Hour), now.Add(time.Hour))
	sg, err := grant.Sign(cert.PrivateKey.(crypto.Signer), cert.Certificate, order(now))
	if err != nil {
		f.Fatal(err)
	}
	seed, err := proto.Marshal(sg)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	roots := ca.Roots()
	f.Fuzz(func(t *testing.T, in []byte) {
		fuzzed := new(sensorv1.SignedGrant)
		if proto.Unmarshal(in, fuzzed) != nil {
			return
		}
		g, _, err := grant.Verify(fuzzed, roots, linktest.Cluster, now)
		if err == nil && string(fuzzed.GetPayload()) != string(sg.GetPayload()) {
			t.Fatalf("forged: %v", g)
		}
	})
}
