// Package grant signs and verifies the authority to respond: what an operator
// permits, on which hosts, until when.
//
// Invariant: a grant that Verify accepts was signed by the key of an operator
// who may respond, in this cluster, for exactly these bytes. The coordinator
// only carries it. It is as strong as the cluster's CA: every node holds that
// key, so that whoever takes a node over can make himself an operator.
package grant

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// context separates a grant's signature from any other use of the same key.
const context = "vedette-grant-v1\x00"

// Bounds of what is looked at; a grant is made by a person for named hosts.
const (
	NonceSize    = 16
	MaxPayload   = 512 << 10
	maxChain     = 4
	maxChainSize = 16 << 10
	// clockSkew is how far in the future a grant may have been signed.
	clockSkew = 5 * time.Minute
)

var (
	// ErrMalformed: not a grant, or one without the fields that make it one.
	ErrMalformed = errors.New("malformed grant")
	// ErrSignature: the signature is not the certificate's over these bytes.
	ErrSignature = errors.New("grant's signature is wrong")
	// ErrUntrusted: the signer's certificate does not chain to the cluster's CA, or is out of its validity.
	ErrUntrusted = errors.New("grant's signer is not trusted")
	// ErrForbidden: the signer is somebody who may not respond.
	ErrForbidden = errors.New("grant's signer may not respond")
	// ErrForeign: the grant is for another cluster.
	ErrForeign = errors.New("grant is for another cluster")
	// ErrExpired: the grant is not honoured any more, or not yet.
	ErrExpired = errors.New("grant is out of its time")
)

// Sign makes the signed form of g. The chain is the operator's certificate,
// leaf first, DER; the key must be Ed25519 and belong to it.
func Sign(key crypto.Signer, chain [][]byte, g *sensorv1.Grant) (*sensorv1.SignedGrant, error) {
	if err := check(g); err != nil {
		return nil, err
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("signing grant: the key is %T, an Ed25519 key is needed", key.Public())
	}
	if len(chain) == 0 {
		return nil, errors.New("signing grant: there is no certificate")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("signing grant: %w", err)
	}
	if !public.Equal(leaf.PublicKey) {
		return nil, errors.New("signing grant: the key does not belong to the certificate")
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(g)
	if err != nil {
		return nil, fmt.Errorf("signing grant: %w", err)
	}
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("signing grant: %d bytes, at most %d: name fewer hosts at once", len(payload), MaxPayload)
	}
	signature, err := key.Sign(nil, append([]byte(context), payload...), crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("signing grant: %w", err)
	}
	return &sensorv1.SignedGrant{Payload: payload, Signature: signature, Chain: chain}, nil
}

// Verify returns the grant and who signed it. It does not know which nonces
// were used and whether the caller's host is named: that is the caller's.
func Verify(sg *sensorv1.SignedGrant, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.Grant, link.Peer, error) {
	signer, err := verifySigner(sg, roots, now)
	if err != nil {
		return nil, link.Peer{}, err
	}
	public, ok := signer.Certificate.PublicKey.(ed25519.PublicKey)
	if !ok || !ed25519.Verify(public, append([]byte(context), sg.GetPayload()...), sg.GetSignature()) {
		return nil, link.Peer{}, ErrSignature
	}
	g := new(sensorv1.Grant)
	if err := proto.Unmarshal(sg.GetPayload(), g); err != nil {
		return nil, link.Peer{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := check(g); err != nil {
		return nil, link.Peer{}, err
	}
	switch {
	case g.GetClusterId() != cluster || signer.Cluster != cluster:
		return nil, link.Peer{}, fmt.Errorf("%w: signed in %q for %q, this is %q", ErrForeign, signer.Cluster, g.GetClusterId(), cluster)
	case g.GetOperator() != signer.ID:
		return nil, link.Peer{}, fmt.Errorf("%w: it names %q and %q signed it", ErrForbidden, g.GetOperator(), signer.ID)
	case !time.Unix(0, g.GetNotAfter()).After(now):
		return nil, link.Peer{}, fmt.Errorf("%w: it ended at %s and it is %s here", ErrExpired, stamp(time.Unix(0, g.GetNotAfter())), stamp(now))
	case time.Unix(0, g.GetIssuedAt()).After(now.Add(clockSkew)):
		return nil, link.Peer{}, fmt.Errorf("%w: it was signed at %s and it is %s here; compare the clocks", ErrExpired, stamp(time.Unix(0, g.GetIssuedAt())), stamp(now))
	}
	return g, signer, nil
}

func verifySigner(sg *sensorv1.SignedGrant, roots *x509.CertPool, now time.Time) (link.Peer, error) {
	chain := sg.GetChain()
	if len(chain) == 0 || len(chain) > maxChain || len(bytes.Join(chain, nil)) > maxChainSize || len(sg.GetPayload()) > MaxPayload {
		return link.Peer{}, fmt.Errorf("%w: a chain of %d certificates, a payload of %d bytes", ErrMalformed, len(chain), len(sg.GetPayload()))
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return link.Peer{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	intermediates := x509.NewCertPool()
	for _, der := range chain[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return link.Peer{}, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		intermediates.AddCert(cert)
	}
	if roots == nil {
		return link.Peer{}, fmt.Errorf("%w: no roots are known here", ErrUntrusted)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return link.Peer{}, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	signer, err := link.PeerOf(leaf)
	if err != nil {
		return link.Peer{}, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if signer.Kind != link.KindOperator || (signer.Role != "responder" && signer.Role != "admin") {
		return link.Peer{}, fmt.Errorf("%w: %s %q has role %q, responder or admin is needed", ErrForbidden, signer.Kind, signer.ID, signer.Role)
	}
	return signer, nil
}

func check(g *sensorv1.Grant) error {
	switch {
	case len(g.GetNonce()) != NonceSize:
		return fmt.Errorf("%w: a nonce of %d bytes instead of %d", ErrMalformed, len(g.GetNonce()), NonceSize)
	case g.GetAction() == sensorv1.Action_ACTION_UNSPECIFIED:
		return fmt.Errorf("%w: no action", ErrMalformed)
	case len(g.GetHosts()) == 0:
		return fmt.Errorf("%w: no hosts", ErrMalformed)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
