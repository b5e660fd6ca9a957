package control

import (
	"context"
	"errors"
	"slices"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// SelectHosts implements the service.
func (s *Server) SelectHosts(ctx context.Context, r *operatorv1.SelectHostsRequest) (*operatorv1.SelectHostsResponse, error) {
	hosts, err := s.selected(ctx, r.GetSelector())
	if err != nil {
		return nil, err
	}
	return &operatorv1.SelectHostsResponse{Hosts: hosts, ClusterId: s.cfg.Authority.Cluster()}, nil
}

// selected are the hosts of a selection. Every id must exist: an action on fewer
// hosts than named would be a surprise at the worst moment.
func (s *Server) selected(ctx context.Context, sel *operatorv1.Selector) ([]*operatorv1.Host, error) {
	if len(sel.GetIds()) == 0 && len(sel.GetLabels()) == 0 && !sel.GetAll() && sel.GetIncident() == "" && sel.GetCampaign() == "" {
		return nil, invalid("the selection is empty: name hosts, a label, an incident, a campaign, or ask for all of them")
	}
	if len(sel.GetIds()) > maxSelectors {
		return nil, invalid("%d ids in one selector, the limit is %d", len(sel.GetIds()), maxSelectors)
	}
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	named := slices.Clone(sel.GetIds())
	if sel.GetIncident() != "" {
		incident, err := s.cfg.DB.Incident(ctx, sel.GetIncident())
		if err != nil {
			return nil, readError(err)
		}
		named = append(named, incident.GetHosts()...)
	}
	if sel.GetCampaign() != "" {
		campaign, err := s.cfg.DB.Campaign(ctx, sel.GetCampaign())
		if err != nil {
			return nil, readError(err)
		}
		named = append(named, campaign.GetHosts()...)
	}
	filter := store.HostFilter{Labels: sel.GetLabels()}
	if len(named) > 0 && !sel.GetAll() {
		var missing []error
		for _, id := range named {
			host, err := s.cfg.DB.Host(ctx, id)
			if err != nil {
				missing = append(missing, err)
				continue
			}
			filter.IDs = append(filter.IDs, host.GetId())
		}
		if len(missing) > 0 {
			return nil, readError(errors.Join(missing...))
		}
	}
	var selected []*operatorv1.Host
	for token := ""; ; {
		hosts, next, err := s.cfg.DB.Hosts(ctx, filter, store.Page{Size: store.MaxPage, Token: token})
		if err != nil {
			return nil, readError(err)
		}
		selected = append(selected, hosts...)
		if len(selected) > maxSelection {
			return nil, invalid("the selection has more than %d hosts: act on parts of the fleet by labels", maxSelection)
		}
		if token = next; token == "" {
			break
		}
	}
	if len(selected) == 0 {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no host matches the selection"))
	}
	s.judgeSilence(selected...)
	return selected, nil
}
