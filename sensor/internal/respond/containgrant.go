package respond

import (
	"bytes"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// contained carries a verified grant out that is no isolation.
func (r *Responder) contained(g *sensorv1.Grant, digest []byte) *sensorv1.GrantResult {
	if err := r.cannotContain(g.GetAction()); err != nil {
		return r.refuse(g, err)
	}
	length, note := leaseLength(g.GetLeaseSeconds())
	return result(r.contain.act(r.ctx, order{
		operation: g.GetOperation(), nonce: g.GetNonce(), digest: digest,
		operator: g.GetOperator(), reason: g.GetReason(), action: g.GetAction(), target: g.GetTarget(),
		length: length, note: note, preview: g.GetPreview(), evidence: g.GetEvidence(),
		begin: func() error { return r.useNonce(g, digest) },
	}))
}

// ErrHostWide: a sensor of a part of the host acts on that part alone.
var ErrHostWide = errors.New("this sensor's scope is a part of its host, and accounts, files and programs are the whole host's: ask the host's own sensor")

// cannotContain says why an action is none of this sensor's, whoever orders it.
func (r *Responder) cannotContain(action sensorv1.Action) error {
	switch action {
	case sensorv1.Action_ACTION_LOCK_ACCOUNT, sensorv1.Action_ACTION_QUARANTINE_FILE, sensorv1.Action_ACTION_BLOCK_IMAGE:
		if r.cfg.Contain != nil && r.cfg.ScopeKind != "" && r.cfg.ScopeKind != "host" {
			return ErrHostWide
		}
	}
	return nil
}

// useNonce is right before the act: a preview and a refusal use none up.
func (r *Responder) useNonce(g *sensorv1.Grant, digest []byte) error {
	r.mu.Lock()
	defer r.unlockAndReport()
	if !r.record.use(r.usedNonce(g, digest), r.cfg.Clock.Now()) {
		return ErrNonceMemory
	}
	_ = r.save() // logged there; a full disk must not protect an intruder
	return nil
}

// containedBefore answers a containment's grant that is delivered again with what
// came of it; nil: it is new, or no containment's.
func (r *Responder) containedBefore(g *sensorv1.Grant, digest []byte) *sensorv1.GrantResult {
	c := r.contain
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, active := range c.record.Active {
		if bytes.Equal(active.Nonce, g.GetNonce()) && bytes.Equal(active.Digest, digest) && active.Phase == phaseApplied {
			return result(active.status(sensorv1.IsolationState_ISOLATION_STATE_APPLIED, "already in force; this grant was repeated"))
		}
	}
	for _, done := range c.record.Done {
		if bytes.Equal(done.Nonce, g.GetNonce()) && bytes.Equal(done.Digest, digest) {
			status := new(sensorv1.IsolationStatus)
			if proto.Unmarshal(done.Status, status) == nil {
				status.Detail = "this grant was repeated: " + status.GetDetail()
				return result(status)
			}
		}
	}
	return nil
}

// undo ends exactly the containment that a release names.
func (r *Responder) undo(g *sensorv1.Grant, digest []byte) *sensorv1.GrantResult {
	c := r.contain
	c.acting.Lock()
	defer c.acting.Unlock()
	status := &sensorv1.IsolationStatus{Operation: g.GetOperation(), Nonce: g.GetNonce(), Action: sensorv1.Action_ACTION_RELEASE}
	gone := c.find(g.GetUndoes())
	if gone == nil {
		return r.refuse(g, fmt.Errorf("%w: %s; a kill cannot be undone, and what ended needs no undo", ErrNotHere, g.GetUndoes()))
	}
	status.Target = gone.target()
	remedy := c.remedies[gone.Action]
	if g.GetPreview() {
		status.State = sensorv1.IsolationState_ISOLATION_STATE_PREVIEWED
		status.Detail = fmt.Sprintf("would end %s of %s", actionName(gone.Action), gone.Operation)
		c.report(status)
		return result(status)
	}
	if remedy == nil {
		return r.refuse(g, ErrNoContainment)
	}
	// Undone first and written after: a crash in between leaves a record whose undo
	// finds nothing to do, and the coordinator repeats the grant.
	if err := c.end(gone, sensorv1.IsolationState_ISOLATION_STATE_RELEASED, "released by "+g.GetOperation()); err != nil {
		status.State = sensorv1.IsolationState_ISOLATION_STATE_FAILED
		status.Detail = fmt.Sprintf("releasing: %v; it is tried again until it works", err)
		c.report(status)
		return result(status)
	}
	status.State = sensorv1.IsolationState_ISOLATION_STATE_RELEASED
	status.Detail = fmt.Sprintf("ended %s of %s", actionName(gone.Action), gone.Operation)
	c.remember(&containment{lease: lease{Nonce: g.GetNonce()}, Digest: digest}, status)
	if err := errors.Join(r.useNonce(g, digest), c.save()); err != nil {
		status.Detail += fmt.Sprintf("; this could not be saved (%v)", err)
	}
	c.report(status)
	return result(status)
}
