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
		Nonce: make([]byte, grant.NonceSize), Action: sensorv1.Action_ACTION_ISOLATE, HostsRoot: make([]byte, 32), HostCount: 1,
		LeaseSeconds: 3600, Epoch: uint64(now.UnixNano()), IssuedAt: now.UnixNano(), NotAfter: now.Add(time.Minute).UnixNano(),
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

func encode(t *testing.T, g *sensorv1.Grant) []byte {
	t.Helper()
	payload, err := grant.Encode(g)
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// approved is g signed by each of certs, whatever they may.
func approved(t *testing.T, g *sensorv1.Grant, certs ...tls.Certificate) *sensorv1.SignedGrant {
	t.Helper()
	sg := &sensorv1.SignedGrant{Payload: encode(t, g)}
	for _, cert := range certs {
		signature, err := grant.SignPayload(cert.PrivateKey.(crypto.Signer), cert.Certificate, sg.GetPayload())
		if err != nil {
			t.Fatal(err)
		}
		sg.Signatures = append(sg.Signatures, signature)
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
	forged.Payload, _ = proto.Marshal(with(func(g *sensorv1.Grant) { g.HostCount = 2 }))
	unprefixed := sign(t, alice, order(now))
	unprefixed.Signatures[0].Signature = ed25519.Sign(alice.PrivateKey.(ed25519.PrivateKey), unprefixed.GetPayload())
	stolen := sign(t, alice, order(now))
	stolen.Signatures[0].Chain = issue(ca, link.KindOperator, "alice", "responder").Certificate
	bob := issue(ca, link.KindOperator, "bob", "responder")
	two := with(func(g *sensorv1.Grant) { g.Approvals = 2 })
	automatic := with(func(g *sensorv1.Grant) { g.Operator, g.Evidence = "", []string{"f-1"} })
	appended := sign(t, alice, order(now))
	appended.Payload = append(appended.Payload, 0x98, 0x1f, 1) // field 499
	twice := alice
	twice.Certificate = ca.IssueFor(alice, link.KindOperator, "al", "responder").Certificate
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
		{"unsigned", &sensorv1.SignedGrant{Payload: forged.GetPayload()}, now, grant.ErrSignature},
		{"no chain", &sensorv1.SignedGrant{Payload: forged.GetPayload(), Signatures: []*sensorv1.Signature{{}}}, now, grant.ErrMalformed},
		{"rubbish chain", &sensorv1.SignedGrant{Payload: forged.GetPayload(), Signatures: []*sensorv1.Signature{{Chain: [][]byte{{1}}}}}, now, grant.ErrMalformed},
		{"more than canonical", appended, now, grant.ErrMalformed},
		{"approved", approved(t, order(now), alice, bob), now, nil},
		{"two asked, two signed", approved(t, two, alice, bob), now, nil},
		{"two asked, one signed", sign(t, alice, two), now, grant.ErrApprovals},
		{"approved by oneself", approved(t, two, alice, alice), now, grant.ErrApprovals},
		{"approved with oneself's key under another name", approved(t, two, alice, twice), now, grant.ErrApprovals},
		{"approved by a viewer", approved(t, two, alice, issue(ca, link.KindOperator, "vic", "viewer")), now, grant.ErrForbidden},
		{"approved by a node", approved(t, two, alice, issue(ca, link.KindNode, "n1", "admin")), now, grant.ErrForbidden},
		{"signed by the approver first", approved(t, two, bob, alice), now, grant.ErrForbidden},
		{"automation's", &sensorv1.SignedGrant{Payload: encode(t, automatic)}, now, nil},
		{"automation's, in an operator's name", &sensorv1.SignedGrant{Payload: encode(t, order(now))}, now, grant.ErrSignature},
		{"automation's, signed", &sensorv1.SignedGrant{Payload: encode(t, automatic), Signatures: sign(t, alice, order(now)).GetSignatures()}, now, grant.ErrSignature},
		{"nil", nil, now, grant.ErrMalformed},
	} {
		g, signers, err := grant.Verify(tt.sg, ca.Roots(), linktest.Cluster, tt.now)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
		if (err == nil) != (tt.want == nil) || (err != nil && (g != nil || signers != nil)) {
			t.Errorf("%s: got %v, %+v, %v", tt.name, g, signers, err)
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
		func(g *sensorv1.Grant) { g.HostCount = 0 },
		func(g *sensorv1.Grant) { g.HostsRoot = nil },
		func(g *sensorv1.Grant) { g.Operator = "" },
		func(g *sensorv1.Grant) { g.Epoch = 0 },
		func(g *sensorv1.Grant) { g.Epoch = uint64(now.Add(24 * time.Hour).UnixNano()) },
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
