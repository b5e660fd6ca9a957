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
