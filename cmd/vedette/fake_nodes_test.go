package main

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// PutSignedNodes takes what the CLI signed; in mode "forger" the node changes what it tells of it.
func (f *fake) PutSignedNodes(_ context.Context, r *operatorv1.PutSignedNodesRequest) (*operatorv1.PutSignedNodesResponse, error) {
	list, signer, err := nodelist.Verify(r.GetSigned(), f.ca.Roots(), linktest.Cluster, time.Now())
	if err != nil {
		return nil, connect.NewError(connect.CodePermissionDenied, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if old, err := nodelist.Decode(f.nodes.GetPayload()); err == nil && old.GetSerial() >= list.GetSerial() {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("not newer (stale-nodes)"))
	}
	if signer.ID != "alice" {
		f.t.Errorf("signed by %q", signer.ID)
	}
	f.nodes = r.GetSigned()
	if f.mode == "forger" {
		list.Nodes[0].Address = "192.0.2.66:7443"
		if f.nodes.Payload, err = nodelist.Encode(list); err != nil {
			f.t.Error(err)
		}
	}
	return &operatorv1.PutSignedNodesResponse{Serial: list.GetSerial()}, nil
}

func (f *fake) ListMembers(context.Context, *operatorv1.ListMembersRequest) (*operatorv1.ListMembersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	members := fixedStatus().GetMembers()
	switch f.mode {
	case "near", "wicked", "viewer": // the fake's own addresses, so that each can be asked
		members = members[:2]
		members[0].OperatorAddress, members[1].OperatorAddress = f.at[0], f.at[1]
	case "gone": // nobody listens there
		for _, m := range members {
			m.OperatorAddress = f.dead
		}
	case "half":
		members = members[1:]
		members[0].OperatorAddress, members[1].OperatorAddress = f.at[0], f.dead
	}
	if f.mode == "grown" {
		members = append(members, &operatorv1.Member{Id: "n4", Address: "[2001:db8::4]:7443", Role: "follower", State: "alive"})
	}
	out := &operatorv1.ListMembersResponse{Members: members, SignedNodes: f.nodes}
	if f.mode == "ill" {
		out.Problems = fixedStatus().GetProblems()
	}
	return out, nil
}

// DebugInfo is of one node; in mode "wicked" one that wants its files to be written elsewhere.
func (f *fake) DebugInfo(context.Context, *operatorv1.DebugInfoRequest) (*operatorv1.DebugInfoResponse, error) {
	info := &operatorv1.DebugInfoResponse{NodeId: "n1", Time: at(600), Version: "1.2.3", Started: at(0), Build: "go\tgo1.26\n", Configuration: "id: n1\n",
		Health: "healthy\n", Readiness: "ready: leader\n", Metrics: "vedette_ready 1\n", Goroutines: "goroutine profile: total 1\n",
		Log: []*operatorv1.LogLine{{Time: at(5), Level: "warn", Text: "msg=\"low \x1b[2J\" left=3"}}, LogDropped: 2}
	if f.is("wicked") {
		info.NodeId = "../../../../tmp/evil"
	}
	return info, nil
}
