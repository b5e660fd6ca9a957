// Package revocation signs and verifies who is no operator any more: the names whose
// signatures count for nothing, although their certificates have not ended.
//
// Invariant: a list that Verify accepts was signed by an admin of this cluster for
// exactly these bytes, and its signer is not on it. So whatever lists follow one
// another, the newest one's signer is an admin who is not revoked: the last admin
// cannot be. Which of two lists is the newer is its serial's to say, and to keep it
// from going back the holder's.
//
// A name is revoked, not a certificate: with every certificate that it has or gets, as
// an operator or as an authority that makes operators. Nobody knows how many were made,
// since making one asks no cluster. So a name does not come back; a person may, by
// another one.
package revocation

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// context separates a list's signature from any other use of the same key.
const context = "vedette-revocations-v1\x00"

// maySign are the roles that say who is an operator.
var maySign = []string{"admin"}

const (
	// MaxNames is how many names a list has at most.
	MaxNames = 1000
	// MaxPayload bounds a payload, in bytes.
	MaxPayload = 160 << 10
	// Keep is how long a name stays on the lists at least: an operator's certificate
	// and an admin's authority end within a year.
	Keep = 400 * 24 * time.Hour
	// clockSkew is how far in the future a list may have been signed.
	clockSkew = 5 * time.Minute
	maxName   = 127
)

var (
	// ErrRevoked: the signer, or who made the signer, is no operator any more.
	ErrRevoked = errors.New("operator is revoked")
	// ErrMalformed: not a list, or one that breaks a bound.
	ErrMalformed = errors.New("malformed list of revoked operators")
	// ErrTime: the list was signed in the future.
	ErrTime = errors.New("list of revoked operators is out of its time")
	// ErrSelf: its signer is on it.
	ErrSelf = errors.New("an admin cannot revoke themselves: another admin does, so that one is always left")
	// ErrForbidden: the signer is no admin.
	ErrForbidden = grant.ErrForbidden
	// ErrForeign: the list is for another cluster.
	ErrForeign = grant.ErrForeign
)

// Sign makes the signed form of l by the admin who gives it. The chain is the
// operator's certificate, leaf first, DER; the key must be Ed25519 and belong to it.
func Sign(key crypto.Signer, chain [][]byte, l *sensorv1.Revocations) (*sensorv1.SignedRevocations, error) {
	payload, err := Encode(l)
	if err != nil {
		return nil, fmt.Errorf("signing the list of revoked operators: %w", err)
	}
	signature, err := grant.SignAs(context, key, chain, payload)
	if err != nil {
		return nil, fmt.Errorf("signing the list of revoked operators: %w", err)
	}
	return &sensorv1.SignedRevocations{Payload: payload, Signature: signature}, nil
}

// Encode is the one encoding of l, whatever the order of its names.
func Encode(l *sensorv1.Revocations) ([]byte, error) {
	l = proto.CloneOf(l)
	slices.SortFunc(l.GetOperators(), func(a, b *sensorv1.RevokedOperator) int { return cmp.Compare(a.GetName(), b.GetName()) })
	if err := check(l); err != nil {
		return nil, err
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encoding the list of revoked operators: %w", err)
	}
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(payload), MaxPayload)
	}
	return payload, nil
}

// Decode reads a payload that nobody has verified. It accepts one encoding of a list
// only: what is signed must not have two readings.
func Decode(payload []byte) (*sensorv1.Revocations, error) {
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: a payload of %d bytes, at most %d", ErrMalformed, len(payload), MaxPayload)
	}
	l := new(sensorv1.Revocations)
	// What is not known is left out at any depth, so that it shows below.
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, l); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(l)
	if err != nil || !bytes.Equal(again, payload) {
		return nil, fmt.Errorf("%w: it is not in its canonical form, or from a newer version: upgrade", ErrMalformed)
	}
	return l, check(l)
}

// check is what makes a list one. The order is part of it, so that a set has one encoding.
func check(l *sensorv1.Revocations) error {
	switch {
	case l.GetClusterId() == "" || l.GetOperator() == "":
		return fmt.Errorf("%w: no cluster, or nobody named as its signer", ErrMalformed)
	case l.GetSerial() == 0 || l.GetSerial() > math.MaxInt64:
		return fmt.Errorf("%w: serial %d is no time of signing", ErrMalformed, l.GetSerial())
	case len(l.GetOperators()) == 0 || len(l.GetOperators()) > MaxNames:
		return fmt.Errorf("%w: %d names, it has 1 to %d", ErrMalformed, len(l.GetOperators()), MaxNames)
	}
	before := ""
	for _, o := range l.GetOperators() {
		if !nameable(o.GetName()) || o.GetName() <= before {
			return fmt.Errorf("%w: the name %q is no operator's, twice there, or out of order", ErrMalformed, o.GetName())
		}
		if o.GetAt() <= 0 || o.GetAt() > int64(l.GetSerial()) { //nolint:gosec // looked at above
			return fmt.Errorf("%w: %q was revoked after the list was signed", ErrMalformed, o.GetName())
		}
		if o.GetName() == l.GetOperator() {
			return ErrSelf
		}
		before = o.GetName()
	}
	return nil
}

func nameable(name string) bool {
	return name != "" && len(name) <= maxName && !slices.ContainsFunc([]byte(name), func(c byte) bool { return c <= ' ' || c >= 0x7f })
}

// Verify returns the list and the admin who signed it, whose certificate must have been
// valid when the list says that it was signed: a list outlives its signer's
// certificate, since a revocation that lapsed would be none.
func Verify(signed *sensorv1.SignedRevocations, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.Revocations, link.Peer, error) {
	l, err := Decode(signed.GetPayload())
	if err != nil {
		return nil, link.Peer{}, err
	}
	if l.GetClusterId() != cluster {
		return nil, link.Peer{}, fmt.Errorf("the list of revoked operators is %w: it is for %q, this is %q", ErrForeign, l.GetClusterId(), cluster)
	}
	at := Signed(l)
	if at.After(now.Add(clockSkew)) {
		// One from far in the future would make its holders refuse every list that comes after it.
		return nil, link.Peer{}, fmt.Errorf("%w: it was signed at %s and it is %s here; compare the clocks", ErrTime, stamp(at), stamp(now))
	}
	signer, err := grant.VerifyAs(context, maySign, signed.GetSignature(), signed.GetPayload(), roots, cluster, at)
	switch {
	case err != nil:
		return nil, link.Peer{}, fmt.Errorf("the list of revoked operators: %w", err)
	case signer.ID != l.GetOperator():
		return nil, link.Peer{}, fmt.Errorf("the list of revoked operators: %w: it names %q and %q signed it", ErrForbidden, l.GetOperator(), signer.ID)
	}
	// Nor may it be by an authority that it revokes.
	return l, signer, Names(l).Check(signed.GetSignature().GetChain())
}

// Signed is when a list was signed, which is its serial.
func Signed(l *sensorv1.Revocations) time.Time {
	return time.Unix(0, int64(l.GetSerial())) //nolint:gosec // checked by Encode and Decode
}

// Revoked are names and since when (Unix ns) each is revoked; nil is nobody.
type Revoked map[string]int64

// Names are those of a list; nil is nobody.
func Names(l *sensorv1.Revocations) Revoked {
	names := make(Revoked, len(l.GetOperators()))
	for _, o := range l.GetOperators() {
		names[o.GetName()] = o.GetAt()
	}
	return names
}

// Check returns ErrRevoked when a chain (leaf first, DER) names somebody who is
// revoked: as its holder, or as the admin whose authority made its holder.
func (r Revoked) Check(chain [][]byte) error {
	if len(r) == 0 {
		return nil
	}
	named, err := Named(chain)
	if err != nil {
		return err
	}
	for i, name := range named {
		at, revoked := r[name]
		switch {
		case !revoked:
		case i == 0:
			return fmt.Errorf("%w: %q, since %s", ErrRevoked, name, stamp(time.Unix(0, at)))
		default:
			return fmt.Errorf("%w: %q was made by %q, who is since %s", ErrRevoked, named[0], name, stamp(time.Unix(0, at)))
		}
	}
	return nil
}

// Named are all whom a chain names: its holder first, then whose authority is in it.
// It verifies nothing. A chain that was verified can name more than those that made it
// good, but none fewer: whoever is in between must be in it.
func Named(chain [][]byte) ([]string, error) {
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("reading an operator's certificate: %w", err)
		}
		certs[i] = cert
	}
	return NamedBy(certs), nil
}

// NamedBy is Named for parsed certificates.
func NamedBy(chain []*x509.Certificate) []string {
	names := make([]string, 0, len(chain))
	for i, cert := range chain {
		name := cert.Subject.CommonName // of an authority: it has no other name
		if peer, err := link.PeerOf(cert); i == 0 && err == nil {
			name = peer.ID
		}
		names = append(names, name)
	}
	return names
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
