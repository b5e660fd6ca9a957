package control

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// policy is the intent in force, or what holds before there is one.
func (s *Server) policy(ctx context.Context) (*intent.Policy, error) {
	signed, err := s.cfg.DB.Intent(ctx, 0)
	if err != nil {
		return nil, readError(err)
	}
	policy, err := state.PolicyOf(signed)
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	return policy, nil
}

// ApplyIntent implements the service. The sensors verify the intent again.
func (s *Server) ApplyIntent(ctx context.Context, r *operatorv1.ApplyIntentRequest) (*operatorv1.ApplyIntentResponse, error) {
	next, signer, err := intent.VerifyNew(r.GetIntent(), s.operatorRoots(), s.cfg.Authority.Cluster(), s.cfg.Now())
	if err != nil {
		return nil, grantError(err)
	}
	if caller := operator(ctx); signer.ID != caller.ID {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("operator %q submits an intent that %q signed: each signs their own", caller.ID, signer.ID))
	}
	if _, _, err := intent.Check(next); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if err := checkText(next.GetReason(), r.GetIdempotencyKey()); err != nil {
		return nil, err
	}
	if _, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: r.GetIdempotencyKey(), Body: &raftv1.Command_PutIntent{
		PutIntent: &raftv1.PutIntent{Signed: r.GetIntent(), Decoded: next}}}); err != nil {
		return nil, err
	}
	s.cfg.Logger.Info("intent applied", "version", next.GetVersion(), "operator", signer.ID, "automation_off", next.GetAutomationOff())
	return &operatorv1.ApplyIntentResponse{Version: next.GetVersion()}, nil
}

// GetIntent implements the service; it is linearizable.
func (s *Server) GetIntent(ctx context.Context, r *operatorv1.GetIntentRequest) (*operatorv1.GetIntentResponse, error) {
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	signed, err := s.cfg.DB.Intent(ctx, r.GetVersion())
	if err != nil {
		return nil, readError(err)
	}
	out := &operatorv1.GetIntentResponse{Intent: signed}
	if signed != nil {
		current, err := intent.Decode(signed.GetPayload())
		if err != nil {
			return nil, connect.NewError(connect.CodeInternal, err)
		}
		out.Version = current.GetVersion()
	}
	if out.Hosts, out.HostsCurrent, err = s.cfg.DB.IntentSpread(ctx, out.GetVersion()); err != nil {
		return nil, readError(err)
	}
	return out, nil
}

// ListIntents implements the service; it is linearizable.
func (s *Server) ListIntents(ctx context.Context, r *operatorv1.ListIntentsRequest) (*operatorv1.ListIntentsResponse, error) {
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	intents, token, err := s.cfg.DB.Intents(ctx, store.Page{Size: r.GetPageSize(), Token: r.GetPageToken()})
	if err != nil {
		return nil, readError(err)
	}
	return &operatorv1.ListIntentsResponse{Intents: intents, PageToken: token}, nil
}
