package control

import (
	"context"
	"errors"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// ListCampaigns implements the service.
func (s *Server) ListCampaigns(ctx context.Context, r *operatorv1.ListCampaignsRequest) (*operatorv1.ListCampaignsResponse, error) {
	switch r.GetStatus() {
	case "", "open", "closed":
	default:
		return nil, invalid("status %q is neither open nor closed", r.GetStatus())
	}
	page, err := s.asked(ctx, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	campaigns, row, err := s.cfg.DB.Campaigns(ctx, store.IncidentFilter{Status: r.GetStatus(), Since: r.GetSince()}, page)
	if err != nil {
		return nil, readError(err)
	}
	token, err := s.follows(ctx, row)
	if err != nil {
		return nil, err
	}
	return &operatorv1.ListCampaignsResponse{Campaigns: campaigns, PageToken: token}, nil
}

// GetCampaign implements the service.
func (s *Server) GetCampaign(ctx context.Context, r *operatorv1.GetCampaignRequest) (*operatorv1.GetCampaignResponse, error) {
	campaign, err := s.cfg.DB.Campaign(ctx, r.GetId())
	if err != nil {
		return nil, readError(err)
	}
	res := &operatorv1.GetCampaignResponse{Campaign: campaign}
	for _, id := range campaign.GetIncidents() {
		incident, err := s.cfg.DB.Incident(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue // it is older than what is kept
		}
		if err != nil {
			return nil, readError(err)
		}
		res.Incidents = append(res.Incidents, incident)
	}
	return res, nil
}
