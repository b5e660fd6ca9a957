// Package trust signs and verifies which authorities of a cluster are trusted: who is a
// node and who is a host follows from them. It is how an authority is followed by another
// one without anybody enrolling again.
//
// Invariant: what Verify accepts was signed for exactly these bytes by an admin of the
// cluster, under the operators' authority that the holder trusts already. No node has a key
// for that, so no stolen node adds an authority. Which of two is newer its epoch says; to
// keep it from going back is the holder's.
//
// The operators' authority can be renewed in it, which is the same key with a later end,
// and not replaced: that key is what vouches for everything here.
package trust

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// context separates this signature from any other use of the same key.
const context = "vedette-trust-v1\x00"

// maySign are the roles that say who is trusted.
var maySign = []string{"admin"}

const (
	// MaxRoots is how many authorities are trusted at once: one, and during a rotation
	// the next; the rest is room for one that is renewed meanwhile.
	MaxRoots = 4
	// MaxPayload bounds a payload, in bytes.
	MaxPayload = 32 << 10
	// maxEpoch is beyond what anybody rotates.
	maxEpoch = 1 << 32
	// maxCertificate is far above an authority's.
	maxCertificate = 4 << 10
	maxName        = 127
	// clockSkew is how far in the future it may have been signed.
	clockSkew = 5 * time.Minute
)

var (
	// ErrMalformed: no such message, or one that breaks a bound.
	ErrMalformed = errors.New("malformed list of trusted authorities")
	// ErrTime: it was signed in the future.
	ErrTime = errors.New("list of trusted authorities is out of its time")
	// ErrKey: it brings another key of the operators' authority.
	ErrKey = errors.New("the operators' authority may be renewed, but not replaced")
	// ErrStale: it is not above the epoch that is held.
	ErrStale = errors.New("list of trusted authorities is not newer")
	// ErrForeign: it is for another cluster.
	ErrForeign = grant.ErrForeign
	// ErrForbidden: the signer is no admin.
	ErrForbidden = grant.ErrForbidden
)

// Sign makes the signed form of t by the admin who gives it. The chain is the operator's
// certificate, leaf first, DER; the key must be Ed25519 and belong to it.
func Sign(key crypto.Signer, chain [][]byte, t *sensorv1.Trust) (*sensorv1.SignedTrust, error) {
	payload, err := Encode(t)
	if err != nil {
		return nil, fmt.Errorf("signing the list of trusted authorities: %w", err)
	}
	signature, err := grant.SignAs(context, key, chain, payload)
	if err != nil {
		return nil, fmt.Errorf("signing the list of trusted authorities: %w", err)
	}
	return &sensorv1.SignedTrust{Payload: payload, Signature: signature}, nil
}

// Encode is the one encoding of t.
func Encode(t *sensorv1.Trust) ([]byte, error) {
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encoding the list of trusted authorities: %w", err)
	}
	_, err = Decode(payload)
	return payload, err
}

// Decode reads a payload that nobody has verified. It accepts one encoding only: what is
// signed must not have two readings.
func Decode(payload []byte) (*sensorv1.Trust, error) {
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: a payload of %d bytes, at most %d", ErrMalformed, len(payload), MaxPayload)
	}
	t := new(sensorv1.Trust)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, t); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(t)
	if err != nil || !bytes.Equal(again, payload) {
		return nil, fmt.Errorf("%w: it is not in its canonical form, or from a newer version: upgrade", ErrMalformed)
	}
	return t, check(t)
}

func check(t *sensorv1.Trust) error {
	switch {
	case t.GetClusterId() == "" || t.GetOperator() == "" || len(t.GetOperator()) > maxName:
		return fmt.Errorf("%w: no cluster, or nobody named as its signer", ErrMalformed)
	case t.GetEpoch() == 0 || t.GetEpoch() > maxEpoch:
		return fmt.Errorf("%w: epoch %d", ErrMalformed, t.GetEpoch())
	case t.GetSignedAt() <= 0:
		return fmt.Errorf("%w: it does not say when it was signed", ErrMalformed)
	case len(t.GetRoots()) == 0 || len(t.GetRoots()) > MaxRoots:
		return fmt.Errorf("%w: %d authorities, it has 1 to %d", ErrMalformed, len(t.GetRoots()), MaxRoots)
	case int(t.GetIssuer()) >= len(t.GetRoots()):
		return fmt.Errorf("%w: authority %d of %d is to sign", ErrMalformed, t.GetIssuer(), len(t.GetRoots()))
	}
	for i, der := range t.GetRoots() {
		if slices.ContainsFunc(t.GetRoots()[:i], func(other []byte) bool { return bytes.Equal(other, der) }) {
			return fmt.Errorf("%w: an authority is there twice", ErrMalformed)
		}
		if _, err := Root(der, t.GetClusterId()); err != nil {
			return err
		}
	}
	if len(t.GetOperators()) == 0 {
		return nil
	}
	people, err := parse(t.GetOperators())
	if err != nil {
		return err
	}
	if err := operator.CheckRoot(people, t.GetClusterId()); err != nil {
		return fmt.Errorf("%w: the operators' authority: %w", ErrMalformed, err)
	}
	for _, der := range t.GetRoots() {
		if root, err := parse(der); err != nil || link.Pin(root) == link.Pin(people) {
			return fmt.Errorf("%w: an authority of the cluster has the operators' key", ErrMalformed)
		}
	}
	return nil
}

func parse(der []byte) (*x509.Certificate, error) {
	if len(der) > maxCertificate {
		return nil, fmt.Errorf("%w: a certificate of %d bytes, at most %d", ErrMalformed, len(der), maxCertificate)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return cert, nil
}

// Root reads an authority's certificate, which must be of the cluster and signed by
// itself: whoever put it there had its key.
func Root(der []byte, cluster string) (*x509.Certificate, error) {
	cert, err := parse(der)
	switch {
	case err != nil:
		return nil, err
	case !cert.IsCA || !cert.BasicConstraintsValid:
		return nil, fmt.Errorf("%w: %q is no authority", ErrMalformed, cert.Subject.CommonName)
	case !slices.Contains(cert.Subject.Organization, cluster):
		return nil, fmt.Errorf("%w: an authority of %q, not of %q", ErrMalformed, cert.Subject.Organization, cluster)
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return nil, fmt.Errorf("%w: %q is not signed by itself: %w", ErrMalformed, cert.Subject.CommonName, err)
	}
	return cert, nil
}

// Verify returns the list and the admin who signed it. People are the certificate of the
// operators' authority that the holder trusts. The signer's certificate must have been valid
// when the list says that it was signed: a list outlives it, since nobody could come back
// to a cluster whose list had lapsed. Held is the epoch of the holder's, 0 for none.
func Verify(signed *sensorv1.SignedTrust, people *x509.Certificate, cluster string, held uint64, now time.Time) (*sensorv1.Trust, link.Peer, error) {
	t, err := Decode(signed.GetPayload())
	if err != nil {
		return nil, link.Peer{}, err
	}
	at := time.Unix(0, t.GetSignedAt())
	switch {
	case t.GetClusterId() != cluster:
		return nil, link.Peer{}, fmt.Errorf("the list of trusted authorities is %w: it is for %q, this is %q", ErrForeign, t.GetClusterId(), cluster)
	case t.GetEpoch() <= held:
		return nil, link.Peer{}, fmt.Errorf("%w: epoch %d is held, this one has %d", ErrStale, held, t.GetEpoch())
	case at.After(now.Add(clockSkew)):
		return nil, link.Peer{}, fmt.Errorf("%w: it was signed at %s and it is %s here; compare the clocks", ErrTime, stamp(at), stamp(now))
	}
	roots := x509.NewCertPool()
	roots.AddCert(people)
	if len(t.GetOperators()) > 0 {
		renewed, err := parse(t.GetOperators())
		if err != nil || link.Pin(renewed) != link.Pin(people) {
			return nil, link.Peer{}, ErrKey
		}
		roots.AddCert(renewed) // the holder's may have ended before this was signed
	}
	signer, err := grant.VerifyAs(context, maySign, signed.GetSignature(), signed.GetPayload(), roots, cluster, at)
	switch {
	case err != nil:
		return nil, link.Peer{}, fmt.Errorf("the list of trusted authorities: %w", err)
	case signer.ID != t.GetOperator():
		return nil, link.Peer{}, fmt.Errorf("the list of trusted authorities: %w: it names %q and %q signed it", ErrForbidden, t.GetOperator(), signer.ID)
	}
	for _, der := range t.GetRoots() {
		if root, err := parse(der); err != nil || link.Pin(root) == link.Pin(people) {
			return nil, link.Peer{}, fmt.Errorf("%w: an authority of the cluster has the operators' key", ErrMalformed)
		}
	}
	return t, signer, nil
}

// Pool is what a holder of a verified list verifies nodes and hosts with.
func Pool(t *sensorv1.Trust) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, der := range t.GetRoots() {
		if root, err := parse(der); err == nil {
			pool.AddCert(root)
		}
	}
	return pool
}

// Key names an authority by its key, so that it is the same when it is renewed: the SHA-256
// of its SubjectPublicKeyInfo, nil for what is no certificate.
func Key(der []byte) []byte {
	root, err := parse(der)
	if err != nil {
		return nil
	}
	pin := link.Pin(root)
	return pin[:]
}

// By is the name (see Key) of the authority among roots (DER) that signed a certificate,
// nil when none did.
func By(cert *x509.Certificate, roots [][]byte) []byte {
	for _, der := range roots {
		if root, err := parse(der); err == nil && cert.CheckSignatureFrom(root) == nil {
			return Key(der)
		}
	}
	return nil
}

// Short is how people are shown an authority: the beginning of its name and of its
// certificate's hash, since a renewed one has the same key.
func Short(der []byte) string {
	sum := sha256.Sum256(der)
	return fmt.Sprintf("%.8x-%.4x", Key(der), sum[:])
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
