// Package pack reads, signs and verifies baseline packs, which say what the hosts of a role
// have in common, the orders by which an operator has a host forget what it learnt, and the
// dispositions by which one says what a host's findings were.
//
// Invariant: what Verify calls an operator's was signed by one who may for exactly these
// bytes. What nobody signed is a node's word, good for what package baseline of the sensor
// allows to one: every node can make it, a stolen one as well. A payload has one reading.
package pack

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// What separates these signatures from any other use of the same key.
const (
	packContext = "vedette-pack-v1\x00"
	// An older sensor would take the fleet's pack for its role's: it finds no signature that it knows.
	fleetContext = "vedette-fleet-pack-v1\x00"
)

const (
	// MaxBehaviours of a pack.
	MaxBehaviours = 8192
	// MaxPayload bounds a payload, in bytes: it travels in one entry of the log.
	MaxPayload = 640 << 10
	// Fleet is in the place of a role group's name in a pack of the whole fleet.
	Fleet = "*"
	// MaxRole bounds the name of a role group, in bytes.
	MaxRole = 128
	// MaxName bounds a subject or an object, in bytes.
	MaxName = 384
	// MaxKeys is how many behaviours an order to unlearn names.
	MaxKeys = 256
	// KeySize is a behaviour's key, in bytes.
	KeySize = 16
	// Lifetime is the longest that an operator's pack counts.
	Lifetime = 180 * 24 * time.Hour
	// UnlearnFor is how long an order to unlearn, or a disposition, waits for its host.
	UnlearnFor = 30 * 24 * time.Hour
	// MinHosts is of how many hosts a pack must be that no operator signed.
	MinHosts = 3
	// DefaultPermille is the share of a group's hosts that must have a behaviour.
	DefaultPermille = 500
	// PartSize is of a part on its way, so that it fits a frame with room to spare.
	PartSize = 256 << 10
	// maxParts of a pack.
	maxParts = (MaxPayload+maxSignature)/PartSize + 1
	// maxSignature bounds a signature with its chain.
	maxSignature = 16 << 10
	maxReason    = 1024
	clockSkew    = 5 * time.Minute
)

var (
	// ErrMalformed: not a pack, an order to unlearn or a disposition, or one that breaks a bound.
	ErrMalformed = errors.New("malformed pack")
	// ErrTime: it has ended, or was made in the future.
	ErrTime = errors.New("out of its time")
	// ErrForeign: it is for another cluster.
	ErrForeign = grant.ErrForeign
)

// maySignPack are the roles that say what is normal, mayDispose those that close incidents,
// and mayUnlearn those that say of whatever they name that it was not.
var (
	maySignPack = []string{operator.RoleHunter, operator.RoleResponder, operator.RoleAdmin}
	mayDispose  = maySignPack
	mayUnlearn  = []string{operator.RoleResponder, operator.RoleAdmin}
)

// Order is the one order of a pack's behaviours.
func Order(a, b *sensorv1.PackBehaviour) int {
	return cmp.Or(cmp.Compare(a.GetKind(), b.GetKind()), bytes.Compare(a.GetSubject(), b.GetSubject()), bytes.Compare(a.GetObject(), b.GetObject()))
}

// Encode is the one encoding of a pack, whatever the order of its behaviours.
func Encode(p *sensorv1.Pack) ([]byte, error) {
	p = proto.CloneOf(p)
	slices.SortFunc(p.GetBehaviours(), Order)
	if err := check(p); err != nil {
		return nil, err
	}
	return encode(p, MaxPayload)
}

func encode(m proto.Message, most int) ([]byte, error) {
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	if len(payload) > most {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(payload), most)
	}
	return payload, nil
}

// decode takes one encoding of a message only: what is signed must not have two readings.
func decode(payload []byte, most int, m proto.Message) error {
	if len(payload) > most {
		return fmt.Errorf("%w: a payload of %d bytes, at most %d", ErrMalformed, len(payload), most)
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, m); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil || !bytes.Equal(again, payload) {
		return fmt.Errorf("%w: it is not in its canonical form, or from a newer version: upgrade", ErrMalformed)
	}
	return nil
}

// Decode reads a payload that nobody has verified.
func Decode(payload []byte) (*sensorv1.Pack, error) {
	p := new(sensorv1.Pack)
	if err := decode(payload, MaxPayload, p); err != nil {
		return nil, err
	}
	return p, check(p)
}

// check is what makes a pack one.
func check(p *sensorv1.Pack) error {
	switch {
	case p.GetClusterId() == "":
		return fmt.Errorf("%w: no cluster id", ErrMalformed)
	case !ValidRole(p.GetRole()):
		return fmt.Errorf("%w: role %.64q is not 1 to %d printable characters", ErrMalformed, p.GetRole(), MaxRole)
	case p.GetMadeAt() <= 0 || p.GetNotAfter() != 0 && p.GetNotAfter() <= p.GetMadeAt():
		return fmt.Errorf("%w: it ends before it was made", ErrMalformed)
	case p.GetOf() == 0 || p.GetOf() > math.MaxInt32 || p.GetPermille() > 1000:
		return fmt.Errorf("%w: made of %d hosts, share %d of 1000", ErrMalformed, p.GetOf(), p.GetPermille())
	case len(p.GetBehaviours()) == 0 || len(p.GetBehaviours()) > MaxBehaviours:
		return fmt.Errorf("%w: %d behaviours, 1 to %d make a pack", ErrMalformed, len(p.GetBehaviours()), MaxBehaviours)
	}
	for i, b := range p.GetBehaviours() {
		switch {
		case b.GetKind() < sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC || b.GetKind() > sensorv1.BehaviourKind_BEHAVIOUR_KIND_PRIVILEGE:
			return fmt.Errorf("%w: behaviour kind %d is unknown: upgrade", ErrMalformed, b.GetKind())
		case len(b.GetSubject()) > MaxName || len(b.GetObject()) > MaxName || len(b.GetSubject())+len(b.GetObject()) == 0:
			return fmt.Errorf("%w: a subject or an object of more than %d bytes, or none", ErrMalformed, MaxName)
		case b.GetHosts() == 0 || b.GetHosts() > p.GetOf() || b.GetKnown() > b.GetHosts():
			return fmt.Errorf("%w: %d of %d hosts, known on %d", ErrMalformed, b.GetHosts(), p.GetOf(), b.GetKnown())
		case i > 0 && Order(p.GetBehaviours()[i-1], b) >= 0:
			return fmt.Errorf("%w: its behaviours are not in order", ErrMalformed)
		}
	}
	return nil
}

// ValidGroup says whether a role group may have a name.
func ValidGroup(name string) bool { return name != Fleet && ValidRole(name) }

func contextOf(p *sensorv1.Pack) string {
	if p.GetRole() == Fleet {
		return fleetContext
	}
	return packContext
}

// ValidRole says whether a pack may be for what has a name.
func ValidRole(name string) bool {
	return name != "" && len(name) <= MaxRole && !slices.ContainsFunc([]byte(name), func(c byte) bool { return c <= ' ' || c > '~' })
}

// Sign makes the signed form of a pack by the operator whom it names. The chain is the
// operator's certificate, leaf first, DER; the key must be Ed25519 and belong to it.
func Sign(key crypto.Signer, chain [][]byte, p *sensorv1.Pack) (*sensorv1.SignedPack, error) {
	payload, err := Encode(p)
	if err != nil {
		return nil, fmt.Errorf("signing the pack: %w", err)
	}
	signature, err := grant.SignAs(contextOf(p), key, chain, payload)
	if err != nil {
		return nil, fmt.Errorf("signing the pack: %w", err)
	}
	return &sensorv1.SignedPack{Payload: payload, Signature: signature}, nil
}

// Verify returns the pack, and the operator who signed it with a certificate that is valid now;
// no peer for one that nobody signed.
func Verify(signed *sensorv1.SignedPack, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.Pack, *link.Peer, error) {
	p, err := Decode(signed.GetPayload())
	if err != nil {
		return nil, nil, err
	}
	made, end := time.Unix(0, p.GetMadeAt()), time.Unix(0, p.GetNotAfter())
	switch {
	case p.GetClusterId() != cluster:
		return nil, nil, fmt.Errorf("the pack is %w: it is for %q, this is %q", ErrForeign, p.GetClusterId(), cluster)
	case made.After(now.Add(clockSkew)):
		return nil, nil, fmt.Errorf("the pack is %w: it was made at %s and it is %s here; compare the clocks", ErrTime, stamp(made), stamp(now))
	case p.GetNotAfter() != 0 && !end.After(now):
		return nil, nil, fmt.Errorf("the pack is %w: it ended at %s; export and import it again", ErrTime, stamp(end))
	}
	if signed.GetSignature() == nil {
		if p.GetOperator() != "" {
			return nil, nil, fmt.Errorf("the pack: %w: it names %q and nobody signed it", grant.ErrForbidden, p.GetOperator())
		}
		return p, nil, nil
	}
	signer, err := grant.VerifyAs(contextOf(p), maySignPack, signed.GetSignature(), signed.GetPayload(), roots, cluster, now)
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("the pack: %w", err)
	case signer.ID != p.GetOperator():
		return nil, nil, fmt.Errorf("the pack: %w: it names %q and %q signed it", grant.ErrForbidden, p.GetOperator(), signer.ID)
	case p.GetNotAfter() == 0 || end.Sub(made) > Lifetime:
		return nil, nil, fmt.Errorf("the pack: %w: an operator's counts for at most %s", ErrTime, Lifetime)
	}
	return p, &signer, nil
}

// Sum names a pack by its payload.
func Sum(signed *sensorv1.SignedPack) []byte {
	sum := sha256.Sum256(signed.GetPayload())
	return sum[:]
}

// Parts cuts a pack for its way to a sensor.
func Parts(signed *sensorv1.SignedPack) ([]*sensorv1.PackPart, error) {
	raw, err := proto.Marshal(signed)
	if err != nil {
		return nil, fmt.Errorf("encoding the pack: %w", err)
	}
	sum := sha256.Sum256(raw)
	var parts []*sensorv1.PackPart
	for data := range slices.Chunk(raw, PartSize) {
		parts = append(parts, &sensorv1.PackPart{Sha256: sum[:], Index: uint32(len(parts)), Data: data}) //nolint:gosec // a few
	}
	for _, p := range parts {
		p.Count = uint32(len(parts)) //nolint:gosec // a few
	}
	return parts, nil
}

// Joiner puts the parts of one pack together; the zero value waits for a first part.
type Joiner struct {
	sum  []byte
	raw  []byte
	next uint32
}

// Add takes the next part. It answers the pack with the last one, nil before; what does not
// follow on what came is an error, and the joiner waits for a first part again.
func (j *Joiner) Add(part *sensorv1.PackPart) (*sensorv1.SignedPack, error) {
	if part.GetIndex() == 0 {
		*j = Joiner{sum: part.GetSha256()}
	}
	if part.GetIndex() != j.next || part.GetCount() == 0 || part.GetCount() > maxParts || part.GetIndex() >= part.GetCount() ||
		len(part.GetData()) > PartSize || !bytes.Equal(part.GetSha256(), j.sum) {
		*j = Joiner{}
		return nil, fmt.Errorf("%w: part %d of %d does not follow on what came before", ErrMalformed, part.GetIndex(), part.GetCount())
	}
	j.raw = append(j.raw, part.GetData()...)
	if j.next++; j.next < part.GetCount() {
		return nil, nil
	}
	raw, sum := j.raw, sha256.Sum256(j.raw)
	whole := bytes.Equal(sum[:], j.sum)
	*j = Joiner{}
	if !whole {
		return nil, fmt.Errorf("%w: its parts do not make what they are to", ErrMalformed)
	}
	signed := new(sensorv1.SignedPack)
	if err := proto.Unmarshal(raw, signed); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return signed, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
