package coordinator_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
)

// moves starts a node again at another address and waits until the
// others find it there.
func (c *testCluster) moves(at int) {
	c.t.Helper()
	cfg := c.nodes[at].cfg
	cfg.Listen, cfg.Advertise = fmt.Sprintf("127.0.0.1:%d", freePort(c.t)), ""
	c.nodes[at] = start(c.t, cfg)
	eventually(c.t, "the new address", func() error {
		members, err := c.api.Members(c.t.Context())
		for _, m := range members {
			if m.GetId() == cfg.ID && m.GetAddress() == cfg.Listen && m.GetState() == "alive" {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("members: %v", members))
	})
}

// Ensure a member that comes back at another address is found there by the others.
func TestMemberMoves(t *testing.T) {
	c := startCluster(t, 3)
	c.nodes[2].stop()
	c.moves(2)
}

// Ensure that it is found also when it had not yet applied what names the cluster
// and its nodes: then what it was given when it joined tells whom to ask.
func TestMemberMovesBeforeItCaughtUp(t *testing.T) {
	c := startCluster(t, 3)
	// Its log has to hold the entry that its state is put back to.
	eventually(t, "entries at the node", func() error {
		members, err := c.api.Members(t.Context())
		for _, m := range members {
			if m.GetId() == c.nodes[2].cfg.ID && m.GetAppliedIndex() > 0 {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("members: %v", members))
	})
	c.nodes[2].stop()
	state := filepath.Join(c.nodes[2].cfg.Data, "state.db")
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(state + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	db, err := store.Open(t.Context(), state, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(1, func(*store.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	c.moves(2)
}
