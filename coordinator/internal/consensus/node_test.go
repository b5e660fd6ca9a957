package consensus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// single starts a cluster of one on dir; stop ends it.
func single(t testing.TB, dir string) (n *Node, stop func()) {
	t.Helper()
	creds := linktest.NewCA(t).Issue(link.KindNode, "n1", "")
	listener, err := link.Listen("127.0.0.1:0", link.ListenConfig{Credentials: creds})
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	n, err = Open(Config{ID: "n1", Address: "127.0.0.1:1", DataDir: dir, Listener: listener, Bootstrap: true, HeartbeatTimeout: 50 * time.Millisecond})
	if err != nil {
		_ = listener.Close()
		t.Fatalf("opening: %v", err)
	}
	stop = func() {
		if err := errors.Join(n.Close(), listener.Close()); err != nil {
			t.Errorf("closing: %v", err)
		}
	}
	t.Cleanup(stop)
	return n, stop
}

func operatorCommand(name string) *raftv1.Command {
	return &raftv1.Command{Time: 1, Actor: "operator:test", Body: &raftv1.Command_PutOperator{
		PutOperator: &raftv1.PutOperator{Name: name, Role: "viewer"}}}
}

func put(t *testing.T, n *Node, name string) *raftv1.Result {
	t.Helper()
	result, err := n.Propose(t.Context(), operatorCommand(name))
	if err != nil || result.GetRejected() != "" {
		t.Fatalf("proposing %s: %v, %v", name, result, err)
	}
	return result
}

// Ensure a node that restarts, with and without a snapshot, stands where it stood.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	var want string
	for round := range 4 {
		n, stop := single(t, dir)
		if round > 0 {
			if err := n.ReadBarrier(t.Context()); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if got, err := n.DB().Digest(t.Context()); err != nil || got != want {
				t.Errorf("round %d: state after the restart differs (%v)", round, err)
			}
		}
		for i := range 20 {
			put(t, n, fmt.Sprintf("op-%d-%d", round, i))
		}
		if round == 1 {
			if err := n.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if want, err = n.DB().Digest(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
	}
	// The derived state may be lost: the snapshot and the log hold it all.
	for _, suffix := range []string{"", "-wal", "-shm"} {
		_ = os.Remove(filepath.Join(dir, "state.db"+suffix))
	}
	n, _ := single(t, dir)
	if err := n.ReadBarrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := n.DB().Digest(t.Context()); err != nil || got != want {
		t.Errorf("state made anew from snapshot and log differs (%v)", err)
	}
}

// Ensure a state beside another log is refused: entries would be skipped in silence.
func TestStateAheadOfLog(t *testing.T) {
	dir := t.TempDir()
	n, stop := single(t, dir)
	for i := range 5 {
		put(t, n, fmt.Sprint("op-", i))
	}
	stop()
	if err := os.RemoveAll(filepath.Join(dir, "raft")); err != nil {
		t.Fatal(err)
	}
	if err := refused(t, dir); !errors.Is(err, ErrAhead) {
		t.Errorf("opening = %v, want ErrAhead", err)
	}
}

// refused is why a directory cannot be opened.
func refused(t *testing.T, dir string) error {
	t.Helper()
	creds := linktest.NewCA(t).Issue(link.KindNode, "n1", "")
	listener, err := link.Listen("127.0.0.1:0", link.ListenConfig{Credentials: creds})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	n, err := Open(Config{ID: "n1", DataDir: dir, Listener: listener, Bootstrap: true})
	if err == nil {
		t.Fatal("it was opened", n.Close())
	}
	return err
}

// Ensure a node whose state is gone and whose only snapshot is damaged says what to do.
func TestDamagedSnapshotSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	n, stop := single(t, dir)
	put(t, n, "op")
	if err := n.Snapshot(); err != nil {
		t.Fatal(err)
	}
	stop()
	bodies, err := filepath.Glob(filepath.Join(dir, "raft", "snapshots", "*", "state.bin"))
	if err != nil || len(bodies) != 1 {
		t.Fatalf("snapshots: %q, %v, want one", bodies, err)
	}
	if err := errors.Join(os.Truncate(bodies[0], 100), os.Remove(filepath.Join(dir, "state.db"))); err != nil {
		t.Fatal(err)
	}
	if err := refused(t, dir); !strings.Contains(err.Error(), "join again with a new token") || !strings.Contains(err.Error(), dir) {
		t.Errorf("it says %q, want what to do and where", err)
	}
}

// Ensure an entry that cannot be applied stops the node and names the index.
func TestCorruptEntryPanics(t *testing.T) {
	n, _ := single(t, t.TempDir())
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, "raft entry 4711 ") {
			t.Errorf("panic = %q, want one that names entry 4711", got)
		}
	}()
	n.apply(4711, []byte("\xff\xff\xff"))
}

// Ensure what can never be committed is said to be so, and nothing is written.
func TestProposeInvalid(t *testing.T) {
	n, _ := single(t, t.TempDir())
	put(t, n, "first")
	before := n.AppliedIndex()
	large := operatorCommand("x")
	large.GetPutOperator().Role = strings.Repeat("x", MaxCommand)
	for name, cmd := range map[string]*raftv1.Command{"no body": {}, "too large": large} {
		if _, err := n.Propose(t.Context(), cmd); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if got := n.AppliedIndex(); got != before {
		t.Errorf("applied index moved from %d to %d", before, got)
	}
	if err := n.RemoveMember(t.Context(), "n1"); !errors.Is(err, ErrRefused) {
		t.Errorf("removing the only node = %v, want ErrRefused", err)
	}
}

// Ensure that without a leader the error is certain, and comes in time.
func TestNoLeader(t *testing.T) {
	creds := linktest.NewCA(t).Issue(link.KindNode, "n1", "")
	listener, err := link.Listen("127.0.0.1:0", link.ListenConfig{Credentials: creds})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	n, err := Open(Config{ID: "n1", DataDir: t.TempDir(), Listener: listener})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := n.Propose(ctx, operatorCommand("x")); !errors.Is(err, ErrNoLeader) {
		t.Errorf("proposing = %v, want ErrNoLeader", err)
	}
	if err := errors.Join(n.Close(), n.Close()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if _, err := n.Propose(t.Context(), operatorCommand("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("proposing on a closed node = %v, want ErrClosed", err)
	}
	if err := n.AddVoter(t.Context(), &sensorv1.Node{Id: "n2", Address: "x:1"}); !errors.Is(err, ErrClosed) {
		t.Errorf("adding to a closed node = %v, want ErrClosed", err)
	}
}

// Ensure raft's errors are sorted by whether the command may have been committed.
func TestSorted(t *testing.T) {
	for err, want := range map[error]error{
		raft.ErrNotLeader: errElsewhere, raft.ErrLeadershipTransferInProgress: errElsewhere, raft.ErrEnqueueTimeout: errElsewhere,
		raft.ErrLeadershipLost: ErrUncertain, raft.ErrRaftShutdown: ErrUncertain, raft.ErrAbortedByRestore: ErrUncertain,
	} {
		if got := sorted(err); !errors.Is(got, want) {
			t.Errorf("sorted(%v) = %v, want %v", err, got, want)
		}
	}
}

// Ensure a subscriber gets each commit in order, and a slow one is told that it
// missed some instead of holding up the cluster.
func TestSubscribe(t *testing.T) {
	n, _ := single(t, t.TempDir())
	got := make(chan uint64, 100)
	cancel := n.Subscribe(func(index uint64, cmd *raftv1.Command, res *raftv1.Result) {
		if cmd.GetPutOperator() == nil || res.GetIndex() != index {
			t.Errorf("told %v, %v at %d", cmd, res, index)
		}
		got <- index
	})
	for i := range 10 {
		want := put(t, n, fmt.Sprint("op-", i)).GetIndex()
		if index := <-got; index != want {
			t.Errorf("told of entry %d, want %d", index, want)
		}
	}
	cancel()
	put(t, n, "after")
	if len(got) != 0 {
		t.Error("told of a commit after the cancel")
	}

	s := newSubscribers()
	release, first, missed := make(chan struct{}), make(chan struct{}, 1), make(chan uint64, 1)
	s.add(func(index uint64, cmd *raftv1.Command, _ *raftv1.Result) {
		switch {
		case index == 1:
			first <- struct{}{}
			<-release
		case cmd == nil:
			missed <- index
		}
	})
	s.publish(1, &raftv1.Command{}, nil)
	<-first
	last := uint64(backlog + 10)
	for i := uint64(2); i <= last; i++ {
		s.publish(i, &raftv1.Command{}, nil)
	}
	close(release)
	for i := last + 1; ; i++ {
		s.publish(i, &raftv1.Command{}, nil)
		select {
		case index := <-missed:
			if index < last {
				t.Errorf("told to have missed until %d, want at least %d", index, last)
			}
			s.close()
			return
		case <-t.Context().Done():
			t.Fatal("never told of what was missed")
		default:
		}
	}
}

// Ensure a clock is called wrong by no more than the time that the answer took leaves.
func TestCertainOffset(t *testing.T) {
	for _, tt := range []struct{ told, sent, received, want int64 }{
		{100, 90, 110, 0}, {90, 90, 110, 0}, {110, 90, 110, 0}, {150, 90, 110, 40}, {50, 90, 110, -40},
	} {
		if got := certainOffset(tt.told, tt.sent, tt.received); got != tt.want {
			t.Errorf("certainOffset(%d, %d, %d): got %d, want %d", tt.told, tt.sent, tt.received, got, tt.want)
		}
	}
}

// Ensure what makes a node not ready is said, and what is nothing is not.
func TestUnready(t *testing.T) {
	well := Vitals{State: "follower", Leader: "n1", Applied: 100, Commit: 100, DiskFree: 10 << 30, DiskTotal: 20 << 30}
	for _, tt := range []struct {
		name   string
		change func(*Vitals)
		want   string
	}{
		{"well", func(*Vitals) {}, ""},
		{"barriers", func(v *Vitals) { v.Commit = 100 + 10*FarBehind }, ""},
		{"no disk figures", func(v *Vitals) { v.DiskFree, v.DiskTotal = 0, 0 }, ""},
		{"behind", func(v *Vitals) { v.Behind = 1 + FarBehind }, "1001 entries wait"},
		{"no leader", func(v *Vitals) { v.Leader = "" }, "knows no leader"},
		{"restoring", func(v *Vitals) { v.Restoring, v.Behind = true, 100000 }, "replaces its state"},
		{"full", func(v *Vitals) { v.Full = true }, "disk is full"},
		{"nearly full", func(v *Vitals) { v.DiskFree = fullDisk - 1 }, "disk is full"},
		{"removed", func(v *Vitals) { v.State, v.Leader = "shutdown", "" }, "takes no part"},
	} {
		v := well
		tt.change(&v)
		if got := v.Unready(); len(got) > 1 || strings.Join(got, "") == "" != (tt.want == "") || !strings.Contains(strings.Join(got, ""), tt.want) {
			t.Errorf("%s: got %q, want one with %q", tt.name, got, tt.want)
		}
	}
}
