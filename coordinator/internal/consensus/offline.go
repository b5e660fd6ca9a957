package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// termLeap is how far the term of a cluster that one node goes on with lies above what is
// known of the former one. A node of that one which comes back can then make nobody follow
// it, however many elections it has held meanwhile.
const termLeap = 1 << 20

var (
	// keyTerm is where raft keeps its term (raft/raft.go, keyCurrentTerm).
	keyTerm = []byte("CurrentTerm")
	// ErrNoState: there is no log here to go on with.
	ErrNoState = errors.New("this directory holds no log of a cluster")
)

// Survey is what a node that does not run has on disk.
type Survey struct {
	// Index and Term are of its last entry: of several nodes, the one with the highest
	// term has most, and among those the one with the highest index.
	Index, Term uint64
	// Applied is the last entry in the state, and Snapshot that of the newest snapshot.
	Applied, Snapshot uint64
	// Members are the ids of the cluster's nodes as this one knows them.
	Members []string
	// Differed: when it stopped, its state was known not to be that of the others.
	Differed bool
}

// offline is a node's data while the node does not run.
type offline struct {
	dir       string
	log       *wal.WAL
	snapshots raft.SnapshotStore
	db        *store.DB
	conf      *raft.Config
}

// openOffline opens what DIR holds, or makes it.
func openOffline(ctx context.Context, dir, id string, logger *slog.Logger) (o *offline, err error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	named := newLogger(logger)
	raftDir := filepath.Join(dir, "raft")
	if err := os.MkdirAll(filepath.Join(raftDir, "wal"), 0o700); err != nil {
		return nil, fmt.Errorf("making raft directory: %w", err)
	}
	o = &offline{dir: dir, conf: raft.DefaultConfig()}
	o.conf.LocalID, o.conf.Logger = raft.ServerID(id), named
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
		}
	}()
	if o.log, err = openLog(filepath.Join(raftDir, "wal"), named, meter.New(Kinds()...)); err != nil {
		return o, fmt.Errorf("%w: %s: %w", ErrLog, raftDir, err)
	}
	if err = readThrough(o.log); err != nil {
		return o, fmt.Errorf("%w: %s: %w", ErrLog, raftDir, err)
	}
	if o.snapshots, err = openSnapshots(raftDir, hclog.NewNullLogger()); err != nil {
		return o, err
	}
	path := filepath.Join(dir, "state.db")
	o.db, err = store.Open(ctx, path, logger)
	if errors.Is(err, store.ErrDamaged) { // all that it said is in the snapshots and the log
		if _, err = store.SetAside(path); err == nil {
			o.db, err = store.Open(ctx, path, logger)
		}
	}
	return o, err
}

func (o *offline) close() error {
	var errs []error
	if o.log != nil {
		errs = append(errs, o.log.Close())
	}
	if o.db != nil {
		errs = append(errs, o.db.Close())
	}
	return errors.Join(errs...)
}

// Look surveys a node that does not run. It changes nothing that the node would not
// change when it starts.
func Look(ctx context.Context, dir string, logger *slog.Logger) (s Survey, err error) {
	if _, err := os.Stat(filepath.Join(dir, "raft")); err != nil {
		return s, fmt.Errorf("%s: %w", dir, ErrNoState)
	}
	o, err := openOffline(ctx, dir, "look", logger)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	return o.survey()
}

func (o *offline) survey() (s Survey, err error) {
	list, err := o.snapshots.List()
	if err != nil {
		return s, fmt.Errorf("listing raft snapshots: %w", err)
	}
	switch _, err := os.Stat(filepath.Join(o.dir, markerName)); {
	case err == nil:
		s.Differed = true
	case !errors.Is(err, fs.ErrNotExist):
		return s, fmt.Errorf("seeing whether the state differed: %w", err)
	}
	s.Applied = o.db.AppliedIndex()
	var members raft.Configuration
	if len(list) > 0 {
		s.Snapshot, s.Index, s.Term, members = list[0].Index, list[0].Index, list[0].Term, list[0].Configuration
	}
	first, err := o.log.FirstIndex()
	if err != nil {
		return s, fmt.Errorf("reading raft log: %w", err)
	}
	last, err := o.log.LastIndex()
	if err != nil {
		return s, fmt.Errorf("reading raft log: %w", err)
	}
	if last == 0 && len(list) == 0 {
		return s, fmt.Errorf("%s: %w", o.dir, ErrNoState)
	}
	for i := first; i > 0 && i <= last; i++ {
		var entry raft.Log
		if err := getEntry(o.log, i, &entry); err != nil {
			return s, fmt.Errorf("%w: entry %d: %w", ErrLog, i, err)
		}
		if entry.Type == raft.LogConfiguration {
			members = raft.DecodeConfiguration(entry.Data)
		}
		if entry.Index > s.Index {
			s.Index, s.Term = entry.Index, entry.Term
		}
	}
	for _, m := range members.Servers {
		s.Members = append(s.Members, string(m.ID))
	}
	return s, nil
}

// Recover makes a node that does not run the only one of its cluster: for when the
// others are lost and no quorum will ever be there again. It goes on from all that the
// node has in its log, and says so in its first entry, which time and version are for.
// It may be repeated after an interruption. What only the others had is lost.
func Recover(ctx context.Context, dir string, self *sensorv1.Node, at int64, logger *slog.Logger) (s Survey, err error) {
	if _, err := os.Stat(filepath.Join(dir, "raft")); err != nil {
		return s, fmt.Errorf("%s: %w", dir, ErrNoState)
	}
	o, err := openOffline(ctx, dir, self.GetId(), logger)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	if s, err = o.survey(); err != nil {
		return s, err
	}
	_, transport := raft.NewInmemTransport(raft.ServerAddress(self.GetAddress()))
	replay := &replay{db: o.db}
	if err := raft.RecoverCluster(o.conf, replay, o.log, o.log, o.snapshots, transport, alone(self)); err != nil {
		return s, fmt.Errorf("recovering the cluster: %w", errors.Join(replay.err, err))
	}
	if replay.err != nil {
		return s, fmt.Errorf("recovering the cluster: %w", replay.err)
	}
	err = o.found(self, s.Index, s.Term, &raftv1.Command{Time: at, Actor: "node:" + self.GetId(),
		Body: &raftv1.Command_RecoverCluster{RecoverCluster: &raftv1.RecoverCluster{Node: self, LastIndex: s.Index, LastTerm: s.Term}}})
	if err != nil {
		return s, err
	}
	// A node alone has nobody to take a state over from, and would serve nobody for ever.
	switch err := os.Remove(filepath.Join(dir, markerName)); {
	case err == nil && logger != nil:
		logger.Warn("this node's state had differed from that of the others: it is the cluster's now; look after its disk and memory, and at what it has")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return s, fmt.Errorf("removing the note that the state differs: %w", err)
	}
	return s, nil
}

// Found makes a new cluster of one node in an empty directory, out of a snapshot of a
// former one, that ends in the given term. cmd is its first entry and must be accepted.
func Found(ctx context.Context, dir string, self *sensorv1.Node, term uint64, snapshot io.Reader, cmd *raftv1.Command, logger *slog.Logger) (err error) {
	o, err := openOffline(ctx, dir, self.GetId(), logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	if existing, err := raft.HasExistingState(o.log, o.log, o.snapshots); err != nil || existing {
		return errors.Join(err, fmt.Errorf("%s holds a log already", dir))
	}
	if err := o.db.Restore(snapshot); err != nil {
		return err
	}
	return o.found(self, o.db.AppliedIndex(), max(term, 1), cmd)
}

// found applies cmd as the entry behind index, which no log holds, and writes the
// snapshot that makes it so: this node alone, in a term above all that were.
func (o *offline) found(self *sensorv1.Node, index, term uint64, cmd *raftv1.Command) error {
	var result *raftv1.Result
	if err := o.db.Update(index+1, func(tx *store.Tx) (err error) {
		result, err = state.Apply(tx, index+1, cmd)
		return err
	}); err != nil {
		return fmt.Errorf("writing the first entry: %w", err)
	}
	if result.GetRejected() != "" {
		return fmt.Errorf("writing the first entry: %s: %s", result.GetRejected(), result.GetMessage())
	}
	current, err := o.log.GetUint64(keyTerm)
	if err != nil && !strings.Contains(err.Error(), "not found") {
		return fmt.Errorf("reading the term: %w", err)
	}
	term = max(term, current) + termLeap
	if err := o.log.SetUint64(keyTerm, term); err != nil {
		return fmt.Errorf("writing the term: %w", err)
	}
	_, transport := raft.NewInmemTransport(raft.ServerAddress(self.GetAddress()))
	sink, err := o.snapshots.Create(raft.SnapshotVersionMax, index+1, term, alone(self), index+1, transport)
	if err != nil {
		return fmt.Errorf("making snapshot: %w", err)
	}
	frozen, err := o.db.Freeze()
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	defer func() { _ = frozen.Close() }()
	return (&snapshot{frozen}).Persist(sink)
}

func alone(self *sensorv1.Node) raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(self.GetId()), Address: raft.ServerAddress(self.GetAddress())}}}
}

// replay is the state machine of a node that does not run: RecoverCluster gives it the
// snapshot and the log. Its first error stays, since Apply has none to give.
type replay struct {
	db  *store.DB
	err error
}

// Apply implements raft.FSM.
func (r *replay) Apply(log *raft.Log) any {
	if r.err != nil {
		return nil
	}
	cmd := &raftv1.Command{}
	if err := proto.Unmarshal(log.Data, cmd); err != nil {
		r.err = fmt.Errorf("raft entry %d is corrupt: %w", log.Index, err)
		return nil
	}
	err := r.db.Update(log.Index, func(tx *store.Tx) error {
		_, err := state.Apply(tx, log.Index, cmd)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrApplied) {
		r.err = fmt.Errorf("raft entry %d cannot be applied: %w", log.Index, err)
	}
	return nil
}

// Snapshot implements raft.FSM.
func (r *replay) Snapshot() (raft.FSMSnapshot, error) {
	if r.err != nil {
		return nil, r.err
	}
	frozen, err := r.db.Freeze()
	if err != nil {
		return nil, err
	}
	return &snapshot{frozen}, nil
}

// Restore implements raft.FSM.
func (r *replay) Restore(in io.ReadCloser) error { return r.db.Restore(in) }
