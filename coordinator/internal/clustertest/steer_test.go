package clustertest

import (
	"context"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// members are the cluster's, as its leader says, without waiting for silent ones.
func members(c *Cluster) []*operatorv1.Member {
	c.t.Helper()
	list, err := c.Leader().Node().Members(context.Background())
	if err != nil {
		c.t.Fatalf("listing members: %v", err)
	}
	return list
}

// Ensure a cluster grows from one node to three and five and shrinks to three again while
// sensors write, that of dead nodes so many are removed that three stay and no more, and
// that nothing acknowledged is lost on the way.
func TestGrowAndShrink(t *testing.T) {
	const dead = 2 * time.Second
	c := NewOf(t, 5, 1, func(cfg *consensus.Config) {
		cfg.StableFor, cfg.DeadAfter, cfg.LookPeriod = 50*time.Millisecond, dead, 100*time.Millisecond
		cfg.SnapshotThreshold, cfg.TrailingLogs, cfg.SnapshotInterval = 50, 10, 100*time.Millisecond // joiners get a snapshot
	})
	writers := write(t, c, 3, func(writers []*writer) {
		progress(c, writers, 40)
		for _, m := range c.Members[1:] {
			c.Join(m)
			progress(c, writers, 5)
		}
		if got := len(members(c)); got != 5 {
			t.Errorf("members: got %d, want 5", got)
		}
		// One after the other: two at once of five would do, but so a leader may be among them.
		for n, m := range []*Member{c.Members[4], c.Leader()} {
			if m == c.Members[4] && n == 1 {
				m = c.Members[3]
			}
			ended := c.Kill(m)
			c.Eventually(60*time.Second, "removal of "+m.ID, func() bool { return len(members(c)) == 4-n })
			ended()
			progress(c, writers, 5)
		}
		// Of three none is removed: that would leave two, which the next death stops.
		var last *Member
		for _, m := range c.Members {
			if m.Node() != nil && m != c.Leader() {
				last = m
			}
		}
		c.Kill(last)()
		from := time.Now()
		c.Eventually(30*time.Second, "time for a removal", func() bool { return time.Since(from) > dead+dead/2 })
		if got := len(members(c)); got != 3 {
			t.Errorf("members: got %d, want 3", got)
		}
		progress(c, writers, 5)
		c.Start(last)
		progress(c, writers, 5)
	})
	acked, lost, dup := verify(t, c, writers)
	if acked == 0 || lost != 0 || dup != 0 {
		t.Errorf("acknowledged %d, lost %d, twice %d", acked, lost, dup)
	}
}

// Ensure a node that joins an old cluster votes only when it was well for long enough.
func TestStableBeforeItVotes(t *testing.T) {
	const stable = 1500 * time.Millisecond
	c := NewOf(t, 2, 1, func(cfg *consensus.Config) { cfg.StableFor = stable })
	from := time.Now()
	c.Eventually(30*time.Second, "an old leader", func() bool { return time.Since(from) > stable+stable/2 })
	from = time.Now()
	c.Join(c.Members[1])
	if took := time.Since(from); took < stable {
		t.Errorf("it votes after %s, want %s at least", took, stable)
	}
}
