package store_test

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure hosts are counted in the states that a list shows them in.
func TestFiguresAreTheLists(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const silentBefore = 1000
	err = db.Update(1, func(tx *store.Tx) error {
		for _, h := range []struct {
			id    string
			seen  int64 // of the session; 0: none
			blind bool
			ended string
		}{
			{"h-never", 0, false, ""}, {"h-online", 2000, false, ""}, {"h-online2", 2000, false, ""}, {"h-blind", 2000, true, ""},
			{"h-mute", 500, false, ""}, {"h-mute-blind", 500, true, ""}, {"h-stopped", 2000, false, "stopped"}, {"h-unheard", 2000, false, "unheard"},
		} {
			if err := tx.AddHost(h.id, &sensorv1.HostFacts{Name: h.id}, nil, 1); err != nil {
				return err
			}
			n, _, err := tx.HostNumber(h.id)
			if err != nil {
				return err
			}
			if h.seen == 0 {
				continue
			}
			if _, err := tx.SetSession(n, &raftv1.HostSession{Host: h.id, Node: "n1", Connected: true, Session: 1}, h.seen); err != nil {
				return err
			}
			if err := tx.SetHealth(n, &sensorv1.Health{Blind: h.blind, BlindReason: "detached"}); err != nil {
				return err
			}
			if h.ended != "" {
				if _, err := tx.EndSession(n, "n1", &raftv1.SessionEnd{Session: 1, How: h.ended, Heard: h.seen}, 3000); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := db.Figures(t.Context(), silentBefore)
	if err != nil {
		t.Fatal(err)
	}
	hosts, _, err := db.Hosts(t.Context(), store.HostFilter{}, store.Page{})
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]uint64{}
	for _, h := range hosts {
		state := h.GetState()
		if (state == "online" || state == "blind") && h.GetLastSeen() < silentBefore { // as control does
			state = "silent"
		}
		listed[state]++
	}
	want := map[string]uint64{"never-seen": 1, "online": 2, "blind": 1, "silent": 3, "stopped": 1}
	if diff := cmp.Diff(want, f.Hosts); diff != "" {
		t.Errorf("counted, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff(listed, f.Hosts); diff != "" {
		t.Errorf("counted, -listed +counted:\n%s", diff)
	}
}
