package state_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func signedNodes(t *testing.T, change func(*sensorv1.NodeAddresses)) *raftv1.Command {
	t.Helper()
	l := &sensorv1.NodeAddresses{ClusterId: "c-1", Serial: uint64(now), NotAfter: now + 60*minute, Operator: "ada",
		Nodes: []*sensorv1.NodeAddress{{Id: "n1", Address: "10.0.0.1:7443"}}}
	change(l)
	payload, err := nodelist.Encode(l)
	if err != nil {
		t.Fatal(err)
	}
	return command(&raftv1.PutSignedNodes{Signed: &sensorv1.SignedNodes{Payload: payload, Signature: &sensorv1.Signature{Signature: []byte("ada")}}})
}

// Ensure a list of nodes replaces only an older one, is stored as it was signed, and that
// the record says who signed what.
func TestSignedNodes(t *testing.T) {
	l := fleet(t, 1)
	first := signedNodes(t, func(*sensorv1.NodeAddresses) {})
	if got, err := l.db.SignedNodes(t.Context()); got != nil || err != nil {
		t.Fatalf("before there is one: %v, %v", got, err)
	}
	l.want("", first)
	l.want(state.RejectStaleNodes, first)
	l.want(state.RejectStaleNodes, signedNodes(t, func(n *sensorv1.NodeAddresses) { n.Serial-- }))
	l.want(state.RejectWrongCluster, signedNodes(t, func(n *sensorv1.NodeAddresses) { n.ClusterId, n.Serial = "c-2", n.Serial+1 }))
	l.want(state.RejectNodesExpired, at(60, signedNodes(t, func(n *sensorv1.NodeAddresses) { n.Serial++ })))
	l.want(state.RejectInvalid, command(&raftv1.PutSignedNodes{Signed: &sensorv1.SignedNodes{Payload: []byte("x")}}))
	l.want(state.RejectInvalid, command(&raftv1.PutSignedNodes{}))
	if got, err := l.db.SignedNodes(t.Context()); err != nil || !proto.Equal(got, first.GetPutSignedNodes().GetSigned()) {
		t.Fatalf("stored %v, %v", got, err)
	}
	second := signedNodes(t, func(n *sensorv1.NodeAddresses) { n.Serial, n.Nodes[0].Address = n.Serial+1, "10.0.0.2:7443" })
	l.want("", second)
	if got, err := l.db.SignedNodes(t.Context()); err != nil || !proto.Equal(got, second.GetPutSignedNodes().GetSigned()) {
		t.Fatalf("stored %v, %v", got, err)
	}
	entries, _, err := l.db.Audit(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var signed []*operatorv1.AuditEntry
	for _, e := range entries {
		if e.GetAction() == "nodes-sign" {
			signed = append(signed, e)
		}
	}
	if len(signed) != 2 || !strings.Contains(signed[1].GetDetail(), "n1=10.0.0.2:7443") || signed[1].GetActor() != "operator:ada" {
		t.Errorf("the record says %v", signed)
	}
}
