package client

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// MaxLease bounds how long a host may be isolated by one order; it is also how long
// the order to release it can matter to a host that is away.
const MaxLease = 24 * time.Hour

// maxGood is how long an order may be honoured. The coordinator allows MaxLease by
// its own clock; the rest is for clocks that differ.
const maxGood = MaxLease - 10*time.Minute

// maxOrderHosts bounds a grant: it travels to sensors whole, in one frame.
const maxOrderHosts = 10_000

// nonceSize is what sensors expect; a nonce is honoured once.
const nonceSize = 16

// Order is an isolation or a release that this operator gives.
type Order struct {
	Action sensorv1.Action
	// Hosts are host ids, not names: what is signed must not depend on a look-up.
	Hosts []string
	// Lease is how long an isolation lasts, whole seconds. Ignored for a release.
	Lease  time.Duration
	Reason string
	// Level is how much of a host's network an isolation cuts.
	Level sensorv1.IsolationLevel
	// Target is what the other actions are done to.
	Target *sensorv1.Target
	// Undoes is the operation whose containment a release ends; empty: the isolation.
	Undoes string
	// Preview asks the hosts what they would do, and nothing more.
	Preview bool
	// Seen is what PreviewOrder told: the cluster that the hosts were selected at, the
	// order's place among all, the size of the fleet and how many operators must sign.
	Seen *operatorv1.PreviewOrderResponse
	// Key makes a repeated order the same order: the coordinator answers what the first did.
	Key string
}

// Give signs the order with the operator's key and commits it. The answer names the
// operation under which its results are found, and how many more operators must
// sign it before anything is done. The key never leaves this process: a
// coordinator, even a stolen one, cannot give an order by itself.
func (c *Client) Give(ctx context.Context, o Order) (*operatorv1.SubmitGrantResponse, error) {
	if err := o.validate(c.id.cluster); err != nil {
		return nil, err
	}
	now := time.Now()
	good := maxGood
	if o.leased() {
		// A host that comes back after its isolation would have ended is left alone.
		good = min(o.Lease, maxGood)
	}
	g := &sensorv1.Grant{
		Nonce: newNonce(), Action: o.Action, LeaseSeconds: uint64(o.Lease / time.Second),
		IssuedAt: now.UnixNano(), NotAfter: now.Add(good).UnixNano(), Operator: c.operator, Epoch: o.Seen.GetEpoch(),
		Reason: o.Reason, Operation: NewID("op"), ClusterId: c.id.cluster, Level: o.Level, Target: o.Target, Undoes: o.Undoes,
		Preview: o.Preview, Approvals: o.Seen.GetApprovals(), Fleet: o.Seen.GetFleet(),
	}
	set, err := grant.Address(g, o.Hosts...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	signed, err := grant.Sign(c.id.signer, c.id.chain(), g)
	if err != nil {
		return nil, fmt.Errorf("signing the grant: %w; if it speaks of the epoch, compare this machine's clock with the coordinators'", err)
	}
	key := o.Key
	if key == "" {
		key = NewID("key")
	}
	given, err := c.SubmitGrant(ctx, &operatorv1.SubmitGrantRequest{Grant: signed, Hosts: set.Hosts(), IdempotencyKey: key})
	if err == nil && o.Key != "" && given.GetOperation() != g.GetOperation() {
		given.ApprovalsMissing, err = c.repeated(ctx, given.GetOperation(), g, o)
	}
	return given, err
}

// repeated says how many operators an earlier order still waits for, when it is the one
// that g is: the coordinator knows it by its key alone, and answers the key of an order
// for one host with that order, whatever it is asked for now.
func (c *Client) repeated(ctx context.Context, operation string, g *sensorv1.Grant, o Order) (missing uint32, err error) {
	res, err := c.Operation(ctx, operation)
	if err != nil {
		return 0, fmt.Errorf("looking at operation %s, which the idempotency key %q was used for: %w", operation, o.Key, err)
	}
	earlier, err := grant.Decode(res.GetOrder().GetGrant().GetPayload())
	if err != nil {
		return 0, fmt.Errorf("reading operation %s: %w", operation, err)
	}
	same := func(g *sensorv1.Grant) *sensorv1.Grant {
		return &sensorv1.Grant{Action: g.GetAction(), Level: g.GetLevel(), Target: g.GetTarget(), LeaseSeconds: g.GetLeaseSeconds(),
			Undoes: g.GetUndoes(), Preview: g.GetPreview()}
	}
	set, err := grant.NewHostSet(res.GetOrder().GetHosts())
	if err != nil || !set.Matches(g) || !proto.Equal(same(earlier), same(g)) {
		hosts := res.GetOrder().GetHosts()
		return 0, fmt.Errorf("%w: %q is of operation %s, %s of %s (%s), which is another order; nothing was done now: use a new key", ErrKeyUsed, o.Key,
			operation, grant.Word(earlier.GetAction()), plural(len(hosts), "host"), strings.Join(hosts[:min(len(hosts), 5)], ", "))
	}
	return res.GetOrder().GetApprovalsMissing(), nil
}

// Approve adds this operator's signature to an order that waits. What automation
// has proposed becomes this operator's own order; seen is then what PreviewOrder
// tells of its host.
func (c *Client) Approve(ctx context.Context, waiting *operatorv1.Operation, seen *operatorv1.PreviewOrderResponse) (*operatorv1.Operation, error) {
	payload := waiting.GetGrant().GetPayload()
	g, err := grant.Decode(payload)
	if err != nil {
		return nil, fmt.Errorf("reading operation %s: %w", waiting.GetId(), err)
	}
	set, err := grant.NewHostSet(waiting.GetHosts())
	if err != nil || !set.Matches(g) {
		return nil, fmt.Errorf("%w: operation %s is shown for other hosts than it is for: do not approve it, and look at the coordinators", ErrUntrusted, waiting.GetId())
	}
	request := &operatorv1.ApproveOperationRequest{Operation: waiting.GetId(), IdempotencyKey: NewID("key")}
	if g.GetOperator() == "" {
		now := time.Now()
		g.Operator, g.Nonce, g.IssuedAt = c.operator, newNonce(), now.UnixNano()
		g.NotAfter = now.Add(min(time.Duration(min(g.GetLeaseSeconds(), uint64(maxGood/time.Second)))*time.Second, maxGood)).UnixNano()
		g.Epoch, g.Approvals, g.Fleet = seen.GetEpoch(), seen.GetApprovals(), seen.GetFleet()
		if payload, err = grant.Encode(g); err != nil {
			return nil, fmt.Errorf("making the grant: %w", err)
		}
		request.Payload = payload
	}
	if request.Signature, err = grant.SignPayload(c.id.signer, c.id.chain(), payload); err != nil {
		return nil, err
	}
	res, err := call(ctx, c, api.ApproveOperation, request)
	return res.GetOperation(), err
}

// leased says whether the action ends by itself.
func (o *Order) leased() bool {
	return o.Action != sensorv1.Action_ACTION_RELEASE && o.Action != sensorv1.Action_ACTION_KILL && !o.Preview
}

func newNonce() []byte {
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // never fails, by its contract
	return nonce
}

func (o *Order) validate(cluster string) error {
	switch {
	case o.Seen.GetClusterId() != cluster:
		return fmt.Errorf("%w: the hosts are of cluster %q, the context is of %q", ErrUntrusted, o.Seen.GetClusterId(), cluster)
	case len(o.Hosts) == 0:
		return fmt.Errorf("%w: an order for no host", ErrInvalid)
	case len(o.Hosts) > maxOrderHosts:
		return fmt.Errorf("%w: %d hosts in one order, the most is %d: give several", ErrInvalid, len(o.Hosts), maxOrderHosts)
	}
	if o.leased() && (o.Lease < time.Second || o.Lease > MaxLease) {
		return fmt.Errorf("%w: a lease of %s; it must be from 1s to %s", ErrInvalid, o.Lease, MaxLease)
	}
	return nil
}

// NewID draws an id: prefix, a dash and 12 lower-case base32 characters.
func NewID(prefix string) string {
	raw := make([]byte, 8)
	_, _ = rand.Read(raw) // never fails, by its contract
	return prefix + "-" + strings.ToLower(base32.StdEncoding.EncodeToString(raw))[:12]
}

// Settled says whether a host's part of an operation is over.
func Settled(i *operatorv1.Isolation) bool { return i.GetState() != "" && i.GetState() != "pending" }

// StoppedError is an ErrStopped: the order was vetoed, or waited for too long.
type StoppedError struct{ Order *operatorv1.Operation }

// Error says who stopped it and why.
func (e *StoppedError) Error() string {
	o := e.Order
	why := "was vetoed by " + o.GetVetoedBy() + ": " + o.GetVetoReason()
	if o.GetState() != "vetoed" {
		why = "expired at " + time.Unix(0, o.GetExpires()).UTC().Format(time.RFC3339)
		if missing := o.GetApprovalsMissing(); missing > 0 {
			why += fmt.Sprintf(": of those who must sign it %d had not", missing)
		}
	}
	return fmt.Sprintf("%s %s: %v", o.GetId(), why, ErrStopped)
}

// Unwrap returns ErrStopped.
func (e *StoppedError) Unwrap() error { return ErrStopped }

// Stopped is the StoppedError of an order that never goes out; nil of any other.
func Stopped(o *operatorv1.Operation) error {
	if o.GetState() == "vetoed" || o.GetState() == "expired" {
		return &StoppedError{o}
	}
	return nil
}

// Wait polls an operation until every host has settled, and calls seen with every
// answer. When ctx ends first it returns the last answer with the reason: what was
// ordered goes on without us. An order that never goes out ends it with a StoppedError.
func (c *Client) Wait(ctx context.Context, operation string, seen func([]*operatorv1.Isolation)) ([]*operatorv1.Isolation, error) {
	var last []*operatorv1.Isolation
	known := false // one that waits for another operator is known and has no host yet
	pause := 50 * time.Millisecond
	for {
		asked := time.Now()
		res, err := c.Operation(ctx, operation)
		if err != nil && (!known || !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrNoLeader)) {
			return last, err
		}
		if err == nil {
			last, known = res.GetHosts(), true
			seen(last)
			if err := Stopped(res.GetOrder()); err != nil {
				return last, err
			}
			open := false
			for _, i := range last {
				open = open || !Settled(i)
			}
			switch res.GetOrder().GetState() {
			case "waiting", "window":
				open = true
			}
			if !open {
				return last, nil
			}
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return last, fmt.Errorf("%w waiting for %s", ErrTimeout, operation)
			}
			return last, ctx.Err()
		case <-time.After(max(pause, time.Since(asked))): // a look at thousands of hosts must not be what they wait for
		}
		pause = min(pause*3/2, time.Second)
	}
}
