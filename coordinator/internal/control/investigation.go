package control

import (
	"context"
	"errors"
	"strings"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// maxShownInvestigations are told with an incident.
const maxShownInvestigations = 50

// ListInvestigations implements the service.
func (s *Server) ListInvestigations(ctx context.Context, r *operatorv1.ListInvestigationsRequest) (*operatorv1.ListInvestigationsResponse, error) {
	switch r.GetVerdict() {
	case "", state.VerdictBenign, state.VerdictWatching, state.VerdictIncident:
	default:
		return nil, invalid("verdict %q is none of benign, watching and incident", r.GetVerdict())
	}
	page, err := s.asked(ctx, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	if err := s.ofHost(ctx, r.GetHost()); err != nil {
		return nil, err
	}
	rows, row, err := s.cfg.DB.Investigations(ctx, store.InvestigationFilter{Verdict: r.GetVerdict(), Host: r.GetHost(), Since: r.GetSince()}, page)
	if err != nil {
		return nil, readError(err)
	}
	token, err := s.follows(ctx, row)
	if err != nil {
		return nil, err
	}
	return &operatorv1.ListInvestigationsResponse{Investigations: rows, PageToken: token}, nil
}

// GetInvestigation implements the service.
func (s *Server) GetInvestigation(ctx context.Context, r *operatorv1.GetInvestigationRequest) (*operatorv1.GetInvestigationResponse, error) {
	in, err := s.cfg.DB.Investigation(ctx, r.GetHost(), r.GetStoryline())
	if err != nil {
		return nil, readError(err)
	}
	return &operatorv1.GetInvestigationResponse{Investigation: in}, nil
}

// investigationOf is nil when there is none.
func (s *Server) investigationOf(ctx context.Context, host, storyline string) (*raftv1.Investigation, error) {
	in, err := s.cfg.DB.Investigation(ctx, host, storyline)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil //nolint:nilnil // not yet, or not any more
	}
	return in, readError(err)
}

// investigationsOf are those of an incident's storylines, in its order.
func (s *Server) investigationsOf(ctx context.Context, storylines []string) (all []*raftv1.Investigation, err error) {
	for _, name := range storylines {
		host, storyline, _ := strings.Cut(name, "/")
		in, err := s.investigationOf(ctx, host, storyline)
		if err != nil {
			return nil, err
		}
		if in != nil {
			all = append(all, in)
		}
		if len(all) == maxShownInvestigations {
			break
		}
	}
	return all, nil
}
