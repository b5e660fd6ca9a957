// Package respond honours grants on this host: it isolates and releases, within
// a lease, and reports what came of it.
//
// Invariants. A grant is honoured only when an operator who may respond signed
// it for this host and cluster, in its time, and its nonce was never honoured
// before; the coordinator's word alone does nothing. An isolation always has a
// deadline that a restart, a reboot, a suspend or a changed wall clock cannot
// push beyond the lease's length. What is in the kernel and what is in the state
// file are brought together before anything else when the sensor starts; the cut
// itself lives in the kernel and has no gap when the sensor dies.
//
// An isolation that cannot be proved is undone: right after applying, an
// ordinary probe must be dropped and the coordinator must answer within
// Config.SelfTestTimeout. The grant came over that link a moment ago, so a
// coordinator that was already unreachable counts as cut off by us.
//
// The state file holds a checksum. When it is damaged: with our table in the
// kernel, isolation is kept for the longest lease counted from the file's
// modification; without it, the host is not isolated. Both are reported, the
// damaged file is kept aside, and grants signed before the damage was found are
// refused, since their nonces may have been used.
//
// Locks, in this order: granting serialises grants from end to end; mu guards the
// record and every change of the cut, and is never held while waiting for the
// network; reporting keeps the reports in order.
package respond

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
)

// Bounds of a lease.
const (
	DefaultLease = 4 * time.Hour
	MaxLease     = 24 * time.Hour
)

// StateNone is what Responder.State returns while nothing is isolated; else it is
// the isolation's level.
const StateNone = "none"

// Config is what a Responder needs. The fields without a default are required.
type Config struct {
	// StateDir holds the lease and the used nonces (isolation.lease, 0600), and the
	// newest signed list of nodes (nodes.signed, 0600).
	StateDir string
	// NodeAddresses are the coordinator nodes' UDP endpoints as the cluster and the
	// configuration name them; it may block. An isolation begins with them, where no
	// signed list is held (TakeNodes), and does not follow them: every Tick during it they
	// are asked for only to say which of them nobody signed.
	NodeAddresses func() []netip.AddrPort
	// Roots verify operators' certificates.
	Roots func() *x509.CertPool
	// ClusterID and HostID are what a grant must name.
	ClusterID, HostID string
	// Enabled false refuses every isolation, and ends one that a restart finds.
	Enabled bool
	// ScopeKind is "host", "netns" or "cgroup". A cgroup has no devices of its own,
	// so isolating one is refused.
	ScopeKind string
	// NetNS is the namespace to isolate, a path; empty: the sensor's own.
	NetNS string
	// Intent is the one in force here, whose governor bounds what one operator may
	// order alone. Default: intent.Defaults.
	Intent func() *sensorv1.Intent
	// Corroborates says whether this host's own evidence, by the intent that it holds,
	// supports a grant that no operator signed; the error says why not. Nil: never.
	Corroborates func(*sensorv1.Grant) error
	// First is the quick layer of an isolation; nil: the table alone.
	First FirstCut
	// Reachable asks the coordinator nodes at some addresses and returns nil when one
	// answered. It is called from within Grant, so it must not wait for the goroutine
	// that called Grant.
	Reachable func(context.Context, []netip.AddrPort) error
	// Report takes every outcome, in order, for durable delivery. New may call it
	// already. It must not call the Responder.
	Report func(*sensorv1.IsolationStatus)
	// Logger, default slog.Default.
	Logger *slog.Logger
	// Clock, default the system's.
	Clock Clock
	// SelfTestTimeout bounds the wait for the coordinator after a cut, default 10 s.
	SelfTestTimeout time.Duration
	// ResumeTimeout is the same after a restart in the middle of a self-test, when
	// the session is to be made first, default 60 s.
	ResumeTimeout time.Duration
	// Contain is what the containments beside isolation need; nil: none is possible,
	// and what a restart finds in force is only reported.
	Contain *ContainConfig
	// Tick is how often lease and kernel are looked at without being told of a
	// change, default 500 ms.
	Tick time.Duration
}

func (c *Config) populate() error {
	var problems []error
	for _, need := range []struct {
		absent bool
		what   string
	}{
		{c.StateDir == "", "StateDir"}, {c.NodeAddresses == nil, "NodeAddresses"}, {c.Roots == nil, "Roots"},
		{c.ClusterID == "", "ClusterID"}, {c.HostID == "", "HostID"}, {c.Reachable == nil, "Reachable"}, {c.Report == nil, "Report"},
	} {
		if need.absent {
			problems = append(problems, fmt.Errorf("respond: %s is required", need.what))
		}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Clock == nil {
		c.Clock = systemClock{}
	}
	if c.SelfTestTimeout <= 0 {
		c.SelfTestTimeout = 10 * time.Second
	}
	if c.ResumeTimeout <= 0 {
		c.ResumeTimeout = time.Minute
	}
	if c.Tick <= 0 {
		c.Tick = 500 * time.Millisecond
	}
	return errors.Join(problems...)
}

// Counters are totals since the start.
type Counters struct {
	Honoured, Refused, Failed, Expired, Reapplied uint64
	// Contained are the containments that were applied, with a grant or without.
	Contained uint64
	// Overlooked are executions that were not compared with a blocked image, because
	// more came than could be looked at.
	Overlooked uint64
}

// Responder honours grants for one host.
type Responder struct {
	cfg     Config
	barrier *isolation.Barrier
	file    stateFile
	lock    stateLock
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	kick    chan struct{} // the lease changed, or the kernel did
	contain *containments

	granting  sync.Mutex
	verifier  grant.Verifier // it remembers the chains of those whose orders came before
	reporting sync.Mutex

	mu       sync.Mutex
	record   record
	known    []netip.AddrPort // what NodeAddresses said last
	signed   signedNodes
	revoked  revoked
	unsigned []netip.AddrPort // of known, what was told to stay shut
	// Apart, so that a flood of bad lists does not keep the other from being told.
	badNodes, unsignedTold, badRevoked window
	counters                           Counters
	tampers                            tamperLog
	refusals                           window
	firstFailed                        bool   // Config.First, when it was last told to cut
	shallow                            bool   // the same, to cut what only it can
	lastFailure                        string // of keeping the cut or ending it, so that each is reported once
	outbox                             []*sensorv1.IsolationStatus
}

// New reads what was in force and puts it in force again, before it returns.
// Only a configuration that cannot work is an error: a sensor that finds its
// state damaged must still come up, and says so through Report.
func New(cfg Config) (*Responder, error) {
	if err := cfg.populate(); err != nil {
		return nil, err
	}
	barrier, err := isolation.Open(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	lock, err := lockState(cfg.StateDir)
	if err != nil {
		return nil, errors.Join(err, barrier.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Responder{
		cfg: cfg, barrier: barrier, lock: lock, ctx: ctx, cancel: cancel,
		file: stateFile{filepath.Join(cfg.StateDir, "isolation.lease")},
		kick: make(chan struct{}, 1), signed: openSignedNodes(filepath.Join(cfg.StateDir, "nodes.signed")),
		revoked: openRevoked(filepath.Join(cfg.StateDir, "operators.revoked")),
	}
	if cfg.Enabled && cfg.ScopeKind != "cgroup" {
		// Asked before a verdict has to wait for the answer.
		if err := barrier.Supported(); err != nil {
			cfg.Logger.Warn("this host cannot be isolated as it is", "reason", err)
		}
	}
	r.mu.Lock()
	r.loadRevoked()
	r.loadNodes()
	r.restore()
	r.unlockAndReport()
	r.localEndReported()
	if r.contain, err = newContainments(r); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	r.contain.restore()
	return r, nil
}

// Close ends waiting self-tests. What is applied stays applied: the cut outlives
// the sensor.
func (r *Responder) Close() error {
	r.cancel()
	r.granting.Lock()
	defer r.granting.Unlock()
	defer r.lock.release()
	return errors.Join(r.contain.close(), r.barrier.Close())
}

// State is the level of the isolation that is in force, else "none".
func (r *Responder) State() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.record.Lease != nil {
		return r.record.Lease.Level.String()
	}
	return StateNone
}

// Counters are what was done since the start.
func (r *Responder) Counters() Counters {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counters
}

// report keeps a status until mu is let go of; Report may write to a disk.
func (r *Responder) report(status *sensorv1.IsolationStatus) { r.outbox = append(r.outbox, status) }

// unlockAndReport takes reporting before it lets mu go, so that outcomes are
// reported in the order in which they came about: "applied" after a "released"
// that came later would stand at the coordinator for good.
func (r *Responder) unlockAndReport() {
	statuses := r.outbox
	r.outbox = nil
	if len(statuses) == 0 {
		r.mu.Unlock()
		return
	}
	r.reporting.Lock()
	defer r.reporting.Unlock()
	r.mu.Unlock()
	for _, status := range statuses {
		r.cfg.Report(status)
	}
}

func (r *Responder) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// spec is what stays open by a lease, in both layers. mu is held.
func (r *Responder) spec(lease *lease) isolation.Spec {
	return isolation.Spec{Nodes: lease.open(), Level: lease.Level, Openings: r.openings(lease.Level)}
}

// openings are what the intent leaves open to a jump host, for an isolation that
// asks for it.
func (r *Responder) openings(level isolation.Level) []isolation.Opening {
	if level != isolation.Jump {
		return nil
	}
	var openings []isolation.Opening
	for _, o := range r.intent().GetJump() {
		prefix, err := netip.ParsePrefix(o.GetPrefix())
		if err != nil {
			continue // the intent was checked where it was applied
		}
		openings = append(openings, isolation.Opening{
			Prefix: prefix.Masked(), Protocol: uint8(o.GetProtocol()), Port: uint16(o.GetPort()), Inbound: o.GetInbound(), //nolint:gosec // checked there too
		})
	}
	return openings
}

// restore brings kernel and file together. mu is held.
func (r *Responder) restore() {
	now := r.cfg.Clock.Now()
	loaded, modified, err := r.file.load()
	present, presentErr := r.barrier.Present()
	if presentErr != nil {
		r.cfg.Logger.Warn("isolation cannot be looked at in the kernel", "error", presentErr)
	}
	switch {
	case err != nil:
		kept, keepErr := r.file.setAside()
		r.cfg.Logger.Error("isolation state is damaged", "error", err, "kept", kept, "keep_error", keepErr, "isolated", present)
		r.record = record{IgnoreIssuedBefore: now.UnixNano()}
		if !present {
			r.report(&sensorv1.IsolationStatus{
				State:  sensorv1.IsolationState_ISOLATION_STATE_RELEASED,
				Detail: fmt.Sprintf("the isolation state file was damaged (%v) and this host is not isolated; a lease that was in force is lost", err),
			})
			break
		}
		if modified.After(now) {
			modified = now
		}
		r.adopt(MaxLease-now.Sub(modified), fmt.Sprintf("the isolation state file was damaged (%v): kept isolated for the longest lease since its last change", err))
	case loaded.Lease == nil && present:
		r.record = loaded
		r.adopt(MaxLease, "an isolation was found that no lease belongs to: kept for the longest lease")
	default:
		r.record = loaded
		if r.record.Lease != nil {
			r.record.Lease.rebase(r.cfg.Clock)
		}
	}
	if end := r.record.LocalEnd; end != nil {
		r.cfg.Logger.Warn("isolation was ended on the host, without a grant", "operation", end.Operation, "by", end.By, "reason", end.Reason)
		r.report(end.status())
	}
	lease := r.record.Lease
	if lease == nil {
		_ = r.save() // logged there; nothing is in force that could be lost
		return
	}
	switch {
	case !r.cfg.Enabled:
		r.end(sensorv1.IsolationState_ISOLATION_STATE_RELEASED, "isolation.enabled is false in the sensor's configuration")
	case lease.remaining(r.cfg.Clock) <= 0:
		r.expire()
	default:
		// A crash came between the two files.
		if l := r.signed.list; l != nil && l.Serial > lease.newest() {
			lease.offer(l)
		}
		spec := r.spec(lease)
		r.cutFirst(spec)
		if err := r.barrier.Apply(spec); err != nil {
			r.failed("isolation could not be reapplied at the start and is tried again", err)
		} else if note := r.deepen(lease); note != "" {
			r.cfg.Logger.Warn("isolation is in force again", "operation", lease.Operation, "note", note)
		}
		_ = r.save() // logged there; the file of before the restart says the same
		r.cfg.Logger.Info("isolation is in force again", "operation", lease.Operation, "remaining", lease.remaining(r.cfg.Clock), "was_in_kernel", present)
	}
	r.wake()
}

// localEndReported forgets an end only after it was handed on: a crash between
// the two reports it twice.
func (r *Responder) localEndReported() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.record.LocalEnd != nil {
		r.record.LocalEnd = nil
		_ = r.save() // logged there; it is reported again at the next start
	}
}

// adopt makes a lease for a cut whose own is unknown.
func (r *Responder) adopt(remaining time.Duration, why string) {
	lease := newLease(r.cfg.Clock, remaining)
	lease.Operation, lease.Phase, lease.SelfTest = recoveredOperation, phaseApplied, "not tested: "+why
	r.known = r.cfg.NodeAddresses()
	lease.Nodes, lease.Serial = r.pin(r.known)
	r.record.Lease = lease
	if remaining > 0 {
		r.report(r.status(lease, sensorv1.IsolationState_ISOLATION_STATE_APPLIED, why))
	}
}

// recoveredOperation stands where the operation's id was lost.
const recoveredOperation = "recovered"

// save persists the record; the error is for the caller's report.
func (r *Responder) save() error {
	if err := r.file.save(r.record); err != nil {
		r.cfg.Logger.Error("isolation state is not saved", "error", err)
		return err
	}
	return nil
}

// failed logs and reports each distinct failure once.
func (r *Responder) failed(what string, err error) {
	r.cfg.Logger.Error("isolation", "what", what, "error", err)
	text := fmt.Sprintf("%s: %v", what, err)
	if text == r.lastFailure || r.record.Lease == nil {
		return
	}
	r.lastFailure = text
	r.report(r.status(r.record.Lease, sensorv1.IsolationState_ISOLATION_STATE_FAILED, text))
}

func (r *Responder) status(lease *lease, state sensorv1.IsolationState, detail string) *sensorv1.IsolationStatus {
	return &sensorv1.IsolationStatus{
		Operation: lease.Operation, State: state, Detail: detail, Nonce: lease.Nonce,
		AppliedAt: lease.AppliedAt, LeaseExpires: lease.WallDeadline, SelfTest: lease.SelfTest,
		Action: sensorv1.Action_ACTION_ISOLATE, Level: protoLevels[lease.Level],
		Local: lease.Local, Evidence: lease.Evidence, IntentVersion: lease.IntentVersion, Policies: lease.Policies,
	}
}

// protoLevels are the levels of an isolation as the cluster names them.
var protoLevels = map[isolation.Level]sensorv1.IsolationLevel{
	isolation.Full:       sensorv1.IsolationLevel_ISOLATION_LEVEL_FULL,
	isolation.EgressOnly: sensorv1.IsolationLevel_ISOLATION_LEVEL_EGRESS_ONLY,
	isolation.Jump:       sensorv1.IsolationLevel_ISOLATION_LEVEL_JUMP,
}
