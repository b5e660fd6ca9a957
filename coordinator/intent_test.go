package coordinator_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure the kill switch reaches the sessions of every node at once, and that who holds
// it is known as soon as the sensors say so.
func TestKillSwitch(t *testing.T) {
	const most = 10 * time.Second // fleet-wide; DESIGN asks for no more
	c := startCluster(t, 3)
	one, err := c.api.ApplyIntent(t.Context(), &sensorv1.Intent{Reason: "to begin with"}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	type member struct {
		*testSession
		boot []byte
	}
	var sessions []member
	for i := range c.nodes {
		sensor, boot := c.enrol(i), newBoot()
		session, welcome := sensor.open(c.nodes[i].cfg.Advertise, boot)
		if got, err := intent.Decode(welcome.GetIntent().GetPayload()); err != nil || got.GetVersion() != 1 {
			t.Fatalf("welcome with intent %v, %v", got, err)
		}
		sessions = append(sessions, member{session, boot})
	}
	behind, online, err := c.api.Behind(t.Context(), 1)
	if err != nil || online != 3 || len(behind) != 3 {
		t.Fatalf("%d of %d hosts are behind before they said anything, %v", len(behind), online, err)
	}

	began := time.Now()
	off, err := c.api.ApplyIntent(t.Context(), &sensorv1.Intent{AutomationOff: true, Reason: "now"}, one, "")
	if err != nil {
		t.Fatal(err)
	}
	committed := time.Since(began)
	for i, s := range sessions {
		m := s.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetIntent() != nil })
		in, _, err := intent.Verify(m.GetIntent(), c.operators(), c.admin.ClusterID, time.Now())
		if err != nil || in.GetVersion() != 2 || !in.GetAutomationOff() {
			t.Fatalf("node %d tells %v, %v", i+1, in, err)
		}
		s.batch(s.boot, 0, &sensorv1.Record{Sequence: 1, Time: time.Now().UnixNano(), Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{
			WindowEnd: time.Now().UnixNano(), Health: &sensorv1.Health{IntentVersion: in.GetVersion()}}}})
	}
	reached := time.Since(began)
	last := -1
	if behind, err := c.api.WaitIntent(t.Context(), off.Version(), func(holding, _ int) { last = holding }); err != nil || len(behind) != 0 || last != 3 {
		t.Fatalf("waiting: %d held it, behind %v, %v", last, behind, err)
	}
	t.Logf("kill switch: in the log after %s, at every session after %s, every host known to hold it after %s", committed, reached, time.Since(began))
	if reached > most {
		t.Errorf("it took %s to reach three sessions, at most %s", reached, most)
	}

	// What the client knows by now is what a node is held against.
	mark := client.Mark{Version: off.Version(), Digest: off.Digest()}
	current, spread, err := c.api.IntentInForce(t.Context(), mark)
	if err != nil || current.Version() != 2 || spread.Hosts != 3 || spread.Current != 3 {
		t.Errorf("in force: version %d, %v, %v", current.Version(), spread, err)
	}
	for what, mark := range map[string]client.Mark{
		"a newer one": {Version: 3, Digest: off.Digest()}, "another of the same version": {Version: 2, Digest: one.Digest()}, "another before": {Version: 1, Digest: off.Digest()},
	} {
		if _, _, err := c.api.IntentInForce(t.Context(), mark); !errors.Is(err, client.ErrIntentChain) {
			t.Errorf("%s was seen before: got %v", what, err)
		}
	}
	if _, _, err := c.api.IntentInForce(t.Context(), client.Mark{Version: 1, Digest: one.Digest()}); err != nil {
		t.Errorf("the one before was seen: %v", err)
	}
	if _, err := c.api.ApplyIntent(t.Context(), &sensorv1.Intent{Reason: "late"}, one, ""); !errors.Is(err, client.ErrIntentStale) {
		t.Errorf("from an older version: got %v", err)
	}
	var versions []string
	for i, err := range c.api.Intents(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, fmt.Sprintf("%d by %s", i.Version(), i.Signer))
	}
	if fmt.Sprint(versions) != "[2 by admin 1 by admin]" {
		t.Errorf("history: %v", versions)
	}
}
