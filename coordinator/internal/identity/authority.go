package identity

import (
	"bytes"
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
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
)

// NodeServerName is the DNS name in every node's certificate: what dialers verify.
const NodeServerName = "node.vedette"

// Authority is the cluster's, which every node holds: one, and while that is being followed
// by another (package trust) both. It is safe for concurrent use.
type Authority struct {
	cluster string
	now     func() time.Time

	mu     sync.Mutex // guards what follows
	all    []one      // what is trusted; the first is what nodes show sensors and operators
	issuer int        // which of them signs hosts that know it, and what nodes show each other
	pool   *x509.CertPool
}

// NewAuthority makes the root of a new cluster.
func NewAuthority(cluster string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the authority's key: %w", err)
	}
	now := time.Now()
	der, err := selfSigned(cluster, key, nil, now)
	if err != nil {
		return nil, err
	}
	return newAuthority(cluster, der, key)
}

func authorityTemplate(cluster string, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "Vedette cluster " + cluster, Organization: []string{cluster}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(AuthorityLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
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
	if !sameKey(key, certificate) {
		return nil, fmt.Errorf("%w: the authority's key is not its certificate's", ErrMismatch)
	}
	a := &Authority{cluster: cluster, now: time.Now}
	a.set([]one{{certificate, key}}, 0)
	return a, nil
}

func (a *Authority) set(all []one, issuer int) {
	pool := x509.NewCertPool()
	for _, o := range all {
		pool.AddCert(o.certificate)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all, a.issuer, a.pool = all, issuer, pool
}

func (a *Authority) held() []one {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all
}

// first is what nodes show sensors and operators, issuing what signs hosts that know it.
func (a *Authority) first() one { return a.held()[0] }

func (a *Authority) issuing() one {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all[a.issuer]
}

// lacking are the names of the authorities whose keys are not there.
func (a *Authority) lacking() (names [][]byte) {
	for _, o := range a.held() {
		if name := link.Pin(o.certificate); o.key == nil {
			names = append(names, name[:])
		}
	}
	return names
}

func (a *Authority) hasKey(name []byte, key crypto.Signer) bool {
	return slices.ContainsFunc(a.held(), func(o one) bool {
		pin := link.Pin(o.certificate)
		return bytes.Equal(pin[:], name) && sameKey(key, o.certificate)
	})
}

// Cluster is the id of the cluster that this is the root of.
func (a *Authority) Cluster() string { return a.cluster }

// Certificate is the authority that nodes show sensors and operators.
func (a *Authority) Certificate() *x509.Certificate { return a.first().certificate }

// Certificates are all that are trusted, DER, and which of them signs.
func (a *Authority) Certificates() (ders [][]byte, issuer int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range a.all {
		ders = append(ders, o.certificate.Raw)
	}
	return ders, a.issuer
}

// Roots is what a peer's certificate must chain to. Nobody may change it.
func (a *Authority) Roots() *x509.CertPool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pool
}

// Pin is the SHA-256 of the public key of what nodes show: what a join token carries.
func (a *Authority) Pin() [32]byte { return link.Pin(a.first().certificate) }

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
	first := a.first()
	if first.key == nil {
		return nil, ErrNoKey
	}
	der, err := x509.MarshalPKCS8PrivateKey(first.key)
	if err != nil {
		return nil, fmt.Errorf("encoding the authority's key: %w", err)
	}
	return der, nil
}

// SignHost answers a sensor's certificate request with a chain, leaf first, root last. By
// the authority that signs only when the host knows it (see RenewHost).
func (a *Authority) SignHost(csr []byte, id string) ([][]byte, error) {
	return a.signHost(a.first(), csr, id)
}

// RenewHost is SignHost for a host that trusts all that are trusted.
func (a *Authority) RenewHost(csr []byte, id string) ([][]byte, error) {
	by := a.issuing()
	if by.key == nil {
		by = a.first()
	}
	return a.signHost(by, csr, id)
}

func (a *Authority) signHost(by one, csr []byte, id string) ([][]byte, error) {
	public, err := requestedKey(csr)
	if err != nil {
		return nil, err
	}
	if !IsHostID(id) {
		return nil, fmt.Errorf("%w: host id %q", ErrBadName, id)
	}
	return a.sign(by, subject{kind: KindHost, id: id, lifetime: HostLifetime, usage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, public)
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
	return a.signNode(a.first(), public, id, names)
}

func (a *Authority) signNode(by one, public crypto.PublicKey, id string, names []string) ([][]byte, error) {
	if err := CheckName("node id", id); err != nil {
		return nil, err
	}
	return a.sign(by, subject{kind: KindNode, id: id, lifetime: NodeLifetime, names: names,
		usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, public)
}

type subject struct {
	kind, id string
	names    []string
	lifetime time.Duration
	usage    []x509.ExtKeyUsage
}

func (a *Authority) sign(by one, s subject, public crypto.PublicKey) ([][]byte, error) {
	if by.key == nil {
		return nil, fmt.Errorf("signing the certificate of %s %s: %w", s.kind, s.id, ErrNoKey)
	}
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
	if template.NotAfter.After(by.certificate.NotAfter) {
		template.NotAfter = by.certificate.NotAfter
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
	der, err := x509.CreateCertificate(rand.Reader, template, by.certificate, public, by.key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s %s: %w", s.kind, s.id, err)
	}
	return [][]byte{der, by.certificate.Raw}, nil
}

// HasSigned says whether one of the authorities that are trusted has signed a certificate,
// whenever that was good.
func (a *Authority) HasSigned(leaf *x509.Certificate) bool {
	return slices.ContainsFunc(a.held(), func(o one) bool { return signedBy(leaf, o.certificate) })
}

// RequestedKey is the key (SubjectPublicKeyInfo, DER) that a request is for, and that its
// sender has proved to hold.
func RequestedKey(csr []byte) ([]byte, error) {
	key, err := requestedKey(csr)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return der, nil
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
