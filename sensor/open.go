package sensor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/baseline"
	"github.com/vedette-edr/vedette/sensor/internal/detect"
	"github.com/vedette-edr/vedette/sensor/internal/enrich"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/kernel"
	"github.com/vedette-edr/vedette/sensor/internal/respond"
	"github.com/vedette-edr/vedette/sensor/internal/session"
	"github.com/vedette-edr/vedette/sensor/internal/spool"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

// openResponder opens what acts, with what it needs: the spool that its reports
// go to and the uplink that proves a coordinator reachable.
func (s *Sensor) openResponder() (err error) {
	if s.spool, err = spool.Open(s.path("spool"), spool.Config{MaxBytes: s.cfg.SpoolMaxBytes, Logger: s.log}); err != nil {
		return fmt.Errorf("opening the spool: %w", err)
	}
	s.onClose(s.spool.Close)
	s.intent = openIntent(s.path("intent.json"), s.identity.Cluster, s.identity.HostID, s.identity.OperatorRoots, s.cfg.Labels, s.log)
	s.intent.revoked = func(chain [][]byte) error { return s.responder.Revoked(chain) }
	s.learning = openLearning(s.path("learning.json"), s.identity.Cluster, s.identity.HostID, s.identity.OperatorRoots, s.log)
	s.learning.revoked = s.intent.revoked
	s.rules = openRules(s.path("rules.json"), s.identity.Cluster, s.identity.OperatorRoots, s.log)
	s.rules.release = s.version
	s.rules.revoked = func(chain [][]byte) error { return s.responder.Revoked(chain) }
	s.uplink, err = uplink.New(uplink.Config{
		Identity: s.identity,
		Nodes:    s.cfg.Coordinators,
		Facts:    s.hostFacts,
		Version:  s.version,
		Logger:   s.log,
		OnGrant: func(ctx context.Context, g *sensorv1.SignedGrant) *sensorv1.GrantResult {
			return s.responder.Grant(ctx, g)
		},
		OnQuestion:    s.answer,
		OnIntent:      s.intent.take,
		OnPack:        s.learning.takePack,
		OnLearning:    s.learning.takeLearning,
		Packs:         s.learning.held,
		OnTaint:       s.carried.take,
		OnRules:       func(r *sensorv1.Rules) { s.rules.take(r) },
		RulesHeld:     func() *sensorv1.RulesHeld { return s.rules.held() },
		OnSignedNodes: func(signed *sensorv1.SignedNodes) { s.responder.TakeNodes(signed) },
		OnRevocations: func(signed *sensorv1.SignedRevocations) { s.responder.TakeRevocations(signed) },
		Revoked:       func(chain [][]byte) error { return s.responder.Revoked(chain) },
		Pinned:        func() []netip.AddrPort { return s.responder.Pinned() },
	}, s.spool)
	if err != nil {
		return fmt.Errorf("preparing the uplink: %w", err)
	}
	s.learning.skew = s.uplink.Skew
	s.nodes = newNodeBook(s.uplink.Known, s.identity.Resolved, s.log)
	s.responder, err = respond.New(respond.Config{
		StateDir:      s.cfg.StateDir,
		NodeAddresses: s.nodes.addresses,
		Roots:         s.identity.OperatorRoots,
		ClusterID:     s.identity.Cluster,
		HostID:        s.identity.HostID,
		Enabled:       s.cfg.Isolation.Enabled,
		ScopeKind:     s.cfg.Scope.Kind,
		NetNS:         s.isolationNamespace(),
		Intent:        s.intent.inForce,
		Corroborates:  s.corroborates,
		First:         s.openCut(),
		Contain:       s.containConfig(),
		Reachable:     s.uplink.Reachable,
		Report: func(status *sensorv1.IsolationStatus) {
			s.append(uplink.RecordFromIsolation(status), true)
		},
		Logger: s.log,
	})
	if err != nil {
		return fmt.Errorf("preparing containment: %w", err)
	}
	s.onClose(s.responder.Close)
	return nil
}

// isolationNamespace is the namespace that this sensor may cut: its scope's, or
// "" for the one that it is in, which needs no right to enter another.
func (s *Sensor) isolationNamespace() string {
	if s.cfg.Scope.Kind == "netns" && !s.seesItself() {
		return s.cfg.Scope.Path
	}
	return ""
}

func (s *Sensor) openKernel() (err error) {
	if _, err := kernel.Probe(); err != nil {
		return fmt.Errorf("looking at what this kernel allows: %w", err)
	}
	s.source, err = kernel.Open(kernel.Config{
		Scope:     kernel.Scope{Kind: s.cfg.Scope.Kind, Path: s.cfg.Scope.Path},
		KeepKnown: s.cfg.KernelBaseline,
		Watch:     s.cfg.Watch.set(),
		// A host whose intent lets it act by itself must not read its events by the clock.
		// What is decided when the programs are loaded holds until the next start.
		Prompt: s.intent.inForce().GetPolicy() != "",
		Logger: s.log,
	})
	if err != nil {
		return fmt.Errorf("attaching to the kernel: %w", err)
	}
	s.onClose(s.source.Close)
	if s.cut != nil {
		if err := s.source.Own(s.cut); err != nil {
			s.log.Warn("the first cut's programs are not watched for tampering", "error", err)
		}
	}
	return nil
}

func (s *Sensor) openStages() (err error) {
	if s.enricher, err = enrich.New(enrich.Config{Scoped: s.cfg.Scope.Kind != "host", Logger: s.log}); err != nil {
		return fmt.Errorf("preparing enrichment: %w", err)
	}
	s.sessions = session.New(session.Config{Find: s.enricher.Living, Logger: s.log})
	learnFor := s.cfg.Baseline.LearnFor
	if learnFor == 0 {
		learnFor = -1 // the stage's "at once"; its zero is the default
	}
	tellKnownEvery := s.cfg.Baseline.TellKnownEvery
	if tellKnownEvery == 0 {
		tellKnownEvery = -1
	}
	s.baseline, err = baseline.Open(s.path("baseline.db"), baseline.Config{
		Window: s.cfg.Baseline.Window, KnownWindows: s.cfg.Baseline.KnownWindows, LearnFor: learnFor,
		TellKnownEvery: tellKnownEvery, Logger: s.log,
	})
	if err != nil {
		return fmt.Errorf("opening the baseline: %w", err)
	}
	s.onClose(s.baseline.Close)
	s.learning.deciding = &s.keeper.deciding
	s.learning.begin(s.baseline, func() bool { return s.baseline.State().Learning }, s.source.Unknow)
	odds, told := s.baseline.Odds()
	s.detector, err = detect.New(detect.Config{
		RulesDir: s.cfg.RulesDir, AlertBudget: s.cfg.AlertBudget, Window: s.cfg.Baseline.Window, Odds: odds, Told: told, Logger: s.log,
	})
	if err != nil {
		return fmt.Errorf("loading rules: %w", err)
	}
	s.learning.judged = judgedBy{s.detector, s.baseline}
	s.rules.begin(s.useRules)
	return s.openRecorder()
}

// seed fills the process tree with what runs already.
func (s *Sensor) seed(ctx context.Context) error {
	running, err := s.source.Tasks(ctx)
	if err != nil {
		return fmt.Errorf("listing what runs already: %w", err)
	}
	tasks := make([]enrich.Task, len(running))
	for i, t := range running {
		tasks[i] = enrich.Task(t)
	}
	s.enricher.Seed(tasks)
	if foreignPIDs() {
		s.log.Warn("this sensor is in a PID namespace of its own: what is outside it is seen without what /proc tells; run it in the host's (--pid=host)")
		if pid := kernelPID(running); pid != 0 {
			s.pid = pid
		}
	}
	s.self = event.ProcessKey{PID: s.pid}
	for _, t := range running {
		if t.Key.PID == s.pid {
			s.self = t.Key
		}
	}
	s.source.SetSelf(s.self)
	return nil
}

// hostFacts is what the host says of itself at the start of each session.
func (s *Sensor) hostFacts() *sensorv1.HostFacts {
	facts := hostFacts(s.cfg)
	if s.source != nil {
		facts.CoverageGaps = s.source.CoverageGaps()
		s.gaps.told(facts.CoverageGaps)
	}
	return facts
}

func hostFacts(cfg Config) *sensorv1.HostFacts {
	facts := &sensorv1.HostFacts{Name: cfg.HostName, Labels: maps.Clone(cfg.Labels), Scope: cfg.Scope.String()}
	info, err := enrich.HostFacts()
	if err != nil {
		// A host that cannot be described is still protected.
		if facts.Name == "" {
			facts.Name, _ = os.Hostname()
		}
		return facts
	}
	if facts.Name == "" {
		facts.Name = info.Name
	}
	facts.Os, facts.Kernel, facts.Arch = info.OS, info.Kernel, info.Arch
	facts.MachineIdHash, facts.Addresses = info.MachineIDHash, info.Addresses
	return facts
}

// Enroll gives this host its identity and returns the host's id.
func Enroll(ctx context.Context, cfg Config, token string, force bool) (string, error) {
	if err := cfg.validate(); err != nil {
		return "", fmt.Errorf("checking config:\n%w", err)
	}
	if len(cfg.Coordinators) == 0 {
		return "", errors.New("no coordinator to enrol at: give --coordinator HOST:PORT or set coordinators in the config")
	}
	parsed, err := link.ParseToken(token)
	if err != nil {
		return "", fmt.Errorf("reading the token: %w; an operator makes one with: vedette token create", err)
	}
	dir := cfg.StateDir + "/identity"
	switch old, err := uplink.LoadIdentity(dir); {
	case errors.Is(err, uplink.ErrLocked): // also with force: the token serves once
		return "", fmt.Errorf("looking at the old identity: %w", err)
	case err == nil && !force:
		return "", fmt.Errorf("this host is enrolled already as %s in cluster %s: --force replaces its identity", old.HostID, old.Cluster)
	case err != nil && !errors.Is(err, uplink.ErrNotEnrolled) && !errors.Is(err, uplink.ErrExpired) && !errors.Is(err, fs.ErrNotExist) && !force:
		return "", fmt.Errorf("looking at the old identity: %w; --force replaces it", err)
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return "", fmt.Errorf("making the state folder: %w", err)
	}
	identity, err := uplink.Enroll(ctx, dir, cfg.Coordinators, parsed, hostFacts(cfg))
	if err != nil {
		return "", err
	}
	return identity.HostID, nil
}
