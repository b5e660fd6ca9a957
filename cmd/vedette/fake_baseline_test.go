package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// ListBehaviours pages by one.
func (f *fake) ListBehaviours(_ context.Context, r *operatorv1.ListBehavioursRequest) (*operatorv1.ListBehavioursResponse, error) {
	if len(f.hosts(&operatorv1.Selector{Ids: []string{r.GetHost()}}, false)) != 1 {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no host "+r.GetHost()))
	}
	res := &operatorv1.ListBehavioursResponse{}
	for i, row := range fixedBehaviours() {
		b := row.GetBehaviour()
		skip := r.GetKind() != 0 && r.GetKind() != b.GetKind() || r.GetNewOnly() && row.GetKnown() || !strings.Contains(string(b.GetSubject()), r.GetSubject())
		if skip || fmt.Sprint(i) < r.GetPageToken() {
			continue
		}
		if len(res.GetBehaviours()) == 1 {
			res.PageToken = fmt.Sprint(i)
			break
		}
		res.Behaviours = append(res.Behaviours, row)
	}
	return res, nil
}

// DiffBaselines implements the service.
func (f *fake) DiffBaselines(_ context.Context, r *operatorv1.DiffBaselinesRequest) (*operatorv1.DiffBaselinesResponse, error) {
	if strings.HasPrefix(r.GetAgainst(), "group:") && r.GetAgainst() != "group:web" {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no role group "+r.GetAgainst()))
	}
	return &operatorv1.DiffBaselinesResponse{Of: 2, Common: 7, Rows: []*operatorv1.DifferenceRow{
		{Behaviour: fixedBehaviours()[0].GetBehaviour(), Here: true, Count: 3, LastSeen: at(5), Hosts: 1},
		{Behaviour: &sensorv1.Behaviour{Key: []byte("k9"), Kind: sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC, Subject: []byte("/usr/sbin/cron"), Object: []byte(hostile)}, Others: 2, Hosts: 9},
	}}, nil
}

// ListRoles implements the service.
func (f *fake) ListRoles(context.Context, *operatorv1.ListRolesRequest) (*operatorv1.ListRolesResponse, error) {
	return &operatorv1.ListRolesResponse{Without: 1, Roles: []*operatorv1.RoleRow{
		{Name: "like:3fa9c1", Basis: "similar", Hosts: 12, MadeAt: at(0)},
		{Name: "web", Basis: "label", Hosts: 2, MadeAt: at(0), PackOperator: "alice", PackMadeAt: at(1), PackNotAfter: at(86400)},
	}}, nil
}

// GetPack implements the service.
func (f *fake) GetPack(_ context.Context, r *operatorv1.GetPackRequest) (*operatorv1.GetPackResponse, error) {
	role := strings.TrimPrefix(r.GetOf(), "group:")
	if r.GetOf() == "web1" {
		role = web1
	}
	return &operatorv1.GetPackResponse{LeftOut: 2, Pack: &sensorv1.Pack{ClusterId: "c", Role: role, MadeAt: at(0), Of: 4, Permille: r.GetPermille(),
		Behaviours: []*sensorv1.PackBehaviour{{Kind: sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC, Subject: []byte("/usr/sbin/cron"), Object: []byte("/bin/sh"), Hosts: 4, Known: 3}}}}, nil
}

// PutPack takes what an operator signed.
func (f *fake) PutPack(_ context.Context, r *operatorv1.PutPackRequest) (*operatorv1.PutPackResponse, error) {
	p, signer, err := pack.Verify(r.GetSigned(), f.ca.Roots(), linktest.Cluster, time.Now())
	if err != nil || signer == nil {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("no operator's: %w", err))
	}
	if p.GetRole() == "nobody" {
		return &operatorv1.PutPackResponse{}, nil
	}
	if p.GetRole() == pack.Fleet {
		return &operatorv1.PutPackResponse{Hosts: 4}, nil
	}
	if p.GetRole() != "web" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("role "+p.GetRole()))
	}
	return &operatorv1.PutPackResponse{Hosts: 2}, nil
}

// Unlearn takes what an operator signed.
func (f *fake) Unlearn(_ context.Context, r *operatorv1.UnlearnRequest) (*operatorv1.UnlearnResponse, error) {
	u, _, err := pack.VerifyUnlearn(r.GetSigned(), f.ca.Roots(), linktest.Cluster, time.Now())
	if err != nil {
		return nil, connect.NewError(connect.CodePermissionDenied, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unlearn = u
	return &operatorv1.UnlearnResponse{Id: u.GetId()}, nil
}

// ListUnlearns answers with the order that was given, done when it is asked for the second time; of all
// orders there is an older one, on the next page.
func (f *fake) ListUnlearns(_ context.Context, r *operatorv1.ListUnlearnsRequest) (*operatorv1.ListUnlearnsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unlearn == nil || r.GetId() != "" && r.GetId() != f.unlearn.GetId() {
		return &operatorv1.ListUnlearnsResponse{}, nil
	}
	if r.GetPageToken() == "older" {
		return &operatorv1.ListUnlearnsResponse{Rows: []*operatorv1.UnlearnRow{{Id: "ul-older", Host: "h-1", Operator: "bob", Time: at(-60), State: "expired"}}}, nil
	}
	row := &operatorv1.UnlearnRow{Id: f.unlearn.GetId(), Host: f.unlearn.GetHost(), Operator: f.unlearn.GetOperator(), Time: at(0), State: "pending",
		What: fmt.Sprintf("%d keys, %q, since %d", len(f.unlearn.GetKeys()), f.unlearn.GetSubject(), f.unlearn.GetSince()/1e9), Reason: f.unlearn.GetReason()}
	if f.unlearnAsked++; f.unlearnAsked > 1 {
		row.State, row.Behaviours, row.AnsweredAt = "done", 3, at(2)
	}
	if f.mode == "unlearn-fails" {
		row.State, row.Failure = "failed", "telling the kernel: closed"
	}
	out := &operatorv1.ListUnlearnsResponse{Rows: []*operatorv1.UnlearnRow{row}}
	if r.GetId() == "" {
		out.PageToken = "older"
	}
	return out, nil
}

// ListRollOuts implements the service.
func (f *fake) ListRollOuts(context.Context, *operatorv1.ListRollOutsRequest) (*operatorv1.ListRollOutsResponse, error) {
	return &operatorv1.ListRollOutsResponse{Rows: []*operatorv1.RollOutRow{{NotedAt: at(9),
		Behaviour: fixedBehaviours()[0].GetBehaviour(), RollOut: &raftv1.RollOut{Key: []byte("k1"), FirstSeen: at(0), LastSeen: at(8), Hosts: 9, Installed: 8, By: "apt-get"}}}}, nil
}
