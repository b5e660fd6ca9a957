// Package operator makes operators: it holds their authority and signs the
// certificates by which people are known to nodes and their grants are honoured by
// hosts.
//
// Invariant: an operator is only who this authority has signed, and no node holds
// its key. It is made with the cluster and given to the first admin, in a file, who can
// take it offline (package rootkey); what the cluster's own authority signs, whose key
// every node has, is never an operator. So a stolen node can show and hide, but order
// nothing.
//
// The root signs operators, and admins as authorities of their own that may sign
// operators and no further authority. A certificate's chain therefore shows who
// made its holder.
package operator

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
)

// Roles, each able to do what the one before it can.
const (
	RoleViewer    = "viewer"
	RoleHunter    = "hunter"
	RoleResponder = "responder"
	RoleAdmin     = "admin"
)

// How long certificates are good for.
const (
	// Lifetime is the longest of an operator's: then a person is given a new context.
	Lifetime = 365 * 24 * time.Hour
	// RootLifetime is that of the authority itself.
	RootLifetime = 10 * 365 * 24 * time.Hour
	minLifetime  = time.Minute
	// backdate lets a host or node whose clock is behind accept a certificate at once.
	backdate = 2 * time.Hour // see coordinator/internal/identity
)

var (
	// ErrBadRole: a role that does not exist.
	ErrBadRole = errors.New("bad role")
	// ErrMayNotDelegate: the authority was itself given by the root.
	ErrMayNotDelegate = errors.New("this authority may make operators, but no admin who makes operators")
	// ErrBadRoot: a certificate that is not the operators' authority of this cluster.
	ErrBadRoot = errors.New("not the operators' authority of this cluster")
	// ErrBadAuthority: key and certificates do not make an authority that the root stands for.
	ErrBadAuthority = errors.New("not an authority over operators")
)

// CheckRole accepts the four roles.
func CheckRole(role string) error {
	switch role {
	case RoleViewer, RoleHunter, RoleResponder, RoleAdmin:
		return nil
	}
	return fmt.Errorf("%w: %q is none of viewer, hunter, responder, admin", ErrBadRole, role)
}

// CheckRoot accepts what can be the root of cluster's operators: an authority that
// says so and signed itself. It is for its pin to say that it is the one.
func CheckRoot(root *x509.Certificate, cluster string) error {
	switch _, ed := root.PublicKey.(ed25519.PublicKey); {
	case !ed || !root.IsCA || root.CheckSignatureFrom(root) != nil:
		return fmt.Errorf("%w: %q is no Ed25519 authority", ErrBadRoot, root.Subject.CommonName)
	case !slices.Contains(root.Subject.Organization, cluster):
		return fmt.Errorf("%w: it is of %q, this is %q", ErrBadRoot, root.Subject.Organization, cluster)
	}
	return nil
}

// Authority signs operators of one cluster. It is immutable and safe for
// concurrent use.
type Authority struct {
	cluster string
	root    *x509.Certificate
	own     *x509.Certificate // root itself, or signed by it
	key     crypto.Signer
}

// New makes the operators' authority of a new cluster.
func New(cluster string) (*Authority, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the operators' authority: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "Vedette operators of " + cluster, Organization: []string{cluster}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(RootLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1,
		KeyUsage: x509.KeyUsageCertSign,
	}
	root, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the operators' authority: %w", err)
	}
	return Open(cluster, root, root, key)
}

// Open is an authority from what a context file holds: the root's certificate, its
// own (the root's again for the root) and its key.
func Open(cluster string, root, own *x509.Certificate, key crypto.Signer) (*Authority, error) {
	if err := CheckRoot(root, cluster); err != nil {
		return nil, err
	}
	if !own.IsCA || own.CheckSignatureFrom(root) != nil {
		return nil, fmt.Errorf("%w: the root has not signed %q as one", ErrBadAuthority, own.Subject.CommonName)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(own.PublicKey) {
		return nil, fmt.Errorf("%w: its key is not its certificate's", ErrBadAuthority)
	}
	return &Authority{cluster: cluster, root: root, own: own, key: key}, nil
}

// Root is the certificate that nodes and hosts know the authority by.
func (a *Authority) Root() *x509.Certificate { return a.root }

// Certificate is the authority's own: the root's, or one that it signed.
func (a *Authority) Certificate() *x509.Certificate { return a.own }

// Renew makes the root's certificate anew, with the same key and a later end: what it
// signed before is good under either. Only the root can; another one is ErrBadAuthority.
func (a *Authority) Renew() (*x509.Certificate, error) {
	if !a.isRoot() {
		return nil, fmt.Errorf("%w: %q was made by the root, which alone can be renewed", ErrBadAuthority, a.own.Subject.CommonName)
	}
	template := &x509.Certificate{
		RawSubject: a.root.RawSubject, SubjectKeyId: a.root.SubjectKeyId,
		NotBefore: a.root.NotBefore, // what was signed before can be verified by it
		NotAfter:  time.Now().Add(RootLifetime),
		IsCA:      true, BasicConstraintsValid: true, MaxPathLen: 1,
		KeyUsage: x509.KeyUsageCertSign,
	}
	root, err := sign(template, template, a.key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("renewing the operators' authority: %w", err)
	}
	return root, nil
}

// Key signs for the authority; it belongs into an admin's context file and nowhere else.
func (a *Authority) Key() crypto.Signer { return a.key }

// Sign makes a person an operator for lifetime (0: the longest) and returns their
// chain, leaf first, without the root. It never outlives the authority.
func (a *Authority) Sign(public ed25519.PublicKey, name, role string, lifetime time.Duration) ([][]byte, error) {
	if err := errors.Join(link.CheckName("operator name", name), CheckRole(role)); err != nil {
		return nil, err
	}
	template, err := a.template(name, lifetime)
	if err != nil {
		return nil, err
	}
	template.Subject.OrganizationalUnit = []string{role}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.URIs = []*url.URL{link.PeerURI(a.cluster, link.KindOperator, name)}
	leaf, err := sign(template, a.own, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing operator %s: %w", name, err)
	}
	if a.isRoot() {
		return [][]byte{leaf.Raw}, nil
	}
	return [][]byte{leaf.Raw, a.own.Raw}, nil
}

// Delegate makes an admin an authority over operators: theirs, with a key of its
// own. Only the root can; its certificate names nobody as an operator.
func (a *Authority) Delegate(name string, lifetime time.Duration) (*Authority, error) {
	if !a.isRoot() {
		return nil, fmt.Errorf("%w: it was given to %q by the root, which alone can", ErrMayNotDelegate, a.own.Subject.CommonName)
	}
	if err := link.CheckName("operator name", name); err != nil {
		return nil, err
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the authority of %s: %w", name, err)
	}
	template, err := a.template(name, lifetime)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.MaxPathLenZero = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	own, err := sign(template, a.own, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing the authority of %s: %w", name, err)
	}
	return Open(a.cluster, a.root, own, key)
}

func (a *Authority) isRoot() bool { return bytes.Equal(a.own.Raw, a.root.Raw) }

func (a *Authority) template(name string, lifetime time.Duration) (*x509.Certificate, error) {
	now := time.Now()
	switch {
	case lifetime == 0:
		lifetime = Lifetime
	case lifetime < minLifetime || lifetime > Lifetime:
		return nil, fmt.Errorf("an operator may be good for %s to %s, not %s", minLifetime, Lifetime, lifetime)
	}
	end := now.Add(lifetime)
	if end.After(a.own.NotAfter) {
		end = a.own.NotAfter
	}
	if !end.After(now) {
		return nil, fmt.Errorf("%w: that of %q ended on %s", ErrBadAuthority, a.own.Subject.CommonName, a.own.NotAfter.UTC().Format(time.RFC3339))
	}
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: name, Organization: []string{a.cluster}},
		NotBefore: now.Add(-backdate), NotAfter: end,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, nil
}

// sign leaves the serial to x509, which draws 159 random bits.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
