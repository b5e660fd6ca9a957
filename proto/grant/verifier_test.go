package grant_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// signedUpTo is a grant by an operator whose leaf, authority and root end after so many
// minutes, and the root's pool.
func signedUpTo(t *testing.T, now time.Time, name string, leafEnds, ownEnds, rootEnds int) (*sensorv1.SignedGrant, *x509.CertPool) {
	t.Helper()
	var parent *x509.Certificate
	var parentKey, key ed25519.PrivateKey
	var ders [][]byte
	for i, ends := range []int{rootEnds, ownEnds, leafEnds} {
		template := &x509.Certificate{Subject: pkix.Name{CommonName: fmt.Sprint(name, i)}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Duration(ends) * time.Minute),
			IsCA: i < 2, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if i == 2 {
			template.Subject = pkix.Name{CommonName: name, Organization: []string{linktest.Cluster}, OrganizationalUnit: []string{"admin"}}
			template.URIs, template.KeyUsage = []*url.URL{link.PeerURI(linktest.Cluster, link.KindOperator, name)}, x509.KeyUsageDigitalSignature
		}
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, parentKey = template, private
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, parentKey)
		if err != nil {
			t.Fatal(err)
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		parentKey, key, ders = private, private, append(ders, der)
	}
	roots := x509.NewCertPool()
	root, err := x509.ParseCertificate(ders[0])
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(root)
	g := order(now)
	// So early that nothing but the certificates has a say in when it is good.
	early := now.Add(-2 * time.Hour).UnixNano()
	g.Operator, g.IssuedAt, g.Epoch, g.NotAfter = name, early, uint64(early), now.Add(24*time.Hour).UnixNano()
	signed, err := grant.Sign(key, [][]byte{ders[2], ders[1]}, g)
	if err != nil {
		t.Fatal(err)
	}
	return signed, roots
}

// Ensure a chain that was found good is good for no longer, under no other roots and for
// no other certificates than without a memory of it: whatever the memory saw before, it
// answers as the function that has none.
func TestVerifierIsAsStrict(t *testing.T) {
	now := time.Now()
	type attempt struct {
		name   string
		signed *sensorv1.SignedGrant
		roots  *x509.CertPool
		at     time.Time
	}
	var attempts []attempt
	all := x509.NewCertPool()
	for _, ends := range [][3]int{{60, 60, 60}, {30, 60, 60}, {60, 30, 60}, {60, 60, 30}} {
		name := fmt.Sprintf("op-%d-%d-%d", ends[0], ends[1], ends[2])
		signed, roots := signedUpTo(t, now, name, ends[0], ends[1], ends[2])
		_, foreign := signedUpTo(t, now, name, 60, 60, 60)
		another := proto.CloneOf(signed)
		another.Signatures[0].Chain = another.GetSignatures()[0].GetChain()[:1]
		changed := proto.CloneOf(signed)
		der := changed.GetSignatures()[0].GetChain()[1]
		der[len(der)-1] ^= 1 // of the authority's signature
		for _, minutes := range []int{0, 45, 90, -90} {
			at := now.Add(time.Duration(minutes) * time.Minute)
			for what, tried := range map[string]attempt{
				"itself": {signed: signed, roots: roots}, "under another root": {signed: signed, roots: foreign}, "without roots": {signed: signed},
				"without its authority": {signed: another, roots: roots}, "with another authority": {signed: changed, roots: roots},
				"under no root any more": {signed: signed, roots: all},
			} {
				tried.name, tried.at = fmt.Sprintf("%s %s after %d minutes", name, what, minutes), at
				attempts = append(attempts, tried)
			}
		}
	}
	remembers := new(grant.Verifier)
	good := 0
	for round := range 3 { // the first remembers, the others meet what is remembered
		for _, a := range attempts {
			_, want, wantErr := grant.Verify(a.signed, a.roots, linktest.Cluster, a.at)
			_, got, err := remembers.Verify(a.signed, a.roots, linktest.Cluster, a.at)
			if (err == nil) != (wantErr == nil) || len(got) != len(want) || len(got) > 0 && got[0].ID != want[0].ID {
				t.Errorf("round %d, %s: got %v, %v, want %v, %v", round, a.name, got, err, want, wantErr)
			}
			if wantErr == nil {
				good++
			}
		}
	}
	if want := 3 * (2 + 3*1); good != want {
		t.Errorf("%d attempts were good, want %d: the test tries something else than it says", good, want)
	}
}

// Ensure what was remembered is not what the caller's bytes have become.
func TestVerifierKeepsItsOwn(t *testing.T) {
	now := time.Now()
	v := new(grant.Verifier)
	first, roots := signedUpTo(t, now, "alice", 60, 60, 60)
	if _, _, err := v.Verify(first, roots, linktest.Cluster, now); err != nil {
		t.Fatal(err)
	}
	der := first.GetSignatures()[0].GetChain()[0]
	der[len(der)-1] ^= 1
	if _, signers, err := v.Verify(first, roots, linktest.Cluster, now); err == nil {
		t.Errorf("a changed chain was accepted as of %v", signers)
	}
}

// BenchmarkVerifier is what one signature under a grant costs a sensor.
func BenchmarkVerifier(b *testing.B) {
	now := time.Now()
	ca := linktest.NewCA(b)
	alice := ca.IssueBetween(link.KindOperator, "alice", "responder", now.Add(-time.Hour), now.Add(time.Hour))
	signed, err := grant.Sign(alice.PrivateKey.(ed25519.PrivateKey), alice.Certificate, order(now))
	if err != nil {
		b.Fatal(err)
	}
	roots := ca.Roots()
	for name, v := range map[string]*grant.Verifier{"anew": nil, "remembered": new(grant.Verifier)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := v.Verify(signed, roots, linktest.Cluster, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
