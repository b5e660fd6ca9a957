package identity

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/trust"
)

// NameFile is the file of a data directory that makes it a node's.
const NameFile = fileCluster

// Exported is what a new cluster needs of an old one's identity to be the same to hosts
// and operators: certificates, and the key of the cluster's authority. PEM each.
type Exported struct {
	Authority, Operators string
	Key                  string // empty: without it no node can be made
}

// Export gives it out; the key only when it is asked for. Node keys stay where they are.
func Export(a *Authority, operators *x509.Certificate, withKey bool) (Exported, error) {
	e := Exported{Authority: string(encodePEM("CERTIFICATE", a.Certificate().Raw)), Operators: string(encodePEM("CERTIFICATE", operators.Raw))}
	if !withKey {
		return e, nil
	}
	// Of two that are trusted while one follows the other, both.
	e.Authority = ""
	for _, o := range a.held() {
		if o.key == nil {
			continue
		}
		der, err := x509.MarshalPKCS8PrivateKey(o.key)
		if err != nil {
			return Exported{}, fmt.Errorf("encoding the authority's key: %w", err)
		}
		e.Authority += string(encodePEM("CERTIFICATE", o.certificate.Raw))
		e.Key += string(encodePEM("PRIVATE KEY", der))
	}
	return e, nil
}

// Import checks that the parts belong together and to the cluster. Without a key the
// authority is nil.
func Import(cluster string, e Exported) (*Authority, *x509.Certificate, error) {
	roots, err := parsePEM(e.Operators, "CERTIFICATE")
	if err != nil {
		return nil, nil, fmt.Errorf("the operators' authority: %w", err)
	}
	operators, err := x509.ParseCertificate(roots)
	if err != nil {
		return nil, nil, fmt.Errorf("the operators' authority: %w", err)
	}
	if err := operator.CheckRoot(operators, cluster); err != nil {
		return nil, nil, fmt.Errorf("the operators' authority: %w: %w", ErrMismatch, err)
	}
	if e.Key == "" {
		return nil, operators, nil
	}
	certificates, keys := e.Authority, e.Key
	var authority *Authority
	var all []one
	for range trust.MaxRoots {
		var root, key []byte
		if root, certificates, err = nextPEM(certificates, "CERTIFICATE"); err != nil {
			return nil, nil, fmt.Errorf("the cluster's authority: %w", err)
		}
		if key, keys, err = nextPEM(keys, "PRIVATE KEY"); err != nil {
			return nil, nil, fmt.Errorf("the key of the cluster's authority: %w", err)
		}
		if authority, err = AuthorityFromEnrolment(cluster, root, key); err != nil {
			return nil, nil, err
		}
		all = append(all, authority.first())
		if strings.TrimSpace(certificates) == "" {
			break
		}
	}
	authority.set(all, 0)
	return authority, operators, nil
}

func parsePEM(text, kind string) ([]byte, error) {
	der, _, err := nextPEM(text, kind)
	return der, err
}

func nextPEM(text, kind string) (der []byte, rest string, err error) {
	block, after := pem.Decode([]byte(text))
	if block == nil || block.Type != kind {
		return nil, "", fmt.Errorf("it holds no PEM block of type %s", kind)
	}
	return block.Bytes, string(after), nil
}

// ForgetPeers makes a data directory name no other node: they are lost, and a node that
// looked for them would wait for ever.
func ForgetPeers(dir string) error {
	path := filepath.Join(dir, fileCluster)
	m, err := decodeMembership(path)
	if err != nil {
		return err
	}
	m.Peers = nil
	text, err := m.encode()
	if err != nil {
		return err
	}
	return writeFile(path, text, 0o644)
}
