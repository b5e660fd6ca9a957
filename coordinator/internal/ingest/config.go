package ingest

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Log is the replicated log, from any node.
type Log interface {
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error)
	Subscribe(fn func(index uint64, cmd *raftv1.Command, res *raftv1.Result)) (cancel func())
	ReadBarrier(ctx context.Context) error
	// Leader is who leads, as far as this node knows.
	Leader() (id, addr string, ok bool)
}

// Store is what ingest reads of the replicated state on this node.
type Store interface {
	// Session is the number of a host's newest session; an error for an unknown host.
	Session(ctx context.Context, host string) (number uint64, connected bool, err error)
	// Position is the last sequence stored of a host's boot; 0 when there is none.
	Position(ctx context.Context, host string, boot []byte) (uint64, error)
	// Host is one host with its labels.
	Host(ctx context.Context, id string) (*operatorv1.Host, error)
	// WaitApplied returns when this node's store holds the log's entry of that index.
	WaitApplied(ctx context.Context, index uint64) error
}

// Presence is which sessions the state has.
type Presence interface {
	// SessionsAt are the hosts that have their session at a node, and its number.
	SessionsAt(ctx context.Context, node string) (map[string]uint64, error)
}

// Orders is what ingest reads of what sensors are to be told.
type Orders interface {
	// PendingGrants are the grants that the host has not answered, oldest first, with their operations.
	PendingGrants(ctx context.Context, host string) (operations []string, grants []*sensorv1.SignedGrant, err error)
	// OperationHosts are the ids of an operation's hosts, ascending.
	OperationHosts(ctx context.Context, operation string) ([]string, error)
	// Order is an operation as a whole.
	Order(ctx context.Context, operation string, now time.Time) (*operatorv1.Operation, error)
	// Intent is a version of the intent, the newest for 0; nil when there is none.
	Intent(ctx context.Context, version uint64) (*sensorv1.SignedIntent, error)
}

// Members is who belongs to the cluster, and where its nodes are.
type Members interface {
	// RemovedHosts are the ids of those whose identity counts no more.
	RemovedHosts(ctx context.Context) ([]string, error)
	Nodes(ctx context.Context) ([]*sensorv1.Node, error)
	// SignedNodes is the newest list that an admin signed; nil when there is none.
	SignedNodes(ctx context.Context) (*sensorv1.SignedNodes, error)
	// Revocations is who is no operator any more, as an admin signed it; nil for nobody.
	Revocations(ctx context.Context) (*sensorv1.SignedRevocations, error)
}

// Tokens is what ingest reads of join tokens.
type Tokens interface {
	// Enrolled is the host that a sensor's token was spent on, with the hash of its newest key and
	// the token's end (Unix ns); "" when it was spent on none that counts.
	Enrolled(ctx context.Context, token string) (host string, key []byte, expires int64, err error)
}

// Trust is which authorities are trusted, as an admin signed it; nil where none was ever.
type Trust interface {
	Trust(ctx context.Context) (*sensorv1.SignedTrust, error)
}

// Config of a Server.
type Config struct {
	// NodeID is this node's id: it stands in Welcome and in what this node proposes.
	NodeID string
	// Version is the coordinator's, told to sensors.
	Version string
	// Authority signs what enrols and renews.
	Authority *identity.Authority
	// Operators is the certificate of the operators' authority, given to what enrols.
	Operators func() *x509.Certificate
	// TrustEpoch is the epoch of the list of trusted authorities that this node goes by; nil: 0.
	TrustEpoch func() uint64
	// Log, Store, Presence, Orders, Members, Tokens, Trust and Rules are the replicated log and the state that it makes.
	Log      Log
	Store    Store
	Presence Presence
	Orders   Orders
	Members  Members
	Tokens   Tokens
	Trust    Trust
	// Learning and Packs are what hosts are to learn and forget; nil tells them nothing of it.
	Learning Learning
	Packs    Packs
	Rules    Rules
	// Logger takes what an administrator should know; nil discards it.
	Logger *slog.Logger
	// Meter counts what happens; nil makes one that nobody reads.
	Meter *meter.Meter
	// CoalesceBytes and CoalesceDelay: batches of many hosts become one log entry
	// when they sum up to so many bytes (default 64 KiB) or the first of them has
	// waited so long (default 20 ms). An fsync costs the same for one as for many.
	CoalesceBytes int
	CoalesceDelay time.Duration
	// RoutineDelay is how long a batch may wait that is one window's summary and
	// nothing else (default 200 ms): nobody acts on it, and nearly all are such.
	RoutineDelay time.Duration
	// MaxInflightBytes bounds what this node holds of batches that are not yet
	// committed (default 64 MiB). Beyond it sessions are not read: the sensors spool.
	MaxInflightBytes int64
	// MaxSessions bounds the sessions of this node (default 20,000).
	MaxSessions int
	// CommitTimeout is how long a batch may wait for a quorum before the session is
	// closed so that the sensor tries another node (default 4 s).
	CommitTimeout time.Duration
	// HelloTimeout is how long a new connection may stay silent (default 10 s).
	HelloTimeout time.Duration
	// Now is the clock.
	Now func() time.Time
}

func (c *Config) populate() error {
	var problems []error
	if c.NodeID == "" {
		problems = append(problems, errors.New("NodeID is empty"))
	}
	if c.Authority == nil || c.Operators == nil || c.Log == nil || c.Store == nil || c.Presence == nil || c.Orders == nil || c.Members == nil || c.Tokens == nil || c.Trust == nil || c.Rules == nil {
		problems = append(problems, errors.New("Authority, Operators, Log, Store, Presence, Orders, Members, Tokens, Trust and Rules must be set"))
	}
	if len(problems) > 0 {
		return fmt.Errorf("ingest configuration: %w", errors.Join(problems...))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Meter == nil {
		c.Meter = meter.New()
	}
	if c.CoalesceBytes <= 0 {
		c.CoalesceBytes = 64 << 10
	}
	if c.CoalesceDelay <= 0 {
		c.CoalesceDelay = 20 * time.Millisecond
	}
	if c.RoutineDelay <= 0 {
		c.RoutineDelay = 200 * time.Millisecond
	}
	if c.MaxInflightBytes <= 0 {
		c.MaxInflightBytes = 64 << 20
	}
	if c.MaxSessions <= 0 {
		c.MaxSessions = 20000
	}
	if c.CommitTimeout <= 0 {
		c.CommitTimeout = 4 * time.Second
	}
	if c.HelloTimeout <= 0 {
		c.HelloTimeout = 10 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.TrustEpoch == nil {
		c.TrustEpoch = func() uint64 { return 0 }
	}
	return nil
}
