package link

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Credentials are asked anew for every handshake, so that a renewed certificate,
// a new root and a revocation need no restart.
type Credentials struct {
	// Certificate is one's own: leaf first. A node's chain ends with the CA's own
	// certificate: one who enrols knows only that CA's pin and has to see it.
	Certificate func() (*tls.Certificate, error)
	// ToNodes, when not nil, is what a node shows other nodes in Certificate's place: by
	// another CA than the one that sensors are shown, while one CA follows another.
	ToNodes func() (*tls.Certificate, error)
	// Roots are the CAs that a peer's certificate must chain to.
	Roots func() *x509.CertPool
	// Revoked says whether the certificate with this serial (see Serial) was
	// revoked. It may be nil. It is called for every handshake and regularly
	// for every open connection, so it must be quick.
	Revoked func(serial string) bool
}

func (c Credentials) revoked(cert *x509.Certificate) bool {
	return c.Revoked != nil && cert != nil && c.Revoked(Serial(cert))
}

// own returns the certificate to present and who it says we are.
func (c Credentials) own(alpn string, now time.Time) (*tls.Certificate, Peer, error) {
	load := c.Certificate
	if alpn == ALPNRaft && c.ToNodes != nil {
		load = c.ToNodes
	}
	if load == nil {
		return nil, Peer{}, errors.New("loading own certificate: none is configured")
	}
	cert, err := load()
	if err != nil {
		return nil, Peer{}, fmt.Errorf("loading own certificate: %w", err)
	}
	leaf := cert.Leaf
	if leaf == nil {
		if len(cert.Certificate) == 0 {
			return nil, Peer{}, errors.New("loading own certificate: the chain is empty")
		}
		if leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, Peer{}, fmt.Errorf("loading own certificate: %w", err)
		}
	}
	peer, err := PeerOf(leaf)
	if err != nil {
		return nil, Peer{}, fmt.Errorf("loading own certificate: %w", err)
	}
	if now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return nil, Peer{}, fmt.Errorf("%w: %s %s's is valid from %s to %s and it is %s here; if the clock is right, a new certificate is needed",
			ErrExpired, peer.Kind, peer.ID, stamp(leaf.NotBefore), stamp(leaf.NotAfter), stamp(now))
	}
	return cert, peer, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// serverConfig is for one handshake whose ALPN is settled.
func (c Credentials) serverConfig(alpn string) (*tls.Config, error) {
	cert, _, err := c.own(alpn, time.Now())
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{alpn},
		Certificates: []tls.Certificate{*cert},
		// A resumed session would not present its certificate again.
		SessionTicketsDisabled: true,
	}
	if alpn != ALPNEnroll {
		cfg.Certificates = []tls.Certificate{*withoutRoot(cert)}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
		cfg.ClientCAs = c.Roots()
	}
	return cfg, nil
}

// clientConfig verifies an ordinary chain to ServerName; with a pin, the root is
// the one certificate in the presented chain that has it.
func (c Credentials) clientConfig(alpn string, pin [32]byte) (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{alpn},
		ServerName:             ServerName,
		SessionTicketsDisabled: true,
	}
	cluster := ""
	if alpn != ALPNEnroll {
		cert, self, err := c.own(alpn, time.Now())
		if err != nil {
			return nil, err
		}
		cluster = self.Cluster
		// Not Certificates: that would withhold ours when the node does not list
		// our CA, and the node could not say what is wrong with it.
		shown := withoutRoot(cert)
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return shown, nil }
	}
	switch {
	case pin != [32]byte{}:
		cfg.InsecureSkipVerify = true // verifyPinned does it all, against a root that is known only then
	case c.Roots == nil || c.Roots() == nil:
		return nil, errors.New("preparing TLS: neither roots nor a CA pin is configured")
	default:
		cfg.RootCAs = c.Roots()
	}
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if pin != [32]byte{} {
			if err := verifyPinned(state.PeerCertificates, pin, time.Now()); err != nil {
				return err
			}
		}
		return c.verifyNode(state, cluster)
	}
	return cfg, nil
}

// withoutRoot is what a node and an enrolled host need to see of each other's chain: both
// have the root, and would keep another copy of it for as long as the connection lasts.
func withoutRoot(cert *tls.Certificate) *tls.Certificate {
	last := len(cert.Certificate) - 1
	if last < 1 {
		return cert
	}
	if root, err := x509.ParseCertificate(cert.Certificate[last]); err != nil || !bytes.Equal(root.RawSubject, root.RawIssuer) {
		return cert
	}
	shown := *cert
	shown.Certificate = cert.Certificate[:last]
	return &shown
}

func (c Credentials) verifyNode(state tls.ConnectionState, cluster string) error {
	peer, err := PeerOf(state.PeerCertificates[0])
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrWrongPeer, err)
	case peer.Kind != KindNode:
		return fmt.Errorf("%w: a coordinator node was dialled and %s %q answered", ErrWrongPeer, peer.Kind, peer.ID)
	case cluster != "" && peer.Cluster != cluster:
		return fmt.Errorf("%w: node %q is of cluster %q, ours is %q", ErrWrongPeer, peer.ID, peer.Cluster, cluster)
	case c.revoked(peer.Certificate):
		return fmt.Errorf("%w: node %q's certificate is revoked", ErrWrongPeer, peer.ID)
	}
	return nil
}

func verifyPinned(chain []*x509.Certificate, pin [32]byte, now time.Time) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: the node presented no certificate", ErrForeignCA)
	}
	opts := x509.VerifyOptions{
		DNSName: ServerName, CurrentTime: now,
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	found := false
	for _, cert := range chain {
		if cert.IsCA && Pin(cert) == pin {
			opts.Roots.AddCert(cert)
			found = true
		} else {
			opts.Intermediates.AddCert(cert)
		}
	}
	if !found {
		return fmt.Errorf("%w: the node does not show the CA that the join token names; the token is for another cluster, or somebody answers in the node's place", ErrForeignCA)
	}
	_, err := chain[0].Verify(opts)
	return err
}
