package client

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// intentPage is how many versions one answer brings: each may have 192 KiB.
const intentPage = 20

var (
	// ErrIntentStale: another version was applied since the one that this was made from.
	ErrIntentStale = errors.New("somebody else applied an intent meanwhile")
	// ErrIntentChain: the versions that a node tells do not follow one another, or are
	// others, or older, than those that were verified before.
	ErrIntentChain = errors.New("the intent's versions do not hold together")
)

// Intent is one version of the intent, verified here. A nil *Intent says that none
// was ever applied.
type Intent struct {
	// Content is what was signed, Signer the admin who did.
	Content *sensorv1.Intent
	Signer  string
	payload []byte
}

// Version is 0 where none was ever applied.
func (i *Intent) Version() uint64 {
	if i == nil {
		return 0
	}
	return i.Content.GetVersion()
}

// Effective is the content, or what holds before there is any.
func (i *Intent) Effective() *sensorv1.Intent {
	if i == nil {
		return intent.Defaults()
	}
	return i.Content
}

// Digest is what the next version names as the one before it; nil for none.
func (i *Intent) Digest() []byte {
	if i == nil {
		return nil
	}
	return intent.Digest(i.payload)
}

// Mark is the newest version that was verified earlier; the zero value is none.
type Mark struct {
	Version uint64
	Digest  []byte
}

// Spread is how far a version has come.
type Spread struct {
	Hosts   uint64 // enrolled
	Current uint64 // whose sensors have said that they hold it
}

// operatorRoots is whose signature makes an intent: the one place that says which
// authority the operators' certificates come from.
func (id *identity) operatorRoots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(id.operators)
	return pool
}

// verifyIntent believes no node: a signature by an admin is what makes an intent.
func (c *Client) verifyIntent(signed *sensorv1.SignedIntent) (*Intent, error) {
	in, signer, err := intent.Verify(signed, c.id.operatorRoots(), c.id.cluster, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%w: node %s tells an intent that cannot be verified: %w; ask another node, and look at the coordinators", ErrUntrusted, c.Node(), err)
	}
	return &Intent{Content: in, Signer: signer.ID, payload: signed.GetPayload()}, nil
}

// IntentInForce returns the version in force, nil when none was ever applied. It checks
// that the version follows the one that was seen earlier, or else the one before it; what
// does not is ErrIntentChain, and the version is returned all the same: it is signed.
func (c *Client) IntentInForce(ctx context.Context, seen Mark) (*Intent, Spread, error) {
	res, err := call(ctx, c, api.GetIntent, &operatorv1.GetIntentRequest{})
	if err != nil {
		return nil, Spread{}, err
	}
	spread := Spread{res.GetHosts(), res.GetHostsCurrent()}
	var current *Intent
	if res.GetIntent() != nil {
		if current, err = c.verifyIntent(res.GetIntent()); err != nil {
			return nil, Spread{}, err
		}
	}
	return current, spread, c.follows(ctx, current, seen)
}

// follows checks the chain from what was seen earlier to what is in force.
func (c *Client) follows(ctx context.Context, current *Intent, seen Mark) error {
	switch version := current.Version(); {
	case version < seen.Version:
		return fmt.Errorf("%w: node %s says that version %d is in force, and version %d was verified here before: an older state was put back, or the node hides the newer one; ask another node",
			ErrIntentChain, c.Node(), version, seen.Version)
	case version == seen.Version:
		if version != 0 && !bytes.Equal(current.Digest(), seen.Digest) {
			return fmt.Errorf("%w: node %s tells another version %d than the one that was verified here before: there are two, and one of them was forged or the cluster was made anew",
				ErrIntentChain, c.Node(), version)
		}
		return nil
	case version == 1:
		return nil
	}
	last := seen.Version
	if last == 0 {
		last = current.Version() - 1
	}
	for older, err := range c.Intents(ctx) {
		if err != nil {
			return err
		}
		if older.Version() == current.Version() && !bytes.Equal(older.payload, current.payload) {
			return fmt.Errorf("%w: node %s tells two versions %d", ErrIntentChain, c.Node(), current.Version())
		}
		if older.Version() > last {
			continue
		}
		if older.Version() == seen.Version && !bytes.Equal(older.Digest(), seen.Digest) {
			return fmt.Errorf("%w: node %s tells another version %d than the one that was verified here before: there are two, and one of them was forged or the cluster was made anew",
				ErrIntentChain, c.Node(), seen.Version)
		}
		return nil
	}
	return fmt.Errorf("%w: node %s does not have version %d, which is before the one in force", ErrIntentChain, c.Node(), last)
}

// IntentVersion returns one version.
func (c *Client) IntentVersion(ctx context.Context, version uint64) (*Intent, Spread, error) {
	res, err := call(ctx, c, api.GetIntent, &operatorv1.GetIntentRequest{Version: version})
	if err != nil {
		return nil, Spread{}, err
	}
	i, err := c.verifyIntent(res.GetIntent())
	if err == nil && i.Version() != version {
		err = fmt.Errorf("%w: node %s answers with version %d to the question for version %d", ErrIntentChain, c.Node(), i.Version(), version)
	}
	return i, Spread{res.GetHosts(), res.GetHostsCurrent()}, err
}

// Intents yields all versions, newest first, each verified and each the one that the
// newer one names.
func (c *Client) Intents(ctx context.Context) iter.Seq2[*Intent, error] {
	signed := pages(ctx, c, func(ctx context.Context, token string) ([]*sensorv1.SignedIntent, string, error) {
		res, err := call(ctx, c, api.ListIntents, &operatorv1.ListIntentsRequest{PageSize: intentPage, PageToken: token})
		return res.GetIntents(), res.GetPageToken(), err
	})
	return func(yield func(*Intent, error) bool) {
		var newer *Intent
		for s, err := range signed {
			var i *Intent
			if err == nil {
				i, err = c.verifyIntent(s)
			}
			if err == nil && newer != nil {
				if broken := intent.Follows(i.payload, newer.Content); broken != nil {
					err = fmt.Errorf("%w: node %s tells version %d before version %d: %w", ErrIntentChain, c.Node(), i.Version(), newer.Version(), broken)
				}
			}
			if !yield(i, err) || err != nil {
				return
			}
			newer = i
		}
		if newer.Version() > 1 {
			yield(nil, fmt.Errorf("%w: node %s does not have version %d, which is before version %d", ErrIntentChain, c.Node(), newer.Version()-1, newer.Version()))
		}
	}
}

// ApplyIntent signs next with the operator's key as the version after before and
// commits it. Its cluster, version, author, time and chain are set here; the key never
// leaves this process. A repeated call with the same idempotency key applies it once; a
// key of another version is ErrKeyUsed.
func (c *Client) ApplyIntent(ctx context.Context, next *sensorv1.Intent, before *Intent, key string) (*Intent, error) {
	next.ClusterId, next.Author, next.IssuedAt = c.id.cluster, c.operator, issuedAfter(before, time.Now())
	next.Version, next.Previous = before.Version()+1, before.Digest()
	signed, err := intent.Sign(c.id.signer, c.id.chain(), next)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if before != nil {
		if err := intent.Follows(before.payload, next); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	if key == "" {
		key = NewID("key")
	}
	res, err := call(ctx, c, api.ApplyIntent, &operatorv1.ApplyIntentRequest{Intent: signed, IdempotencyKey: key})
	if err != nil {
		return nil, err
	}
	if res.GetVersion() != next.GetVersion() {
		return nil, c.keyOfVersion(ctx, key, res.GetVersion())
	}
	return &Intent{Content: next, Signer: c.operator, payload: signed.GetPayload()}, nil
}

// keyOfVersion says what a key was used for. Who repeats a command that was done finds
// its version in force and signs nothing; who gets here has been overtaken since.
func (c *Client) keyOfVersion(ctx context.Context, key string, version uint64) error {
	earlier, _, err := c.IntentVersion(ctx, version)
	if err != nil {
		return fmt.Errorf("looking at version %d of the intent, which the idempotency key %q was used for: %w", version, key, err)
	}
	return fmt.Errorf("%w: %q is of version %d of the intent, by %s at %s (%s), which is not the newest; nothing was done now: use a new key", ErrKeyUsed, key,
		version, earlier.Signer, time.Unix(0, earlier.Content.GetIssuedAt()).UTC().Format(time.RFC3339), earlier.Content.GetReason())
}

// maxAhead is how far another operator's clock may be ahead of this one's before a person
// must look: as far as the coordinator accepts.
const maxAhead = 4 * time.Minute

// issuedAfter is now, or just after the version before when its author's clock is a little
// ahead: the kill switch must not fail because of a minute.
func issuedAfter(before *Intent, now time.Time) int64 {
	at := now.UnixNano()
	if before == nil {
		return at
	}
	if last := before.Content.GetIssuedAt(); last >= at && last-at < int64(maxAhead) {
		return last + 1
	}
	return at
}

// TestIntent asks what an intent would have done about recorded findings.
func (c *Client) TestIntent(ctx context.Context, in *sensorv1.Intent, since int64, limit uint32) (*operatorv1.TestIntentResponse, error) {
	return call(ctx, c, api.TestIntent, &operatorv1.TestIntentRequest{Intent: in, Since: since, Limit: limit})
}

// Scorecard asks how far people agreed with what automation would have done.
func (c *Client) Scorecard(ctx context.Context, since int64) ([]*operatorv1.Score, error) {
	res, err := call(ctx, c, api.GetScorecard, &operatorv1.GetScorecardRequest{Since: since})
	return res.GetScores(), err
}

// Behind are the hosts that are connected and whose sensors have not said that they
// hold a version or a newer one, and how many are connected.
func (c *Client) Behind(ctx context.Context, version uint64) (behind []*operatorv1.Host, online int, err error) {
	for host, err := range c.Hosts(ctx, nil, 0) {
		if err != nil {
			return nil, 0, err
		}
		if host.GetState() != "online" && host.GetState() != "blind" {
			continue
		}
		online++
		if host.GetHealth().GetIntentVersion() < version {
			behind = append(behind, host)
		}
	}
	return behind, online, nil
}

// relist is how often a wait looks at every host: a fleet's list is large, and a count is not.
const relist = 5 * time.Second

// WaitIntent waits until every connected host holds a version, and calls seen with
// every count. When ctx ends first it returns who did not, as last looked at, with the reason.
func (c *Client) WaitIntent(ctx context.Context, version uint64, seen func(holding, online int)) (behind []*operatorv1.Host, err error) {
	var looked time.Time
	var online int
	var before uint64 // who held it, connected or not, when the hosts were looked at
	for pause := 100 * time.Millisecond; ; pause = min(pause*3/2, time.Second) {
		_, spread, err := c.IntentVersion(ctx, version)
		since := max(spread.Current, before) - before
		if err == nil && (looked.IsZero() || since >= uint64(len(behind)) || time.Since(looked) > relist) {
			if behind, online, err = c.listBehind(ctx, version, behind, online); err == nil {
				looked, before, since = time.Now(), spread.Current, 0
			}
		}
		switch {
		case err == nil:
			seen(online-len(behind)+int(since), online) //nolint:gosec // below the hosts that are behind
			if len(behind) == 0 {
				return nil, nil
			}
		case ctx.Err() == nil && !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrNoLeader):
			return behind, err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return behind, fmt.Errorf("%w waiting for hosts to hold version %d of the intent", ErrTimeout, version)
			}
			return behind, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// listBehind is Behind that keeps what was known when it fails.
func (c *Client) listBehind(ctx context.Context, version uint64, behind []*operatorv1.Host, online int) ([]*operatorv1.Host, int, error) {
	now, connected, err := c.Behind(ctx, version)
	if err != nil {
		return behind, online, err
	}
	return now, connected, nil
}
