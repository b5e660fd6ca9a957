// Package linktest is a small certificate authority for tests of whatever
// speaks over proto/link. It uses the same certificate profile as a cluster's
// own CA, so that nothing in a test is trusted that would not be in production.
package linktest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
)

// Cluster is the cluster id of a CA made by NewCA.
const Cluster = "c-test"

// CA issues certificates for one test. It plays both authorities of a cluster, its
// own and the operators', where a test is not about the difference: Pin is both pins.
type CA struct {
	t           testing.TB
	Cluster     string
	Certificate *x509.Certificate
	key         ed25519.PrivateKey
}

// NewCA makes a CA for the cluster Cluster.
func NewCA(t testing.TB) *CA { return NewCAFor(t, Cluster) }

// NewCAFor makes a CA for another cluster.
func NewCAFor(t testing.TB, cluster string) *CA {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(t),
		Subject:               pkix.Name{CommonName: "vedette test CA " + cluster, Organization: []string{cluster}},
		NotBefore:             now.Add(-24 * time.Hour),
		NotAfter:              now.Add(365 * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return &CA{t: t, Cluster: cluster, Certificate: parse(t, der), key: key}
}

// Roots returns a pool with the CA.
func (ca *CA) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate)
	return pool
}

// Pin is what a join token of this CA's cluster carries.
func (ca *CA) Pin() [32]byte { return link.Pin(ca.Certificate) }

// Key is what the CA signs with, for tests of who may have it.
func (ca *CA) Key() ed25519.PrivateKey { return ca.key }

// Issue makes a key and a certificate for a day and returns both as credentials
// that trust this CA. The role is for operators.
func (ca *CA) Issue(kind, id, role string) link.Credentials {
	ca.t.Helper()
	now := time.Now()
	return ca.Credentials(ca.IssueBetween(kind, id, role, now.Add(-time.Hour), now.Add(24*time.Hour)))
}

// Credentials are the certificate and the trust in this CA.
func (ca *CA) Credentials(cert tls.Certificate) link.Credentials {
	roots := ca.Roots()
	return link.Credentials{
		Certificate: func() (*tls.Certificate, error) { return &cert, nil },
		Roots:       func() *x509.CertPool { return roots },
	}
}

// IssueBetween makes a key and a certificate with that validity.
func (ca *CA) IssueBetween(kind, id, role string, notBefore, notAfter time.Time) tls.Certificate {
	ca.t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	chain := ca.sign(public, kind, id, role, notBefore, notAfter)
	return tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: parse(ca.t, chain[0])}
}

// IssueFor is another certificate for the key of one that was issued.
func (ca *CA) IssueFor(cert tls.Certificate, kind, id, role string) tls.Certificate {
	ca.t.Helper()
	chain := ca.sign(cert.Leaf.PublicKey, kind, id, role, cert.Leaf.NotBefore, cert.Leaf.NotAfter)
	return tls.Certificate{Certificate: chain, PrivateKey: cert.PrivateKey, Leaf: parse(ca.t, chain[0])}
}

// SignCSR issues what the request asks for, for the validity given, leaf first.
// As in production, only the request's public key is believed.
func (ca *CA) SignCSR(csr []byte, kind, id string, notBefore, notAfter time.Time) [][]byte {
	ca.t.Helper()
	request, err := x509.ParseCertificateRequest(csr)
	if err == nil {
		err = request.CheckSignature()
	}
	if err != nil {
		ca.t.Errorf("certificate request: %v", err)
		return nil
	}
	return ca.sign(request.PublicKey, kind, id, "", notBefore, notAfter)
}

func (ca *CA) sign(public any, kind, id, role string, notBefore, notAfter time.Time) [][]byte {
	ca.t.Helper()
	template := &x509.Certificate{
		SerialNumber:          serial(ca.t),
		Subject:               pkix.Name{CommonName: id},
		URIs:                  []*url.URL{link.PeerURI(ca.Cluster, kind, id)},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if role != "" {
		template.Subject.OrganizationalUnit = []string{role}
	}
	if kind == link.KindNode {
		template.DNSNames = []string{link.ServerName}
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate, public, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return [][]byte{der, ca.Certificate.Raw}
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
