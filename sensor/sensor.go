// Package sensor wires the stages of the agent on one host: kernel → enrich →
// baseline → detect → spool → uplink, and back only as grants to respond.
//
// Invariant: a value flows one way. The stages never see each other; what one
// makes is handed on here and nowhere else.
package sensor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/baseline"
	"github.com/vedette-edr/vedette/sensor/internal/detect"
	"github.com/vedette-edr/vedette/sensor/internal/enrich"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/kernel"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
	"github.com/vedette-edr/vedette/sensor/internal/respond"
	"github.com/vedette-edr/vedette/sensor/internal/session"
	"github.com/vedette-edr/vedette/sensor/internal/spool"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

// Sensor is the agent on one host.
type Sensor struct {
	cfg      Config
	version  string
	log      *slog.Logger
	identity *uplink.Identity

	source    *kernel.Source
	enricher  *enrich.Enricher
	sessions  *session.Tracker
	baseline  *baseline.Baseline
	detector  *detect.Engine
	recorder  *recorder.Recorder // nil when it is off
	spool     *spool.Spool
	responder *respond.Responder
	uplink    *uplink.Uplink
	nodes     *nodeBook
	intent    *intentBook
	learning  *learningBook
	evidence  *evidence
	verdicts  chan respond.LocalOrder
	cut       *kernel.Cut // nil when it could not be armed
	door      *door       // nil when it could not be opened

	keeper    keeper
	carried   *carrier
	rules     *ruleBook
	blind     blindness
	budget    budget
	asking    askingBudget
	gaps      gapNews
	self      event.ProcessKey // this process
	losses    lossMeter
	findings  *findingLine
	watched   chan struct{} // closed when no more events come
	pid       uint32
	canaries  atomic.Uint64 // execs of our own children that came out of the kernel
	summaries sync.Mutex    // one at a time
	cpuBefore time.Duration // at the last summary; only summary touches it
	ending    sync.Mutex    // the running file and what follows
	untold    uint64        // unclean ends in no summary yet
	closers   []func() error
}

// New opens everything, strongest protection first: a host that should be cut is
// cut again before anything else can fail. The caller must Run it, which closes it.
func New(cfg Config, version string, log *slog.Logger) (_ *Sensor, err error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("checking config:\n%w", err)
	}
	// However many processors a host has: one for the way from the rings to the spool, and
	// one for what waits for disks and the network. On one alone the recorder's disk does
	// not keep up with a burst; more would only be handed work, and take it from the host.
	runtime.GOMAXPROCS(2)
	debug.SetMemoryLimit(cfg.MemoryLimitBytes)
	boundGarbage()
	s := &Sensor{
		cfg: cfg, version: version, log: log, pid: uint32(os.Getpid()),
		watched: make(chan struct{}), evidence: newEvidence(), verdicts: make(chan respond.LocalOrder, maxVerdicts), keeper: keeper{taints: make(chan event.ProcessKey, maxTaintWait)}, carried: newCarrier(),
		budget: budget{cpuShare: cfg.Budget.CPUPercent / 100, rss: uint64(cfg.Budget.RSSBytes)},
		asking: newAskingBudget(cfg.Budget.CPUPercent / 100),
	}
	s.findings = newFindingLine(
		func(ctx context.Context, p *event.Process) *event.Process { return s.enricher.WithHashes(ctx, p) },
		func(f *event.Finding) { s.append(uplink.RecordFromFinding(f), true) })
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state folder: %w", err)
	}
	// An expired certificate keeps the host from reporting, not from seeing,
	// spooling and honouring its leases; the uplink says what to do and takes a new
	// identity up by itself.
	if s.identity, err = uplink.LoadIdentity(s.path("identity")); err != nil && !errors.Is(err, uplink.ErrExpired) {
		return nil, fmt.Errorf("loading this host's identity: %w", err)
	}
	if err := s.openResponder(); err != nil {
		return nil, err
	}
	s.openDoor()
	if err := s.openKernel(); err != nil {
		return nil, err
	}
	return s, s.openStages()
}

func (s *Sensor) path(name string) string { return filepath.Join(s.cfg.StateDir, name) }

func (s *Sensor) onClose(f func() error) { s.closers = append(s.closers, f) }

// close undoes New, newest first.
func (s *Sensor) close() error {
	var problems []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		problems = append(problems, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(problems...)
}
