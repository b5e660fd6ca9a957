package link

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

const uriScheme = "vedette"

var (
	clusterForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	idForm      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,126}$`)
	nameForm    = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)
)

// CheckName accepts what people may call a node or an operator, which is stricter
// than what is read in a certificate. Errors wrap ErrBadName.
func CheckName(what, name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("%w: %s %q must be 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or digit", ErrBadName, what, name)
	}
	return nil
}

// Peer is who a certificate says its holder is.
type Peer struct {
	Cluster string
	Kind    string // host, node or operator
	ID      string
	Role    string // operators: viewer, hunter, responder or admin
	// Certificate is nil only for the unauthenticated side of an enrolment.
	Certificate *x509.Certificate
}

// PeerURI is the URI SAN that makes a certificate a Vedette certificate.
func PeerURI(cluster, kind, id string) *url.URL {
	return &url.URL{Scheme: uriScheme, Host: cluster, Path: "/" + kind + "/" + id}
}

// PeerOf reads the identity from a certificate. It verifies nothing: the caller
// has the chain verified. Errors wrap ErrBadIdentity.
func PeerOf(cert *x509.Certificate) (Peer, error) {
	if cert == nil {
		return Peer{}, fmt.Errorf("%w: there is no certificate", ErrBadIdentity)
	}
	// Exactly one: with two, two readers could take the holder for two peers.
	if len(cert.URIs) != 1 {
		return Peer{}, fmt.Errorf("%w: %d URI names instead of one", ErrBadIdentity, len(cert.URIs))
	}
	uri := cert.URIs[0]
	parts := strings.Split(uri.Path, "/")
	if uri.Scheme != uriScheme || uri.User != nil || uri.RawQuery != "" || uri.Fragment != "" || len(parts) != 3 || parts[0] != "" {
		return Peer{}, fmt.Errorf("%w: %q is not vedette://CLUSTER/KIND/ID", ErrBadIdentity, uri.Redacted())
	}
	p := Peer{Cluster: uri.Host, Kind: parts[1], ID: parts[2], Certificate: cert}
	switch {
	case !clusterForm.MatchString(p.Cluster):
		return Peer{}, fmt.Errorf("%w: %q is no cluster id", ErrBadIdentity, p.Cluster)
	case p.Kind != KindHost && p.Kind != KindNode && p.Kind != KindOperator:
		return Peer{}, fmt.Errorf("%w: unknown kind %q", ErrBadIdentity, p.Kind)
	case !idForm.MatchString(p.ID):
		return Peer{}, fmt.Errorf("%w: %q is no id", ErrBadIdentity, p.ID)
	}
	if p.Kind == KindOperator {
		if len(cert.Subject.OrganizationalUnit) != 1 {
			return Peer{}, fmt.Errorf("%w: operator %q has %d roles instead of one", ErrBadIdentity, p.ID, len(cert.Subject.OrganizationalUnit))
		}
		p.Role = cert.Subject.OrganizationalUnit[0]
	}
	return p, nil
}

// Serial is the form in which Credentials.Revoked is asked: lower-case hex
// without leading zeros.
func Serial(cert *x509.Certificate) string { return cert.SerialNumber.Text(16) }

// Pin is the SHA-256 of a CA's SubjectPublicKeyInfo: what a join token carries,
// so that the first connection is as safe as the later ones.
func Pin(ca *x509.Certificate) [32]byte { return sha256.Sum256(ca.RawSubjectPublicKeyInfo) }

// Pinned is the one authority among roots (DER) that a token vouches for; others
// that a node may name are not taken on its word. Errors wrap ErrForeignCA.
func Pinned(roots [][]byte, pin [32]byte) (*x509.Certificate, error) {
	for _, der := range roots[:min(len(roots), maxRoots)] {
		if root, err := x509.ParseCertificate(der); err == nil && root.IsCA && Pin(root) == pin {
			return root, nil
		}
	}
	return nil, fmt.Errorf("%w: none of the %d in the answer is the one that the token names", ErrForeignCA, len(roots))
}

// maxRoots bounds what is parsed of a stranger's list.
const maxRoots = 4
