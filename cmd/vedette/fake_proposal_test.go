package main

import (
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// proposal is an order of automation's that waits for a person: nobody has signed it.
func (f *fake) proposal() *operatorv1.Operation {
	g := &sensorv1.Grant{Action: sensorv1.Action_ACTION_ISOLATE, Level: sensorv1.IsolationLevel_ISOLATION_LEVEL_EGRESS_ONLY, LeaseSeconds: 3600,
		Epoch: 1, Nonce: make([]byte, 16), IssuedAt: at(1), NotAfter: at(3600), Evidence: []string{found},
		Reason: "a shell out of a server", Operation: "op-proposed", ClusterId: linktest.Cluster}
	set, err := grant.Address(g, web1)
	if err != nil {
		f.t.Fatal(err)
	}
	payload, err := grant.Encode(g)
	if err != nil {
		f.t.Fatal(err)
	}
	return &operatorv1.Operation{Id: "op-proposed", State: "waiting", Action: "isolate", Hosts: set.Hosts(), RequestedBy: "engine:respond", Reason: g.GetReason(),
		ApprovalsMissing: 1, Level: 2, Finding: found, Grant: &sensorv1.SignedGrant{Payload: payload}}
}
