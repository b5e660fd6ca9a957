package client

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// OfflineRelease is the release of one host as a text that a person carries there.
type OfflineRelease struct {
	// Token is what "vedette-sensor release" reads; whoever is root on that host may
	// use it, once.
	Token     string
	Operation string
	Expires   time.Time
}

// ReleaseOffline signs the release of one host, by its id, good for at most
// grant.MaxReleaseTime. It asks no coordinator, which is what it is for: the sensor
// verifies it as if one had brought it.
func (c *Client) ReleaseOffline(host, reason string, good time.Duration) (*OfflineRelease, error) {
	if good < time.Minute || good > grant.MaxReleaseTime {
		return nil, fmt.Errorf("%w: a release token is good for 1m to %s, not %s", ErrInvalid, grant.MaxReleaseTime, good)
	}
	now := time.Now()
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // never fails, by its contract
	g := &sensorv1.Grant{
		Nonce: nonce, Action: sensorv1.Action_ACTION_RELEASE, IssuedAt: now.UnixNano(), NotAfter: now.Add(good).UnixNano(),
		Operator: c.operator, Epoch: uint64(now.UnixNano()), //nolint:gosec // after 1970
		Reason: reason, Operation: NewID("op"), ClusterId: c.id.cluster,
	}
	set, err := grant.Address(g, host)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	signed, err := grant.Sign(c.id.signer, c.id.chain(), g)
	if err != nil {
		return nil, fmt.Errorf("signing the release: %w", err)
	}
	// Nobody looks at it again before it is at the host, and there it would be too late.
	if _, _, err := grant.Verify(signed, poolOf(c.id.operators), c.id.cluster, now); err != nil {
		if errors.Is(err, grant.ErrForbidden) || errors.Is(err, grant.ErrUntrusted) {
			err = fmt.Errorf("%w: %w", ErrDenied, err)
		}
		return nil, fmt.Errorf("no host would honour this release: %w", err)
	}
	signed.Proof = set.Prove(host)
	token, err := grant.ReleaseToken(signed)
	if err != nil {
		return nil, err
	}
	return &OfflineRelease{Token: token, Operation: g.GetOperation(), Expires: time.Unix(0, g.GetNotAfter())}, nil
}
