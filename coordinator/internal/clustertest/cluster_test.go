package clustertest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

func operator(name string) *raftv1.Command {
	return &raftv1.Command{Time: 1, Actor: "operator:test", IdempotencyKey: name, Body: &raftv1.Command_PutOperator{
		PutOperator: &raftv1.PutOperator{Name: name, Role: "viewer"}}}
}

// propose writes on any running member within the time, and says how long it took.
func propose(t *testing.T, c *Cluster, name string, within time.Duration) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	start := time.Now()
	result, err := c.Any().Node().Propose(ctx, operator(name))
	if err != nil {
		t.Fatalf("proposing %s: %v", name, err)
	}
	if result.GetRejected() != "" {
		t.Fatalf("proposing %s: rejected: %s", name, result.GetMessage())
	}
	return time.Since(start)
}

// Ensure that killing leaders while writers ingest loses nothing that was
// acknowledged, doubles nothing, and that writes resume within five seconds.
func TestLeaderKills(t *testing.T) {
	kills := 20
	if testing.Short() {
		kills = 5
	}
	c := New(t, 3, nil)
	var resumed, all []time.Duration // one new write; all the writers
	writers := write(t, c, 4, func(writers []*writer) {
		for i := range kills {
			// Between two kills there is work, with all three members.
			progress(c, writers, 50)
			leader := c.Leader()
			start := time.Now()
			ended := c.Kill(leader)
			propose(t, c, fmt.Sprintf("after-kill-%d", i), 30*time.Second)
			took := time.Since(start)
			// Two each: the first may have been on its way back when the leader died.
			progress(c, writers, 2)
			all = append(all, time.Since(start))
			resumed = append(resumed, took)
			t.Logf("kill %d (%s): writes resumed after %s, all writers after %s", i, leader.ID,
				took.Round(time.Millisecond), all[i].Round(time.Millisecond))
			ended()
			c.Start(leader)
			c.Eventually(30*time.Second, "caught-up member", func() bool {
				return leader.Node().AppliedIndex()+10 >= c.Leader().Node().AppliedIndex()
			})
		}
	})
	acked, lost, dup := verify(t, c, writers)
	slices.Sort(resumed)
	slices.Sort(all)
	note := fmt.Sprintf("%d leader kills, 3 nodes, 4 writers", kills)
	Figure(t, "failover.resume.p50", resumed[len(resumed)/2].Seconds(), "s", "<= 5", resumed[len(resumed)/2] <= 5*time.Second, note)
	Figure(t, "failover.resume.max", resumed[len(resumed)-1].Seconds(), "s", "<= 5", resumed[len(resumed)-1] <= 5*time.Second, note)
	Figure(t, "failover.resume.all-writers.max", all[len(all)-1].Seconds(), "s", "<= 5", all[len(all)-1] <= 5*time.Second, note)
	Figure(t, "failover.acknowledged", float64(acked), "records", "> 0", acked > 0, note)
	Figure(t, "failover.lost", float64(lost), "records", "0", lost == 0, note)
	Figure(t, "failover.duplicated", float64(dup), "records", "0", dup == 0, note)
}

// Ensure a leader that is cut off, but lives, neither acknowledges nor keeps
// what the others do not have, and follows again when the cut heals.
func TestPartitionedLeader(t *testing.T) {
	c := New(t, 3, nil)
	var cut *Member
	writers := write(t, c, 3, func([]*writer) {
		cut = c.Leader()
		c.Isolate(cut)
		// The majority goes on.
		c.Eventually(20*time.Second, "another leader", func() bool {
			for _, m := range c.Members {
				if m != cut && m.Node().IsLeader() {
					return true
				}
			}
			return false
		})
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		unkeyed := operator("on-the-minority")
		unkeyed.IdempotencyKey = ""
		if _, err := cut.Node().Propose(ctx, unkeyed); !errors.Is(err, consensus.ErrNoLeader) && !errors.Is(err, consensus.ErrUncertain) {
			t.Errorf("proposing on the minority = %v, want ErrNoLeader or ErrUncertain", err)
		}
		if err := cut.Node().ReadBarrier(ctx); err == nil {
			t.Error("the minority has given a linearizable read point")
		}
		c.Heal()
		propose(t, c, "after-heal", 20*time.Second)
	})
	if _, lost, dup := verify(t, c, writers); lost != 0 || dup != 0 {
		t.Errorf("lost %d, duplicated %d records", lost, dup)
	}
}

// lead kills leaders until a member leads.
func lead(c *Cluster, want *Member) {
	c.t.Helper()
	for range 30 { // of two that may follow, one wins about every second time
		leader := c.Leader()
		if leader == want {
			return
		}
		c.Kill(leader)()
		next := c.Leader()
		c.Start(leader)
		c.Eventually(30*time.Second, "caught-up member", func() bool { return leader.Node().AppliedIndex() >= next.Node().AppliedIndex() })
	}
	c.t.Fatalf("%s never leads", want.ID)
}

// Ensure a wiped member gets everything back by a snapshot, and a member that
// was away longer than the log reaches back, too; nothing is doubled by it, nor when
// each of them leads afterwards and takes writes itself.
func TestSnapshotRestore(t *testing.T) {
	c := New(t, 3, func(cfg *consensus.Config) { cfg.TrailingLogs, cfg.SnapshotThreshold = 8, 16 })
	leader := c.Leader()
	var wiped, behind *Member
	for _, m := range c.Members {
		switch {
		case m == leader:
		case wiped == nil && m != c.Members[0]: // the first would bootstrap again
			wiped = m
		default:
			behind = m
		}
	}
	writers := write(t, c, 2, func(writers []*writer) {
		c.Eventually(20*time.Second, "first entries", func() bool { return leader.Node().AppliedIndex() > 100 })
		for _, m := range []*Member{wiped, behind} {
			c.Kill(m)()
			if m == wiped {
				c.Wipe(m)
			}
			at := leader.Node().AppliedIndex()
			c.Eventually(20*time.Second, "more entries", func() bool { return leader.Node().AppliedIndex() > at+100 })
			if err := leader.Node().Snapshot(); err != nil {
				t.Fatalf("taking snapshot: %v", err)
			}
			c.Start(m)
			c.Eventually(30*time.Second, "restored member", func() bool { return m.Node().AppliedIndex() >= at+100 })
			if got, err := filepath.Glob(filepath.Join(m.Dir, "raft", "snapshots", "*-*")); err != nil || len(got) == 0 {
				t.Errorf("%s caught up without a snapshot (%v)", m.ID, err)
			}
		}
		for _, m := range []*Member{wiped, behind} {
			for led := false; !led; led = m.Node().IsLeader() { // from the first of these writes to the last
				lead(c, m)
				progress(c, writers, 20)
			}
			// What it was sent before, in the state that it was given, is not new to it.
			for _, w := range writers {
				seq := w.acked.Load()
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				result, err := m.Node().Propose(ctx, w.command(seq))
				cancel()
				if acks := result.GetAcks(); err != nil || len(acks) != 1 || acks[0].GetSequence() < seq {
					t.Errorf("%s is sent batch %d of %s again: %v, %v", m.ID, seq, w.host, result, err)
				}
			}
		}
	})
	if _, lost, dup := verify(t, c, writers); lost != 0 || dup != 0 {
		t.Errorf("lost %d, duplicated %d records", lost, dup)
	}
}

// Ensure the whole cluster can stop and start, in good order and all at once
// without, and stands where it stood.
func TestRestartAll(t *testing.T) {
	c := New(t, 3, nil)
	writers := write(t, c, 2, func([]*writer) {
		c.Eventually(20*time.Second, "some entries", func() bool { return c.Any().Node().AppliedIndex() > 50 })
	})
	want := c.Converged()
	for name, end := range map[string]func(*Member){"stopped": c.Stop, "killed": func(m *Member) { c.Kill(m)() }} {
		for _, m := range c.Members {
			end(m)
		}
		for _, m := range c.Members {
			c.Start(m)
		}
		c.Leader()
		if got := c.Converged(); got != want {
			t.Errorf("%s: state after the restart differs", name)
		}
	}
	propose(t, c, "after-restart", 20*time.Second)
	if _, lost, dup := verify(t, c, writers); lost != 0 || dup != 0 {
		t.Errorf("lost %d, duplicated %d records", lost, dup)
	}
}

// Ensure members are listed with what is known of them, and leave from any node.
func TestMembers(t *testing.T) {
	c := New(t, 3, nil)
	leader := c.Leader()
	var follower, other *Member
	for _, m := range c.Members {
		if m != leader && follower == nil {
			follower = m
		} else if m != leader {
			other = m
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	propose(t, c, "first", 10*time.Second)
	c.Kill(other)()
	members, err := follower.Node().Members(ctx)
	if err != nil || len(members) != 3 {
		t.Fatalf("members = %v, %v, want 3", members, err)
	}
	for _, m := range members {
		wantRole, wantState := "follower", "alive"
		if m.GetId() == leader.ID {
			wantRole = "leader"
		}
		if m.GetId() == other.ID {
			wantState = "unreachable"
		}
		if m.GetRole() != wantRole || m.GetState() != wantState || (wantState == "alive" && (m.GetAppliedIndex() == 0 || m.GetLastContact() == 0)) {
			t.Errorf("member = %v, want %s, %s", m, wantRole, wantState)
		}
	}
	if err := follower.Node().RemoveMember(ctx, other.ID); err != nil {
		t.Fatalf("removing %s: %v", other.ID, err)
	}
	if err := follower.Node().RemoveMember(ctx, "nobody"); !errors.Is(err, consensus.ErrRefused) {
		t.Errorf("removing nobody = %v, want ErrRefused", err)
	}
	propose(t, c, "two-left", 10*time.Second)
	if members, err = leader.Node().Members(ctx); err != nil || len(members) != 2 {
		t.Errorf("members = %v, %v, want 2", members, err)
	}
}

// Ensure a read behind a barrier sees what any node was answered before.
func TestReadBarrier(t *testing.T) {
	c := New(t, 3, nil)
	for i := range 20 {
		name := fmt.Sprintf("op-%d", i)
		propose(t, c, name, 10*time.Second)
		for _, m := range c.Members {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			if err := m.Node().ReadBarrier(ctx); err != nil {
				t.Fatalf("%s: %v", m.ID, err)
			}
			if _, err := m.Node().DB().Operator(ctx, name); err != nil {
				t.Errorf("%s after a barrier: %v", m.ID, err)
			}
			cancel()
		}
	}
}
