package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
)

// NodeServerName is the DNS name in every node's certificate: what dialers verify.
const NodeServerName = "node.vedette"

// Authority is the cluster's root, which every node holds. It is immutable and safe for concurrent use.
type Authority struct {
	cluster     string
	certificate *x509.Certificate
	key         crypto.Signer
	now         func() time.Time
}

// NewAuthority makes the root of a new cluster.
func NewAuthority(cluster string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the authority's key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "Vedette cluster " + cluster, Organization: []string{cluster}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(AuthorityLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the authority's certificate: %w", err)
	}
	return newAuthority(cluster, der, key)
}

func newAuthority(cluster string, der []byte, key crypto.Signer) (*Authority, error) {
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing the authority's certificate: %w", err)
	}
	if !certificate.IsCA {
		return nil, fmt.Errorf("%w: the authority's certificate is no authority", ErrMismatch)
	}
	if err := certificate.CheckSignatureFrom(certificate); err != nil {
		return nil, fmt.Errorf("%w: the authority's certificate is not as it was signed: %w", ErrMismatch, err)
	}
	if !slices.Contains(certificate.Subject.Organization, cluster) {
		return nil, fmt.Errorf("%w: the authority is of cluster %v, not %s", ErrMismatch, certificate.Subject.Organization, cluster)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(certificate.PublicKey) {
		return nil, fmt.Errorf("%w: the authority's key is not its certificate's", ErrMismatch)
	}
	return &Authority{cluster: cluster, certificate: certificate, key: key, now: time.Now}, nil
}

// Cluster is the id of the cluster that this is the root of.
func (a *Authority) Cluster() string { return a.cluster }

// Certificate is the root certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.certificate }

// Roots is a new pool with the root alone.
func (a *Authority) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// Pin is the SHA-256 of the root's public key: what a join token carries.
func (a *Authority) Pin() [32]byte { return sha256.Sum256(a.certificate.RawSubjectPublicKeyInfo) }

// NodesSecret is the same at all nodes, and known to nobody else: what one of them gave a
// sensor to prove its address with, the others believe.
func (a *Authority) NodesSecret() ([]byte, error) {
	der, err := a.KeyDER()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte("vedette-nodes-secret-v1\x00"), der...))
	return sum[:], nil
}

// KeyDER is the private key in PKCS #8: given to joining nodes only.
func (a *Authority) KeyDER() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("encoding the authority's key: %w", err)
	}
	return der, nil
}

// SignHost answers a sensor's certificate request with a chain, leaf first, root last.
func (a *Authority) SignHost(csr []byte, id string) ([][]byte, error) {
	public, err := requestedKey(csr)
	if err != nil {
		return nil, err
	}
	if !IsHostID(id) {
		return nil, fmt.Errorf("%w: host id %q", ErrBadName, id)
	}
	return a.sign(subject{kind: KindHost, id: id, lifetime: HostLifetime, usage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, public)
}

// SignNodeRequest answers a joining node's certificate request.
func (a *Authority) SignNodeRequest(csr []byte, id string, names []string) ([][]byte, error) {
	public, err := requestedKey(csr)
	if err != nil {
		return nil, err
	}
	return a.SignNode(public, id, names)
}

// SignNode signs a node's key. Beside NodeServerName the certificate carries
// names, the hosts at which operators reach the node, so that an ordinary
// HTTPS client can verify it.
func (a *Authority) SignNode(public crypto.PublicKey, id string, names []string) ([][]byte, error) {
	if err := CheckName("node id", id); err != nil {
		return nil, err
	}
	return a.sign(subject{kind: KindNode, id: id, lifetime: NodeLifetime, names: names,
		usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, public)
}

type subject struct {
	kind, id string
	names    []string
	lifetime time.Duration
	usage    []x509.ExtKeyUsage
}

func (a *Authority) sign(s subject, public crypto.PublicKey) ([][]byte, error) {
	now := a.now()
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: s.id, Organization: []string{a.cluster}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(s.lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           s.usage,
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{link.PeerURI(a.cluster, s.kind, s.id)},
	}
	if template.NotAfter.After(a.certificate.NotAfter) {
		template.NotAfter = a.certificate.NotAfter
	}
	if s.kind == KindNode {
		template.DNSNames = []string{NodeServerName}
		for _, name := range s.names {
			if ip, err := netip.ParseAddr(name); err == nil {
				template.IPAddresses = append(template.IPAddresses, net.IP(ip.WithZone("").AsSlice()))
			} else if name != "" && name != NodeServerName {
				template.DNSNames = append(template.DNSNames, name)
			}
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s %s: %w", s.kind, s.id, err)
	}
	return [][]byte{der, a.certificate.Raw}, nil
}

// requestedKey takes the public key out of a certificate request and nothing
// else, after checking that the requester holds the private one.
func requestedKey(der []byte) (crypto.PublicKey, error) {
	// Far above any honest request; a parser should not chew on a megabyte for a stranger.
	const limit = 16 << 10
	if len(der) > limit {
		return nil, fmt.Errorf("%w: %d bytes long, the limit is %d", ErrBadRequest, len(der), limit)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	switch key := csr.PublicKey.(type) {
	case ed25519.PublicKey:
		return key, nil
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%w: the key must be Ed25519, ECDSA P-256 or P-384, not %T", ErrBadRequest, csr.PublicKey)
}

// newSerial is 127 random bits: positive, and unique without a register of serials.
func newSerial() *big.Int {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	raw[0] &= 0x7f
	return new(big.Int).SetBytes(raw)
}

// NewKey makes a node's key.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return key, nil
}

// NewRequest makes a certificate request that carries a key and no names.
func NewRequest(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return der, nil
}
