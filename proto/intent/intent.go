// Package intent is the operators' policy for automation: what may be done to which
// hosts, at what confidence, with whose consent.
//
// Its one idea: leader and offline sensor hold the same signed bytes and call the same
// evaluator, which sees a request and nothing else, neither clock nor map order nor
// network; so they reach the same verdict about the same finding. Invariant: a Policy
// never answers more than level 1 for a protected host, nor while automation is off,
// whatever its Cedar says, and an error in it never permits anything.
package intent

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// context separates an intent's signature from any other use of the same key.
const context = "vedette-intent-v1\x00"

// mayApply are the roles that set strategy: responders act inside it.
var mayApply = []string{"admin"}

const (
	// MaxPayload bounds a signed intent's payload, in bytes: it travels in one frame.
	MaxPayload = 192 << 10
	// clockSkew is how far in the future an intent may have been signed.
	clockSkew = 5 * time.Minute
	// freshness is how long after its signing an intent can be applied.
	freshness = time.Hour
)

var (
	// ErrMalformed: not an intent, or one that breaks a bound.
	ErrMalformed = errors.New("malformed intent")
	// ErrSignature: the signature is not the certificate's over these bytes.
	ErrSignature = grant.ErrSignature
	// ErrUntrusted: the signer's certificate does not chain to the operators' authority, or was out of its validity.
	ErrUntrusted = grant.ErrUntrusted
	// ErrForbidden: the signer is no admin.
	ErrForbidden = grant.ErrForbidden
	// ErrForeign: the intent is for another cluster.
	ErrForeign = grant.ErrForeign
	// ErrTime: the intent was signed in the future, or too long ago to be applied.
	ErrTime = errors.New("intent is out of its time")
	// ErrSequence: the intent does not follow the one it claims to follow.
	ErrSequence = errors.New("intent does not follow the one in force")
)

// Sign makes the signed form of in by an admin. The chain is the operator's
// certificate, leaf first, DER; the key must be Ed25519 and belong to it. Sign
// bounds the size and no more: Check says whether the content makes sense.
func Sign(key crypto.Signer, chain [][]byte, in *sensorv1.Intent) (*sensorv1.SignedIntent, error) {
	payload, err := Encode(in)
	if err != nil {
		return nil, fmt.Errorf("signing the intent: %w", err)
	}
	signature, err := grant.SignAs(context, key, chain, payload)
	if err != nil {
		return nil, fmt.Errorf("signing the intent: %w", err)
	}
	return &sensorv1.SignedIntent{Payload: payload, Signature: signature}, nil
}

// Encode is the one encoding of in: what is signed and what the next version names.
func Encode(in *sensorv1.Intent) ([]byte, error) {
	if err := checkHead(in); err != nil {
		return nil, err
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encoding the intent: %w", err)
	}
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: %d bytes, at most %d: fewer or shorter policies, groups and hosts are needed", ErrMalformed, len(payload), MaxPayload)
	}
	return payload, nil
}

// Decode reads a payload that nobody has verified. It accepts one encoding only, and
// no field that it does not know, at any depth: half an intent may be the half that permits.
func Decode(payload []byte) (*sensorv1.Intent, error) {
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: a payload of %d bytes, at most %d", ErrMalformed, len(payload), MaxPayload)
	}
	in := new(sensorv1.Intent)
	// Discarded, an unknown field is missing when the payload is made again.
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, in); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(in)
	if err != nil || !bytes.Equal(again, payload) {
		return nil, fmt.Errorf("%w: it is not in its canonical form, or from a newer version: upgrade", ErrMalformed)
	}
	if err := checkHead(in); err != nil {
		return nil, err
	}
	return in, nil
}

// Verify returns the intent and who signed it. It is for an intent that is in force:
// the certificate must have been valid when the intent says that it was signed, not
// now, because policy outlives certificates and must not end when an admin's does: a
// host that comes back after a week would be without protection. What that costs: who
// has the key of an expired certificate can date an intent back into its validity. That
// is why the cluster accepts a new one only by VerifyNew and Follows, and a host takes
// intents only from the cluster's nodes.
func Verify(signed *sensorv1.SignedIntent, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.Intent, link.Peer, error) {
	in, err := Decode(signed.GetPayload())
	if err != nil {
		return nil, link.Peer{}, err
	}
	if in.GetClusterId() != cluster {
		return nil, link.Peer{}, fmt.Errorf("the intent is %w: it is for %q, this is %q", ErrForeign, in.GetClusterId(), cluster)
	}
	issued := time.Unix(0, in.GetIssuedAt())
	if issued.After(now.Add(clockSkew)) {
		return nil, link.Peer{}, fmt.Errorf("%w: it was signed at %s and it is %s here; compare the clocks", ErrTime, stamp(issued), stamp(now))
	}
	signer, err := verifySignature(signed, roots, cluster, issued)
	if err != nil {
		return nil, link.Peer{}, err
	}
	if in.GetAuthor() != signer.ID {
		return nil, link.Peer{}, fmt.Errorf("the intent's %w: it names %q as its author and %q signed it", ErrForbidden, in.GetAuthor(), signer.ID)
	}
	return in, signer, nil
}

// VerifyNew is Verify for an intent that is about to be applied: signed within the
// last hour, by a certificate that is still valid now.
func VerifyNew(signed *sensorv1.SignedIntent, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.Intent, link.Peer, error) {
	in, _, err := Verify(signed, roots, cluster, now)
	if err != nil {
		return nil, link.Peer{}, err
	}
	if issued := time.Unix(0, in.GetIssuedAt()); now.Sub(issued) > freshness {
		return nil, link.Peer{}, fmt.Errorf("%w: it was signed at %s, more than %s ago; sign it again", ErrTime, stamp(issued), freshness)
	}
	signer, err := verifySignature(signed, roots, cluster, now)
	if err != nil {
		return nil, link.Peer{}, err
	}
	return in, signer, nil
}

func verifySignature(signed *sensorv1.SignedIntent, roots *x509.CertPool, cluster string, at time.Time) (link.Peer, error) {
	signer, err := grant.VerifyAs(context, mayApply, signed.GetSignature(), signed.GetPayload(), roots, cluster, at)
	if errors.Is(err, grant.ErrMalformed) {
		return link.Peer{}, fmt.Errorf("%w: its certificates cannot be read; sign it again", ErrMalformed)
	}
	if err != nil {
		return link.Peer{}, fmt.Errorf("the intent's %w", err)
	}
	return signer, nil
}

// Digest is what the next version names as Intent.previous.
func Digest(payload []byte) []byte {
	sum := sha256.Sum256(payload)
	return sum[:]
}

// Follows says whether next may come directly after the intent with the payload
// previous (nil: there is none). Both must be verified. The chain makes every admin
// say which policy they changed: of two who edit at once, the second is told so.
func Follows(previous []byte, next *sensorv1.Intent) error {
	if previous == nil {
		if next.GetVersion() != 1 || len(next.GetPrevious()) != 0 {
			return fmt.Errorf("%w: none was ever applied, so the first has version 1 and no previous, not version %d", ErrSequence, next.GetVersion())
		}
		return nil
	}
	before, err := Decode(previous)
	if err != nil {
		return fmt.Errorf("reading the intent in force: %w", err)
	}
	switch {
	case next.GetVersion() != before.GetVersion()+1:
		return fmt.Errorf("%w: it has version %d and %d is in force; fetch that one, make the change again and sign it as %d",
			ErrSequence, next.GetVersion(), before.GetVersion(), before.GetVersion()+1)
	case !bytes.Equal(next.GetPrevious(), Digest(previous)):
		return fmt.Errorf("%w: it was made from another version %d than the one in force; fetch that one and make the change again", ErrSequence, before.GetVersion())
	case next.GetClusterId() != before.GetClusterId():
		return fmt.Errorf("%w: it is for cluster %q, the one in force for %q", ErrSequence, next.GetClusterId(), before.GetClusterId())
	case next.GetIssuedAt() < before.GetIssuedAt():
		return fmt.Errorf("%w: it was signed at %s, before the one in force (%s); compare the clocks and sign it again",
			ErrSequence, stamp(time.Unix(0, next.GetIssuedAt())), stamp(time.Unix(0, before.GetIssuedAt())))
	case next.GetRestores() > before.GetVersion():
		return fmt.Errorf("%w: it restores version %d, which is not there yet", ErrSequence, next.GetRestores())
	}
	return nil
}

// Replaces says whether a host that holds the payload held (nil: none) takes next
// instead. A host may have missed versions, so their order is all that it can ask for;
// two contents of one version are an error: one of them was forged or the cluster was
// made anew. Both must be verified.
func Replaces(held, next []byte) (bool, error) {
	after, err := Decode(next)
	if err != nil || held == nil {
		return err == nil, err
	}
	before, err := Decode(held)
	if err != nil {
		return false, fmt.Errorf("reading the intent that is held: %w", err)
	}
	switch {
	case after.GetVersion() > before.GetVersion() && after.GetIssuedAt() < before.GetIssuedAt():
		return false, fmt.Errorf("%w: version %d was signed before version %d, which is held here", ErrSequence, after.GetVersion(), before.GetVersion())
	case after.GetVersion() > before.GetVersion():
		return true, nil
	case after.GetVersion() == before.GetVersion() && !bytes.Equal(held, next):
		return false, fmt.Errorf("%w: there are two versions %d; the one that came first is kept", ErrSequence, after.GetVersion())
	}
	return false, nil
}

// SameContent says whether a and b ask for the same: all but who signed it, when, why
// and as which version. A rollback must be the same as what it restores.
func SameContent(a, b *sensorv1.Intent) bool {
	return proto.Equal(content(a), content(b))
}

func content(in *sensorv1.Intent) *sensorv1.Intent {
	return &sensorv1.Intent{
		Policy: in.GetPolicy(), Groups: in.GetGroups(), Governor: in.GetGovernor(), Jump: in.GetJump(),
		AutomationOff: in.GetAutomationOff(), VetoSeconds: in.GetVetoSeconds(), LeaseSeconds: in.GetLeaseSeconds(),
	}
}

// checkHead is what an intent needs to be one at all.
func checkHead(in *sensorv1.Intent) error {
	switch {
	case in.GetClusterId() == "":
		return fmt.Errorf("%w: no cluster id", ErrMalformed)
	case in.GetVersion() == 0:
		return fmt.Errorf("%w: no version; the first is 1", ErrMalformed)
	case (in.GetVersion() == 1) != (len(in.GetPrevious()) == 0) || (len(in.GetPrevious()) != 0 && len(in.GetPrevious()) != sha256.Size):
		return fmt.Errorf("%w: version %d with %d bytes of previous; the first has none, each other %d", ErrMalformed, in.GetVersion(), len(in.GetPrevious()), sha256.Size)
	case in.GetIssuedAt() <= 0:
		return fmt.Errorf("%w: no time of signing", ErrMalformed)
	case in.GetAuthor() == "":
		return fmt.Errorf("%w: no author", ErrMalformed)
	case in.GetRestores() >= in.GetVersion():
		return fmt.Errorf("%w: version %d restores version %d, which is not before it", ErrMalformed, in.GetVersion(), in.GetRestores())
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
