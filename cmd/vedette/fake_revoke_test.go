package main

import (
	"context"
	"crypto"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/revocation"
)

// ListOperators pages by one.
func (f *fake) ListOperators(_ context.Context, r *operatorv1.ListOperatorsRequest) (*operatorv1.ListOperatorsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &operatorv1.ListOperatorsResponse{Revocations: f.revocations, Operators: []*operatorv1.OperatorRow{
		{Name: "alice", Role: "admin", NotAfter: time.Now().Add(time.Hour).UnixNano(), FirstSeen: at(0)},
		{Name: "bob", Role: "viewer", NotAfter: at(60), MadeBy: "carl", FirstSeen: at(10)},
		{Name: "carl", Role: "admin", NotAfter: time.Now().Add(time.Hour).UnixNano(), FirstSeen: at(5)},
	}}
	list, err := revocation.Decode(f.revocations.GetPayload())
	if err != nil {
		list = nil
	}
	for _, o := range out.GetOperators() {
		if since, revoked := revocation.Names(list)[o.GetName()]; revoked {
			o.RevokedAt, o.RevokedBy, o.Reason = since, list.GetOperator(), "left"
		}
	}
	n := len(r.GetPageToken())
	if n > 0 {
		out.Revocations = nil
	}
	if n+1 < len(out.GetOperators()) {
		out.PageToken = strings.Repeat("x", n+1)
	}
	out.Operators = out.GetOperators()[n : n+1]
	return out, nil
}

// PutRevocations takes what the CLI signed; in mode "forger" the node changes what it tells of it.
func (f *fake) PutRevocations(_ context.Context, r *operatorv1.PutRevocationsRequest) (*operatorv1.PutRevocationsResponse, error) {
	list, signer, err := revocation.Verify(r.GetSigned(), f.ca.Roots(), linktest.Cluster, time.Now())
	if err != nil || signer.ID != "alice" || r.GetReason() == "" {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.Join(err, errors.New("by "+signer.ID)))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if held, err := revocation.Decode(f.revocations.GetPayload()); err == nil && len(list.GetOperators()) <= len(held.GetOperators()) {
		f.t.Errorf("the next list has %v, the one before %v", list, held)
	}
	f.revocations = r.GetSigned()
	if f.mode == "forger" {
		list.Operators = list.Operators[:1]
		list.Serial++
		if f.revocations.Payload, err = revocation.Encode(list); err != nil {
			f.t.Error(err)
		}
	}
	return &operatorv1.PutRevocationsResponse{Serial: list.GetSerial()}, nil
}

func (f *fake) RemoveHost(_ context.Context, r *operatorv1.RemoveHostRequest) (*operatorv1.RemoveHostResponse, error) {
	for _, h := range f.hosts(nil, true) {
		if h.GetId() == r.GetHost() && r.GetReason() != "" && r.GetIdempotencyKey() != "" {
			return &operatorv1.RemoveHostResponse{Host: h}, nil
		}
	}
	return nil, connect.NewError(connect.CodeNotFound, errors.New("no such host"))
}

// ListCheckpoints has one of each node, of its own; in mode "forger" one of another record.
func (f *fake) ListCheckpoints(context.Context, *operatorv1.ListCheckpointsRequest) (*operatorv1.ListCheckpointsResponse, error) {
	out := &operatorv1.ListCheckpointsResponse{}
	entries := fixedAudit()
	for _, node := range []string{"n1", "n2"} {
		cert := f.ca.IssueBetween(link.KindNode, node, "", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		last := entries[len(entries)-1]
		c := &raftv1.Checkpoint{ClusterId: linktest.Cluster, Node: "node:" + node, Index: last.GetIndex(), Hash: last.GetHash(), Time: time.Now().UnixNano()}
		if f.is("forger") {
			c.Hash = audit.Genesis()
		}
		if err := audit.SignCheckpoint(cert.PrivateKey.(crypto.Signer), cert.Certificate, c); err != nil {
			return nil, err
		}
		out.Checkpoints = append(out.Checkpoints, c)
	}
	return out, nil
}
