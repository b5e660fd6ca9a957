package control

import (
	"context"
	"fmt"
	"slices"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// maxSelection bounds the hosts that one action may name.
const maxSelection = 10_000

// maxSelectors bounds the ids of one selector.
const maxSelectors = 10_000

// newestBehaviours is how many GetHost shows.
const newestBehaviours = 50

// ListHosts implements the service.
func (s *Server) ListHosts(ctx context.Context, r *operatorv1.ListHostsRequest) (*operatorv1.ListHostsResponse, error) {
	filter := store.HostFilter{IDs: r.GetSelector().GetIds(), Labels: r.GetSelector().GetLabels()}
	if len(filter.IDs) > maxSelectors {
		return nil, invalid("%d ids in one selector, the limit is %d", len(filter.IDs), maxSelectors)
	}
	if id := r.GetSelector().GetIncident(); id != "" {
		incident, err := s.cfg.DB.Incident(ctx, id)
		if err != nil {
			return nil, readError(err)
		}
		filter.IDs = append(slices.Clone(filter.IDs), incident.GetHosts()...)
		if len(filter.IDs) == 0 {
			return &operatorv1.ListHostsResponse{}, nil
		}
	}
	if id := r.GetSelector().GetCampaign(); id != "" {
		campaign, err := s.cfg.DB.Campaign(ctx, id)
		if err != nil {
			return nil, readError(err)
		}
		if filter.IDs = append(slices.Clone(filter.IDs), campaign.GetHosts()...); len(filter.IDs) == 0 {
			return &operatorv1.ListHostsResponse{}, nil
		}
	}
	page, err := s.asked(ctx, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	hosts, row, err := s.cfg.DB.Hosts(ctx, filter, page)
	if err != nil {
		return nil, readError(err)
	}
	s.judgeSilence(hosts...)
	token, err := s.follows(ctx, row)
	if err != nil {
		return nil, err
	}
	return &operatorv1.ListHostsResponse{Hosts: hosts, PageToken: token}, nil
}

// judgeSilence corrects what the last session says by the time since the last
// batch: the node that had the session may have died with it.
func (s *Server) judgeSilence(hosts ...*operatorv1.Host) {
	horizon := s.cfg.Now().Add(-s.cfg.SilentAfter).UnixNano()
	for _, h := range hosts {
		if (h.GetState() == "online" || h.GetState() == "blind") && h.GetLastSeen() < horizon {
			h.State = "silent"
		}
	}
}

// GetHost implements the service.
func (s *Server) GetHost(ctx context.Context, r *operatorv1.GetHostRequest) (*operatorv1.GetHostResponse, error) {
	host, err := s.cfg.DB.Host(ctx, r.GetId())
	if err != nil {
		return nil, readError(err)
	}
	s.judgeSilence(host)
	behaviours, err := s.cfg.DB.Behaviours(ctx, host.GetId(), newestBehaviours)
	if err != nil {
		return nil, readError(err)
	}
	return &operatorv1.GetHostResponse{Host: host, Behaviours: behaviours}, nil
}

// ListFindings implements the service.
func (s *Server) ListFindings(ctx context.Context, r *operatorv1.ListFindingsRequest) (*operatorv1.ListFindingsResponse, error) {
	page, err := s.asked(ctx, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	if err := s.ofHost(ctx, r.GetHost()); err != nil {
		return nil, err
	}
	findings, row, err := s.cfg.DB.Findings(ctx, store.FindingFilter{Host: r.GetHost(), Since: r.GetSince(), Storyline: r.GetStoryline()}, page)
	if err != nil {
		return nil, readError(err)
	}
	token, err := s.follows(ctx, row)
	if err == nil {
		err = s.sayRollOuts(ctx, findings...)
	}
	if err != nil {
		return nil, err
	}
	return &operatorv1.ListFindingsResponse{Findings: findings, PageToken: token}, nil
}

// GetFinding implements the service.
func (s *Server) GetFinding(ctx context.Context, r *operatorv1.GetFindingRequest) (*operatorv1.GetFindingResponse, error) {
	finding, err := s.cfg.DB.Finding(ctx, r.GetId())
	if err != nil {
		return nil, readError(err)
	}
	investigation, err := s.investigationOf(ctx, finding.GetHost(), finding.GetFinding().GetStoryline())
	if err != nil {
		return nil, err
	}
	return &operatorv1.GetFindingResponse{Finding: finding, Investigation: investigation}, s.sayRollOuts(ctx, finding)
}

// ListIncidents implements the service.
func (s *Server) ListIncidents(ctx context.Context, r *operatorv1.ListIncidentsRequest) (*operatorv1.ListIncidentsResponse, error) {
	switch r.GetStatus() {
	case "", "open", "closed":
	default:
		return nil, invalid("status %q is neither open nor closed", r.GetStatus())
	}
	page, err := s.asked(ctx, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	incidents, row, err := s.cfg.DB.Incidents(ctx, store.IncidentFilter{Status: r.GetStatus(), Since: r.GetSince()}, page)
	if err != nil {
		return nil, readError(err)
	}
	token, err := s.follows(ctx, row)
	if err != nil {
		return nil, err
	}
	return &operatorv1.ListIncidentsResponse{Incidents: incidents, PageToken: token}, nil
}

// GetIncident implements the service.
func (s *Server) GetIncident(ctx context.Context, r *operatorv1.GetIncidentRequest) (*operatorv1.GetIncidentResponse, error) {
	incident, err := s.cfg.DB.Incident(ctx, r.GetId())
	if err != nil {
		return nil, readError(err)
	}
	findings, _, err := s.cfg.DB.Findings(ctx, store.FindingFilter{Incident: incident.GetId()}, store.Page{Size: store.MaxPage})
	if err != nil {
		return nil, readError(err)
	}
	investigations, err := s.investigationsOf(ctx, incident.GetStorylines())
	if err != nil {
		return nil, err
	}
	dispositions, err := s.dispositionsOf(ctx, incident.GetId())
	if err != nil {
		return nil, err
	}
	return &operatorv1.GetIncidentResponse{Incident: incident, Findings: findings, Investigations: investigations, Dispositions: dispositions}, s.sayRollOuts(ctx, findings...)
}

// ListIsolations implements the service; it is linearizable.
func (s *Server) ListIsolations(ctx context.Context, r *operatorv1.ListIsolationsRequest) (*operatorv1.ListIsolationsResponse, error) {
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	if err := s.ofHost(ctx, r.GetHost()); err != nil {
		return nil, err
	}
	isolations, token, err := s.cfg.DB.Isolations(ctx, store.IsolationFilter{Host: r.GetHost(), Active: r.GetActive()},
		store.Page{Size: r.GetPageSize(), Token: r.GetPageToken()})
	if err != nil {
		return nil, readError(err)
	}
	return &operatorv1.ListIsolationsResponse{Isolations: isolations, PageToken: token}, nil
}

// ListAudit implements the service; it is linearizable.
func (s *Server) ListAudit(ctx context.Context, r *operatorv1.ListAuditRequest) (*operatorv1.ListAuditResponse, error) {
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	entries, more, err := s.cfg.DB.Audit(ctx, r.GetAfter(), r.GetPageSize())
	if err != nil {
		return nil, readError(err)
	}
	return &operatorv1.ListAuditResponse{Entries: entries, More: more}, nil
}

func plural(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
