package identity

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/trust"
)

// fileTrust is the list of trusted authorities, absent where none was ever signed.
const fileTrust = "trust.signed"

// ErrNoKey: this node lacks the key of an authority.
var ErrNoKey = errors.New("this node does not have the key of an authority")

// keyFileOf is where the key of an authority lies that is not, or not yet, the first one.
func keyFileOf(key []byte) string {
	return "ca-" + hex.EncodeToString(key[:min(len(key), 16)]) + ".key"
}

// one is an authority: its certificate and its key, nil where this node lacks it.
type one struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// selfSigned makes an authority's certificate for a key.
func selfSigned(cluster string, key crypto.Signer, subject *x509.Certificate, now time.Time) ([]byte, error) {
	template := authorityTemplate(cluster, now)
	if subject != nil {
		// What it signed before names its subject and its key: both stay.
		template.RawSubject, template.SubjectKeyId, template.NotBefore = subject.RawSubject, subject.SubjectKeyId, subject.NotBefore
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the authority's certificate: %w", err)
	}
	return der, nil
}

// Prepare makes an authority's certificate, which nothing trusts yet, and keeps its key: a
// new one, or, by the name of an authority's key (see trust.Key), the same with a later end.
func (n *Node) Prepare(renew []byte) ([]byte, error) {
	if len(renew) == 0 {
		key, err := NewKey()
		if err != nil {
			return nil, err
		}
		der, err := selfSigned(n.membership.ClusterID, key, nil, n.now())
		if err != nil {
			return nil, err
		}
		return der, n.keepKey(trust.Key(der), key)
	}
	for _, a := range n.authority.held() {
		if bytes.Equal(trust.Key(a.certificate.Raw), renew) && a.key != nil {
			return selfSigned(n.membership.ClusterID, a.key, a.certificate, n.now())
		}
	}
	return nil, fmt.Errorf("renewing authority %.8x: %w", renew, ErrNoKey)
}

func (n *Node) keepKey(name []byte, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding an authority's key: %w", err)
	}
	return writeFile(filepath.Join(n.dir, keyFileOf(name)), encodePEM("PRIVATE KEY", der), 0o600)
}

// AuthorityKey is the key (PKCS #8, DER) of an authority, by its name: for other nodes
// of the cluster alone. It must be one that is trusted.
func (n *Node) AuthorityKey(name []byte) ([]byte, error) {
	for _, a := range n.authority.held() {
		if a.key != nil && bytes.Equal(trust.Key(a.certificate.Raw), name) {
			der, err := x509.MarshalPKCS8PrivateKey(a.key)
			if err != nil {
				return nil, fmt.Errorf("encoding an authority's key: %w", err)
			}
			return der, nil
		}
	}
	return nil, fmt.Errorf("authority %.8x: %w", name, ErrNoKey)
}

// Trust is the list of trusted authorities that this node holds; nil for none.
func (n *Node) Trust() *sensorv1.SignedTrust {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.signed
}

// TrustEpoch is that list's; 0 without one.
func (n *Node) TrustEpoch() uint64 {
	t, err := trust.Decode(n.Trust().GetPayload())
	if err != nil {
		return 0
	}
	return t.GetEpoch()
}

// TakeTrust verifies a newer list of trusted authorities, keeps it and goes by it. Fetch
// gives keys that this node lacks, by their names; what it cannot get is an error that
// wraps ErrNoKey, and the list is in force all the same: the node trusts what all trust.
func (n *Node) TakeTrust(signed *sensorv1.SignedTrust, fetch func(name []byte) ([]byte, error)) error {
	if !proto.Equal(signed, n.Trust()) {
		t, _, err := trust.Verify(signed, n.Operators(), n.membership.ClusterID, n.TrustEpoch(), n.now())
		if err != nil {
			return err
		}
		data, err := proto.Marshal(signed)
		if err != nil {
			return fmt.Errorf("encoding the list of trusted authorities: %w", err)
		}
		if err := writeFile(filepath.Join(n.dir, fileTrust), data, 0o644); err != nil {
			return err
		}
		if err := n.goBy(signed, t); err != nil {
			return err
		}
	}
	lacking := n.authority.lacking()
	for _, name := range lacking {
		der, err := fetch(name)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNoKey, err)
		}
		key, err := parseKey(der)
		if err != nil {
			return err
		}
		if !n.authority.hasKey(name, key) {
			return fmt.Errorf("authority %.8x: %w: another key came", name, ErrMismatch)
		}
		if err := n.keepKey(name, key); err != nil {
			return err
		}
	}
	if len(lacking) > 0 {
		t, err := trust.Decode(signed.GetPayload())
		if err != nil {
			return err
		}
		return n.goBy(signed, t)
	}
	return nil
}

// goBy has the authorities be those of a verified list, with the keys that are there.
func (n *Node) goBy(signed *sensorv1.SignedTrust, t *sensorv1.Trust) error {
	before := n.authority.held()
	all := make([]one, len(t.GetRoots()))
	for i, der := range t.GetRoots() {
		cert, err := trust.Root(der, n.membership.ClusterID)
		if err != nil {
			return err
		}
		all[i].certificate = cert
		for _, a := range before {
			if bytes.Equal(a.certificate.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo) {
				all[i].key = a.key
			}
		}
		if all[i].key != nil {
			continue
		}
		key, err := readKey(filepath.Join(n.dir, keyFileOf(trust.Key(der))))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case !sameKey(key, cert):
			return fmt.Errorf("%s: %w: it is not its authority's key", keyFileOf(trust.Key(der)), ErrMismatch)
		default:
			all[i].key = key
		}
	}
	var people *x509.Certificate
	if der := t.GetOperators(); len(der) > 0 {
		var err error
		if people, err = x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("parsing the operators' authority: %w", err)
		}
	}
	n.authority.set(all, int(t.GetIssuer()))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.signed = signed
	if people != nil {
		n.operators = people
	}
	return nil
}

// loadTrust reads what TakeTrust kept.
func (n *Node) loadTrust() error {
	path := filepath.Join(n.dir, fileTrust)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the node's identity: %w", err)
	}
	signed := &sensorv1.SignedTrust{}
	if err := proto.Unmarshal(data, signed); err != nil {
		return fmt.Errorf("reading %s: %w: %w", path, err, ErrDamaged)
	}
	t, err := trust.Decode(signed.GetPayload())
	if err != nil {
		return fmt.Errorf("reading %s: %w: %w", path, err, ErrDamaged)
	}
	// It was not taken before it was signed, whatever the clock says now.
	now := n.now()
	if at := time.Unix(0, t.GetSignedAt()); at.After(now) {
		now = at
	}
	if t, _, err = trust.Verify(signed, n.operators, n.membership.ClusterID, 0, now); err != nil {
		return fmt.Errorf("reading %s: %w: %w", path, err, ErrDamaged)
	}
	return n.goBy(signed, t)
}

func sameKey(key crypto.Signer, cert *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}

// signedBy says whether an authority signed a certificate, whichever of its own it had then.
func signedBy(leaf *x509.Certificate, authority *x509.Certificate) bool {
	return leaf.CheckSignatureFrom(authority) == nil
}
