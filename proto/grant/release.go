package grant

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Bounds of a release that is carried to its host by hand.
const (
	// MaxReleaseToken is its text, in bytes.
	MaxReleaseToken = 64 << 10
	// MaxReleaseTime is how long it may be honoured after it was signed.
	MaxReleaseTime = 24 * time.Hour

	releasePrefix = "vdr1."
)

// ErrReleaseToken: not what 'vedette release --offline-token' prints.
var ErrReleaseToken = errors.New("malformed release token")

// ReleaseToken is a signed release as a text that a person carries to a host which
// no coordinator reaches. Errors are those of CheckRelease.
func ReleaseToken(signed *sensorv1.SignedGrant) (string, error) {
	if err := CheckRelease(signed); err != nil {
		return "", err
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(signed)
	if err != nil {
		return "", fmt.Errorf("encoding a release token: %w", err)
	}
	return releasePrefix + base64.RawURLEncoding.EncodeToString(raw), nil
}

// ParseReleaseToken reads what ReleaseToken wrote, however its lines were broken on
// the way. It verifies no signature: that is the sensor's. Errors wrap
// ErrReleaseToken, or are those of CheckRelease.
func ParseReleaseToken(text string) (*sensorv1.SignedGrant, error) {
	if len(text) > MaxReleaseToken {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrReleaseToken, len(text), MaxReleaseToken)
	}
	body, ok := strings.CutPrefix(strings.Join(strings.Fields(text), ""), releasePrefix)
	if !ok {
		return nil, fmt.Errorf("%w: it must be all that 'vedette release --offline-token' printed, %s and what follows", ErrReleaseToken, releasePrefix)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return nil, fmt.Errorf("%w: it is cut or changed: copy it again", ErrReleaseToken)
	}
	signed := new(sensorv1.SignedGrant)
	if err := proto.Unmarshal(raw, signed); err != nil {
		return nil, fmt.Errorf("%w: it is cut or changed: copy it again", ErrReleaseToken)
	}
	if err := CheckRelease(signed); err != nil {
		return nil, err
	}
	return signed, nil
}

// CheckRelease accepts what may come by hand: the release of one host, proved to be
// that one, signed by somebody and good for MaxReleaseTime at most. Errors wrap
// ErrMalformed. It verifies no signature.
func CheckRelease(signed *sensorv1.SignedGrant) error {
	g, err := Decode(signed.GetPayload())
	if err != nil {
		return err
	}
	switch {
	case g.GetAction() != sensorv1.Action_ACTION_RELEASE:
		return fmt.Errorf("%w: it orders something else than a release", ErrMalformed)
	case g.GetHostCount() != 1 || signed.GetProof() == nil:
		return fmt.Errorf("%w: a release token is for exactly one host", ErrMalformed)
	case len(signed.GetSignatures()) == 0:
		return fmt.Errorf("%w: nobody signed it", ErrMalformed)
	case g.GetNotAfter() > g.GetIssuedAt()+int64(MaxReleaseTime):
		return fmt.Errorf("%w: a release token is good for at most %s", ErrMalformed, MaxReleaseTime)
	}
	return nil
}
