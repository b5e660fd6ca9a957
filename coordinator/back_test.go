package coordinator_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// authorityOf is what a node signs with.
func authorityOf(t *testing.T, dir string) (*x509.Certificate, any) {
	t.Helper()
	read := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(raw)
		return block.Bytes
	}
	cert, err := x509.ParseCertificate(read("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(read("ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// sameName is an authority by the name of another.
func sameName(t *testing.T, of *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), RawSubject: of.RawSubject, NotBefore: of.NotBefore, NotAfter: of.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: of.KeyUsage}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err == nil {
		of, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return of, key
}

// Ensure a host that was off when it should have renewed comes back by its key, and nobody
// else does: not by a certificate that was good for longer, by another authority or key, from
// before the host was heard last, or of a host that is not there.
func TestComeBack(t *testing.T) {
	c := startCluster(t, 1)
	ca, caKey := authorityOf(t, c.nodes[0].cfg.Data)
	host := c.enrol(0)
	cluster := ca.Subject.Organization[0]
	_, otherKey, _ := ed25519.GenerateKey(rand.Reader)
	stranger, strangerKey := sameName(t, ca)
	now := time.Now()
	request := func(kind, id string, ended time.Time, by *x509.Certificate, signer any, key ed25519.PrivateKey) *sensorv1.EnrollRequest {
		t.Helper()
		leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: id, Organization: []string{cluster}},
			NotBefore: ended.Add(-24 * time.Hour), NotAfter: ended, URIs: []*url.URL{link.PeerURI(cluster, kind, id)}}, by, host.key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		return &sensorv1.EnrollRequest{Protocol: 1, Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR, Csr: csr, Expired: leaf}
	}
	hour := now.Add(-time.Hour)
	good := request(link.KindHost, host.id, hour, ca, caKey, host.key)
	answer := func(r *sensorv1.EnrollRequest) *sensorv1.EnrollReply {
		t.Helper()
		reply, err := ask(t, c.nodes[0].cfg.Advertise, link.Pin(ca), r)
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	refused := func(name string, r *sensorv1.EnrollRequest, code, words string) {
		t.Helper()
		got := answer(r).GetRefusal()
		if got.GetCode() != code || !strings.Contains(got.GetMessage(), words) {
			t.Errorf("%s: got %q, want %s and %q", name, got, code, words)
		}
	}
	refused("another key", request(link.KindHost, host.id, hour, ca, caKey, otherKey), "bad-certificate", "another key")
	refused("another authority", request(link.KindHost, host.id, hour, stranger, strangerKey, host.key), "bad-certificate", "not by an authority")
	refused("a month ago", request(link.KindHost, host.id, now.AddDate(0, 0, -31), ca, caKey, host.key), "bad-certificate", "more than 30 days")
	refused("still good", request(link.KindHost, host.id, now.Add(time.Hour), ca, caKey, host.key), "clock", "set the host's clock")
	refused("a node", request(link.KindNode, "n1", hour, ca, caKey, host.key), "bad-certificate", "no host's")
	refused("nobody", request(link.KindHost, "h-aaaaaaaaaaaa", hour, ca, caKey, host.key), "unknown-host", "enrol it again")

	enrolled := answer(good).GetEnrolled()
	if enrolled.GetId() != host.id || len(enrolled.GetChain()) == 0 || len(enrolled.GetNodes()) != 1 || len(enrolled.GetCaKey()) != 0 {
		t.Fatalf("got %v, want host %s's", enrolled, host.id)
	}
	host.cert.Certificate = enrolled.GetChain()
	host.open(c.nodes[0].cfg.Advertise, newBoot())
	refused("an hour old, and heard since", good, "bad-certificate", "with a newer certificate")

	second := c.enrol(0)
	host.key = second.key
	if _, err := c.api.RemoveHost(t.Context(), second.id, "test"); err != nil {
		t.Fatal(err)
	}
	refused("removed", request(link.KindHost, second.id, hour, ca, caKey, second.key), "unknown-host", "no longer")
}
