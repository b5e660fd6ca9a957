// Package uplink keeps this host's session with the coordinator: records out of
// the spool, grants in, the certificate renewed.
//
// Invariant: a record leaves the spool only by an acknowledgement, which means
// that a quorum has it on disk. One session at a time, with whichever node
// answers; a node that dies costs nothing but the time to notice.
package uplink

import (
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Spool is where records wait (package spool).
type Spool interface {
	Next(ctx context.Context, max int) (boot []byte, prev uint64, recs []*sensorv1.Record, err error)
	Acknowledge(boot []byte, seq uint64) error
	Rewind(boot []byte, seq uint64)
	// Restart hands everything unacknowledged out again and names the stream that comes first.
	Restart() (boot []byte)
}

const (
	maxBackoff   = 30 * time.Second
	firstBackoff = 250 * time.Millisecond
	// settled is how long a session must have lasted to count as one that worked:
	// a node that welcomes and hangs up must not be called again at once.
	settled = 5 * time.Second
	// maxGrants wait for the responder; each is an operator's act.
	maxGrants = 64
)

// Config says who this host is and what to do with what comes in.
type Config struct {
	// Identity is who this host is, from LoadIdentity or Enroll.
	Identity *Identity
	// Nodes are addresses from the configuration, used beside those that the
	// cluster itself names. HOST:PORT, UDP.
	Nodes []string
	// Facts are asked for at every session.
	Facts func() *sensorv1.HostFacts
	// Version of the sensor.
	Version string
	// Logger takes one line for each change of state, not for each attempt.
	Logger *slog.Logger
	// OnGrant acts on a grant, one at a time, in order. Its context is Run's: an
	// action outlives the session that ordered it. Nil refuses grants.
	OnGrant func(context.Context, *sensorv1.SignedGrant) *sensorv1.GrantResult
	// OnIntent takes the newest intent that a node has, when a session begins and when
	// one is applied, unverified; and the labels that the cluster has for this host,
	// nil when they are not told. It may be nil.
	OnIntent func(signed *sensorv1.SignedIntent, labels map[string]string)
	// OnQuestion answers a question in pieces, of which the last has Done set, one question
	// at a time. Its context ends with the session, or when nobody wants the answer any more;
	// an error of send is for it to return. Nil: this sensor answers none, and says so.
	OnQuestion func(ctx context.Context, ask *sensorv1.Ask, send func(*sensorv1.Answer) error) error
	// OnTaint takes a connection that a suspect storyline of another host opened to this
	// one; it must not wait. Nil says to nodes that this sensor takes none.
	OnTaint func(*sensorv1.CarriedTaint)
	// OnRules takes the rules that a node would have this host use, unverified, and must not
	// wait for them to be in use; RulesHeld says which are. Both or none may be nil.
	OnRules   func(*sensorv1.Rules)
	RulesHeld func() *sensorv1.RulesHeld
	// OnNodes hears of a changed node list. It may be nil.
	OnNodes func([]*sensorv1.Node)
	// OnSignedNodes takes the list of nodes that an admin signed, with every session and
	// when it changes, unverified. It may be nil.
	OnSignedNodes func(*sensorv1.SignedNodes)
	// OnRevocations takes the list of who is no operator any more in the same way, before
	// anything else that a node brings. It may be nil.
	OnRevocations func(*sensorv1.SignedRevocations)
	// Revoked says why what somebody with this chain signed counts no more. It may be nil.
	Revoked func(chain [][]byte) error
	// RenewSpread is over how long sensors spread their renewals when another authority
	// signs, so that they do not come all at once. Default 10 min.
	RenewSpread time.Duration
	// OnPack takes a baseline pack, unverified, and OnLearning whether the host may learn and
	// what it is to forget; it answers each order. They may be nil. Packs are the payloads' hashes of
	// the packs in use, of the host's role and of the fleet, nil for none.
	OnPack     func(*sensorv1.SignedPack)
	OnLearning func(*sensorv1.Learning) []*sensorv1.Unlearnt
	Packs      func() (role, fleet []byte)
	// Pinned are the only addresses worth dialling while this host is isolated, none
	// while it is not. It may be nil.
	Pinned func() []netip.AddrPort
	// KernelBoot names the kernel's boot. Default: from /proc/sys/kernel/random/boot_id.
	KernelBoot []byte
	// KeepAlive and MaxIdle of the connection. Default 5 s and 30 s. The node takes
	// this host for silent when it hears nothing for 4 s more than KeepAlive.
	KeepAlive, MaxIdle time.Duration
	// Silence is how long a node may leave what was sent unanswered on the wire
	// (not: uncommitted) before it is taken for dead. Default 3 s.
	Silence time.Duration
	// DialTimeout for one node. Default 3 s.
	DialTimeout time.Duration
	// MaxBackoff between two rounds over all nodes. Default 30 s.
	MaxBackoff time.Duration
}

func (c *Config) populate() error {
	if c.Identity == nil {
		return fmt.Errorf("preparing uplink: %w", ErrNotEnrolled)
	}
	if c.Facts == nil {
		c.Facts = func() *sensorv1.HostFacts { return &sensorv1.HostFacts{} }
	}
	if c.KernelBoot == nil {
		c.KernelBoot = kernelBoot()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for value, fallback := range map[*time.Duration]time.Duration{
		&c.KeepAlive: link.DefaultKeepAlive, &c.MaxIdle: link.DefaultMaxIdle,
		&c.Silence: 3 * time.Second, &c.DialTimeout: 3 * time.Second, &c.MaxBackoff: maxBackoff,
		&c.RenewSpread: 10 * time.Minute,
	} {
		if *value <= 0 {
			*value = fallback
		}
	}
	return nil
}

// idBytes of the names of the kernel's boot and of this process.
const idBytes = 16

// kernelBoot is a hash: the boot_id itself is nobody's business. Nil when it cannot be read.
func kernelBoot() []byte {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(id)
	return sum[:idBytes]
}

// Uplink is made by New and does its work in Run.
type Uplink struct {
	cfg    Config
	spool  Spool
	id     *Identity
	grants chan *sensorv1.SignedGrant
	// instance names this process: a node tells by it a sensor that was frozen from a new one.
	instance []byte
	tokens   *link.Tokens
	// askAgain is when a host that may not come back, for notBack, asks again; Run's.
	askAgain time.Time
	notBack  error
	// packAt is when a pack was handed on last; the session's learner's.
	packAt time.Time

	mu      sync.Mutex
	current *session
	told    string // the problem that was last logged
	skew    time.Duration
}

// New checks the configuration.
func New(cfg Config, sp Spool) (*Uplink, error) {
	if err := cfg.populate(); err != nil {
		return nil, err
	}
	u := &Uplink{cfg: cfg, spool: sp, id: cfg.Identity, grants: make(chan *sensorv1.SignedGrant, maxGrants), instance: make([]byte, idBytes), tokens: link.NewTokens()}
	_, _ = crand.Read(u.instance) // crypto/rand never fails
	if len(u.Known()) == 0 {
		return nil, errors.New("preparing uplink: no coordinator is known; set coordinators: [HOST:PORT] in the configuration")
	}
	return u, nil
}

// Nodes are the addresses to dial: what is open to this host while it is isolated,
// else those that are known.
func (u *Uplink) Nodes() []string {
	if u.cfg.Pinned != nil {
		if pinned := u.cfg.Pinned(); len(pinned) > 0 {
			return literals(pinned)
		}
	}
	return u.Known()
}

func literals(endpoints []netip.AddrPort) []string {
	texts := make([]string, len(endpoints))
	for i, e := range endpoints {
		texts[i] = e.String()
	}
	return texts
}

// Known are the addresses of all nodes, as the cluster named them last, then those of
// the configuration.
func (u *Uplink) Known() []string {
	nodes := u.id.Nodes()
	for _, n := range u.cfg.Nodes {
		if !slices.Contains(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// Skew is how far the coordinator's clock is ahead of ours, by the last session.
func (u *Uplink) Skew() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.skew
}

// Run keeps a session until ctx ends; then it says goodbye and returns nil. A cause of
// ctx other than context.Canceled is told as what the sensor failed of.
func (u *Uplink) Run(ctx context.Context) error {
	var acting sync.WaitGroup
	acting.Go(func() { u.act(ctx) })
	defer acting.Wait()
	nodes := u.Nodes()
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	backoff := firstBackoff
	for ctx.Err() == nil {
		worked := false
		wait := time.Duration(0)
		for _, node := range nodes {
			began := time.Now()
			err := u.session(ctx, node)
			if ctx.Err() != nil {
				return nil
			}
			u.report(node, err)
			var refused *RefusedError
			if errors.As(err, &refused) {
				wait = max(wait, refused.RetryAfter)
			}
			if time.Since(began) >= settled {
				// The others are fresh: try them all before pausing. The node that was
				// lost comes last, since it is the likeliest to be dead.
				worked, nodes = true, u.order(node)
				break
			}
		}
		if worked {
			backoff = firstBackoff
			continue
		}
		u.reloadExpired()
		// Full jitter: ten thousand sensors that lost the same node must not
		// come back in step.
		u.pause(ctx, min(max(rand.N(backoff), min(wait, u.cfg.MaxBackoff)), u.cfg.MaxBackoff))
		backoff = min(2*backoff, u.cfg.MaxBackoff)
		nodes = u.order("")
	}
	return nil
}

// order is the nodes in a random order, with one of them last.
func (u *Uplink) order(last string) []string {
	nodes := u.Nodes()
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	slices.SortStableFunc(nodes, func(a, b string) int {
		switch {
		case a == last && b != last:
			return 1
		case b == last && a != last:
			return -1
		}
		return 0
	})
	return nodes
}

func (u *Uplink) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// reloadExpired looks whether somebody has enrolled this host again meanwhile.
func (u *Uplink) reloadExpired() {
	if u.id.expired(time.Now()) == nil {
		return
	}
	if err := u.id.Reload(); err != nil {
		u.report("", fmt.Errorf("looking for a new certificate: %w; if this host was just enrolled again, restart the sensor", err))
	}
}

// report logs a failure when it is another one than before.
func (u *Uplink) report(node string, err error) {
	if err == nil {
		return
	}
	level, problem, remedy := u.explain(err)
	u.mu.Lock()
	known := u.told == problem
	u.told = problem
	u.mu.Unlock()
	if known {
		return
	}
	args := []any{"problem", problem, "node", node, "err", err}
	if remedy != "" {
		args = append(args, "remedy", remedy)
	}
	u.cfg.Logger.Log(context.Background(), level, "no session with the coordinator; records wait in the spool", args...)
}

// explain names a failure and, when it is not the network's to heal, its remedy.
func (u *Uplink) explain(err error) (level slog.Level, problem, remedy string) {
	again := howToEnroll(u.Known())
	var refused *RefusedError
	var closed *link.ClosedError
	switch {
	case errors.As(err, &refused):
		switch refused.Code {
		case "no-leader", "busy", "internal":
			return slog.LevelWarn, refused.Code, ""
		case "unknown-host", "bad-certificate":
			return slog.LevelError, refused.Code, again
		}
		return slog.LevelError, refused.Code, refused.Message
	case errors.Is(err, ErrExpired), errors.Is(err, link.ErrExpired):
		return slog.LevelError, "expired-certificate", again
	case errors.Is(err, link.ErrForeignCA):
		return slog.LevelError, "foreign-ca", "this host belongs to another cluster than that node; correct coordinators in the configuration, or enrol with --force"
	case errors.Is(err, link.ErrPeerExpired):
		return slog.LevelError, "node-certificate-expired", "compare this machine's clock with the node's; if they agree, look at the node's log"
	case errors.Is(err, link.ErrWrongPeer):
		return slog.LevelError, "wrong-peer", "correct coordinators in the configuration"
	case errors.As(err, &closed):
		switch closed.Code {
		case link.CodeRevoked:
			return slog.LevelError, "revoked", again
		case link.CodeShutdown, link.CodeExpired, link.CodeOK:
			return slog.LevelInfo, fmt.Sprintf("closed-%d", closed.Code), ""
		case link.CodeSuperseded:
			return slog.LevelWarn, "superseded", "another sensor may run with a copy of this host's identity; enrol one of them again with --force"
		}
		return slog.LevelWarn, fmt.Sprintf("closed-%d", closed.Code), ""
	case errors.Is(err, link.ErrUnreachable):
		return slog.LevelWarn, "unreachable", ""
	}
	return slog.LevelWarn, "lost", ""
}

// established ends a series of failures.
func (u *Uplink) established(node string, w *sensorv1.Welcome) {
	u.mu.Lock()
	u.told = ""
	u.mu.Unlock()
	u.cfg.Logger.Info("session with the coordinator", "node", text(w.GetNodeId()), "address", node, "coordinator_version", text(w.GetCoordinatorVersion()))
}

// act hands grants to the responder, one after another.
func (u *Uplink) act(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case g := <-u.grants:
			if u.cfg.OnGrant == nil {
				continue
			}
			result := u.cfg.OnGrant(ctx, g)
			if result == nil {
				continue
			}
			// Should the session have ended, the durable report tells it all the same.
			u.mu.Lock()
			s := u.current
			u.mu.Unlock()
			if s != nil {
				_ = s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_GrantResult{GrantResult: result}})
			}
		}
	}
}

// Reachable proves that a node at one of the addresses answers now, by a handshake on
// a new flow: both directions work, and it is a node of this cluster. It does not use
// the session.
func (u *Uplink) Reachable(ctx context.Context, at []netip.AddrPort) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	nodes := literals(at)
	results := make(chan error, len(nodes))
	for _, node := range nodes {
		go func() {
			conn, err := u.dial(ctx, node)
			if err == nil {
				_ = conn.CloseWithReason(link.CodeOK, "")
			}
			results <- err
		}()
	}
	reached := false
	var failures []error
	for range nodes {
		err := <-results
		if err == nil {
			reached = true
			cancel() // the others need not finish
		}
		failures = append(failures, err)
	}
	if reached {
		return nil
	}
	return fmt.Errorf("reaching a coordinator: %w", errors.Join(failures...))
}

// dial falls back on the address that a name had when it last worked.
func (u *Uplink) dial(ctx context.Context, node string) (*link.Conn, error) {
	return u.reach(ctx, node, link.ALPNSensor, link.DialConfig{Credentials: u.id.Credentials(), KeepAlive: u.cfg.KeepAlive, MaxIdle: u.cfg.MaxIdle, Tokens: u.tokens})
}

// reach dials a node by its name, or by the last address that the name had.
func (u *Uplink) reach(ctx context.Context, node, alpn string, cfg link.DialConfig) (*link.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, u.cfg.DialTimeout)
	defer cancel()
	remembered := u.id.Resolved(node)
	attempt := ctx
	if remembered != "" {
		var stop context.CancelFunc
		attempt, stop = context.WithTimeout(ctx, u.cfg.DialTimeout/2)
		defer stop()
	}
	conn, err := link.Dial(attempt, node, alpn, cfg)
	if err != nil && remembered != "" && errors.Is(err, link.ErrUnreachable) {
		conn, err = link.Dial(ctx, remembered, alpn, cfg)
	}
	if err != nil {
		return nil, err
	}
	if err := u.id.setResolved(node, conn.RemoteAddr().String()); err != nil {
		u.cfg.Logger.Warn("remembering a node's address", "err", err)
	}
	return conn, nil
}
