package respond

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
)

// Why a grant is refused, beside what package grant finds wrong.
var (
	// ErrReplayed: the nonce was honoured before.
	ErrReplayed = errors.New("the grant was honoured before")
	// ErrForgotten: signed before this host lost its memory of used nonces.
	ErrForgotten = errors.New("the grant was signed before this host's record of used grants was lost; sign a new one")
	// ErrNonceMemory: too many grants are still in their time.
	ErrNonceMemory = fmt.Errorf("%d grants are remembered here and all are still in their time", maxNonces)
	// ErrDisabled: the host's configuration forbids it.
	ErrDisabled = errors.New("isolation.enabled is false in this sensor's configuration")
	// ErrScope: what this sensor watches cannot be isolated.
	ErrScope = errors.New("a sensor whose scope is a cgroup cannot isolate it: a cgroup has no network devices of its own")
	// ErrNoNodes: isolating would cut the host off from the cluster as well.
	ErrNoNodes = errors.New("no coordinator address is known that could stay open")
	// ErrNoOpenings: level jump, and the intent opens nothing.
	ErrNoOpenings = errors.New("the intent opens nothing to a jump host; add it there (jump), or isolate at level full")
	// ErrUnknownLevel: from a newer cluster.
	ErrUnknownLevel = errors.New("this sensor does not know the grant's isolation level; upgrade it")
	// ErrUnknownAction: from a newer cluster.
	ErrUnknownAction = errors.New("this sensor does not know the grant's action; upgrade it")
)

// Grant verifies and carries out a grant, and returns what came of it; the same
// goes to Config.Report. It blocks until the self-test has ended, at most
// Config.SelfTestTimeout. It does not stop with ctx: the session that brought the
// grant may be what an isolation interrupts.
func (r *Responder) Grant(_ context.Context, signed *sensorv1.SignedGrant) *sensorv1.GrantResult {
	r.granting.Lock()
	defer r.granting.Unlock()
	g, signers, err := r.verifier.Verify(signed, r.cfg.Roots(), r.cfg.ClusterID, r.cfg.Clock.Now())
	if err != nil {
		return r.refuse(claimed(signed), err)
	}
	if err := grant.Names(g, signed.GetProof(), r.cfg.HostID); err != nil {
		return r.refuse(g, err)
	}
	digest := sha256.Sum256(signed.GetPayload())
	if result := r.containedBefore(g, digest[:]); result != nil {
		return result
	}
	if result := r.repeated(g, digest[:]); result != nil {
		return result
	}
	// Behind what only tells again what was done before.
	if err := r.signedByRevoked(signed); err != nil {
		return r.refuse(g, err)
	}
	if err := r.authorised(g, signers); err != nil {
		return r.refuse(g, err)
	}
	switch g.GetAction() {
	case sensorv1.Action_ACTION_ISOLATE:
		return r.isolate(g, digest[:])
	case sensorv1.Action_ACTION_RELEASE:
		if g.GetUndoes() != "" {
			return r.undo(g, digest[:])
		}
		return r.release(g, digest[:])
	case sensorv1.Action_ACTION_FREEZE, sensorv1.Action_ACTION_KILL, sensorv1.Action_ACTION_BLOCK_IMAGE,
		sensorv1.Action_ACTION_BLOCK_ADDRESS, sensorv1.Action_ACTION_BLOCK_NAME, sensorv1.Action_ACTION_LOCK_ACCOUNT,
		sensorv1.Action_ACTION_QUARANTINE_FILE, sensorv1.Action_ACTION_BLOCK_NEIGHBOUR:
		return r.contained(g, digest[:])
	}
	return r.refuse(g, ErrUnknownAction)
}

// claimed is what an unverified grant says of itself: only to be told back to
// the coordinator that sent it.
func claimed(signed *sensorv1.SignedGrant) *sensorv1.Grant {
	const maxEcho = 128
	g := new(sensorv1.Grant)
	if len(signed.GetPayload()) > grant.MaxPayload || proto.Unmarshal(signed.GetPayload(), g) != nil ||
		len(g.GetOperation()) > maxEcho || len(g.GetNonce()) > maxEcho {
		return new(sensorv1.Grant)
	}
	return g
}

// repeated answers a grant that was seen before. Delivery is at-least-once, so
// the very grant that is in force (or that ended it last) is answered with what
// came of it and changes nothing; any other use of its nonce is a replay.
func (r *Responder) repeated(g *sensorv1.Grant, digest []byte) *sensorv1.GrantResult {
	r.mu.Lock()
	used, seen := r.record.used(g.GetNonce())
	lease := r.record.Lease
	last := len(r.record.Nonces) > 0 && bytes.Equal(r.record.Nonces[len(r.record.Nonces)-1].Nonce, g.GetNonce())
	ignored := g.GetIssuedAt() < r.record.IgnoreIssuedBefore
	var inForce *sensorv1.IsolationStatus
	if lease != nil && lease.Phase == phaseApplied && bytes.Equal(lease.Nonce, g.GetNonce()) {
		inForce = r.status(lease, sensorv1.IsolationState_ISOLATION_STATE_APPLIED, "already in force; this grant was repeated")
	}
	r.mu.Unlock()
	same := seen && bytes.Equal(used.Digest, digest)
	switch {
	case same && inForce != nil:
		return result(inForce)
	case same && used.Release && last && lease == nil:
		return result(&sensorv1.IsolationStatus{
			Operation: g.GetOperation(), Nonce: g.GetNonce(),
			State: sensorv1.IsolationState_ISOLATION_STATE_RELEASED, Detail: "already released; this grant was repeated",
		})
	case seen:
		return r.refuse(g, ErrReplayed)
	case ignored:
		return r.refuse(g, ErrForgotten)
	}
	return nil
}

func result(status *sensorv1.IsolationStatus) *sensorv1.GrantResult {
	return &sensorv1.GrantResult{Nonce: status.GetNonce(), Status: status}
}

// refuse changes nothing and does not use the nonce up.
func (r *Responder) refuse(g *sensorv1.Grant, reason error) *sensorv1.GrantResult {
	status := &sensorv1.IsolationStatus{
		Operation: g.GetOperation(), Nonce: g.GetNonce(),
		State: sensorv1.IsolationState_ISOLATION_STATE_REFUSED, Detail: reason.Error(),
	}
	r.cfg.Logger.Warn("grant is refused", "operation", g.GetOperation(), "reason", reason)
	r.mu.Lock()
	r.counters.Refused++
	if r.refusals.allow(r.cfg.Clock.Boot()) {
		r.report(status)
	}
	r.unlockAndReport()
	return result(status)
}

func (r *Responder) isolate(g *sensorv1.Grant, digest []byte) *sensorv1.GrantResult {
	o := isolationOrder{operation: g.GetOperation(), nonce: g.GetNonce(), operator: g.GetOperator(), reason: g.GetReason()}
	o.length, o.note = leaseLength(g.GetLeaseSeconds())
	known := false
	for level, name := range protoLevels {
		if name == g.GetLevel() || g.GetLevel() == sensorv1.IsolationLevel_ISOLATION_LEVEL_UNSPECIFIED && level == isolation.Full {
			o.level, known = level, true
		}
	}
	if !known {
		return r.refuse(g, ErrUnknownLevel)
	}
	if err := r.cannotIsolate(o.level); err != nil {
		return r.refuse(g, err)
	}
	if g.GetPreview() {
		return r.previewIsolation(g, o)
	}
	r.mu.Lock()
	if !r.record.use(r.usedNonce(g, digest), r.cfg.Clock.Now()) {
		r.mu.Unlock()
		return r.refuse(g, ErrNonceMemory)
	}
	return result(r.cutOff(o))
}

// cannotIsolate says why this host cannot be isolated at a level.
func (r *Responder) cannotIsolate(level isolation.Level) error {
	switch {
	case !r.cfg.Enabled:
		return ErrDisabled
	case r.cfg.ScopeKind == "cgroup":
		return ErrScope
	case len(r.toOpen()) == 0:
		return ErrNoNodes
	case level == isolation.Jump && len(r.openings(level)) == 0:
		return ErrNoOpenings
	}
	return r.barrier.Supported()
}

// previewIsolation says what an isolation would leave open, and does nothing.
func (r *Responder) previewIsolation(g *sensorv1.Grant, o isolationOrder) *sensorv1.GrantResult {
	spec := isolation.Spec{Nodes: r.toOpen(), Level: o.level, Openings: r.openings(o.level)}
	r.mu.Lock()
	status := &sensorv1.IsolationStatus{
		Operation: g.GetOperation(), Nonce: g.GetNonce(), Action: g.GetAction(), Level: g.GetLevel(),
		State: sensorv1.IsolationState_ISOLATION_STATE_PREVIEWED, Detail: o.note + r.leftOpen(spec),
	}
	r.report(status)
	r.unlockAndReport()
	return result(status)
}

// isolationOrder is what an isolation is made of, whoever orders it.
type isolationOrder struct {
	operation, operator, reason string
	nonce                       []byte
	length                      time.Duration
	note                        string // for the outcome
	level                       isolation.Level
	// local is set when the host does it on its own evidence.
	local *LocalOrder
}

// cutOff isolates, proves it, or reverts. mu is held when it is called and not when
// it returns.
func (r *Responder) cutOff(o isolationOrder) *sensorv1.IsolationStatus {
	r.known = r.cfg.NodeAddresses()
	previous := r.record.Lease
	next := newLease(r.cfg.Clock, o.length)
	next.Operation, next.Nonce, next.Operator, next.Reason = o.operation, o.nonce, o.operator, o.reason
	next.Phase, next.Level = phaseTesting, o.level
	next.Nodes, next.Serial = r.pin(r.known)
	if o.local != nil {
		next.Local, next.Evidence, next.IntentVersion, next.Policies = true, o.local.Evidence, o.local.IntentVersion, o.local.Policies
	}
	if previous != nil {
		next.Stopped = previous.Stopped
		next.nodesOf(previous)
	}
	spec := r.spec(next)
	if previous == nil {
		r.record.Lease, r.unsigned = next, nil
	}
	// Before the disk: what counts is the last packet out. A crash here leaves no cut, since
	// all that holds goes with the process.
	o.note += r.hold(next, spec)
	// Saved before it is made to last: a crash in between leaves a lease that a restart
	// goes on with, and never a cut without an end. A full disk must not protect an
	// intruder, so not being able to save does not stop the isolation; that is told
	// when it is saved again below.
	_ = r.save()
	applyErr := r.barrier.Apply(spec)
	if applyErr == nil {
		o.note += r.deepen(next)
	}
	r.unlockAndReport()
	r.wake()

	test := selfTest{err: applyErr}
	if applyErr == nil {
		test = r.selfTest(r.ctx, r.cfg.SelfTestTimeout, next.Local, spec.Nodes)
	}
	if test.silent && previous == nil {
		var note string
		test, note = r.testWider(r.ctx, r.cfg.SelfTestTimeout, next, test)
		o.note += note
	}

	r.mu.Lock()
	if r.ctx.Err() != nil && test.err != nil && applyErr == nil && previous == nil {
		// The sensor stops in the middle; the lease says "testing" and goes on at the next start.
		defer r.mu.Unlock()
		return r.status(next, sensorv1.IsolationState_ISOLATION_STATE_PENDING, "the sensor stopped during the self-test and continues it when it starts")
	}
	next.SelfTest = test.text
	var status *sensorv1.IsolationStatus
	if test.err != nil {
		status = r.revert(next, previous, test.err)
	} else {
		next.Phase = phaseApplied
		if previous != nil {
			next.nodesOf(previous) // a list may have come meanwhile
		}
		r.record.Lease = next
		spec = r.spec(next)
		saveErr := r.save()
		r.counters.Honoured++
		if previous != nil {
			r.report(r.status(previous, sensorv1.IsolationState_ISOLATION_STATE_RELEASED, "superseded by "+next.Operation+"; the host stays isolated"))
		}
		detail := o.note + r.leftOpen(spec)
		if saveErr != nil {
			detail = fmt.Sprintf("the lease is not saved and is lost with a restart (%v); %s", saveErr, detail)
		}
		status = r.status(next, sensorv1.IsolationState_ISOLATION_STATE_APPLIED, detail)
		r.cfg.Logger.Info("isolation is applied", "operation", next.Operation, "operator", next.Operator, "level", next.Level.String(), "lease", o.length, "self_test", test.text)
	}
	r.report(status)
	r.unlockAndReport()
	r.wake()
	return status
}

// revert undoes an isolation that was not proved; one that was in force before
// it stays. mu is held.
func (r *Responder) revert(next, previous *lease, reason error) *sensorv1.IsolationStatus {
	r.counters.Failed++
	r.cfg.Logger.Error("isolation is reverted", "operation", next.Operation, "reason", reason)
	detail := fmt.Sprintf("%v; reverted", reason)
	if previous != nil {
		detail = fmt.Sprintf("%v; the isolation of %s stays in force", reason, previous.Operation)
	} else {
		if err := r.lift(next); err != nil {
			// The lease stays, so that its end removes what could not be removed now.
			detail = fmt.Sprintf("%v; reverting failed too and is tried again at the end of the lease: %v", reason, err)
		} else {
			r.record.Lease = nil
		}
		_ = r.save() // logged there; the outcome below is what matters
	}
	status := r.status(next, sensorv1.IsolationState_ISOLATION_STATE_FAILED, detail)
	status.LeaseExpires = 0
	return status
}

func (r *Responder) release(g *sensorv1.Grant, digest []byte) *sensorv1.GrantResult {
	r.mu.Lock()
	lease := r.record.Lease
	// Removed first and written after: a crash in between isolates again, and the
	// coordinator repeats the grant, whose nonce is not used up yet.
	if err := r.lift(lease); err != nil && !errors.Is(err, isolation.ErrNoEgress) {
		r.counters.Failed++
		status := &sensorv1.IsolationStatus{
			Operation: g.GetOperation(), Nonce: g.GetNonce(),
			State: sensorv1.IsolationState_ISOLATION_STATE_FAILED, Detail: fmt.Sprintf("releasing: %v", err),
		}
		r.report(status)
		r.unlockAndReport()
		return result(status)
	}
	r.record.Lease = nil
	remembered := r.record.use(r.usedNonce(g, digest), r.cfg.Clock.Now())
	saveErr := r.save()
	r.counters.Honoured++
	status := &sensorv1.IsolationStatus{
		Operation: g.GetOperation(), Nonce: g.GetNonce(),
		State: sensorv1.IsolationState_ISOLATION_STATE_RELEASED, Detail: "this host was not isolated",
	}
	if lease != nil {
		status.Detail = "ended the isolation of " + lease.Operation
		r.report(r.status(lease, sensorv1.IsolationState_ISOLATION_STATE_RELEASED, "released by "+g.GetOperation()))
	}
	if !remembered {
		saveErr = errors.Join(saveErr, ErrNonceMemory)
	}
	if saveErr != nil {
		status.Detail += fmt.Sprintf("; this could not be saved and a restart may isolate again (%v)", saveErr)
	}
	r.report(status)
	r.cfg.Logger.Info("isolation is released", "operation", g.GetOperation(), "operator", g.GetOperator())
	r.unlockAndReport()
	r.wake()
	return result(status)
}

func (r *Responder) usedNonce(g *sensorv1.Grant, digest []byte) usedNonce {
	return usedNonce{
		Nonce: g.GetNonce(), Digest: digest, Epoch: g.GetEpoch(), Operator: g.GetOperator() != "",
		Release: g.GetAction() == sensorv1.Action_ACTION_RELEASE,
		Until:   g.GetNotAfter() + int64(nonceGrace),
	}
}

// leaseLength holds a wish within the bounds; a host is rather isolated for too
// short than not at all.
func leaseLength(seconds uint64) (time.Duration, string) {
	switch {
	case seconds == 0:
		return DefaultLease, ""
	case seconds > uint64(MaxLease/time.Second):
		return MaxLease, fmt.Sprintf("the lease is cut to the longest, %s; ", MaxLease)
	}
	return time.Duration(seconds) * time.Second, ""
}

// window lets some reports of one kind through, so that a flood of bad grants
// cannot fill the spool; all are counted.
type window struct {
	start time.Duration
	count int
}

const (
	windowLength  = time.Minute
	windowReports = 20
)

func (w *window) allow(now time.Duration) bool {
	if w.count == 0 || now-w.start >= windowLength {
		w.start, w.count = now, 0
	}
	w.count++
	return w.count <= windowReports
}
