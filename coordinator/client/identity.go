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
)

// nodeServerName is the DNS name that every node's certificate carries, so that
// nodes may be dialled by any address with ordinary verification.
const nodeServerName = "node.vedette"

// identity is a context's key material, parsed.
type identity struct {
	cluster string
	roots   *x509.CertPool
	cert    tls.Certificate
	signer  crypto.Signer
}

func newIdentity(c *Context, now time.Time) (*identity, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(c.CA)) {
		return nil, errors.New("its ca is no PEM certificate")
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
	return &identity{cluster: c.ClusterID, roots: roots, cert: cert, signer: signer}, nil
}

// tls gives the configuration of every connection: TLS 1.3, both sides by the
// cluster's CA, and the other side a node of this very cluster.
func (id *identity) tls() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   nodeServerName,
		RootCAs:      id.roots,
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
