// Package coordinator runs one node of the cluster: it wires identity, link,
// consensus, ingest, control and the engines together and owns their life.
//
// Its invariant is the order of things: nothing is served before the node's
// identity is proved to belong to its data, and what is stopped is stopped in
// the reverse order, so that whatever was acknowledged is on disk.
package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/control"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/correlate"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/export"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/investigate"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/notify"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/respond"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/retention"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/rings"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/roles"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/rollout"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/silence"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/witness"
	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/coordinator/internal/ingest"
	"github.com/vedette-edr/vedette/coordinator/internal/inquire"
	"github.com/vedette-edr/vedette/coordinator/internal/journal"
	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

var (
	// ErrRemoved: the cluster has removed this node.
	ErrRemoved = errors.New("this node was removed from its cluster: remove its data directory and join again with a new token")
	// ErrOtherCluster: the state in the data directory is not of the identity's cluster.
	ErrOtherCluster = errors.New("the state in this data directory belongs to another cluster")
	// ErrInUse: another process has the data directory.
	ErrInUse = errors.New("another vedette-coordinator runs on this data directory")
)

const (
	// retryPause is between two attempts to take part in the cluster.
	retryPause = 500 * time.Millisecond
	// removedPause is how often a node looks whether it is still a member; twice
	// in a row it must not be, so that a log that is being rewritten ends nothing.
	removedPause = 2 * time.Second
)

// Coordinator is one node.
type Coordinator struct {
	cfg      Config
	identity *identity.Node
	ready    chan struct{}
	started  sync.Once

	mu   sync.Mutex // guards node
	node *consensus.Node
}

// New reads the data directory and checks the configuration against it. Nothing
// runs before Run.
func New(cfg Config) (*Coordinator, error) {
	if cfg.Data == "" {
		return nil, errors.New("configuration: data: name the node's directory")
	}
	id, err := identity.Load(cfg.Data)
	if err != nil {
		return nil, err
	}
	m := id.Membership()
	cfg.populate(m)
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.ID != m.NodeID {
		return nil, fmt.Errorf("configuration: id: %q, but %s is the directory of node %q", cfg.ID, cfg.Data, m.NodeID)
	}
	if err := id.SetNames(certificateNames(&cfg)); err != nil {
		return nil, err
	}
	return &Coordinator{cfg: cfg, identity: id, ready: make(chan struct{})}, nil
}

// Config is the effective configuration.
func (c *Coordinator) Config() Config { return c.cfg }

// ClusterID is the cluster's id.
func (c *Coordinator) ClusterID() string { return c.identity.Membership().ClusterID }

// Ready is closed when the node serves; it may not have a leader yet.
func (c *Coordinator) Ready() <-chan struct{} { return c.ready }

// Leader is the id of the node that leads, as far as this one knows; ok is
// false when it knows none.
func (c *Coordinator) Leader() (id string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.node == nil {
		return "", false
	}
	id, _, ok = c.node.Leader()
	return id, ok
}

// certificateNames are the hosts at which an ordinary HTTPS client may reach the node.
func certificateNames(cfg *Config) []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	for _, addr := range []string{cfg.Advertise, cfg.OperatorAdvertise} {
		if host, _, err := net.SplitHostPort(addr); err == nil && host != "" && !slices.Contains(names, host) {
			names = append(names, host)
		}
	}
	return names
}

// Run serves until ctx ends, or until something that the node cannot do without
// fails. It may be called once.
func (c *Coordinator) Run(ctx context.Context) (err error) {
	first := false
	c.started.Do(func() { first = true })
	if !first {
		return errors.New("running a coordinator twice")
	}
	lock, err := lockData(c.cfg.Data)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	parts := &parts{journal: new(journal.Journal), meter: meter.New(consensus.Kinds()...)}
	logger := slog.New(parts.journal.Handler(c.cfg.Logger.Handler())).With("node", c.cfg.ID)
	secret, err := c.identity.Authority().NodesSecret()
	if err != nil {
		return err
	}
	listener, err := link.Listen(c.cfg.Listen, link.ListenConfig{Credentials: c.identity.Credentials(nil), SharedSecret: secret, Logger: logger})
	if err != nil {
		return fmt.Errorf("opening the port for sensors and nodes: %w", err)
	}
	defer func() { err = errors.Join(err, listener.Close()) }()
	operators, err := net.Listen("tcp", c.cfg.OperatorListen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("listening for operators on TCP %s: another process has the port: stop it ('ss -ltnp' names it) or change operator_listen: %w", c.cfg.OperatorListen, err)
	}
	if err != nil {
		return fmt.Errorf("listening for operators: %w", err)
	}
	defer func() { _ = operators.Close() }() // control has closed it, unless it never ran
	if parts.open, err = c.listenOpen(logger); err != nil {
		return err
	}
	if parts.open != nil {
		defer func() { _ = parts.open.Close() }() // as above
	}

	opened := opening(ctx, startLimit, logger)
	node, err := consensus.Open(consensus.Config{ID: c.cfg.ID, Address: c.cfg.Advertise, DataDir: c.cfg.Data, Listener: listener,
		Bootstrap: c.identity.Membership().Founder, Logger: logger, Meter: parts.meter, Version: c.cfg.Version, CertificateEnds: c.certificateEnds,
		StableFor: c.cfg.StableFor, DeadAfter: c.cfg.DeadAfter, AuthorityKey: c.identity.AuthorityKey})
	opened()
	if err != nil {
		return fmt.Errorf("opening the log and state in %s: %w", c.cfg.Data, err)
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	if have, err := node.DB().ClusterID(ctx); err != nil {
		return err
	} else if have != "" && have != c.ClusterID() {
		return fmt.Errorf("%s: the state is of cluster %s, the identity of %s: %w", c.cfg.Data, have, c.ClusterID(), ErrOtherCluster)
	}
	c.mu.Lock()
	c.node = node
	c.mu.Unlock()
	parts.logger, parts.listener, parts.operators, parts.node = logger, listener, operators, node
	parts.figures()
	return c.serve(ctx, parts)
}

func (c *Coordinator) serve(ctx context.Context, p *parts) error {
	logger, listener, operators, node := p.logger, p.listener, p.operators, p.node
	sensors, err := ingest.New(ingest.Config{NodeID: c.cfg.ID, Version: c.cfg.Version, Authority: c.identity.Authority(),
		Operators: c.identity.Operators, TrustEpoch: c.identity.TrustEpoch, Log: node, Store: node.DB(), Presence: node.DB(), Orders: node.DB(), Members: node.DB(),
		Tokens: node.DB(), Trust: node.DB(), Learning: node.DB(), Packs: node.DB(), Rules: node.DB(), Logger: logger, Meter: p.meter})
	if err != nil {
		return err
	}
	asker := inquire.New(c.cfg.ID, sensors, node)
	node.ServeQuestions(asker.Serve)
	api, err := control.New(control.Config{NodeID: c.cfg.ID, Version: c.cfg.Version, Authority: c.identity.Authority(),
		Operators: c.identity.Operators, PrepareRoot: c.identity.Prepare, Certificate: c.identity.Certificate, Log: node, Cluster: node, DB: node.DB(), Logger: logger, SilentAfter: c.cfg.SilentAfter,
		Hunts: asker, Meter: p.meter, Journal: p.journal, Configuration: c.cfg.text()})
	if err != nil {
		return err
	}
	incidents, err := correlate.New(correlate.Config{Log: node, DB: node.DB(), Logger: logger, Investigated: investigate.Within})
	if err != nil {
		return err
	}
	investigator, err := investigate.New(investigate.Config{NodeID: c.cfg.ID, Log: node, DB: node.DB(), Asker: asker, Logger: logger})
	if err != nil {
		return err
	}
	responses, err := respond.New(respond.Config{Log: node, DB: node.DB(), Logger: logger})
	if err != nil {
		return err
	}
	silences, err := silence.New(silence.Config{Log: node, DB: node.DB(), Logger: logger})
	if err != nil {
		return err
	}
	sets, err := rings.New(rings.Config{Log: node, DB: node.DB(), Logger: logger})
	if err != nil {
		return err
	}
	words, err := witness.New(witness.Config{NodeID: c.cfg.ID, Cluster: c.ClusterID(), Certificate: c.identity.Certificate, Log: node, DB: node.DB(), Logger: logger})
	if err != nil {
		return err
	}
	history, err := retention.New(retention.Config{Log: node, DB: node.DB(), Logger: logger, Keep: c.cfg.Retention})
	if err != nil {
		return err
	}
	exports, err := export.New(export.Config{Log: node, DB: node.DB(), Sinks: c.cfg.Export, Cluster: c.ClusterID(), Meter: p.meter, Logger: logger})
	if err != nil {
		return err
	}
	groups, err := roles.New(roles.Config{Log: node, DB: node.DB(), Logger: logger})
	if err != nil {
		return err
	}
	changes, err := rollout.New(rollout.Config{Log: node, DB: node.DB(), Logger: logger})
	if err != nil {
		return err
	}
	node.AlarmsOf(exports.Alarms)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return words.Run(ctx) })
	if c.cfg.Notify.Program != "" {
		notices, err := notify.New(notify.Config{Log: node, DB: node.DB(), Logger: logger, Program: c.cfg.Notify.Program, Events: c.cfg.Notify.Events,
			Cluster: c.ClusterID(), Node: c.cfg.ID, Members: node.Looked})
		if err != nil {
			return err
		}
		group.Go(func() error { return notices.Run(ctx) })
	}
	group.Go(func() error {
		return listener.Serve(ctx, map[string]func(context.Context, *link.Conn){
			link.ALPNSensor: sensors.ServeSensor,
			link.ALPNEnroll: sensors.ServeEnroll,
			link.ALPNRaft:   node.ServeConn,
		})
	})
	group.Go(func() error { return sensors.Run(ctx) })
	group.Go(func() error { return api.Run(ctx, operators) })
	if p.open != nil {
		group.Go(func() error { return api.RunOpen(ctx, p.open) })
	}
	group.Go(func() error { return incidents.Run(ctx) })
	group.Go(func() error { return investigator.Run(ctx) })
	group.Go(func() error { return silences.Run(ctx) })
	group.Go(func() error { return sets.Run(ctx) })
	group.Go(func() error { return history.Run(ctx) })
	group.Go(func() error { return groups.Run(ctx) })
	group.Go(func() error { return changes.Run(ctx) })
	group.Go(func() error { return exports.Run(ctx) })
	group.Go(func() error { return responses.Run(ctx) })
	group.Go(func() error { return c.takePart(ctx, logger, node) })
	group.Go(func() error { return c.watchdog(ctx, node) })
	group.Go(func() error { return c.keepTrust(ctx, logger, node, listener) })
	group.Go(func() error {
		select {
		case <-node.Failed():
			return node.Fit() // the service is started again, and reads what its disk has
		case <-ctx.Done():
			return nil
		}
	})
	close(c.ready)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	c.warnOfContext(logger)
	logger.Info("serving", "cluster", c.ClusterID(), "udp", listener.Addr().String(), "tcp", operators.Addr().String(), "version", c.cfg.Version)
	context.AfterFunc(ctx, func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) })
	err = group.Wait()
	logger.Info("stopped")
	return err
}

// warnOfContext: the first admin's context is made on a node and must not stay on it.
func (c *Coordinator) warnOfContext(logger *slog.Logger) {
	path := filepath.Join(c.cfg.Data, AdminContext)
	if _, err := os.Stat(path); err != nil {
		return
	}
	if admin, err := client.LoadContext(path, ""); err == nil && !admin.HoldsRoot() {
		logger.Warn("the first admin's context lies on this node, and in it an authority that makes operators: whoever takes the node commands every host until it is revoked; move it to the admin's machine", "file", path)
		return
	}
	logger.Warn("the first admin's context lies on this node, and in it the root's key, which makes operators: whoever takes the node commands every host for good; move it to the admin's machine, and there take the key offline with 'vedette cluster root take-offline'", "file", path)
}

// takePart makes this node known to its cluster under its present addresses: a
// founder makes the cluster, a new node is admitted, a moved one says where it is.
func (c *Coordinator) takePart(ctx context.Context, logger *slog.Logger, node *consensus.Node) error {
	self := &sensorv1.Node{Id: c.cfg.ID, Address: c.cfg.Advertise, OperatorAddress: c.cfg.OperatorAdvertise}
	for said := ""; ; {
		err := c.introduce(ctx, node, self)
		switch {
		case err == nil:
			return c.staysPart(ctx, node)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrRemoved), node.Removed(ctx):
			return ErrRemoved
		case err.Error() != said:
			said = err.Error()
			logger.Warn("not part of the cluster yet; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryPause):
		}
	}
}

// staysPart ends with ErrRemoved when the cluster goes on without this node: it
// would answer operators with what was true when it was removed.
func (c *Coordinator) staysPart(ctx context.Context, node *consensus.Node) error {
	ticker := time.NewTicker(removedPause)
	defer ticker.Stop()
	for before := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := node.Removed(ctx)
		if before && now && ctx.Err() == nil {
			return ErrRemoved
		}
		before = now
	}
}

// lockData keeps the directory for this process until the file is closed. The
// kernel lets go of it however the process ends, so that nothing is left over.
func lockData(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w: stop it first ('fuser -v %s/state.db' names it)", dir, ErrInUse, dir)
		}
		return nil, fmt.Errorf("locking the data directory %s: %w", dir, err)
	}
	return f, nil
}

func (c *Coordinator) introduce(ctx context.Context, node *consensus.Node, self *sensorv1.Node) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// What this node has on disk may be old, or end before its own admission; but
	// whom to ask is in it, or in what it was given when it joined.
	nodes, err := node.DB().Nodes(ctx)
	if err != nil {
		return err
	}
	var others []string
	for _, n := range nodes {
		switch {
		case n.GetId() != self.GetId():
			others = append(others, n.GetAddress())
		case n.GetAddress() == self.GetAddress() && n.GetOperatorAddress() == self.GetOperatorAddress():
			return nil
		}
	}
	m := c.identity.Membership()
	for _, peer := range m.Peers {
		if peer.Address != self.GetAddress() && !slices.Contains(others, peer.Address) {
			others = append(others, peer.Address)
		}
	}
	if len(others) > 0 {
		return node.Join(ctx, others, self)
	}
	cluster, err := node.DB().ClusterID(ctx)
	if err != nil {
		return err
	}
	if cluster == "" {
		res, err := node.Propose(ctx, &raftv1.Command{Time: time.Now().UnixNano(), Actor: "node:" + self.GetId(), IdempotencyKey: "init-" + m.ClusterID,
			Body: &raftv1.Command_InitCluster{InitCluster: &raftv1.InitCluster{ClusterId: m.ClusterID}}})
		if err != nil {
			return err
		}
		if res.GetRejected() != "" {
			return fmt.Errorf("making the cluster: %s: %s", res.GetRejected(), res.GetMessage())
		}
	}
	return node.AddVoter(ctx, self)
}
