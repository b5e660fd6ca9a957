package consensus

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/failpoint"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// retryFull is how often an entry is tried again while the disk is full.
const retryFull = time.Second

type fsm struct{ node *Node }

// Apply implements raft.FSM.
func (f *fsm) Apply(log *raft.Log) any { return f.node.apply(log.Index, log.Data) }

// Snapshot implements raft.FSM.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return f.node.freeze() }

// Restore implements raft.FSM.
func (f *fsm) Restore(r io.ReadCloser) error { return f.node.restore(r) }

// apply applies one entry. An entry that cannot be applied must not be skipped,
// or this node would silently differ from the others: it panics, naming the
// index. Only a full disk is waited for, because room can be made.
func (n *Node) apply(index uint64, data []byte) *raftv1.Result {
	n.applying.Lock()
	defer n.applying.Unlock()
	if n.stopped {
		return nil
	}
	cmd := &raftv1.Command{}
	if err := proto.Unmarshal(data, cmd); err != nil {
		panic(fmt.Sprintf("raft entry %d is corrupt: %v; restore this node from a healthy one: remove its data and join again", index, err))
	}
	if n.IsLeader() && forSensors(cmd) {
		// Followers learn what is committed with the next entry, or after raft's pause of
		// 50 to 100 ms; they apply this one meanwhile, not after this node.
		n.start(func() { _ = n.raft.Barrier(rpcTimeout).Error() })
	}
	var result *raftv1.Result
	for {
		began := time.Now()
		ended := n.disk.begin(&n.disk.state)
		err := n.db.Update(index, func(tx *store.Tx) (err error) {
			result, err = state.Apply(tx, index, cmd)
			return err
		})
		ended()
		switch {
		case err == nil:
			n.full.Store(false)
			n.cfg.Meter.ApplySeconds.Observe(time.Since(began).Seconds())
			n.cfg.Meter.Applied.Of(kindOf(cmd)).Inc()
			n.tellDigest(index)
			if starts(cmd) {
				if err := n.db.CheckWhole(); err != nil {
					n.cfg.Logger.Warn("the whole state is not compared", "error", err)
				}
			}
			n.subs.publish(index, cmd, result)
			return result
		case errors.Is(err, store.ErrApplied):
			// A replay after a restart: nobody waits for this answer.
			return nil
		case errors.Is(err, store.ErrFull):
			n.full.Store(true)
			n.cfg.Logger.Error("disk is full: this node applies nothing until there is room", "index", index, "dir", n.cfg.DataDir)
			if !n.pauseFull() {
				// Raft takes it for applied and hands over what it has behind it, for which there may
				// be room: the state would say that it holds this one.
				n.stopped = true
				return nil
			}
		default:
			n.failedAt(index)
			panic(fmt.Sprintf("raft entry %d cannot be applied: %v", index, err))
		}
	}
}

func (n *Node) restore(r io.ReadCloser) error {
	n.applying.Lock()
	defer n.applying.Unlock()
	n.restoring.Store(true)
	defer n.restoring.Store(false)
	return errors.Join(n.db.Restore(r), r.Close())
}

// forSensors says whether nodes hand a command on to sensors once they have applied it:
// then a sensor at a follower waits for that.
func forSensors(cmd *raftv1.Command) bool {
	switch cmd.GetBody().(type) {
	case *raftv1.Command_RequestResponse, *raftv1.Command_ApproveOperation, *raftv1.Command_StartOperation,
		*raftv1.Command_ProposeResponse, *raftv1.Command_PutIntent:
		return true
	}
	return false
}

// starts says whether a command is what a node tells the log when it starts. Then all nodes
// read what they hold at this entry, and compare it: see compareStates.
func starts(cmd *raftv1.Command) bool {
	return cmd.GetSessionsEnded().GetAll()
}

// pauseFull gives leadership away, as a leader that cannot apply acknowledges
// nothing, and waits; false when the node closes.
func (n *Node) pauseFull() bool {
	if n.IsLeader() {
		n.start(func() { _ = n.raft.LeadershipTransfer().Error() })
	}
	timer := time.NewTimer(retryFull)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-n.closing.Done():
		return false
	}
}

func (n *Node) freeze() (raft.FSMSnapshot, error) {
	n.applying.Lock()
	defer n.applying.Unlock()
	if n.stopped {
		return nil, ErrClosed // raft's index is past what the state holds
	}
	f, err := n.db.Freeze()
	if err != nil {
		return nil, err
	}
	return &snapshot{f}, nil
}

// snapshot is a pinned state on its way to raft's snapshot directory.
type snapshot struct{ frozen *store.Frozen }

// Persist implements raft.FSMSnapshot.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.frozen.Write(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	failpoint.Hit("snapshot.close.before")
	err := sink.Close()
	failpoint.Hit("snapshot.close.after")
	return err
}

// Release implements raft.FSMSnapshot.
func (s *snapshot) Release() { _ = s.frozen.Close() }
