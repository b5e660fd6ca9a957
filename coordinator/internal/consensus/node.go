package consensus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	walmetrics "github.com/hashicorp/raft-wal/metrics"

	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

const (
	// rpcTimeout bounds a raft RPC's dial and I/O. A 4 MiB append on a busy disk
	// takes far less; a silent peer's connection ends after 3 s by itself.
	rpcTimeout = 4 * time.Second
	// maxAppend entries near 64 KiB in one RPC.
	maxAppend = 64
	// cachedEntries of the log stay in memory: MaxCommand of each at most, near 64 KiB mostly.
	cachedEntries = 32
	// settleTimeout bounds how long Close waits for proposals: several leases.
	settleTimeout = 5 * time.Second
	// keepSnapshots on disk: the newest, and one more should it be damaged.
	keepSnapshots = 2
)

// Node is one member of the cluster.
type Node struct {
	cfg     Config
	db      *store.DB
	raft    *raft.Raft
	log     *wal.WAL
	network *transport
	layer   *streamLayer
	peers   *peers
	subs    *subscribers
	// snapshots are raft's, for figures. restoring and full are this node's troubles.
	snapshots       raft.SnapshotStore
	restoring, full atomic.Bool
	disk            *disk
	// applying is held while the state changes otherwise than by a read: by each entry, and
	// by what replaces the state, during which raft must neither apply nor freeze.
	applying sync.Mutex
	stopped  bool // guarded by applying: an entry was left out as the node closes, and so is all behind it
	// differing is set while this node's state is known to be wrong; resyncs is when that
	// was begun to be mended. disputed and unread are alarms.
	differing        atomic.Pointer[difference]
	resyncs          []time.Time
	disputed, unread atomic.Pointer[string]
	// differsAt is the first index of a window in which this node holds something else; 0: none.
	differsAt atomic.Uint64
	// looked is what the members said when this node looked around last.
	looked  atomic.Pointer[[]*operatorv1.Member]
	handing atomic.Bool
	// confirmedAt is the newest index at which the whole state was found right; lookAround's.
	confirmedAt uint64
	also        atomic.Pointer[func() []string]                 // more alarms, of other parts
	asked       atomic.Pointer[func(context.Context, net.Conn)] // see ServeQuestions
	// told has what each member said of its checks last, by id.
	told sync.Map
	// contacts remembers each member's last answer, by id.
	contacts sync.Map
	// removing holds the ids of dead nodes whose removal is under way.
	removing sync.Map
	// speak holds the newest command that each member knows (uint32), by id.
	speak sync.Map
	// known holds since when this leader knows of each member (Unix ns), by id.
	known sync.Map

	// closing is done when Close begins; wg holds every goroutine of this node's
	// own, and starting orders its growth before Close waits for it.
	closing  context.Context
	cancel   context.CancelFunc
	starting sync.Mutex
	wg       sync.WaitGroup
	once     sync.Once
	closed   error
}

// start runs fn in a goroutine that Close waits for; false when the node closes.
func (n *Node) start(fn func()) bool {
	n.starting.Lock()
	defer n.starting.Unlock()
	if n.closing.Err() != nil {
		return false
	}
	n.wg.Go(fn)
	return true
}

// Open starts the node: it reads its log and state and takes part in the
// cluster. A restart at any point is safe.
func Open(cfg Config) (*Node, error) {
	if err := cfg.populate(); err != nil {
		return nil, err
	}
	dir := filepath.Join(cfg.DataDir, "raft")
	if err := os.MkdirAll(filepath.Join(dir, "wal"), 0o700); err != nil {
		return nil, fmt.Errorf("making raft directory: %w", err)
	}
	n := &Node{cfg: cfg, subs: newSubscribers(), disk: newDisk()}
	n.closing, n.cancel = context.WithCancel(context.Background())
	n.peers = newPeers(n.closing, cfg.Listener)
	if err := n.open(dir); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) open(dir string) (err error) {
	logger := newLogger(n.cfg.Logger)
	if err := n.openState(filepath.Join(n.cfg.DataDir, "state.db")); err != nil {
		return err
	}
	if n.log, err = openLog(filepath.Join(dir, "wal"), logger.Named("wal"), n.cfg.Meter); noRoom(err) {
		return fmt.Errorf("opening raft log in %s: %w; make room there, nothing is lost", dir, err)
	} else if err != nil {
		return fmt.Errorf("%w: %s: %w; %s", ErrLog, dir, err, n.startOver())
	}
	if err := readThrough(n.log); err != nil {
		return fmt.Errorf("%w: %s: %w; %s", ErrLog, filepath.Join(dir, "wal"), err, n.startOver())
	}
	snapshots, err := openSnapshots(dir, logger.Named("snapshot"))
	if err != nil {
		return err
	}
	n.snapshots = snapshots
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(n.cfg.ID)
	conf.Logger = logger.Named("raft")
	conf.HeartbeatTimeout, conf.ElectionTimeout = n.cfg.HeartbeatTimeout, n.cfg.HeartbeatTimeout
	conf.LeaderLeaseTimeout = n.cfg.HeartbeatTimeout
	conf.MaxAppendEntries = maxAppend
	// Proposals that wait together are written with one fsync. BatchApplyCh would
	// let raft keep some in a buffer whose futures nobody ever answers when it stops.
	conf.SnapshotThreshold, conf.TrailingLogs = n.cfg.SnapshotThreshold, n.cfg.TrailingLogs
	conf.SnapshotInterval = n.cfg.SnapshotInterval
	conf.NoLegacyTelemetry = true
	if conf.NoSnapshotRestoreOnStart, err = n.stateCoversSnapshot(snapshots); err != nil {
		return err
	}

	n.layer = newStreamLayer(n.peers, n.cfg.Address)
	n.network = newTransport(&raft.NetworkTransportConfig{
		Stream: n.layer, MaxPool: 3, Timeout: rpcTimeout, Logger: logger.Named("transport"),
	}, n.silent)
	existing, err := raft.HasExistingState(n.log, n.log, snapshots)
	if err != nil {
		return fmt.Errorf("reading raft state: %w", err)
	}
	if n.cfg.Bootstrap && !existing {
		first := raft.Configuration{Servers: []raft.Server{{ID: conf.LocalID, Address: raft.ServerAddress(n.cfg.Address)}}}
		if err := raft.BootstrapCluster(conf, n.log, n.log, snapshots, n.network, first); err != nil {
			return fmt.Errorf("bootstrapping cluster: %w", err)
		}
	}
	// Followers read an entry to apply it, the leader to send it to each of them: without a
	// cache that is the disk, a moment after it was written.
	watched := &watchedLog{n.log, n.disk}
	cached, err := raft.NewLogCache(cachedEntries, watched)
	if err != nil {
		return fmt.Errorf("caching raft log: %w", err)
	}
	if n.raft, err = raft.NewRaft(conf, &fsm{n}, cached, watched, snapshots, n.network); err != nil {
		return fmt.Errorf("starting raft: %w; if its log or its snapshots are damaged: %s", err, n.startOver())
	}
	n.figures()
	n.start(n.lookAround)
	if _, err := os.Stat(n.marker()); err == nil {
		d := &difference{what: "restart", certain: true}
		n.differsAt.Store(d.from())
		n.differing.Store(d)
		n.cfg.Logger.Error("this node's state differed when it was stopped: it does not serve until it has taken over another's")
		n.start(func() { n.resync(d) })
	}
	n.start(n.steer)
	return nil
}

// openState opens the state. A damaged one is set aside and made anew: all that it
// said is in the snapshots and the log.
func (n *Node) openState(path string) (err error) {
	defer func() {
		if err == nil {
			err = n.db.Tag(n.cfg.Version, n.cfg.CheckEvery, n.cfg.SliceRows)
		}
	}()
	if n.madeAnew() {
		err = fmt.Errorf("%w: an entry could not be applied to it", store.ErrDamaged)
	} else if n.db, err = store.Open(n.closing, path, n.cfg.Logger); !errors.Is(err, store.ErrDamaged) {
		return err
	}
	kept, aside := store.SetAside(path)
	if aside != nil {
		return errors.Join(err, aside)
	}
	n.cfg.Logger.Error("the state is damaged: it is set aside and made anew from snapshots and log; look after this disk", "kept", kept, "error", err)
	n.db, err = store.Open(n.closing, path, n.cfg.Logger)
	return err
}

// A state that an entry cannot be applied to is wrong, or the entry is. The node ends, as it
// must not skip one; when it starts again the state is made anew, once for an entry.
const failedFile, anewFile = "state.failed", "state.anew"

// failedAt notes the entry before the node ends.
func (n *Node) failedAt(index uint64) {
	name := fmt.Appendf(nil, "%d\n", index)
	if before, err := os.ReadFile(filepath.Join(n.cfg.DataDir, anewFile)); err == nil && bytes.Equal(before, name) {
		return
	}
	if err := os.WriteFile(filepath.Join(n.cfg.DataDir, failedFile), name, 0o600); err != nil {
		n.cfg.Logger.Error("noting that an entry could not be applied", "error", err)
	}
}

// madeAnew says whether the state is to be made anew because of that.
func (n *Node) madeAnew() bool {
	return os.Rename(filepath.Join(n.cfg.DataDir, failedFile), filepath.Join(n.cfg.DataDir, anewFile)) == nil
}

// openLog opens raft's log; of an index that is not one the library makes a panic.
func openLog(dir string, logger hclog.Logger, figures *meter.Meter) (*wal.WAL, error) {
	return openLogOf(dir, logger, figures, segmentSize())
}

func openLogOf(dir string, logger hclog.Logger, figures *meter.Meter, segment int) (log *wal.WAL, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // an earlier release's index is mapped into memory
	defer func() {
		if recover() != nil {
			err = errors.New("its index, wal-meta.db, or one of its files is empty or damaged")
		}
	}()
	if err := firm(dir); err != nil {
		return nil, err
	}
	files, index := logFiles(dir)
	if err := finishRotation(dir, files, index, segment); err != nil {
		return nil, err
	}
	return wal.Open(dir, wal.WithSegmentFiler(files), wal.WithMetaStore(index), wal.WithSegmentSize(segment),
		wal.WithLogger(logger), wal.WithMetricsCollector(walmetrics.NewGoMetricsCollector(nil, nil, figures.WAL())))
}

// startOver is what to do when this node's own copy cannot be trusted.
func (n *Node) startOver() string {
	return fmt.Sprintf("run 'vedette cluster remove %s' at the other nodes, empty %s and join again with a new token; the only node of a cluster needs its directory back from a backup",
		n.cfg.ID, n.cfg.DataDir)
}

// stateCoversSnapshot says whether the store is at or past the newest snapshot:
// then raft need not restore it, and replays only what the store lacks. The
// store can be behind its log (see package store), never ahead: a state.db
// beside somebody else's raft directory would hide rows for ever.
func (n *Node) stateCoversSnapshot(snapshots raft.SnapshotStore) (bool, error) {
	list, err := snapshots.List()
	if err != nil {
		return false, fmt.Errorf("listing raft snapshots: %w", err)
	}
	var newest uint64
	if len(list) > 0 {
		newest = list[0].Index
	}
	last, err := n.log.LastIndex()
	if err != nil {
		return false, fmt.Errorf("reading raft log: %w", err)
	}
	applied := n.db.AppliedIndex()
	if applied > max(last, newest) {
		return false, fmt.Errorf("%w: state.db is at entry %d, the log in raft/ ends at %d: it was damaged or is not of this state; %s",
			ErrAhead, applied, max(last, newest), n.startOver())
	}
	first, err := n.log.FirstIndex()
	if err != nil {
		return false, fmt.Errorf("reading raft log: %w", err)
	}
	// Raft reads the log from its snapshot on, for the members, whatever the state holds.
	if first > newest+1 {
		return false, fmt.Errorf("%w: it begins at entry %d, and no snapshot that can be read reaches there (the newest ends at %d, the state at %d); %s", ErrLog, first, newest, applied, n.startOver())
	}
	return newest > 0 && applied >= newest, nil
}

// Close leaves the cluster for now, without telling anybody: the others elect.
// It is idempotent and waits for everything the node started.
func (n *Node) Close() error {
	n.once.Do(func() {
		n.starting.Lock()
		n.cancel()
		n.starting.Unlock()
		n.settle()
		if n.db != nil {
			n.db.Interrupt() // raft waits for a snapshot that is being written or installed
		}
		var errs []error
		var stopped raft.Future
		if n.raft != nil {
			stopped = n.raft.Shutdown()
		}
		// Raft waits for RPCs that are under way; to a silent peer that is seconds.
		n.peers.close()
		if n.network != nil {
			errs = append(errs, n.network.Close())
		}
		if stopped != nil {
			if err := stopped.Error(); err != nil {
				errs = append(errs, fmt.Errorf("stopping raft: %w", err))
			}
		}
		if n.network != nil {
			n.network.end()
		}
		n.subs.close()
		if n.log != nil {
			errs = append(errs, n.log.Close())
		}
		if n.db != nil {
			errs = append(errs, n.db.Close())
		}
		n.closed = errors.Join(errs...)
	})
	return n.closed
}

// settle waits for the proposals that are under way, while raft still runs:
// what it holds when it stops is never answered. A leader with a quorum answers
// at once, one without when its lease has ended.
func (n *Node) settle() {
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		n.wg.Wait()
	}()
	timer := time.NewTimer(settleTimeout)
	defer timer.Stop()
	select {
	case <-settled:
	case <-timer.C:
		n.cfg.Logger.Error("stopping with proposals that raft does not answer", "timeout", settleTimeout)
	}
}

// DB is the local state, for reads. It may be behind the leader's: see ReadBarrier.
func (n *Node) DB() *store.DB { return n.db }

// AppliedIndex is the last entry that the local state holds.
func (n *Node) AppliedIndex() uint64 { return n.db.AppliedIndex() }

// Leader is the node that this one takes for the leader; ok is false when it knows none,
// or is not fit itself: then whoever serves here should have others ask elsewhere.
func (n *Node) Leader() (id, addr string, ok bool) {
	if n.Fit() != nil {
		return "", "", false
	}
	return n.leader()
}

func (n *Node) leader() (id, addr string, ok bool) {
	a, i := n.raft.LeaderWithID()
	return string(i), string(a), i != ""
}

// IsLeader says whether this node takes itself for the leader.
func (n *Node) IsLeader() bool { return n.raft.State() == raft.Leader }

// LeaderCh tells every change of this node's leadership to its one receiver; a
// slow receiver gets the latest.
func (n *Node) LeaderCh() <-chan bool { return n.raft.LeaderCh() }

// Snapshot takes a raft snapshot now and cuts the log behind it.
func (n *Node) Snapshot() error {
	if err := n.raft.Snapshot().Error(); err != nil {
		return fmt.Errorf("taking snapshot: %w", err)
	}
	return nil
}
