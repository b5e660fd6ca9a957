package clustertest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Ensure that a cluster is upgraded node by node under writes, and that what only the new
// release knows stays out of the log until no node is left which it would stop. The old
// release is this one, saying that it knows less.
func TestRollingUpgrade(t *testing.T) {
	old := uint32(38)
	c := New(t, 3, func(cfg *consensus.Config) { cfg.Speaks = old })
	news := &raftv1.Command{Time: 1, Actor: "operator:x", Body: &raftv1.Command_NoteBackup{NoteBackup: &raftv1.NoteBackup{}}}
	propose := func(m *Member) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := m.Node().Propose(ctx, news)
		return err
	}
	old = 0 // what is started from now on is new
	writers := write(t, c, 3, func(writers []*writer) {
		progress(c, writers, 10)
		for i, m := range c.Members {
			for _, at := range c.Members { // from any node, old or new, leader or not
				if err := propose(at); !errors.Is(err, consensus.ErrRefused) || !strings.Contains(err.Error(), "older release") {
					t.Errorf("with %d of 3 upgraded, at %s: got %v", i, at.ID, err)
				}
			}
			c.Stop(m)
			progress(c, writers, 3)
			c.Start(m)
			progress(c, writers, 10)
		}
		for _, at := range c.Members {
			if err := propose(at); err != nil {
				t.Errorf("all upgraded, at %s: %v", at.ID, err)
			}
		}
	})
	if acked, lost, dup := verify(t, c, writers); acked == 0 || lost != 0 || dup != 0 {
		t.Errorf("acknowledged %d, lost %d, twice %d", acked, lost, dup)
	}
}
