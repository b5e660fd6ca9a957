package identity

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vedette-edr/vedette/proto/operator"
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
	e := Exported{Authority: string(encodePEM("CERTIFICATE", a.certificate.Raw)), Operators: string(encodePEM("CERTIFICATE", operators.Raw))}
	if withKey {
		der, err := a.KeyDER()
		if err != nil {
			return Exported{}, err
		}
		e.Key = string(encodePEM("PRIVATE KEY", der))
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
	root, err := parsePEM(e.Authority, "CERTIFICATE")
	if err != nil {
		return nil, nil, fmt.Errorf("the cluster's authority: %w", err)
	}
	key, err := parsePEM(e.Key, "PRIVATE KEY")
	if err != nil {
		return nil, nil, fmt.Errorf("the key of the cluster's authority: %w", err)
	}
	authority, err := AuthorityFromEnrolment(cluster, root, key)
	return authority, operators, err
}

func parsePEM(text, kind string) ([]byte, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("it holds no PEM block of type %s", kind)
	}
	return block.Bytes, nil
}

// ForgetPeers makes a data directory name no other node: they are lost, and a node that
// looked for them would wait for ever.
func ForgetPeers(dir string) error {
	path := filepath.Join(dir, fileCluster)
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the node's identity: %w", err)
	}
	var m Membership
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("reading %s: %w: %w", path, err, ErrDamaged)
	}
	m.Peers = nil
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return errors.Join(fmt.Errorf("encoding %s", fileCluster), err)
	}
	return writeFile(path, append(text, '\n'), 0o644)
}
