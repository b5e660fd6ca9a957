package coordinator_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a signed list of nodes reaches the sensors of every node as it was signed: those
// that are connected at once, others with their session; and that the cluster takes only
// a newer one.
func TestSignedNodes(t *testing.T) {
	c := startCluster(t, 3)
	boots := [][]byte{newBoot(), newBoot(), newBoot()}
	var sessions []*testSession
	for i := range c.nodes {
		sensor := c.enrol(i)
		session, welcome := sensor.open(c.nodes[i].cfg.Advertise, boots[i])
		if welcome.GetNodes().GetSigned() != nil || len(welcome.GetNodes().GetNodes()) != 3 {
			t.Fatalf("welcome before anything was signed: %v", welcome.GetNodes())
		}
		sessions = append(sessions, session)
	}
	members, signed, err := c.api.MembersAndSigned(t.Context())
	if err != nil || signed != nil {
		t.Fatalf("signed %v, %v", signed, err)
	}
	var nodes []*sensorv1.NodeAddress
	for _, m := range members[:2] {
		nodes = append(nodes, &sensorv1.NodeAddress{Id: m.GetId(), Address: m.GetAddress()})
	}
	sign := func(nodes []*sensorv1.NodeAddress, before *sensorv1.NodeAddresses) *sensorv1.NodeAddresses {
		t.Helper()
		list, err := c.api.NewNodes(nodes, time.Hour, before)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	first := sign(nodes, nil)
	if err := c.api.SignNodes(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	want := func(where string, signed *sensorv1.SignedNodes, list *sensorv1.NodeAddresses) {
		t.Helper()
		got, signer, err := nodelist.Verify(signed, c.operators(), c.admin.ClusterID, time.Now())
		if err != nil || !proto.Equal(got, list) || signer.ID != c.admin.Operator {
			t.Fatalf("%s: %v by %s, %v", where, got, signer.ID, err)
		}
	}
	told := func(list *sensorv1.NodeAddresses) {
		t.Helper()
		for _, s := range sessions {
			m := s.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetNodes().GetSigned() != nil })
			want("connected", m.GetNodes().GetSigned(), list)
			if len(m.GetNodes().GetNodes()) != 3 {
				t.Errorf("beside it: %v", m.GetNodes().GetNodes())
			}
		}
	}
	told(first)
	late, boot := c.enrol(0), newBoot()
	_, welcome := late.open(c.nodes[2].cfg.Advertise, boot)
	want("with a session", welcome.GetNodes().GetSigned(), first)

	st, err := c.api.Status(t.Context())
	if err != nil || !slices.ContainsFunc(st.GetProblems(), func(p string) bool {
		return strings.Contains(p, members[2].GetId()) && strings.Contains(p, "sign-nodes")
	}) {
		t.Errorf("the third node is not signed, and the status says %q, %v", st.GetProblems(), err)
	}
	older := sign(nodes, nil)
	nodes = append(nodes, &sensorv1.NodeAddress{Id: members[2].GetId(), Address: members[2].GetAddress()})
	second := sign(nodes, first)
	if err := c.api.SignNodes(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	told(second)
	if err := c.api.SignNodes(t.Context(), older); err == nil || !strings.Contains(err.Error(), "stale-nodes") {
		t.Errorf("an older list: %v", err)
	}
	if st, err := c.api.Status(t.Context()); err != nil || len(st.GetProblems()) != 1 { // it ends within the hour
		t.Errorf("all are signed, and the status says %q, %v", st.GetProblems(), err)
	}
}
