package consensus

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

const (
	// FarBehind is how many entries a node may lack while nothing is wrong with it:
	// several seconds of a busy cluster.
	FarBehind = 1000
	// fullDisk is what is no room any more: less than a segment of the log.
	fullDisk = 64 << 20
)

// Vitals is how this node is.
type Vitals struct {
	State, Leader         string
	Term                  uint64
	Applied, Commit, Last uint64 // indexes of log entries
	// Behind is how many committed entries wait to be applied. Commit minus Applied is
	// more: raft's own entries (barriers, elections) are in no state.
	Behind  uint64
	Members int
	// Restoring: the state is being replaced by a snapshot. Full: an entry waits because
	// the disk has no room.
	Restoring, Full bool
	// Unfit is why the node serves nobody, empty when it does.
	Unfit               string
	DiskFree, DiskTotal uint64 // bytes; 0, 0 where they cannot be read
}

// Vitals reads them; it waits for no other node.
func (n *Node) Vitals() Vitals {
	v := Vitals{State: strings.ToLower(n.raft.State().String()), Applied: n.AppliedIndex(), Commit: n.raft.CommitIndex(), Last: n.raft.LastIndex(),
		Term: n.raft.CurrentTerm(), Members: len(n.servers()), Restoring: n.restoring.Load(), Full: n.full.Load()}
	v.Leader, _, _ = n.leader()
	v.Unfit = n.unfit()
	stats := n.raft.Stats()
	if waiting, _ := strconv.Atoi(stats["fsm_pending"]); waiting > 0 {
		v.Behind = v.Commit - min(v.Applied, v.Commit)
	} else if handed, err := strconv.ParseUint(stats["applied_index"], 10, 64); err == nil {
		v.Behind = v.Commit - min(handed, v.Commit)
	}
	v.DiskFree, v.DiskTotal, _ = DiskFree(n.cfg.DataDir)
	return v
}

// Unready is why a node should not be relied on, and what to do, one sentence each;
// empty when it is ready.
func (v Vitals) Unready() []string {
	var reasons []string
	switch {
	case v.Unfit != "":
		reasons = append(reasons, v.Unfit)
	case v.Restoring:
		reasons = append(reasons, "it replaces its state by the leader's snapshot: wait, its log tells when it is done")
	case v.State == "shutdown":
		reasons = append(reasons, "it takes no part in the cluster any more: its log says why; restart it")
	case v.Leader == "":
		reasons = append(reasons, "it knows no leader: an election takes a few seconds; if this stays, see 'vedette status' for the nodes that do not answer")
	}
	if v.Behind > FarBehind && !v.Restoring {
		reasons = append(reasons, fmt.Sprintf("%d entries wait to be applied: wait; if they become more, its disk is slow or full", v.Behind))
	}
	if v.Full || v.DiskTotal > 0 && v.DiskFree < fullDisk {
		reasons = append(reasons, fmt.Sprintf("its disk is full (%d MiB left): make room, it goes on by itself", v.DiskFree>>20))
	}
	return reasons
}

// DiskFree is what the file system of dir has left for this process, and has in all, in bytes.
func DiskFree(dir string) (free, total uint64, err error) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return 0, 0, fmt.Errorf("reading the file system of %s: %w", dir, err)
	}
	return stat.Bavail * uint64(stat.Bsize), stat.Blocks * uint64(stat.Bsize), nil
}

// status is what this node says of itself to another.
func (n *Node) statusOf() *raftv1.NodeStatus {
	v := n.Vitals()
	s := &raftv1.NodeStatus{Version: n.cfg.Version, Time: time.Now().UnixNano(), DiskFree: v.DiskFree, DiskTotal: v.DiskTotal, NotReady: v.Unready(),
		Checks: checksToWire(n.db.Checks()), Alarms: n.alarms()}
	s.Speaks, s.Differs = n.cfg.Speaks, n.differsAt.Load()
	n.fitness(s)
	if n.cfg.CertificateEnds != nil {
		s.CertificateEnds = n.cfg.CertificateEnds().UnixNano()
	}
	return s
}

// certainOffset is how far a clock is certainly ahead of ours (negative: behind) that
// showed told at some moment between sent and received: the smallest difference that
// this allows.
func certainOffset(told, sent, received int64) int64 {
	switch {
	case told > received:
		return told - received
	case told < sent:
		return told - sent
	}
	return 0
}

// lookAround asks the members now and then, and counts the leaders that come.
func (n *Node) lookAround() {
	seen := make(chan raft.Observation, 16)
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	n.raft.RegisterObserver(observer)
	defer n.raft.DeregisterObserver(observer)
	ticker := time.NewTicker(n.cfg.LookPeriod)
	defer ticker.Stop()
	leader := ""
	for {
		select {
		case <-n.closing.Done():
			return
		case o := <-seen:
			if now := string(o.Data.(raft.LeaderObservation).LeaderID); now != "" && now != leader {
				leader = now
				n.cfg.Meter.LeaderChanges.Inc()
			}
		case <-ticker.C:
			if members, err := n.Members(n.closing); err == nil {
				n.looked.Store(&members)
			}
			n.compareStates()
		}
	}
}

// Kinds are the kinds of command, as the figures name them.
func Kinds() (names []string) {
	fields := (&raftv1.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	for i := range fields.Len() {
		names = append(names, kindName(fields.Get(i)))
	}
	return names
}

func kindName(f protoreflect.FieldDescriptor) string {
	return strings.ReplaceAll(string(f.Name()), "_", "-")
}

// kindOf is a command's kind. The usual one costs nothing to tell.
func kindOf(cmd *raftv1.Command) string {
	if _, usual := cmd.GetBody().(*raftv1.Command_Ingest); usual {
		return "ingest"
	}
	m := cmd.ProtoReflect()
	f := m.WhichOneof(m.Descriptor().Oneofs().ByName("body"))
	if f == nil {
		return meter.Other
	}
	return kindName(f)
}

// figures has the node's figures read.
func (n *Node) figures() {
	n.cfg.Meter.Read(meter.Cheap, n.readFigures,
		meter.Family{Name: "vedette_raft_state", Help: "1 for the role that the node has in raft.", Label: "state", Values: []string{"leader", "follower", "candidate", "shutdown"}},
		meter.Family{Name: "vedette_raft_has_leader", Help: "1 when the node knows a leader."},
		meter.Family{Name: "vedette_raft_term", Help: "Raft's term."},
		meter.Family{Name: "vedette_raft_members", Help: "Nodes of the cluster, as this one knows them."},
		meter.Family{Name: "vedette_raft_members_unreachable", Help: "Nodes that have not answered this one for three looks, 15 seconds."},
		meter.Family{Name: "vedette_applied_index", Help: "The last log entry that the state holds."},
		meter.Family{Name: "vedette_commit_index", Help: "The last log entry that the node knows a majority to have, raft's own entries, which no state holds, among them."},
		meter.Family{Name: "vedette_entries_behind", Help: "Committed log entries that wait to be applied."},
		meter.Family{Name: "vedette_last_index", Help: "The last entry in the node's log."},
		meter.Family{Name: "vedette_ready", Help: "1 when /readyz says ready."},
		meter.Family{Name: "vedette_restoring", Help: "1 while the state is being replaced by a snapshot."},
		meter.Family{Name: "vedette_snapshot_index", Help: "The last entry in the newest snapshot; 0: there is none yet."},
		meter.Family{Name: "vedette_snapshot_bytes", Help: "Size of the newest snapshot; 0: there is none yet."},
		meter.Family{Name: "vedette_snapshot_age_seconds", Help: "Age of the newest snapshot; 0: there is none yet."},
		meter.Family{Name: "vedette_store_bytes", Help: "Size of the state's database."},
		meter.Family{Name: "vedette_store_wal_bytes", Help: "Size of the database's own write-ahead log."},
		meter.Family{Name: "vedette_raft_log_bytes", Help: "Size of raft's log on disk."},
		meter.Family{Name: "vedette_disk_free_bytes", Help: "What the file system of the data directory has left."},
		meter.Family{Name: "vedette_disk_bytes", Help: "Size of the file system of the data directory."},
	)
}

func (n *Node) readFigures(_ context.Context, set meter.Set) {
	v := n.Vitals()
	yes := func(is bool) float64 {
		if is {
			return 1
		}
		return 0
	}
	for _, state := range []string{"leader", "follower", "candidate", "shutdown"} {
		set("vedette_raft_state", state, yes(state == v.State))
	}
	set("vedette_raft_has_leader", "", yes(v.Leader != ""))
	set("vedette_raft_term", "", float64(v.Term))
	set("vedette_raft_members", "", float64(v.Members))
	set("vedette_raft_members_unreachable", "", float64(n.unheard(3*n.cfg.LookPeriod)))
	set("vedette_applied_index", "", float64(v.Applied))
	set("vedette_commit_index", "", float64(v.Commit))
	set("vedette_entries_behind", "", float64(v.Behind))
	set("vedette_last_index", "", float64(v.Last))
	set("vedette_ready", "", yes(len(v.Unready()) == 0))
	set("vedette_restoring", "", yes(v.Restoring))
	if list, err := n.snapshots.List(); err == nil {
		newest := &raft.SnapshotMeta{}
		age := time.Duration(0)
		if len(list) > 0 {
			newest, age = list[0], snapshotAge(list[0].ID)
		}
		set("vedette_snapshot_index", "", float64(newest.Index))
		set("vedette_snapshot_bytes", "", float64(newest.Size))
		set("vedette_snapshot_age_seconds", "", age.Seconds())
	}
	state := filepath.Join(n.cfg.DataDir, "state.db")
	set("vedette_store_bytes", "", float64(sizeOf(state)))
	set("vedette_store_wal_bytes", "", float64(sizeOf(state+"-wal")))
	segments, _ := filepath.Glob(filepath.Join(n.cfg.DataDir, "raft", "wal", "*"))
	var log int64
	for _, s := range segments {
		log += sizeOf(s)
	}
	set("vedette_raft_log_bytes", "", float64(log))
	if v.DiskTotal > 0 {
		set("vedette_disk_free_bytes", "", float64(v.DiskFree))
		set("vedette_disk_bytes", "", float64(v.DiskTotal))
	}
}

// unheard counts the other members that have not answered for a time.
func (n *Node) unheard(after time.Duration) (count int) {
	since := max(time.Now().Add(-after).UnixNano(), 0)
	for _, s := range n.servers() {
		if string(s.ID) == n.cfg.ID {
			continue
		}
		seen, ok := n.contacts.Load(string(s.ID))
		if ok && seen.(contact).at >= since || !ok && time.Since(n.cfg.Meter.Started()) < after {
			continue
		}
		count++
	}
	return count
}

// snapshotAge reads a snapshot's id, which ends in its time: TERM-INDEX-MILLISECONDS.
func snapshotAge(id string) time.Duration {
	ms, err := strconv.ParseInt(id[strings.LastIndexByte(id, '-')+1:], 10, 64)
	if err != nil {
		return 0
	}
	return max(time.Since(time.UnixMilli(ms)), 0)
}

// sizeOf is 0 for what is not there.
func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
