package coordinator_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator"
)

// Ensure that a node of a cluster which has lost its quorum for good goes on alone with
// all that it had, that it says so, that others can join, and that a node of before
// which comes back makes nobody follow it.
func TestRecover(t *testing.T) {
	c := startCluster(t, 3)
	sensor, boot := c.enrol(0), newBoot()
	session, _ := sensor.open(c.nodes[0].cfg.Advertise, boot)
	session.batch(boot, 0, titled(1, "a"), titled(2, "b"))
	session.wantAck(2)
	eventually(t, "everything at the third node", func() error {
		members, err := c.api.Members(t.Context())
		for _, m := range members {
			if m.GetState() != "alive" || m.GetAppliedIndex() != members[0].GetAppliedIndex() {
				return errors.Join(err, errors.New("not yet"))
			}
		}
		return err
	})
	kept, old := c.nodes[2].cfg, c.nodes[0].cfg
	if _, _, err := coordinator.Look(t.Context(), kept); !errors.Is(err, coordinator.ErrInUse) {
		t.Errorf("a node that runs: %v", err)
	}
	for _, n := range c.nodes {
		n.stop()
	}
	id, survey, err := coordinator.Look(t.Context(), kept)
	slices.Sort(survey.Members)
	if err != nil || id != "n3" || survey.Index == 0 || survey.Term == 0 || strings.Join(survey.Members, " ") != "n1 n2 n3" {
		t.Fatalf("survey: %s, %+v, %v", id, survey, err)
	}
	for range 2 { // as after an interruption
		if _, err := coordinator.Recover(t.Context(), kept); err != nil {
			t.Fatalf("recovering: %v", err)
		}
	}
	c.rebuilt(kept)
	if got := c.titles(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("findings: %v", got)
	}
	entries := c.audited()
	for _, want := range [][2]string{{"cluster-recover", "n3"}, {"member-remove", "n1"}, {"member-remove", "n2"}} {
		if !has(entries, want[0], want[1]) {
			t.Errorf("the audit lacks %v", want)
		}
	}
	if _, welcome := sensor.open(kept.Listen, boot); welcome.GetAcked() != 2 {
		t.Errorf("the host is welcomed at %d", welcome.GetAcked())
	}
	// One of before comes back with what it has: it stays without a leader.
	lost := start(t, old)
	second := newConfig(t, "n4")
	if err := coordinator.Join(t.Context(), second, kept.Listen, c.token("node")); err != nil {
		t.Fatalf("joining: %v", err)
	}
	c.nodes = append(c.nodes, start(t, second))
	eventually(t, "the second node", func() error {
		members, err := c.api.Members(t.Context())
		if err != nil || len(members) != 2 || members[0].GetState() != "alive" || members[1].GetState() != "alive" {
			return errors.Join(err, errors.New("not there"))
		}
		return nil
	})
	lost.stop()
	// At another address it is found too: it asks no node that is lost.
	c.nodes[1].stop()
	c.nodes[0].stop()
	if _, err := coordinator.Recover(t.Context(), kept); err != nil {
		t.Fatalf("recovering again: %v", err)
	}
	kept.Listen, kept.Advertise = fmt.Sprintf("127.0.0.1:%d", freePort(t)), ""
	c.rebuilt(kept)
	eventually(t, "the new address", func() error {
		members, err := c.api.Members(t.Context())
		if err != nil || len(members) != 1 || members[0].GetAddress() != kept.Listen {
			return errors.Join(err, fmt.Errorf("members: %v", members))
		}
		return nil
	})
	if got := c.titles(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("findings: %v", got)
	}
	empty := newConfig(t, "n1")
	if _, err := coordinator.Init(empty); err != nil {
		t.Fatal(err)
	}
	if _, err := coordinator.Recover(t.Context(), empty); err == nil || !strings.Contains(err.Error(), "no log") {
		t.Errorf("a node that never ran: %v", err)
	}
	if _, err := os.Stat(filepath.Join(empty.Data, "raft")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it left a log: %v", err)
	}
}
