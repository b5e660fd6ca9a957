package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// ErrRulesStale: another set of rules was pushed since this one was made.
var ErrRulesStale = errors.New("somebody else pushed rules meanwhile")

// Rules is one set of rules, verified here. A nil *Rules says that there is none.
type Rules struct {
	// Content is what was signed, Signer the admin who did.
	Content *sensorv1.RuleSet
	Signer  string
	Status  *operatorv1.RuleSetStatus
	payload []byte
}

// Version is 0 where there is none.
func (r *Rules) Version() uint64 {
	if r == nil {
		return 0
	}
	return r.Content.GetVersion()
}

func (r *Rules) digest() []byte {
	if r == nil {
		return nil
	}
	return ruleset.Digest(r.payload)
}

func (c *Client) verifyRules(signed *sensorv1.SignedRules) (*Rules, error) {
	if signed == nil {
		return nil, nil
	}
	set, signer, err := ruleset.Verify(signed, c.id.operatorRoots(), c.id.cluster, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%w: node %s tells rules that cannot be verified: %w; ask another node, and look at the coordinators", ErrUntrusted, c.Node(), err)
	}
	return &Rules{Content: set, Signer: signer.ID, payload: signed.GetPayload()}, nil
}

// Rules returns a version, the newest for 0 (nil: none was ever pushed), and the one that all
// hosts have, to which the next one goes back (nil: none).
func (c *Client) Rules(ctx context.Context, version uint64) (set, base *Rules, err error) {
	set, base, _, err = c.rules(ctx, &operatorv1.GetRulesRequest{Version: version})
	return set, base, err
}

// NextRules returns what a set would be pushed over, as Rules does for 0, and how it would go out:
// ruleset.GoesByRings or GoesAtOnce, "" where a node of an older release does not say.
func (c *Client) NextRules(ctx context.Context, next *sensorv1.RuleSet) (newest, base *Rules, goes string, err error) {
	content := ruleset.Content(next)
	return c.rules(ctx, &operatorv1.GetRulesRequest{Content: content[:]})
}

func (c *Client) rules(ctx context.Context, req *operatorv1.GetRulesRequest) (set, base *Rules, goes string, err error) {
	res, err := call(ctx, c, api.GetRules, req)
	if err != nil {
		return nil, nil, "", err
	}
	if set, err = c.verifyRules(res.GetRules()); err != nil {
		return nil, nil, "", err
	}
	if set != nil {
		set.Status = res.GetStatus()
	}
	if version := req.GetVersion(); version != 0 && set.Version() != version {
		return nil, nil, "", fmt.Errorf("%w: node %s answers with version %d to the question for version %d of the rules", ErrUntrusted, c.Node(), set.Version(), version)
	}
	base, err = c.verifyRules(res.GetAllHave())
	return set, base, res.GetGoes(), err
}

// PushRules signs a set with the operator's key as the version after newest, which goes back
// to base, and commits it. Its cluster, version, author, time, chain and base are set here. A
// repeated call with the same idempotency key makes one version; a key of another set, or of one
// that is not the newest any more, is ErrKeyUsed.
func (c *Client) PushRules(ctx context.Context, next *sensorv1.RuleSet, newest, base *Rules, key string) (uint64, error) {
	next.ClusterId, next.Author, next.IssuedAt = c.id.cluster, c.operator, time.Now().UnixNano()
	if last := newest.issued(); last >= next.GetIssuedAt() && last-next.GetIssuedAt() < int64(maxAhead) {
		next.IssuedAt = last + 1
	}
	next.Version, next.Previous = newest.Version()+1, newest.digest()
	next.Base, next.BaseDigest = base.Version(), base.digest()
	signed, err := ruleset.Sign(c.id.signer, c.id.chain(), next)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	given := key != ""
	if !given {
		key = NewID("key")
	}
	res, err := call(ctx, c, api.PutRules, &operatorv1.PutRulesRequest{Rules: signed, IdempotencyKey: key})
	if err == nil && given {
		err = c.keyOfRules(ctx, key, res.GetVersion(), next, signed.GetPayload())
	}
	if err != nil {
		return 0, err
	}
	return res.GetVersion(), nil
}

// keyOfRules says whether the version that a push was answered with is what it pushed: the cluster
// knows a repeated one by its key alone. By its number alone it is not known: somebody may have
// pushed with the same key since the newest was looked at.
func (c *Client) keyOfRules(ctx context.Context, key string, version uint64, next *sensorv1.RuleSet, payload []byte) error {
	earlier, _, err := c.Rules(ctx, version)
	switch {
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("%w: %q is of version %d of the rules, which the cluster has forgotten; nothing was done now: use a new key", ErrKeyUsed, key, version)
	case err != nil:
		return fmt.Errorf("looking at version %d of the rules, which the idempotency key %q was used for: %w", version, key, err)
	}
	var which string
	switch state := earlier.Status.GetState(); {
	case bytes.Equal(earlier.payload, payload):
		return nil // whatever has become of it since
	case ruleset.Content(earlier.Content) != ruleset.Content(next) || ruleset.Soak(earlier.Content) != ruleset.Soak(next) ||
		ruleset.MaxFindings(earlier.Content) != ruleset.MaxFindings(next):
		which = "which is another set"
	case state == ruleset.Halted:
		which = "which was halted"
	case version+1 < next.GetVersion() || state == ruleset.Replaced:
		which = "which is not the newest"
	default:
		return nil
	}
	return fmt.Errorf("%w: %q is of version %d of the rules, by %s at %s (%s), %s; nothing was done now: use a new key", ErrKeyUsed, key, version,
		earlier.Signer, time.Unix(0, earlier.Content.GetIssuedAt()).UTC().Format(time.RFC3339), earlier.Content.GetReason(), which)
}

func (r *Rules) issued() int64 {
	if r == nil {
		return 0
	}
	return r.Content.GetIssuedAt()
}

// HaltRules takes the newest version back from everybody.
func (c *Client) HaltRules(ctx context.Context, version uint64, reason string) error {
	_, err := call(ctx, c, api.HaltRules, &operatorv1.HaltRulesRequest{Version: version, Reason: reason})
	return err
}

// RuleSets asks how far each version has gone, the newest first.
func (c *Client) RuleSets(ctx context.Context) (*operatorv1.ListRulesResponse, error) {
	return call(ctx, c, api.ListRules, &operatorv1.ListRulesRequest{})
}
