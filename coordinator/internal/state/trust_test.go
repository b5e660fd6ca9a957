package state_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/trust"
)

func trusts(t *testing.T, epoch uint64, issuer uint32, roots ...[]byte) *raftv1.Command {
	t.Helper()
	payload, err := trust.Encode(&sensorv1.Trust{ClusterId: "c-1", Epoch: epoch, SignedAt: now, Operator: "ada", Roots: roots, Issuer: issuer})
	if err != nil {
		t.Fatal(err)
	}
	return command(&raftv1.PutTrust{Signed: &sensorv1.SignedTrust{Payload: payload, Signature: &sensorv1.Signature{Signature: []byte("ada")}}, Reason: "yearly"})
}

// Ensure an authority is followed by another one only in steps that a node or a host which
// is one step behind survives, and that nobody is cut off but by force, which is told.
func TestTrust(t *testing.T) {
	l := fleet(t, 2)
	l.want("", command(&raftv1.PutNode{Node: &sensorv1.Node{Id: "n9", Address: "10.0.0.9:1", OperatorAddress: "10.0.0.9:2"}}))
	for _, host := range []string{"h-0000", "h-0001"} {
		l.want("", command(&raftv1.HostSession{Host: host, Node: "n9", Connected: true, Session: 1}))
	}
	a, b, c := linktest.NewCAFor(t, "c-1").Certificate.Raw, linktest.NewCAFor(t, "c-1").Certificate.Raw, linktest.NewCAFor(t, "c-1").Certificate.Raw
	node := func(epoch uint64) {
		t.Helper()
		var all []*raftv1.HolderTrust
		nodes, err := l.db.Nodes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes {
			all = append(all, &raftv1.HolderTrust{Name: n.GetId(), Epoch: epoch})
		}
		l.want("", command(&raftv1.NoteTrust{Nodes: all}))
	}
	host := func(id string, epoch uint64, root []byte) {
		t.Helper()
		l.want("", command(&raftv1.NoteTrust{Hosts: []*raftv1.HostTrust{{Host: id, Epoch: epoch, Root: trust.Key(root)}}}))
	}
	l.want(state.RejectInvalid, command(&raftv1.PutTrust{Signed: &sensorv1.SignedTrust{Payload: []byte("x")}}))
	l.want(state.RejectInvalid, command(&raftv1.NoteTrust{Hosts: []*raftv1.HostTrust{{Host: "h-0000", Root: make([]byte, sha256.Size+1)}}}))
	l.want(state.RejectStaleTrust, trusts(t, 2, 0, a, b))
	l.want(state.RejectTrustStep, trusts(t, 1, 1, a, b)) // nobody knows b
	l.want("", trusts(t, 1, 0, a, b))
	l.want(state.RejectStaleTrust, trusts(t, 1, 0, a, b))
	l.want(state.RejectNodesNotReady, trusts(t, 2, 1, a, b))
	node(1)
	l.want(state.RejectTrustStep, trusts(t, 2, 2, a, b, c)) // nobody knows c
	l.want(state.RejectTrustStep, trusts(t, 2, 0, b))       // a signs
	l.want("", trusts(t, 2, 1, a, b))
	node(2)
	l.want(state.RejectTrustStep, trusts(t, 3, 0, b)) // nodes show a
	l.want(state.RejectHostsNotReady, trusts(t, 3, 0, b, a))
	host("h-0000", 1, a) // it knows both since the first list
	host("h-0001", 2, b)
	l.want("", trusts(t, 3, 0, b, a))
	l.want(state.RejectNodesNotReady, trusts(t, 4, 0, b))
	node(3)
	l.want(state.RejectHostsNotReady, trusts(t, 4, 0, b)) // h-1 has a certificate by a
	forced := trusts(t, 4, 0, b)
	forced.GetPutTrust().Force = true
	l.want("", forced)
	entries, _, err := l.db.Audit(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for _, e := range entries {
		if e.GetAction() == "trust-sign" && e.GetSubject() == "epoch 4" {
			last = e.GetDetail()
		}
	}
	if !strings.Contains(last, "forced: 1 hosts, h-0000 among them") || !strings.Contains(last, `"yearly"`) {
		t.Errorf("the record says %q", last)
	}
}

// Ensure hosts that were not seen for long hold nobody up.
func TestTrustOfTheAway(t *testing.T) {
	l := fleet(t, 1)
	l.want("", command(&raftv1.HostSession{Host: "h-0000", Node: "n1", Connected: true, Session: 1}))
	a, b := linktest.NewCAFor(t, "c-1").Certificate.Raw, linktest.NewCAFor(t, "c-1").Certificate.Raw
	nodes, err := l.db.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, next := range []*raftv1.Command{trusts(t, 1, 0, a, b), trusts(t, 2, 1, a, b), trusts(t, 3, 0, b, a)} {
		next.GetPutTrust().SeenSince = now + 1
		l.want("", next)
		for _, n := range nodes {
			l.want("", command(&raftv1.NoteTrust{Nodes: []*raftv1.HolderTrust{{Name: n.GetId(), Epoch: uint64(i + 1)}}})) //nolint:gosec // three
		}
	}
	l.want(state.RejectHostsNotReady, trusts(t, 4, 0, b))
	alone := trusts(t, 4, 0, b)
	alone.GetPutTrust().SeenSince = now + 1
	l.want("", alone)
}

// Ensure an authority whose key was lost before any node had it is dropped again: no node
// is ever ready for its list, and no host has heard of it.
func TestTrustUndone(t *testing.T) {
	l := fleet(t, 1)
	l.want("", command(&raftv1.PutNode{Node: &sensorv1.Node{Id: "n9", Address: "10.0.0.9:1", OperatorAddress: "10.0.0.9:2"}}))
	l.want("", command(&raftv1.HostSession{Host: "h-0000", Node: "n9", Connected: true, Session: 1}))
	a, b := linktest.NewCAFor(t, "c-1").Certificate.Raw, linktest.NewCAFor(t, "c-1").Certificate.Raw
	l.want("", trusts(t, 1, 0, a, b))
	l.want(state.RejectNodesNotReady, trusts(t, 2, 1, a, b))
	l.want("", trusts(t, 2, 0, a))
	l.want(state.RejectNodesNotReady, trusts(t, 3, 0, a, b))
}
