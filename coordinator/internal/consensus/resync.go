package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

const (
	// stateIdle is how long the other side may be silent while a state is handed over.
	stateIdle = 30 * time.Second
	// firstResync and lastResync are the pauses between tries.
	firstResync, lastResync = 200 * time.Millisecond, 15 * time.Second
	// reachTime bounds how long this node may take to the index of a state that it got.
	reachTime = 30 * time.Second
	// maxResyncs within resyncWindow are too many: whatever makes this node wrong goes on.
	maxResyncs   = 3
	resyncWindow = time.Hour
)

// marker is there from when a difference is found until it is mended: a node that is
// restarted meanwhile must not serve either, nor begin from its own snapshots.
func (n *Node) marker() string { return filepath.Join(n.cfg.DataDir, markerName) }

const markerName = "state.differs"

// differs takes this node out of service and has its state replaced.
func (n *Node) differs(d *difference) {
	if err := os.WriteFile(n.marker(), []byte(d.what+"\n"), 0o600); err != nil {
		n.cfg.Logger.Error("noting that the state differs", "error", err)
	}
	n.differsAt.Store(d.from())
	n.differing.Store(d)
	what, _, _ := strings.Cut(d.what, ":")
	n.cfg.Meter.Divergences.Of(what).Inc()
	n.cfg.Logger.Error("this node holds another state than the majority: it stops serving and takes the state over from one of them; look after its disk and memory",
		"of", d.entries(), "what", d.what, "majority", d.others)
	if n.IsLeader() {
		n.start(func() { _ = n.raft.LeadershipTransfer().Error() })
	}
	n.start(func() { n.resync(d) })
}

// resync tries until it is done or the node closes.
func (n *Node) resync(d *difference) {
	n.resyncs = slices.DeleteFunc(n.resyncs, func(at time.Time) bool { return time.Since(at) > resyncWindow })
	n.resyncs = append(n.resyncs, time.Now())
	if len(n.resyncs) > maxResyncs {
		n.cfg.Logger.Error("this node's state differs again and again: it stays out of service until it is restarted; replace its disk or memory, or the machine")
		return
	}
	var from string
	var index uint64
	if !n.until("taking the state over", func() (err error) { from, index, err = n.takeFromAny(d); return err }) ||
		!n.until("replacing the snapshots of the old state", n.cleanse) {
		return
	}
	n.disputed.Store(nil)
	n.told.Clear()
	n.differing.Store(nil)
	n.differsAt.Store(0)
	n.cfg.Meter.Resyncs.Inc()
	n.cfg.Logger.Warn("the state is the other nodes' again: this node serves", "from", from, "index", index)
	n.start(func() { n.reportDivergence(d, from, index) })
}

// until tries again until it is done (true) or the node closes.
func (n *Node) until(what string, done func() error) bool {
	for wait := firstResync; ; wait = min(2*wait, lastResync) {
		err := done()
		if err == nil {
			return true
		}
		n.cfg.Logger.Error("it failed and is tried again", "what", what, "error", err, "wait", wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-n.closing.Done():
			timer.Stop()
			return false
		}
	}
}

// takeFromAny replaces the state by that of a node that is right.
func (n *Node) takeFromAny(d *difference) (from string, index uint64, err error) {
	err = errors.New("no other node is known")
	for _, s := range n.servers() {
		id := string(s.ID)
		if id == n.cfg.ID || len(d.others) > 0 && !slices.Contains(d.others, id) {
			continue
		}
		if index, err = n.takeState(string(s.Address)); err == nil {
			return id, index, nil
		}
		err = fmt.Errorf("from %s: %w", id, err)
	}
	return "", 0, err
}

// cleanse replaces raft's snapshots on this disk, which hold the old state: nothing may
// begin with them, nor be sent them. Until this is done the marker stays.
func (n *Node) cleanse() error {
	old, err := n.snapshots.List()
	if err != nil {
		return fmt.Errorf("listing raft snapshots: %w", err)
	}
	// Raft refuses while the newest entry is one of its own; then another has to come first,
	// unless there is nothing to replace. It takes one snapshot at a time: what it had begun of
	// the old state is there by now.
	taken := n.Snapshot()
	all, err := n.snapshots.List()
	if err != nil {
		return fmt.Errorf("listing raft snapshots: %w", err)
	}
	fresh := slices.DeleteFunc(slices.Clone(all), func(s *raft.SnapshotMeta) bool {
		return slices.ContainsFunc(old, func(o *raft.SnapshotMeta) bool { return o.ID == s.ID })
	})
	switch {
	case taken != nil && len(all) > 0:
		return taken
	case taken == nil && len(fresh) != 1:
		return fmt.Errorf("%d snapshots came while one was taken: which of them is of the new state is not certain", len(fresh))
	}
	for _, s := range old {
		if err := os.RemoveAll(filepath.Join(n.cfg.DataDir, "raft", "snapshots", s.ID)); err != nil {
			return fmt.Errorf("removing a snapshot of the old state: %w", err)
		}
	}
	if err := os.Remove(n.marker()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("noting that the state is right: %w", err)
	}
	return nil
}

// takeState gets a node's state and puts it in the place of this node's. Raft's log, term
// and vote stay: the state is a function of the committed log up to an index, and only
// this function's value is taken from elsewhere. What this node's own log has behind that
// index, and raft has handed over already, is applied again from there.
func (n *Node) takeState(addr string) (uint64, error) {
	ctx, cancel := context.WithCancel(n.closing)
	defer cancel()
	stream, err := n.peers.open(ctx, addr, tagState)
	if err != nil {
		return 0, err
	}
	defer func() { _ = stream.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = stream.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	lively := &idle{stream}
	if err := frame.Write(lively, &raftv1.Command{}); err != nil {
		return 0, fmt.Errorf("asking for the state: %w", err)
	}
	answer := &raftv1.ForwardReply{}
	if err := frame.Read(lively, answer); err != nil {
		return 0, fmt.Errorf("asking for the state: %w", err)
	}
	if answer.GetError() != "" {
		return 0, fmt.Errorf("%w: %s", ErrRefused, answer.GetError())
	}
	n.restoring.Store(true)
	defer n.restoring.Store(false)
	staged, err := n.db.Stage(lively)
	if err != nil {
		return 0, err
	}
	defer staged.Drop()
	// A state ahead of its log could not be told from a strange one after a crash (ErrAhead).
	reach, cancelReach := context.WithTimeout(ctx, reachTime)
	defer cancelReach()
	if err := n.db.WaitApplied(reach, staged.Index()); err != nil {
		return 0, err
	}
	n.applying.Lock()
	defer n.applying.Unlock()
	upTo := n.db.AppliedIndex()
	if first, err := n.log.FirstIndex(); err != nil || upTo > staged.Index() && first > staged.Index()+1 {
		return 0, errors.Join(fmt.Errorf("the log begins at %d, the state that came is at %d", first, staged.Index()), err)
	}
	if err := n.db.Adopt(staged); err != nil {
		return 0, err
	}
	for i := staged.Index() + 1; i <= upTo; i++ {
		if err := n.again(i); err != nil {
			panic(fmt.Sprintf("raft entry %d cannot be applied to the state of %s: %v", i, addr, err))
		}
	}
	return staged.Index(), nil
}

// again applies an entry of the log that raft has handed over before.
func (n *Node) again(index uint64) error {
	var log raft.Log
	if err := getEntry(n.log, index, &log); err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	if log.Type != raft.LogCommand {
		return nil
	}
	cmd := &raftv1.Command{}
	if err := proto.Unmarshal(log.Data, cmd); err != nil {
		return err
	}
	return n.db.Update(index, func(tx *store.Tx) error {
		_, err := state.Apply(tx, index, cmd)
		return err
	})
}

// handState writes this node's state to a member that asks for it.
func (n *Node) handState(peer link.Peer, stream net.Conn) error {
	lively := &idle{stream}
	if err := frame.Read(lively, &raftv1.Command{}); err != nil {
		return err
	}
	refuse := func(why string) error {
		return errors.Join(frame.Write(lively, &raftv1.ForwardReply{Error: why}), errors.New(why))
	}
	if !n.isMember(peer.ID) {
		return refuse(notMember(peer.ID))
	}
	if err := n.Fit(); err != nil {
		return refuse(err.Error())
	}
	if !n.handing.CompareAndSwap(false, true) {
		return refuse("it hands its state to another node now")
	}
	defer n.handing.Store(false)
	frozen, err := n.db.Freeze()
	if err != nil {
		return refuse(err.Error())
	}
	defer func() { _ = frozen.Close() }()
	if err := frame.Write(lively, &raftv1.ForwardReply{Result: &raftv1.Result{Id: n.cfg.ID, Index: frozen.Index()}}); err != nil {
		return err
	}
	return frozen.Write(lively)
}

// idle ends a stream whose other side stands still.
type idle struct{ net.Conn }

// Read implements io.Reader.
func (s *idle) Read(p []byte) (int, error) {
	_ = s.SetReadDeadline(time.Now().Add(stateIdle))
	return s.Conn.Read(p)
}

// Write implements io.Writer.
func (s *idle) Write(p []byte) (int, error) {
	_ = s.SetWriteDeadline(time.Now().Add(stateIdle))
	return s.Conn.Write(p)
}

var _ io.ReadWriter = (*idle)(nil)

// reportDivergence writes it into the audit. Not while nodes of other versions are there:
// an older one stops at a command that it does not know.
func (n *Node) reportDivergence(d *difference, from string, index uint64) {
	now := time.Now().UnixNano()
	cmd := &raftv1.Command{Time: now, Actor: "node:" + n.cfg.ID, IdempotencyKey: fmt.Sprintf("differs-%s-%d", n.cfg.ID, now),
		Body: &raftv1.Command_ReportDivergence{ReportDivergence: &raftv1.ReportDivergence{Node: n.cfg.ID, What: d.what, Window: d.about(), From: from, Index: index}}}
	tries := 0
	n.until("telling the audit that the state was taken over", func() error {
		err := n.report(cmd)
		if tries++; err != nil && tries == maxReports {
			n.cfg.Logger.Error("that the state was taken over is not in the audit", "error", err)
			return nil
		}
		return err
	})
}

// maxReports tries take about two minutes.
const maxReports = 12

func (n *Node) report(cmd *raftv1.Command) error {
	members, err := n.Members(n.closing)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.GetState() != "alive" || m.GetVersion() != n.cfg.Version {
			return fmt.Errorf("node %s is %s and of version %q", m.GetId(), m.GetState(), m.GetVersion())
		}
	}
	_, err = n.Propose(n.closing, cmd)
	return err
}
