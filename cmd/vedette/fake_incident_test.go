package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/pack"
)

// GetIncident answers with the one incident; in mode odd its finding was told because it was odd.
func (f *fake) GetIncident(_ context.Context, r *operatorv1.GetIncidentRequest) (*operatorv1.GetIncidentResponse, error) {
	if r.GetId() != fixedIncident().GetId() {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no incident %q", r.GetId()))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	res := &operatorv1.GetIncidentResponse{Incident: fixedIncident(), Findings: fixedFindings()[:1]}
	if f.mode == "many" {
		res.Incident.Findings = append(res.Incident.Findings, "f-2", "f-3")
	}
	if f.mode == "odd" || f.mode == "untold" || f.mode == "old" {
		res.Findings[0].Finding.PValue = 0.001
	}
	for i, d := range f.disposed {
		state := []string{"done", "pending", "failed", "expired"}[i%4]
		row := &operatorv1.DispositionRow{Id: d.GetId(), Host: d.GetHost(), Operator: d.GetOperator(), Time: at(50), Malicious: d.GetMalicious(),
			Findings: uint32(len(d.GetFindings())), State: state} //nolint:gosec // few
		switch state {
		case "done":
			row.Taken, row.AnsweredAt = 1, at(52)
		case "failed":
			row.Failure, row.AnsweredAt = "the disposition is out of its time", at(52)
		}
		res.Dispositions = append(res.Dispositions, row)
	}
	return res, nil
}

// CloseIncident takes what the operator signed for the hosts.
func (f *fake) CloseIncident(_ context.Context, r *operatorv1.CloseIncidentRequest) (*operatorv1.CloseIncidentResponse, error) {
	if r.GetId() != fixedIncident().GetId() {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no incident %q", r.GetId()))
	}
	if r.GetIdempotencyKey() == "" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no idempotency key"))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, signed := range r.GetDispositions() {
		d, _, err := pack.VerifyDisposition(signed, f.ca.Roots(), linktest.Cluster, time.Now())
		if err != nil {
			return nil, connect.NewError(connect.CodePermissionDenied, err)
		}
		if d.GetIncident() != r.GetId() || d.GetMalicious() != (r.GetDisposition() == "malicious") {
			return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("told otherwise than closed"))
		}
		f.disposed = append(f.disposed, d)
	}
	i := fixedIncident()
	i.Status, i.Disposition, i.CloseReason = "closed", r.GetDisposition(), r.GetReason()
	res := &operatorv1.CloseIncidentResponse{Incident: i, Told: uint32(len(r.GetDispositions()))} //nolint:gosec // few
	switch f.mode {
	case "untold":
		res.Told, res.Untold = 0, "node n2 runs an older release"
	case "old":
		res.Told = 0
	}
	return res, nil
}
