package control

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// maxDisposed is how many hosts one closing of an incident tells of it.
const maxDisposed = 256

// checkDispositions holds what an incident's hosts are to be told against who asks, and against what they
// say of the incident. The sensors verify each again.
func (s *Server) checkDispositions(ctx context.Context, r *operatorv1.CloseIncidentRequest) error {
	if len(r.GetDispositions()) > maxDisposed {
		return invalid("%d hosts to be told, at most %d", len(r.GetDispositions()), maxDisposed)
	}
	caller, seen := operator(ctx), map[string]bool{}
	for _, signed := range r.GetDispositions() {
		d, signer, err := pack.VerifyDisposition(signed, s.operatorRoots(), s.cfg.Authority.Cluster(), s.cfg.Now())
		switch {
		case err != nil:
			return packError(err)
		case signer.ID != caller.ID:
			return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("operator %q submits a disposition that %q signed: each signs their own", caller.ID, signer.ID))
		case d.GetIncident() != r.GetId() || state.DispositionInWords(d.GetMalicious()) != r.GetDisposition():
			return invalid("a disposition says that incident %q was %s, and %q is to be closed as %s",
				d.GetIncident(), state.DispositionInWords(d.GetMalicious()), r.GetId(), r.GetDisposition())
		case seen[d.GetHost()]:
			return invalid("two dispositions are for host %s: one says it all", d.GetHost())
		}
		seen[d.GetHost()] = true
	}
	return nil
}

// untold are the dispositions of a request whose hosts were not told of the incident yet, and whether it is closed
// already as the request has it: then who got no answer, or was told that its sensors are not, asks again.
func (s *Server) untold(ctx context.Context, r *operatorv1.CloseIncidentRequest) (rest []*sensorv1.SignedDisposition, closed bool, err error) {
	if len(r.GetDispositions()) == 0 {
		return nil, false, nil
	}
	if err := s.barrier(ctx); err != nil {
		return nil, false, err
	}
	incident, err := s.cfg.DB.Incident(ctx, r.GetId())
	if err != nil {
		return nil, false, readError(err)
	}
	told, err := s.hostsTold(ctx, r)
	if err != nil {
		return nil, false, err
	}
	for _, signed := range r.GetDispositions() {
		if d, err := pack.DecodeDisposition(signed.GetPayload()); err == nil && !told[d.GetHost()] {
			rest = append(rest, signed)
		}
	}
	return rest, incident.GetStatus() == "closed" && incident.GetDisposition() == r.GetDisposition(), nil
}

// tellSensors has the hosts of an incident that was just closed told. What nodes of an older release
// stand in the way of is no failure: why says so.
func (s *Server) tellSensors(ctx context.Context, dispositions []*sensorv1.SignedDisposition) (why string, err error) {
	for some := range slices.Chunk(dispositions, state.MaxDispositions) {
		first, err := pack.DecodeDisposition(some[0].GetPayload())
		if err != nil {
			return "", packError(err)
		}
		_, err = s.propose(ctx, &raftv1.Command{IdempotencyKey: "disposition/" + first.GetId(),
			Body: &raftv1.Command_PutDispositions{PutDispositions: &raftv1.PutDispositions{Dispositions: some}}})
		var refused *connect.Error
		switch {
		case errors.Is(err, consensus.ErrRefused) && errors.As(err, &refused):
			return refused.Message(), nil
		case err != nil:
			return "", err
		}
	}
	return "", nil
}

// hostsTold are the hosts that were told of an incident what a request says, and took it or still may.
func (s *Server) hostsTold(ctx context.Context, r *operatorv1.CloseIncidentRequest) (map[string]bool, error) {
	rows, err := s.dispositionsOf(ctx, r.GetId())
	told := make(map[string]bool, len(rows))
	for _, row := range rows {
		if (row.GetState() == orderDone || row.GetState() == orderPending) && state.DispositionInWords(row.GetMalicious()) == r.GetDisposition() {
			told[row.GetHost()] = true
		}
	}
	return told, err
}

// toldOf is how many hosts of a request are told what it says.
func (s *Server) toldOf(ctx context.Context, r *operatorv1.CloseIncidentRequest) (told uint32, err error) {
	if len(r.GetDispositions()) == 0 {
		return 0, nil
	}
	hosts, err := s.hostsTold(ctx, r)
	if err != nil {
		return 0, err
	}
	for _, signed := range r.GetDispositions() {
		if d, err := pack.DecodeDisposition(signed.GetPayload()); err == nil && hosts[d.GetHost()] {
			told++
		}
	}
	s.cfg.Logger.Info("sensors told what their findings were", "operator", operator(ctx).ID, "incident", r.GetId(), "hosts", told)
	return told, nil
}

// dispositionsOf is what has become of telling an incident's hosts.
func (s *Server) dispositionsOf(ctx context.Context, incident string) (out []*operatorv1.DispositionRow, err error) {
	kept, err := s.cfg.DB.Dispositions(ctx, incident)
	if err != nil {
		return nil, readError(err)
	}
	for _, k := range kept {
		d, err := pack.DecodeDisposition(k.Signed.GetPayload())
		if err != nil {
			return nil, readError(fmt.Errorf("reading a disposition: %w", err))
		}
		out = append(out, &operatorv1.DispositionRow{Id: d.GetId(), Host: k.Host, Operator: d.GetOperator(), Time: d.GetIssuedAt(), Malicious: d.GetMalicious(),
			Findings: uint32(len(d.GetFindings())), State: orderState(k.AnsweredAt, d.GetNotAfter(), k.Failure, s.cfg.Now().UnixNano()), //nolint:gosec // bounded
			Taken: k.Findings, Failure: k.Failure, AnsweredAt: k.AnsweredAt})
	}
	return out, nil
}

// How far a host is with what it was told.
const (
	orderPending = "pending"
	orderDone    = "done"
	orderFailed  = "failed"
	orderExpired = "expired"
)

func orderState(answered, notAfter int64, failure string, now int64) string {
	switch {
	case answered == 0 && notAfter <= now:
		return orderExpired
	case answered == 0:
		return orderPending
	case failure != "":
		return orderFailed
	}
	return orderDone
}
