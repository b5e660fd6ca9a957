package consensus

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/failpoint"
	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
)

var (
	// ErrNoLeader: the command was certainly not committed, as no leader could be
	// reached in time. Trying again is safe.
	ErrNoLeader = errors.New("cluster has no reachable leader")
	// ErrUncertain: the command may or may not have been committed. Proposing it
	// again is safe when it carries an idempotency key, or is an ingest (its
	// positions make it so); for these Propose has tried again already.
	ErrUncertain = errors.New("outcome is uncertain")
	// ErrClosed: the node is closing or closed, or was removed from the cluster.
	ErrClosed = errors.New("node is closed")
	// ErrInvalid: the command can never be committed as it is.
	ErrInvalid = errors.New("command is invalid")
	// ErrRefused: the leader will not do what was asked.
	ErrRefused = errors.New("refused")
	// ErrLog: the raft log cannot be read, or does not reach to the state.
	ErrLog = errors.New("raft log is damaged")
	// ErrAhead: the store holds entries that the log does not have.
	ErrAhead = errors.New("state is ahead of the raft log")
)

// MaxCommand is the largest encoded command, in bytes; near 64 KiB is best.
const MaxCommand = frame.MaxFrame - 1024

// Config says what a node is.
type Config struct {
	// ID names the node in the cluster, for ever. It is its certificate's id.
	ID string
	// Address is where peers reach this node, host:port. Default: the
	// listener's own address, which is right only when it is not a wildcard.
	Address string
	// DataDir holds state.db and raft/. It must exist and be this node's alone.
	DataDir string
	// Listener dials peers. Its owner serves ALPN vedette-raft/1 with
	// Node.ServeConn, and closes it after the node.
	Listener *link.Listener
	// Bootstrap makes a new cluster of this node alone, when DataDir is empty.
	// On a node with a log it does nothing, so it may stay set.
	Bootstrap bool
	// Logger takes raft's messages too.
	Logger *slog.Logger
	// Meter counts what happens; nil makes one that nobody reads.
	Meter *meter.Meter
	// Version and CertificateEnds are told to the other nodes when they ask; either may
	// be empty.
	Version         string
	CertificateEnds func() time.Time
	// AuthorityKey is the key of an authority, by its name, for members that lack it. It may be nil.
	AuthorityKey func(name []byte) ([]byte, error)

	// HeartbeatTimeout is how long a follower waits for its leader before it
	// asks for an election (raft draws 1 to 2 times it), and as long again for
	// an election to succeed. Default 700 ms: writes resume within 3 s of a
	// leader's death, and a processor that is busy for half a second does not
	// start an election.
	HeartbeatTimeout time.Duration
	// ProposeTimeout bounds a Propose, Barrier or membership change whose context
	// has no deadline. Default 10 s.
	ProposeTimeout time.Duration
	// SnapshotThreshold is after how many entries a snapshot is taken, and
	// TrailingLogs how many entries are kept behind it, so that a follower that
	// was away shortly catches up from the log. Default 4096 each: 256 MiB of
	// log at 64 KiB an entry.
	SnapshotThreshold, TrailingLogs uint64
	// SnapshotInterval is how often the threshold is looked at. Default 30 s:
	// not so often that a large state is copied all the time.
	SnapshotInterval time.Duration
	// LookPeriod is how often a node asks the others how they are, so that it can say
	// since when one is away although nobody has asked before. Default 5 s.
	LookPeriod time.Duration
	// CheckEvery is after how many log indexes the nodes compare their states, and SliceRows
	// how many rows they then read; all nodes must have the same. Default store.CheckEvery
	// and store.SliceRows.
	CheckEvery uint64
	SliceRows  int64
	// StableFor is how long a new node must have been well, and up to the log's end, before it
	// votes. A leader that leads for less than that promotes whoever is well. Default 10 s.
	StableFor time.Duration
	// DeadAfter is how long a node does not answer before the leader removes it, if three
	// others stay and a majority of those answers. Default 1 h; negative: never.
	DeadAfter time.Duration
	// Speaks is the highest number of a command that the node says it knows. Default: what it
	// does know; a test makes an older release of it with less.
	Speaks uint32
	// SteerPeriod is how often the leader looks for either. Default 250 ms.
	SteerPeriod time.Duration
}

func (c *Config) populate() error {
	var problems []error
	if c.ID == "" {
		problems = append(problems, errors.New("ID is empty"))
	}
	if c.DataDir == "" {
		problems = append(problems, errors.New("DataDir is empty"))
	}
	if c.Listener == nil {
		problems = append(problems, errors.New("Listener is nil"))
	} else if c.Address == "" {
		c.Address = c.Listener.Addr().String()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Speaks == 0 {
		c.Speaks = newestCommand()
	}
	if c.Meter == nil {
		c.Meter = meter.New(Kinds()...)
	}
	for value, fallback := range map[*time.Duration]time.Duration{
		&c.HeartbeatTimeout: 700 * time.Millisecond, &c.ProposeTimeout: 10 * time.Second, &c.SnapshotInterval: time.Duration(failpoint.Number("snapshot-interval-ms", 30_000)) * time.Millisecond,
		&c.LookPeriod: time.Duration(failpoint.Number("look-ms", 5000)) * time.Millisecond,
		&c.StableFor:  10 * time.Second, &c.DeadAfter: time.Hour, &c.SteerPeriod: 250 * time.Millisecond,
	} {
		if *value == 0 {
			*value = fallback
		}
	}
	for value, fallback := range map[*uint64]uint64{&c.SnapshotThreshold: failpoint.Number("snapshot-threshold", 4096), &c.TrailingLogs: failpoint.Number("trailing-logs", 4096)} {
		if *value == 0 {
			*value = fallback
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("configuring consensus: %w", errors.Join(problems...))
	}
	return nil
}
