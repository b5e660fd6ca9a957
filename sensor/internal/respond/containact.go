package respond

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// LocalOrder is what this host decided by itself, on its own evidence.
type LocalOrder struct {
	Action sensorv1.Action
	Target *sensorv1.Target
	// Lease within the bounds of any; 0: DefaultLease.
	Lease time.Duration
	// Evidence are the findings, IntentVersion and Policies what allows it.
	Evidence      []string
	IntentVersion uint64
	Policies      []string
	Reason        string
	Preview       bool
	// CutAfter is how long after the event CutNow had cut; 0: it did not.
	CutAfter time.Duration
}

// Contain carries out a containment that no grant orders, in the same way as one
// that a grant does, under an operation id of its own. It blocks until the act is
// proved, a minute at most; the outcome goes to Config.Report too.
func (r *Responder) Contain(ctx context.Context, o LocalOrder) *sensorv1.IsolationStatus {
	if o.Action == sensorv1.Action_ACTION_ISOLATE {
		return r.isolateLocally(o)
	}
	if err := r.cannotContain(o.Action); err != nil {
		r.cfg.Logger.Warn("own evidence is not acted on", "action", actionName(o.Action), "reason", err)
		return &sensorv1.IsolationStatus{
			Operation: localOperation(), State: sensorv1.IsolationState_ISOLATION_STATE_REFUSED, Action: o.Action, Target: o.Target,
			Local: true, Evidence: o.Evidence, Detail: err.Error(),
		}
	}
	length, note := leaseLength(uint64(max(o.Lease, 0) / time.Second)) //nolint:gosec // not negative
	return r.contain.act(ctx, order{
		operation: localOperation(), action: o.Action, target: o.Target, length: length, note: note,
		reason: o.Reason, preview: o.Preview,
		local: true, evidence: o.Evidence, intent: o.IntentVersion, policies: o.Policies,
	})
}

func localOperation() string {
	const idLength = 12
	random := make([]byte, 8)
	_, _ = rand.Read(random) // never fails, by its documentation
	text := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(random))
	return "op-" + text[:idLength]
}

// order is a containment that is allowed, by whomever.
type order struct {
	operation        string
	nonce, digest    []byte
	operator, reason string
	action           sensorv1.Action
	target           *sensorv1.Target
	length           time.Duration
	note             string
	preview          bool
	local            bool
	evidence         []string
	intent           uint64
	policies         []string
	// begin uses a grant's nonce up, right before something is done.
	begin func() error
}

func (c *containments) make(o order) *containment {
	// Deterministic, so that an equal target is known again.
	target, _ := proto.MarshalOptions{Deterministic: true}.Marshal(o.target)
	made := &containment{
		lease: *newLease(c.r.cfg.Clock, o.length), ID: o.operation + c.tag, Action: o.action, Target: target, Digest: o.digest,
	}
	made.Local, made.Evidence, made.IntentVersion, made.Policies = o.local, o.evidence, o.intent, o.policies
	made.Operation, made.Nonce, made.Operator, made.Reason, made.Phase = o.operation, o.nonce, o.operator, o.reason, phaseTesting
	return made
}

// act checks, does, proves, and reports.
func (c *containments) act(ctx context.Context, o order) *sensorv1.IsolationStatus {
	c.acting.Lock()
	defer c.acting.Unlock()
	ctx, cancel := context.WithTimeout(ctx, actLimit)
	defer cancel()
	stop := context.AfterFunc(c.r.ctx, cancel)
	defer stop()
	next := c.make(o)
	if same := c.sameTarget(next); o.local && same != nil && same.Phase == phaseApplied {
		// Its end is not for every further finding to move.
		return same.status(sensorv1.IsolationState_ISOLATION_STATE_APPLIED, "already in force")
	}
	status := c.acted(ctx, o, next)
	if status.GetState() == sensorv1.IsolationState_ISOLATION_STATE_REFUSED {
		c.r.cfg.Logger.Warn("containment is refused", "operation", o.operation, "action", o.action, "reason", status.GetDetail())
		c.r.mu.Lock()
		c.r.counters.Refused++
		if c.r.refusals.allow(c.r.cfg.Clock.Boot()) {
			c.r.report(status)
		}
		c.r.unlockAndReport()
		return status
	}
	c.report(status)
	c.wake()
	return status
}

func (c *containments) acted(ctx context.Context, o order, next *containment) *sensorv1.IsolationStatus {
	refused := func(err error) *sensorv1.IsolationStatus {
		return next.status(sensorv1.IsolationState_ISOLATION_STATE_REFUSED, err.Error())
	}
	if c.cfg == nil {
		return refused(ErrNoContainment)
	}
	if c.cfg.Disabled {
		return refused(ErrContainDisabled)
	}
	remedy := c.remedies[o.action]
	if remedy == nil {
		return refused(ErrUnknownAction)
	}
	if !validOperation(o.operation) {
		return refused(fmt.Errorf("an operation's id is 1 to %d of a-z, A-Z, 0-9 and -", maxOperation))
	}
	same := c.sameTarget(next)
	var would string
	if same == nil {
		var err error
		if would, err = remedy.check(ctx, o.target); err != nil {
			return refused(err)
		}
	} else {
		would = "the containment of " + same.Operation + " is the same and would be renewed"
	}
	if o.preview {
		lease := fmt.Sprintf("; for %s", o.length)
		if remedy.final {
			lease = "; there is no undo, and so no lease"
		}
		return next.status(sensorv1.IsolationState_ISOLATION_STATE_PREVIEWED, would+lease)
	}
	if same == nil && !remedy.final && len(c.list()) >= MaxContainments {
		return refused(ErrTooMany)
	}
	if c.find(o.operation) != nil {
		return refused(fmt.Errorf("%s is in force already and is about another target or grant", o.operation))
	}
	if o.begin != nil {
		if err := o.begin(); err != nil {
			return refused(err)
		}
	}
	if same != nil {
		return c.renew(same, next, o)
	}
	return c.carryOut(ctx, remedy, o, next, would)
}

// maxOperation leaves room for the tag in the 64 of an ID.
const maxOperation = 64 - 1 - 2*tagBytes

func validOperation(id string) bool {
	return id != "" && len(id) <= maxOperation && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
	})
}

func (c *containments) sameTarget(next *containment) *containment {
	for _, old := range c.list() {
		if old.Action == next.Action && string(old.Target) == string(next.Target) && old.Phase == phaseApplied {
			return old
		}
	}
	return nil
}

func (c *containments) find(operation string) *containment {
	for _, old := range c.list() {
		if old.Operation == operation {
			return old
		}
	}
	return nil
}

// renew gives what is in force another operation and another lease.
func (c *containments) renew(same, next *containment, o order) *sensorv1.IsolationStatus {
	over := same.status(sensorv1.IsolationState_ISOLATION_STATE_RELEASED, "superseded by "+next.Operation+"; the containment stays")
	c.remember(same, over)
	next.ID, next.State, next.Phase, next.SelfTest = same.ID, same.State, phaseApplied, same.SelfTest
	c.change(func(*containRecord) {
		lastFailure, tampers := same.lastFailure, same.tampers
		*same = *next
		same.lastFailure, same.tampers = lastFailure, tampers
	})
	detail := o.note + "renewed: it was in force as " + over.GetOperation()
	if err := c.save(); err != nil {
		detail = unsaved(err) + detail
	}
	c.report(over)
	return same.status(sensorv1.IsolationState_ISOLATION_STATE_APPLIED, detail)
}

func unsaved(err error) string {
	return fmt.Sprintf("this is not saved and may be forgotten with a restart (%v); ", err)
}

func (c *containments) carryOut(ctx context.Context, remedy *remedy, o order, next *containment, would string) *sensorv1.IsolationStatus {
	c.change(func(r *containRecord) { r.Active = append(r.Active, next) })
	// Before it is done, so that a restart finishes it. A full disk must not protect
	// an intruder: what cannot be saved is done all the same, and said.
	saveErr := c.save()
	started := c.r.cfg.Clock.Boot()
	proof, err := remedy.apply(ctx, next, func() { saveErr = errors.Join(saveErr, c.save()) })
	if err != nil && c.r.ctx.Err() != nil {
		return next.status(sensorv1.IsolationState_ISOLATION_STATE_PENDING, "the sensor stopped in the middle and goes on when it starts")
	}
	if err != nil {
		return c.revert(remedy, next, err)
	}
	took := (c.r.cfg.Clock.Boot() - started).Round(time.Microsecond)
	c.change(func(*containRecord) { next.SelfTest = proof })
	detail := o.note + would
	if saveErr != nil {
		detail = unsaved(saveErr) + detail
	}
	c.r.cfg.Logger.Info("containment is applied", "operation", next.Operation, "action", next.Action, "local", next.Local, "took", took, "proof", proof)
	c.count(func(n *Counters) { n.Contained++ })
	if remedy.final {
		return c.final(next, detail)
	}
	c.change(func(*containRecord) { next.Phase = phaseApplied })
	if err := c.save(); err != nil && saveErr == nil {
		detail = unsaved(err) + detail
	}
	return next.status(sensorv1.IsolationState_ISOLATION_STATE_APPLIED, detail)
}

// final is done and over: nothing to undo, nothing to keep.
func (c *containments) final(next *containment, detail string) *sensorv1.IsolationStatus {
	c.change(func(*containRecord) { next.WallDeadline = 0 })
	status := next.status(sensorv1.IsolationState_ISOLATION_STATE_APPLIED, detail+"; there is no undo")
	c.drop(next)
	c.remember(next, status)
	_ = c.save() // logged there; done again at the next start it meets nobody
	return status
}

// revert undoes what could not be proved.
func (c *containments) revert(remedy *remedy, next *containment, reason error) *sensorv1.IsolationStatus {
	c.count(func(n *Counters) { n.Failed++ })
	c.r.cfg.Logger.Error("containment is reverted", "operation", next.Operation, "action", next.Action, "reason", reason)
	detail := fmt.Sprintf("%v; reverted", reason)
	if remedy.final {
		detail = reason.Error()
	} else if err := c.undone(remedy, next); err != nil {
		detail = fmt.Sprintf("%v; reverting failed too and is tried again: %v", reason, err)
		c.change(func(*containRecord) {
			next.Phase, next.Ending, next.Why = phaseEnding, sensorv1.IsolationState_ISOLATION_STATE_FAILED, reason.Error()
		})
		_ = c.save()
		return next.status(sensorv1.IsolationState_ISOLATION_STATE_FAILED, detail)
	}
	status := next.status(sensorv1.IsolationState_ISOLATION_STATE_FAILED, detail)
	c.drop(next)
	c.remember(next, status)
	_ = c.save()
	return status
}

// undone is not bound to who asked: it must work when the time of an act is over.
func (c *containments) undone(remedy *remedy, gone *containment) error {
	ctx, cancel := context.WithTimeout(context.Background(), actLimit)
	defer cancel()
	_, err := remedy.undo(ctx, gone)
	return err
}

// remember answers a grant that comes again after its end. mu is not held.
func (c *containments) remember(gone *containment, status *sensorv1.IsolationStatus) {
	if len(gone.Nonce) == 0 {
		return
	}
	raw, err := proto.Marshal(status)
	if err != nil {
		return
	}
	now := c.r.cfg.Clock.Now()
	c.change(func(r *containRecord) {
		r.done(outcome{Nonce: gone.Nonce, Digest: gone.Digest, Status: raw, Until: now.Add(nonceGrace).UnixNano()}, now)
	})
}

func (c *containments) count(fn func(*Counters)) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	fn(&c.r.counters)
}
