package coordinator_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a status of real nodes says nothing when all is well, and then since when one is
// down, that one more loss stops the cluster, what to type, and that automation is off.
func TestStatusSaysWhatIsWrong(t *testing.T) {
	c := startCluster(t, 3)
	says := func(want ...string) error {
		st, err := c.api.Status(t.Context())
		if err != nil {
			return err
		}
		if len(st.GetProblems()) != len(want) {
			return fmt.Errorf("got %d problems, want %d: %q", len(st.GetProblems()), len(want), st.GetProblems())
		}
		for i, problem := range st.GetProblems() {
			for part := range strings.SplitSeq(want[i], "…") {
				if !strings.Contains(problem, part) {
					return fmt.Errorf("problem %d: got %q, want it to say %q", i+1, problem, part)
				}
			}
		}
		return nil
	}
	eventually(t, "all is well", func() error { return says() })
	// What a host has not done is told, and is no problem of the cluster's.
	if err := c.isolate(c.admin, c.enrol(0).id, "op-unanswered"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an order is not answered", func() error {
		st, err := c.api.Status(t.Context())
		if err == nil && (st.GetIsolationsPending() != 1 || st.GetIsolationsFailed() != 0) {
			err = fmt.Errorf("%d pending, %d failed", st.GetIsolationsPending(), st.GetIsolationsFailed())
		}
		return errors.Join(err, says())
	})
	if _, err := c.api.ApplyIntent(t.Context(), &sensorv1.Intent{AutomationOff: true, Reason: "drill"}, nil, ""); err != nil {
		t.Fatal(err)
	}
	c.nodes[2].stop()
	eventually(t, "two problems", func() error {
		return says("Node n3…does not answer since 20…; the loss of one more stops the cluster…'systemctl status vedette-coordinator'…'vedette cluster remove n3'",
			"Automation is off since 20…(version 1 of the intent)…'vedette automation on")
	})
	res, err := c.api.MembersAndProblems(t.Context())
	if err != nil || len(res.GetProblems()) != 1 || !strings.Contains(res.GetProblems()[0], "Node n3") {
		t.Errorf("the nodes' problems: %q, %v", res.GetProblems(), err)
	}
	for _, m := range res.GetMembers() {
		if m.GetId() != "n3" && (m.GetVersion() != "dev" || m.GetCertificateEnds() == 0 || m.GetDiskTotal() == 0) {
			t.Errorf("%s says of itself: %v", m.GetId(), m)
		}
	}
}
