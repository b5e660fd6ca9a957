package ruleset

import (
	"bytes"
	"cmp"
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
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// context separates a set's signature from any other use of the same key.
const context = "vedette-rules-v1\x00"

// mayPush are the roles that hand out rules. A rule contains nobody, but the intent acts on
// the findings that rules make, and a flood of them hides others: it takes who may set the
// intent.
var mayPush = []string{"admin"}

const (
	// MaxPayload bounds a signed set, in bytes: two of them travel in one frame.
	MaxPayload = 496 << 10
	// DefaultSoak is how long a ring is watched when the set does not say.
	DefaultSoak = 10 * time.Minute
	// MaxSoak bounds what a set can say.
	MaxSoak = 30 * 24 * time.Hour
	// DefaultFindings for each host and day halt a set that does not say.
	DefaultFindings = 5

	maxReason = 1024
	clockSkew = 5 * time.Minute
	freshness = time.Hour
)

var (
	// ErrInvalid: files that make no set.
	ErrInvalid = errors.New("not a set of rules")
	// ErrMalformed: not a signed set, or one that breaks a bound.
	ErrMalformed = errors.New("malformed set of rules")
	// ErrForbidden: the signer is no admin, or not who the set says.
	ErrForbidden = grant.ErrForbidden
	// ErrForeign: the set is for another cluster.
	ErrForeign = grant.ErrForeign
	// ErrTime: the set was signed in the future, or too long ago to be pushed.
	ErrTime = errors.New("set of rules is out of its time")
	// ErrSequence: the set does not follow the one that it should.
	ErrSequence = errors.New("set of rules does not follow the newest")
)

// Sign makes the signed form of a set by an admin. The chain is the operator's certificate,
// leaf first, DER; the key must be Ed25519 and belong to it.
func Sign(key crypto.Signer, chain [][]byte, set *sensorv1.RuleSet) (*sensorv1.SignedRules, error) {
	payload, err := Encode(set)
	if err != nil {
		return nil, fmt.Errorf("signing the rules: %w", err)
	}
	signature, err := grant.SignAs(context, key, chain, payload)
	if err != nil {
		return nil, fmt.Errorf("signing the rules: %w", err)
	}
	return &sensorv1.SignedRules{Payload: payload, Signature: signature}, nil
}

// Encode is the one encoding of a set, whatever the order of its files.
func Encode(set *sensorv1.RuleSet) ([]byte, error) {
	set = proto.CloneOf(set)
	slices.SortFunc(set.GetFiles(), func(a, b *sensorv1.RuleFile) int { return cmp.Compare(a.GetPath(), b.GetPath()) })
	if err := check(set); err != nil {
		return nil, err
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encoding the rules: %w", err)
	}
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: %d bytes, at most %d: push fewer or shorter rules", ErrMalformed, len(payload), MaxPayload)
	}
	return payload, nil
}

// Decode reads a payload that nobody has verified. It accepts one encoding only, and no
// field that it does not know, at any depth.
func Decode(payload []byte) (*sensorv1.RuleSet, error) {
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: a payload of %d bytes, at most %d", ErrMalformed, len(payload), MaxPayload)
	}
	set := new(sensorv1.RuleSet)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, set); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err != nil || !bytes.Equal(again, payload) {
		return nil, fmt.Errorf("%w: it is not in its canonical form, or from a newer version: upgrade", ErrMalformed)
	}
	return set, check(set)
}

func check(set *sensorv1.RuleSet) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	switch {
	case set.GetClusterId() == "":
		return bad("no cluster id")
	case set.GetAuthor() == "":
		return bad("no author")
	case set.GetVersion() == 0:
		return bad("no version; the first is 1")
	case (set.GetVersion() == 1) != (len(set.GetPrevious()) == 0) || len(set.GetPrevious()) != 0 && len(set.GetPrevious()) != sha256.Size:
		return bad("version %d with %d bytes of previous; the first has none, each other %d", set.GetVersion(), len(set.GetPrevious()), sha256.Size)
	case (set.GetBase() == 0) != (len(set.GetBaseDigest()) == 0) || len(set.GetBaseDigest()) != 0 && len(set.GetBaseDigest()) != sha256.Size:
		return bad("base %d with a digest of %d bytes", set.GetBase(), len(set.GetBaseDigest()))
	case set.GetBase() >= set.GetVersion() || set.GetRestores() >= set.GetVersion():
		return bad("version %d goes back to %d and restores %d; both must be before it", set.GetVersion(), set.GetBase(), set.GetRestores())
	case set.GetIssuedAt() <= 0:
		return bad("no time of signing")
	case len(set.GetReason()) > maxReason:
		return bad("the reason is longer than %d bytes", maxReason)
	case time.Duration(set.GetSoakSeconds())*time.Second > MaxSoak:
		return bad("a soak of more than %s", MaxSoak)
	}
	if !slices.IsSortedFunc(set.GetFiles(), func(a, b *sensorv1.RuleFile) int { return cmp.Compare(a.GetPath(), b.GetPath()) }) {
		return bad("its files are not in order")
	}
	if err := CheckFiles(Files(set)); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// Files are the set's.
func Files(set *sensorv1.RuleSet) []File {
	files := make([]File, len(set.GetFiles()))
	for i, f := range set.GetFiles() {
		files[i] = File{Path: f.GetPath(), Raw: f.GetText()}
	}
	return files
}

// Verify returns the set and who signed it. It is for a set that a host holds or is given:
// the certificate must have been valid when the set says that it was signed, because rules
// outlive certificates. So the cluster accepts a new one only by VerifyNew, and a host asks
// besides whether the signer was revoked.
func Verify(signed *sensorv1.SignedRules, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.RuleSet, link.Peer, error) {
	set, err := Decode(signed.GetPayload())
	if err != nil {
		return nil, link.Peer{}, err
	}
	issued := time.Unix(0, set.GetIssuedAt())
	switch {
	case set.GetClusterId() != cluster:
		return nil, link.Peer{}, fmt.Errorf("the set of rules is %w: it is for %q, this is %q", ErrForeign, set.GetClusterId(), cluster)
	case issued.After(now.Add(clockSkew)):
		return nil, link.Peer{}, fmt.Errorf("%w: it was signed at %s and it is %s here; compare the clocks", ErrTime, stamp(issued), stamp(now))
	}
	signer, err := verifySignature(signed, roots, cluster, issued)
	if err != nil {
		return nil, link.Peer{}, err
	}
	if set.GetAuthor() != signer.ID {
		return nil, link.Peer{}, fmt.Errorf("the set's %w: it names %q as its author and %q signed it", ErrForbidden, set.GetAuthor(), signer.ID)
	}
	return set, signer, nil
}

// VerifyNew is Verify for a set that is about to be pushed: signed within the last hour, by
// a certificate that is still valid now.
func VerifyNew(signed *sensorv1.SignedRules, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.RuleSet, link.Peer, error) {
	set, _, err := Verify(signed, roots, cluster, now)
	if err != nil {
		return nil, link.Peer{}, err
	}
	if issued := time.Unix(0, set.GetIssuedAt()); now.Sub(issued) > freshness {
		return nil, link.Peer{}, fmt.Errorf("%w: it was signed at %s, more than %s ago; sign it again", ErrTime, stamp(issued), freshness)
	}
	signer, err := verifySignature(signed, roots, cluster, now)
	return set, signer, err
}

func verifySignature(signed *sensorv1.SignedRules, roots *x509.CertPool, cluster string, at time.Time) (link.Peer, error) {
	signer, err := grant.VerifyAs(context, mayPush, signed.GetSignature(), signed.GetPayload(), roots, cluster, at)
	if errors.Is(err, grant.ErrMalformed) {
		return link.Peer{}, fmt.Errorf("%w: its certificates cannot be read; sign it again", ErrMalformed)
	}
	if err != nil {
		return link.Peer{}, fmt.Errorf("the set's %w", err)
	}
	return signer, nil
}

// Digest is what other versions name this one by.
func Digest(payload []byte) []byte {
	sum := sha256.Sum256(payload)
	return sum[:]
}

// Content is what sets with the same files have in common.
func Content(set *sensorv1.RuleSet) [sha256.Size]byte {
	raw, _ := proto.MarshalOptions{Deterministic: true}.Marshal(&sensorv1.RuleSet{Files: set.GetFiles()}) // of what was decoded or checked
	return sha256.Sum256(raw)
}

// Follows says whether next may come directly after the newest set, whose payload is
// previous (nil: there is none), where base (nil: none) is what all hosts go back to. All
// must be verified.
func Follows(previous, base []byte, next *sensorv1.RuleSet) error {
	newest := &sensorv1.RuleSet{}
	if previous != nil {
		var err error
		if newest, err = Decode(previous); err != nil {
			return fmt.Errorf("reading the newest set: %w", err)
		}
	}
	var baseVersion uint64
	if base != nil {
		set, err := Decode(base)
		if err != nil {
			return fmt.Errorf("reading the set that all have: %w", err)
		}
		baseVersion = set.GetVersion()
	}
	switch {
	case next.GetVersion() != newest.GetVersion()+1 || previous != nil && !bytes.Equal(next.GetPrevious(), Digest(previous)):
		return fmt.Errorf("%w: it is version %d and %d is the newest; somebody was quicker: look again and push again", ErrSequence, next.GetVersion(), newest.GetVersion())
	case next.GetBase() != baseVersion || base != nil && !bytes.Equal(next.GetBaseDigest(), Digest(base)):
		return fmt.Errorf("%w: it would go back to version %d, and what all hosts have is %d: push again", ErrSequence, next.GetBase(), baseVersion)
	case next.GetIssuedAt() < newest.GetIssuedAt():
		return fmt.Errorf("%w: it was signed before version %d; compare the clocks and push again", ErrSequence, newest.GetVersion())
	}
	return nil
}

// Soak is how long each ring is watched.
func Soak(set *sensorv1.RuleSet) time.Duration {
	if set.GetSoakSeconds() == 0 {
		return DefaultSoak
	}
	return time.Duration(set.GetSoakSeconds()) * time.Second
}

// MaxFindings for each host and day halt it.
func MaxFindings(set *sensorv1.RuleSet) int {
	if set.GetMaxFindingsPerDay() == 0 {
		return DefaultFindings
	}
	return int(set.GetMaxFindingsPerDay())
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
