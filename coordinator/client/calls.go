package client

import (
	"context"
	"iter"
	"strconv"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/operatorv1/operatorv1connect"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

type api = operatorv1connect.OperatorServiceClient

// pageSize is how many rows one answer brings: few enough to show the first soon.
const pageSize = 500

func size(asked uint32) uint32 {
	if asked == 0 || asked > pageSize {
		return pageSize
	}
	return asked
}

// Status asks one node what it knows of the cluster.
func (c *Client) Status(ctx context.Context) (*operatorv1.GetStatusResponse, error) {
	return call(ctx, c, api.GetStatus, &operatorv1.GetStatusRequest{})
}

// Hosts yields the hosts of a selector, in the order of their enrolment; nil means every
// host. Limit says how many the caller expects to need, 0 for many.
func (c *Client) Hosts(ctx context.Context, sel *operatorv1.Selector, limit uint32) iter.Seq2[*operatorv1.Host, error] {
	return pages(ctx, c, func(ctx context.Context, token string) ([]*operatorv1.Host, string, error) {
		res, err := call(ctx, c, api.ListHosts, &operatorv1.ListHostsRequest{Selector: sel, PageSize: size(limit), PageToken: token})
		return res.GetHosts(), res.GetPageToken(), err
	})
}

// Host returns one host by id or name, with its newest behaviours.
func (c *Client) Host(ctx context.Context, id string) (*operatorv1.GetHostResponse, error) {
	return call(ctx, c, api.GetHost, &operatorv1.GetHostRequest{Id: id})
}

// SelectHosts resolves a selection for an action; an empty one is refused.
func (c *Client) SelectHosts(ctx context.Context, sel *operatorv1.Selector) (*operatorv1.SelectHostsResponse, error) {
	return call(ctx, c, api.SelectHosts, &operatorv1.SelectHostsRequest{Selector: sel})
}

// Findings yields findings, newest first. The request's page token
// is ignored; its page size says how many the caller expects to need, 0 for many.
func (c *Client) Findings(ctx context.Context, req *operatorv1.ListFindingsRequest) iter.Seq2[*operatorv1.FindingRow, error] {
	return pages(ctx, c, func(ctx context.Context, token string) ([]*operatorv1.FindingRow, string, error) {
		res, err := call(ctx, c, api.ListFindings, &operatorv1.ListFindingsRequest{
			Host: req.GetHost(), Since: req.GetSince(), Storyline: req.GetStoryline(), PageSize: size(req.GetPageSize()), PageToken: token,
		})
		return res.GetFindings(), res.GetPageToken(), err
	})
}

// Finding returns one finding.
func (c *Client) Finding(ctx context.Context, id string) (*operatorv1.FindingRow, error) {
	res, err := c.FindingDetail(ctx, id)
	return res.GetFinding(), err
}

// FindingDetail returns one finding with what was found out about its storyline.
func (c *Client) FindingDetail(ctx context.Context, id string) (*operatorv1.GetFindingResponse, error) {
	return call(ctx, c, api.GetFinding, &operatorv1.GetFindingRequest{Id: id})
}

// Incidents yields incidents, newest first. The request's page token
// is ignored; its page size says how many the caller expects to need, 0 for many.
func (c *Client) Incidents(ctx context.Context, req *operatorv1.ListIncidentsRequest) iter.Seq2[*raftv1.Incident, error] {
	return pages(ctx, c, func(ctx context.Context, token string) ([]*raftv1.Incident, string, error) {
		res, err := call(ctx, c, api.ListIncidents, &operatorv1.ListIncidentsRequest{
			Status: req.GetStatus(), Since: req.GetSince(), PageSize: size(req.GetPageSize()), PageToken: token,
		})
		return res.GetIncidents(), res.GetPageToken(), err
	})
}

// Incident returns one incident with its findings.
func (c *Client) Incident(ctx context.Context, id string) (*operatorv1.GetIncidentResponse, error) {
	return call(ctx, c, api.GetIncident, &operatorv1.GetIncidentRequest{Id: id})
}

// Investigations yields investigations, the last begun first; the request is as for Incidents.
func (c *Client) Investigations(ctx context.Context, req *operatorv1.ListInvestigationsRequest) iter.Seq2[*raftv1.Investigation, error] {
	return pages(ctx, c, func(ctx context.Context, token string) ([]*raftv1.Investigation, string, error) {
		res, err := call(ctx, c, api.ListInvestigations, &operatorv1.ListInvestigationsRequest{
			Verdict: req.GetVerdict(), Host: req.GetHost(), Since: req.GetSince(), PageSize: size(req.GetPageSize()), PageToken: token,
		})
		return res.GetInvestigations(), res.GetPageToken(), err
	})
}

// Investigation returns what was found out about a host's storyline; host is its id.
func (c *Client) Investigation(ctx context.Context, host, storyline string) (*raftv1.Investigation, error) {
	res, err := call(ctx, c, api.GetInvestigation, &operatorv1.GetInvestigationRequest{Host: host, Storyline: storyline})
	return res.GetInvestigation(), err
}

// Campaigns yields campaigns, newest first; the request is as for Incidents.
func (c *Client) Campaigns(ctx context.Context, req *operatorv1.ListCampaignsRequest) iter.Seq2[*raftv1.Campaign, error] {
	return pages(ctx, c, func(ctx context.Context, token string) ([]*raftv1.Campaign, string, error) {
		res, err := call(ctx, c, api.ListCampaigns, &operatorv1.ListCampaignsRequest{
			Status: req.GetStatus(), Since: req.GetSince(), PageSize: size(req.GetPageSize()), PageToken: token,
		})
		return res.GetCampaigns(), res.GetPageToken(), err
	})
}

// Campaign returns one campaign with its incidents.
func (c *Client) Campaign(ctx context.Context, id string) (*operatorv1.GetCampaignResponse, error) {
	return call(ctx, c, api.GetCampaign, &operatorv1.GetCampaignRequest{Id: id})
}

// SubmitGrant commits a signed grant. The request must carry an idempotency key.
func (c *Client) SubmitGrant(ctx context.Context, req *operatorv1.SubmitGrantRequest) (*operatorv1.SubmitGrantResponse, error) {
	return call(ctx, c, api.SubmitGrant, req)
}

// Isolations yields isolations and releases, newest first. The request's page token
// is ignored; its page size says how many the caller expects to need, 0 for many.
func (c *Client) Isolations(ctx context.Context, req *operatorv1.ListIsolationsRequest) iter.Seq2[*operatorv1.Isolation, error] {
	return pages(ctx, c, func(ctx context.Context, token string) ([]*operatorv1.Isolation, string, error) {
		res, err := call(ctx, c, api.ListIsolations, &operatorv1.ListIsolationsRequest{
			Host: req.GetHost(), Active: req.GetActive(), PageSize: size(req.GetPageSize()), PageToken: token,
		})
		return res.GetIsolations(), res.GetPageToken(), err
	})
}

// Operation returns what has become of one operation at each of its hosts.
func (c *Client) Operation(ctx context.Context, operation string) (*operatorv1.GetOperationResponse, error) {
	return call(ctx, c, api.GetOperation, &operatorv1.GetOperationRequest{Operation: operation})
}

// PreviewOrder tells what an order would touch and what its grant must say.
func (c *Client) PreviewOrder(ctx context.Context, req *operatorv1.PreviewOrderRequest) (*operatorv1.PreviewOrderResponse, error) {
	return call(ctx, c, api.PreviewOrder, req)
}

// Operations yields operations as wholes, newest first; open ones alone are those
// that wait for somebody.
func (c *Client) Operations(ctx context.Context, open bool, limit uint32) iter.Seq2[*operatorv1.Operation, error] {
	return pages(ctx, c, func(ctx context.Context, token string) ([]*operatorv1.Operation, string, error) {
		res, err := call(ctx, c, api.ListOperations, &operatorv1.ListOperationsRequest{Open: open, PageSize: size(limit), PageToken: token})
		return res.GetOperations(), res.GetPageToken(), err
	})
}

// Veto stops what has not gone out.
func (c *Client) Veto(ctx context.Context, operation, reason string) (*operatorv1.Operation, error) {
	res, err := call(ctx, c, api.VetoOperation, &operatorv1.VetoOperationRequest{Operation: operation, Reason: reason, IdempotencyKey: NewID("key")})
	return res.GetOperation(), err
}

// Audit yields the audit's entries after an index, oldest first.
func (c *Client) Audit(ctx context.Context, after uint64) iter.Seq2[*operatorv1.AuditEntry, error] {
	return pages(ctx, c, func(ctx context.Context, _ string) ([]*operatorv1.AuditEntry, string, error) {
		res, err := call(ctx, c, api.ListAudit, &operatorv1.ListAuditRequest{After: after, PageSize: pageSize})
		entries, next := res.GetEntries(), ""
		if n := len(entries); n > 0 && res.GetMore() {
			after = entries[n-1].GetIndex()
			next = strconv.FormatUint(after, 10)
		}
		return entries, next, err
	})
}

// CreateToken makes a join token. Should it be made twice because an answer was
// lost, the first is known to nobody and expires. A token that names other
// authorities than the context is not returned: ErrUntrusted.
func (c *Client) CreateToken(ctx context.Context, req *operatorv1.CreateTokenRequest) (*operatorv1.CreateTokenResponse, error) {
	res, err := call(ctx, c, api.CreateToken, req)
	if err == nil {
		err = c.id.checkToken(res.GetToken())
	}
	if err != nil {
		return nil, err
	}
	return res, nil
}

// HostHistory yields what a host told, oldest first. Answered is called with each answer, before its rows.
func (c *Client) HostHistory(ctx context.Context, req *operatorv1.GetHostHistoryRequest, answered func(*operatorv1.GetHostHistoryResponse)) iter.Seq2[*operatorv1.HistoryRow, error] {
	asked := &operatorv1.GetHostHistoryRequest{Host: req.GetHost(), Since: req.GetSince(), Until: req.GetUntil(), Grain: req.GetGrain(), PageSize: size(req.GetPageSize())}
	return pages(ctx, c, func(ctx context.Context, token string) ([]*operatorv1.HistoryRow, string, error) {
		asked.PageToken = token
		res, err := call(ctx, c, api.GetHostHistory, asked)
		if err == nil {
			answered(res)
			// What follows is of the same host, grain and time, however long it takes.
			asked.Host, asked.Grain, asked.Since, asked.Until = res.GetHost(), res.GetGrain(), res.GetSince(), res.GetUntil()
		}
		return res.GetRows(), res.GetPageToken(), err
	})
}

// Members lists the cluster's nodes.
func (c *Client) Members(ctx context.Context) ([]*operatorv1.Member, error) {
	res, err := call(ctx, c, api.ListMembers, &operatorv1.ListMembersRequest{})
	return res.GetMembers(), err
}

// RemoveMember takes a node out of the cluster.
func (c *Client) RemoveMember(ctx context.Context, id string) error {
	_, err := call(ctx, c, api.RemoveMember, &operatorv1.RemoveMemberRequest{Id: id})
	return err
}

// DebugInfo is what the node that answers knows of itself: a client of one node asks that one.
func (c *Client) DebugInfo(ctx context.Context) (*operatorv1.DebugInfoResponse, error) {
	return call(ctx, c, api.DebugInfo, &operatorv1.DebugInfoRequest{})
}
