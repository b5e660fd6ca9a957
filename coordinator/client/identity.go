package client

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/trust"
)

// nodeServerName is the DNS name that every node's certificate carries, so that
// nodes may be dialled by any address with ordinary verification.
const nodeServerName = "node.vedette"

// identity is a context's key material, parsed.
type identity struct {
	cluster   string
	roots     [][]byte          // who is a node, DER
	epoch     uint64            // of the list that says so; 0: the context's ca does
	operators *x509.Certificate // who may order
	cert      tls.Certificate
	signer    crypto.Signer
}

func newIdentity(c *Context, now time.Time) (*identity, error) {
	ca, err := parseCertificate("ca", c.CA)
	if err != nil {
		return nil, err
	}
	if c.Operators == "" {
		return nil, fmt.Errorf("%w: it is of an older release and does not name the operators' authority: ask an admin of the cluster for a new context file", ErrDenied)
	}
	operators, err := parseCertificate("operators", c.Operators)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.Key))
	if err != nil {
		return nil, fmt.Errorf("reading its certificate and key: %w", err)
	}
	signer, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("its key cannot sign")
	}
	if now.After(cert.Leaf.NotAfter) {
		return nil, fmt.Errorf("%w: its certificate expired on %s: ask an admin of the cluster for a new context file",
			ErrDenied, cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	id := &identity{cluster: c.ClusterID, roots: [][]byte{ca.Raw}, operators: operators, cert: cert, signer: signer}
	return id, id.follow(c.Trust)
}

func parseCertificate(field, text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("its %s is no PEM certificate", field)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading its %s: %w", field, err)
	}
	return cert, nil
}

func poolOf(cert *x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

// checkToken holds a join token, whose text a node makes, to this context: a stolen
// node could name authorities of its own in it, and what enrols would obey those.
func (id *identity) checkToken(text string) error {
	token, err := link.ParseToken(text)
	if err != nil {
		return fmt.Errorf("%w: the node's answer is no join token: %w", ErrUntrusted, err)
	}
	for _, authority := range []struct {
		whose     string
		got, want [32]byte
	}{{"cluster's", token.CA, [32]byte(trust.Key(id.roots[0]))}, {"operators'", token.Operators, link.Pin(id.operators)}} {
		if authority.got != authority.want {
			return fmt.Errorf("%w: the token that it made names another %s authority than this context: what enrols with it would obey strangers; that node may be stolen: take it off the network and remove it from the cluster, and do not use the token",
				ErrUntrusted, authority.whose)
		}
	}
	return nil
}

// tls gives the configuration of every connection: TLS 1.3, both sides by the
// cluster's CA, and the other side a node of this very cluster.
func (id *identity) tls() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   nodeServerName,
		RootCAs:      trust.Pool(&sensorv1.Trust{Roots: id.roots}),
		Certificates: []tls.Certificate{id.cert},
		NextProtos:   []string{"h2"},
		VerifyConnection: func(cs tls.ConnectionState) error {
			return id.verifyNode(cs.PeerCertificates[0])
		},
	}
}

// verifyNode wants the URI vedette://CLUSTER/node/ID: a host or an operator of
// the same CA must not pass for a node.
func (id *identity) verifyNode(leaf *x509.Certificate) error {
	for _, u := range leaf.URIs {
		if u.Scheme == "vedette" && u.Host == id.cluster && strings.HasPrefix(u.Path, "/node/") {
			return nil
		}
	}
	return &tls.CertificateVerificationError{
		UnverifiedCertificates: []*x509.Certificate{leaf},
		Err:                    fmt.Errorf("the server is no node of cluster %s", id.cluster),
	}
}

// chain is the operator's certificate chain as a grant carries it: DER, leaf first.
func (id *identity) chain() [][]byte { return id.cert.Certificate }

// Expires is when the context's certificate ends.
func (c *Context) Expires() (time.Time, error) {
	leaf, err := parseCertificate("certificate", c.Certificate)
	if err != nil {
		return time.Time{}, err
	}
	return leaf.NotAfter, nil
}

// Subject says who the context's certificate is for: its common name, or the id in its URI.
func (c *Context) Subject() string {
	block, _ := pem.Decode([]byte(c.Certificate))
	if block == nil {
		return c.Operator
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return c.Operator
	}
	for _, u := range leaf.URIs {
		if name, ok := strings.CutPrefix(u.Path, "/operator/"); ok {
			return name
		}
	}
	return leaf.Subject.CommonName
}
