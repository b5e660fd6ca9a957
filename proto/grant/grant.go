// Package grant signs and verifies the authority to respond: what operators
// permit, on which hosts, until when.
//
// Invariant: a grant that Verify accepts with signers was signed by the keys of
// distinct operators who may respond, in this cluster, for exactly these bytes.
// The coordinator only carries it: operators are certified by an authority of
// their own, whose key no node holds, so that neither a stolen node nor all of
// them can make such a grant. One without signers is the coordinator's own word,
// which a sensor honours only when its own evidence says the same.
package grant

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// context separates a grant's signature from any other use of the same key.
const context = "vedette-grant-v2\x00"

// mayRespond are the roles whose signature is worth something under a grant.
var mayRespond = []string{"responder", "admin"}

// Bounds of what is looked at.
const (
	NonceSize  = 16
	MaxPayload = 16 << 10
	// MaxSigners is more than any rule asks for.
	MaxSigners   = 4
	maxChain     = 4
	maxChainSize = 16 << 10
	// clockSkew is how far in the future a grant may have been signed.
	clockSkew = 5 * time.Minute
)

var (
	// ErrMalformed: not a grant, or one without the fields that make it one.
	ErrMalformed = errors.New("malformed grant")
	// ErrSignature: the signature is not the certificate's over these bytes.
	ErrSignature = errors.New("signature is wrong")
	// ErrUntrusted: the signer's certificate does not chain to the operators' authority, or is out of its validity.
	ErrUntrusted = errors.New("signer is not trusted")
	// ErrForbidden: the signer is somebody who may not sign this.
	ErrForbidden = errors.New("signer may not sign this")
	// ErrForeign: it is for another cluster, or by an operator of another one.
	ErrForeign = errors.New("of another cluster")
	// ErrExpired: the grant is not honoured any more, or not yet.
	ErrExpired = errors.New("grant is out of its time")
	// ErrApprovals: fewer distinct operators signed than the grant itself asks for.
	ErrApprovals = errors.New("grant lacks approvals")
)

// Sign makes the signed form of g by the operator who gives it. The chain is the
// operator's certificate, leaf first, DER; the key must be Ed25519 and belong to it.
func Sign(key crypto.Signer, chain [][]byte, g *sensorv1.Grant) (*sensorv1.SignedGrant, error) {
	if g.GetOperator() == "" {
		return nil, fmt.Errorf("signing grant: %w: no operator", ErrMalformed)
	}
	payload, err := Encode(g)
	if err != nil {
		return nil, err
	}
	signature, err := SignPayload(key, chain, payload)
	if err != nil {
		return nil, err
	}
	return &sensorv1.SignedGrant{Payload: payload, Signatures: []*sensorv1.Signature{signature}}, nil
}

// Encode is the payload of g: what is signed, and what an automation's grant
// consists of.
func Encode(g *sensorv1.Grant) ([]byte, error) {
	if err := check(g); err != nil {
		return nil, err
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(g)
	if err != nil {
		return nil, fmt.Errorf("encoding grant: %w", err)
	}
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("encoding grant: %w: %d bytes, at most %d", ErrMalformed, len(payload), MaxPayload)
	}
	return payload, nil
}

// SignPayload is one operator's signature under a grant, as its giver or as one
// who approves it.
func SignPayload(key crypto.Signer, chain [][]byte, payload []byte) (*sensorv1.Signature, error) {
	signature, err := SignAs(context, key, chain, payload)
	if err != nil {
		return nil, fmt.Errorf("signing grant: %w", err)
	}
	return signature, nil
}

// SignAs is an operator's signature under any kind of payload; as tells the kinds
// apart, so that none passes for another.
func SignAs(as string, key crypto.Signer, chain [][]byte, payload []byte) (*sensorv1.Signature, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the key is %T, an Ed25519 key is needed", key.Public())
	}
	if len(chain) == 0 {
		return nil, errors.New("there is no certificate")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	if !public.Equal(leaf.PublicKey) {
		return nil, errors.New("the key does not belong to the certificate")
	}
	signature, err := key.Sign(nil, append([]byte(as), payload...), crypto.Hash(0))
	if err != nil {
		return nil, err
	}
	return &sensorv1.Signature{Signature: signature, Chain: chain}, nil
}

// Decode reads a payload that nobody has verified. It accepts one encoding of a
// grant only: what is signed must not have two readings.
func Decode(payload []byte) (*sensorv1.Grant, error) {
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: a payload of %d bytes", ErrMalformed, len(payload))
	}
	g := new(sensorv1.Grant)
	// What is not known is left out at any depth, so that it shows below.
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, g); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(g)
	if err != nil || !bytes.Equal(again, payload) {
		return nil, fmt.Errorf("%w: it is not in its canonical form, or from a newer version: upgrade", ErrMalformed)
	}
	if err := check(g); err != nil {
		return nil, err
	}
	return g, nil
}

// Verify returns the grant and the distinct operators who signed it, its giver
// first; none signed an automation's grant, and then its word is worth no more
// than the coordinator's. Verify does not know which nonces were used and whether
// the caller's host is named (Names): that is the caller's.
func Verify(sg *sensorv1.SignedGrant, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.Grant, []link.Peer, error) {
	return (*Verifier)(nil).Verify(sg, roots, cluster, now)
}

// Verify is the function of this name.
func (v *Verifier) Verify(sg *sensorv1.SignedGrant, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.Grant, []link.Peer, error) {
	g, signers, err := v.verifyWaiting(sg, roots, cluster, now)
	if err != nil {
		return nil, nil, err
	}
	if len(signers) > 0 && len(signers) < int(g.GetApprovals()) {
		return nil, nil, fmt.Errorf("%w: %d of %d operators signed", ErrApprovals, len(signers), g.GetApprovals())
	}
	return g, signers, nil
}

// VerifyWaiting is Verify for a grant that may still lack approvals.
func VerifyWaiting(sg *sensorv1.SignedGrant, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.Grant, []link.Peer, error) {
	return (*Verifier)(nil).verifyWaiting(sg, roots, cluster, now)
}

func (v *Verifier) verifyWaiting(sg *sensorv1.SignedGrant, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.Grant, []link.Peer, error) {
	if len(sg.GetSignatures()) > MaxSigners {
		return nil, nil, fmt.Errorf("%w: %d signatures", ErrMalformed, len(sg.GetSignatures()))
	}
	g, err := Decode(sg.GetPayload())
	if err != nil {
		return nil, nil, err
	}
	if g.GetClusterId() != cluster {
		return nil, nil, fmt.Errorf("%w: it is for %q, this is %q", ErrForeign, g.GetClusterId(), cluster)
	}
	var signers []link.Peer
	for _, signature := range sg.GetSignatures() {
		signer, err := v.verifyAs(context, mayRespond, signature, sg.GetPayload(), roots, cluster, now)
		if err != nil {
			return nil, nil, err
		}
		for _, earlier := range signers {
			if earlier.ID == signer.ID || sameKey(earlier.Certificate, signer.Certificate) {
				return nil, nil, fmt.Errorf("%w: %q signed twice", ErrApprovals, signer.ID)
			}
		}
		signers = append(signers, signer)
	}
	switch {
	case len(signers) == 0 && g.GetOperator() != "":
		return nil, nil, fmt.Errorf("%w: it names %q and nobody signed it", ErrSignature, g.GetOperator())
	case len(signers) > 0 && g.GetOperator() != signers[0].ID:
		return nil, nil, fmt.Errorf("%w: it names %q and %q signed it first", ErrForbidden, g.GetOperator(), signers[0].ID)
	}
	if err := inTime(g, now); err != nil {
		return nil, nil, err
	}
	return g, signers, nil
}

// inTime also holds the epoch to the clock: one from far in the future would make
// a host refuse every grant that comes after it.
func inTime(g *sensorv1.Grant, now time.Time) error {
	issued, notAfter := time.Unix(0, g.GetIssuedAt()), time.Unix(0, g.GetNotAfter())
	switch {
	case !notAfter.After(now):
		return fmt.Errorf("%w: it ended at %s and it is %s here", ErrExpired, stamp(notAfter), stamp(now))
	case issued.After(now.Add(clockSkew)):
		return fmt.Errorf("%w: it was signed at %s and it is %s here; compare the clocks", ErrExpired, stamp(issued), stamp(now))
	}
	return nil
}

// VerifyPayload returns who made one signature under a payload, in this cluster.
func VerifyPayload(s *sensorv1.Signature, payload []byte, roots *x509.CertPool, cluster string, now time.Time) (link.Peer, error) {
	return VerifyAs(context, mayRespond, s, payload, roots, cluster, now)
}

// VerifyAs returns who made a signature under a payload of the kind as, which is one
// with one of the roles; the certificate must be valid at the time at. It is what every
// signed kind is verified with: errors wrap this package's.
func VerifyAs(as string, roles []string, s *sensorv1.Signature, payload []byte, roots *x509.CertPool, cluster string, at time.Time) (link.Peer, error) {
	return (*Verifier)(nil).verifyAs(as, roles, s, payload, roots, cluster, at)
}

func (v *Verifier) verifyAs(as string, roles []string, s *sensorv1.Signature, payload []byte, roots *x509.CertPool, cluster string, at time.Time) (link.Peer, error) {
	signer, err := v.signer(s.GetChain(), roots, at)
	if err != nil {
		return link.Peer{}, err
	}
	public, ok := signer.Certificate.PublicKey.(ed25519.PublicKey)
	if !ok || !ed25519.Verify(public, append([]byte(as), payload...), s.GetSignature()) {
		return link.Peer{}, ErrSignature
	}
	if signer.Cluster != cluster {
		return link.Peer{}, fmt.Errorf("%w: signed by an operator of %q, this is %q", ErrForeign, signer.Cluster, cluster)
	}
	if !slices.Contains(roles, signer.Role) {
		return link.Peer{}, fmt.Errorf("%w: operator %q has role %q, %s is needed", ErrForbidden, signer.ID, signer.Role, strings.Join(roles, " or "))
	}
	return signer, nil
}

func sameKey(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

func check(g *sensorv1.Grant) error {
	switch {
	case len(g.GetNonce()) != NonceSize:
		return fmt.Errorf("%w: a nonce of %d bytes instead of %d", ErrMalformed, len(g.GetNonce()), NonceSize)
	case g.GetAction() == sensorv1.Action_ACTION_UNSPECIFIED:
		return fmt.Errorf("%w: no action", ErrMalformed)
	case g.GetHostCount() == 0 || g.GetHostCount() > MaxHosts || len(g.GetHostsRoot()) != sha256.Size:
		return fmt.Errorf("%w: %d hosts, a root of %d bytes", ErrMalformed, g.GetHostCount(), len(g.GetHostsRoot()))
	case g.GetEpoch() == 0 || g.GetIssuedAt() < 0 || g.GetEpoch() > uint64(g.GetIssuedAt())+uint64(clockSkew):
		return fmt.Errorf("%w: its epoch %d is not near the time it was signed, %d", ErrMalformed, g.GetEpoch(), g.GetIssuedAt())
	case g.GetApprovals() > MaxSigners:
		return fmt.Errorf("%w: it asks for %d approvals", ErrMalformed, g.GetApprovals())
	case g.GetOperator() == "" && len(g.GetEvidence()) == 0:
		return fmt.Errorf("%w: an automation's grant names its evidence", ErrMalformed)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
