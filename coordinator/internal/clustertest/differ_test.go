package clustertest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// comparing is a cluster that compares its states often.
func comparing(t *testing.T, n int) *Cluster {
	return New(t, n, func(cfg *consensus.Config) {
		cfg.CheckEvery, cfg.SliceRows, cfg.LookPeriod, cfg.Version = 20, 50, 200*time.Millisecond, "1.2.3"
	})
}

// operators writes so many commands, each a row, and returns when they are acknowledged.
func operators(t *testing.T, c *Cluster, written *atomic.Int64, n int) {
	t.Helper()
	for range n {
		i := written.Load()
		cmd := &raftv1.Command{Time: i + 1, Actor: "node:n1", IdempotencyKey: fmt.Sprint("key-", i), Body: &raftv1.Command_PutOperator{
			PutOperator: &raftv1.PutOperator{Name: fmt.Sprintf("op-%d", i), Role: "viewer"}}}
		c.Eventually(20*time.Second, "a node that takes it", func() bool {
			for _, m := range c.Members {
				if node := m.Node(); node != nil && node.Fit() == nil {
					if _, err := node.Propose(t.Context(), cmd); err == nil {
						return true
					}
				}
			}
			return false
		})
		written.Add(1)
	}
}

// behind changes a row in a member's file without its knowing, by the driver that package
// store brings.
func behind(t *testing.T, m *Member, change string) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(m.Dir, "state.db")+"?_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, err := db.Exec(change)
	if err != nil {
		t.Fatalf("%s: %v", change, err)
	}
	if n, err := r.RowsAffected(); err != nil || n != 1 {
		t.Fatalf("%s at %s: %d rows, %v; it has %d, at %v", change, m.ID, n, err, viewers(t, m), m.Node())
	}
}

func shows(m *Member, line string) bool { return strings.Contains(m.Figures(), "\n"+line+"\n") }

// viewers counts the operators that a member has.
func viewers(t *testing.T, m *Member) (n int) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(m.Dir, "state.db")+"?_query_only=true&_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT count(*) FROM operators WHERE role = 'viewer'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Ensure a member whose rows are not those of the others finds it out, serves nobody until
// it has taken their state over, spreads nothing of its own and loses nothing, whether it
// follows or leads and whether the row is changed while it runs or stands.
func TestDifferingNodeTakesTheStateOver(t *testing.T) {
	t.Parallel()
	c := comparing(t, 3)
	var written atomic.Int64
	operators(t, c, &written, 45)
	done := 0
	for name, way := range map[string]struct{ leads, stopped bool }{
		"the leader, running": {leads: true}, "a follower that stood": {stopped: true},
	} {
		c.Converged()
		leader := c.Leader()
		bad := leader
		for _, m := range c.Members {
			if !way.leads && m != leader {
				bad = m
			}
		}
		if way.stopped {
			c.Stop(bad)
		}
		behind(t, bad, "UPDATE operators SET role = 'admin' WHERE name = 'op-7'")
		if way.stopped {
			c.Start(bad)
		} else if err := bad.Node().Snapshot(); err != nil { // with the wrong row in it
			t.Fatal(err)
		}
		before := resyncs(bad)
		c.Eventually(60*time.Second, name+" takes the state over", func() bool {
			operators(t, c, &written, 1)
			return resyncs(bad) > before
		})
		done++
		c.Eventually(20*time.Second, name+" is in the audit", func() bool { return told(t, bad) == done })
		c.Converged()
		if got := viewers(t, bad); got != int(written.Load()) {
			t.Errorf("%s: it has %d of %d acknowledged rows", name, got, written.Load())
		}
		c.Eventually(20*time.Second, name+" serves again", func() bool { return len(bad.Node().Vitals().Unready()) == 0 })
		// What is on its disk to begin with is right too.
		c.Stop(bad)
		for _, left := range []string{"state.db", "state.db-wal", "state.db-shm", "state.differs"} {
			if err := os.Remove(filepath.Join(bad.Dir, left)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		c.Start(bad)
		c.Converged()
		if got := viewers(t, bad); got != int(written.Load()) || resyncs(bad) != 0 {
			t.Errorf("%s: from its snapshots and log it has %d of %d rows, and took the state over %d times again", name, got, written.Load(), resyncs(bad))
		}
	}
}

// told counts the audit's entries about it.
func told(t *testing.T, m *Member) (n int) {
	t.Helper()
	for after, more := uint64(0), true; more; {
		entries, left, err := m.Node().DB().Audit(t.Context(), after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			after = e.GetIndex()
			if e.GetAction() == "node-differed" {
				n++
			}
		}
		more = left
	}
	return n
}

func resyncs(m *Member) (n int) {
	_, after, _ := strings.Cut(m.Figures(), "\nvedette_state_resyncs_total ")
	_, _ = fmt.Sscan(after, &n)
	return n
}

// Ensure nobody changes anything when no majority says who is right, and all say so.
func TestNoMajorityChangesNothing(t *testing.T) {
	t.Parallel()
	for name, members := range map[string]int{"two nodes": 2, "three that all differ": 3} {
		c := comparing(t, members)
		var written atomic.Int64
		operators(t, c, &written, 45)
		c.Converged()
		for i, m := range c.Members[1:] {
			behind(t, m, fmt.Sprintf("UPDATE operators SET role = 'role-%d' WHERE name = 'op-7'", i))
		}
		c.Eventually(60*time.Second, name+": an alarm at each", func() bool {
			operators(t, c, &written, 1)
			for _, m := range c.Members {
				if !shows(m, `vedette_state_differences_total{what="undecided"} 1`) {
					return false
				}
			}
			return true
		})
		all, err := c.Members[0].Node().Members(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range all {
			if len(m.GetAlarms()) != 1 || !strings.Contains(m.GetAlarms()[0], "no majority") || len(m.GetNotReady()) != 0 || resyncs(c.Members[i]) != 0 {
				t.Errorf("%s: %v", name, m)
			}
		}
		c.Close()
	}
}

// Ensure a node that differs answers no reads, takes no proposals, hands nobody its
// state and tells the others.
func TestDifferingNodeServesNobody(t *testing.T) {
	t.Parallel()
	c := comparing(t, 3)
	bad := c.Leader()
	// Nobody is there to take a state from, so that it stays as it is.
	for _, m := range c.Members {
		if m != bad {
			c.Cut(bad, m)
		}
	}
	c.Stop(bad)
	if err := os.WriteFile(filepath.Join(bad.Dir, "state.differs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Start(bad)
	node := bad.Node()
	if err := node.Fit(); !errors.Is(err, consensus.ErrUnfit) {
		t.Fatalf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := node.ReadBarrier(ctx); !errors.Is(err, consensus.ErrUnfit) || !errors.Is(err, consensus.ErrNoLeader) {
		t.Errorf("a read: %v", err)
	}
	if _, err := node.Propose(ctx, &raftv1.Command{Body: &raftv1.Command_PutOperator{PutOperator: &raftv1.PutOperator{Name: "x", Role: "viewer"}}}); !errors.Is(err, consensus.ErrNoLeader) {
		t.Errorf("a proposal: %v", err)
	}
	if _, _, ok := node.Leader(); ok {
		t.Error("it names a leader")
	}
	if why := node.Vitals().Unready(); len(why) == 0 || !strings.Contains(why[0], "differs") {
		t.Errorf("it is unready because of %q", why)
	}
	c.Heal()
	c.Eventually(30*time.Second, "it is fit again", func() bool { return node.Fit() == nil })
	if _, err := os.Stat(filepath.Join(bad.Dir, "state.differs")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still marked: %v", err)
	}
	c.Converged()
}

// Ensure a node whose rows were changed while it stood finds it out when it has started, however
// few entries come, and has the others' state.
func TestStartComparesTheWholeState(t *testing.T) {
	t.Parallel()
	c := New(t, 3, func(cfg *consensus.Config) { cfg.LookPeriod, cfg.Version = 200*time.Millisecond, "1.2.3" })
	var written atomic.Int64
	operators(t, c, &written, 12)
	c.Converged()
	bad := c.Members[0]
	if bad == c.Leader() {
		bad = c.Members[1]
	}
	c.Stop(bad)
	behind(t, bad, "UPDATE operators SET role = 'admin' WHERE name = 'op-7'")
	c.Start(bad)
	// What a node tells the log when it starts.
	cmd := &raftv1.Command{Time: 1, Actor: "node:" + bad.ID, Body: &raftv1.Command_SessionsEnded{SessionsEnded: &raftv1.SessionsEnded{Node: bad.ID, All: true}}}
	c.Eventually(20*time.Second, "the log to take it", func() bool {
		_, err := bad.Node().Propose(t.Context(), cmd)
		return err == nil
	})
	c.Eventually(30*time.Second, "the node to take the state over", func() bool { return resyncs(bad) > 0 })
	c.Converged()
	if got := viewers(t, bad); got != int(written.Load()) {
		t.Errorf("it has %d of %d rows", got, written.Load())
	}
}
