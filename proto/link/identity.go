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
)

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
