package control

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

const (
	// membersTime bounds how long a status waits for what the other nodes say.
	membersTime = 2 * time.Second
	// lossTime is how long a loss is a problem: what was lost longer ago is in
	// 'vedette host show', and nobody can do anything about it any more.
	lossTime = time.Hour
)

// GetStatus implements the service. It answers without a leader too: that is
// when it is needed most.
func (s *Server) GetStatus(ctx context.Context, _ *operatorv1.GetStatusRequest) (*operatorv1.GetStatusResponse, error) {
	now := s.cfg.Now()
	counts, err := s.cfg.DB.Counts(ctx, now.Add(-24*time.Hour).UnixNano())
	if err != nil {
		return nil, readError(err)
	}
	v, err := s.look(ctx, now)
	if err != nil {
		return nil, err
	}
	if v.quiet, err = s.cfg.DB.Quiet(ctx, now.Add(-s.cfg.SilentAfter).UnixNano(), now.Add(-lossTime).UnixNano()); err != nil {
		return nil, readError(err)
	}
	if v.waiting, _, err = s.cfg.DB.Orders(ctx, true, now, store.Page{}); err != nil {
		return nil, readError(err)
	}
	signed, err := s.cfg.DB.Intent(ctx, 0)
	if err != nil {
		return nil, readError(err)
	}
	if signed != nil {
		// One that cannot be read is said by whoever asks for it.
		v.intent, _ = intent.Decode(signed.GetPayload())
	}
	v.dropped = s.dropped.Load()
	tallies, err := s.cfg.DB.DrillTallies(ctx)
	if err != nil {
		return nil, readError(err)
	}
	return &operatorv1.GetStatusResponse{
		ClusterId: s.cfg.Authority.Cluster(), NodeId: s.cfg.NodeID, LeaderId: v.leader, Version: s.cfg.Version,
		AppliedIndex: s.cfg.DB.AppliedIndex(), Hosts: counts.Hosts, HostsSilent: v.quiet.Silent, FindingsDay: counts.FindingsSince,
		IncidentsOpen: counts.IncidentsOpen, Isolated: counts.Isolated, Time: now.UnixNano(),
		HostsBlind: v.quiet.Blind, HostsStopped: v.quiet.Stopped,
		IsolationsFailed: counts.IsolationsFailed, IsolationsPending: counts.IsolationsPending,
		Members: v.members, Problems: v.problems(), SignedNodes: v.signed, Drills: coverage(tallies),
	}, nil
}

// look asks the other nodes how they are, for a while.
func (s *Server) look(ctx context.Context, now time.Time) (*view, error) {
	signed, err := s.cfg.DB.SignedNodes(ctx)
	if err != nil {
		return nil, readError(err)
	}
	v := &view{now: now, started: s.cfg.Meter.Started(), self: s.cfg.NodeID, signed: signed,
		roots: map[string]time.Time{clusterAuthority: s.cfg.Authority.Certificate().NotAfter, operatorsAuthority: s.cfg.Operators().NotAfter}}
	v.leader, _, _ = s.cfg.Cluster.Leader()
	if v.differed, err = s.cfg.DB.Differences(ctx, 0, now.Add(-shownDiffered).UnixNano()); err != nil {
		return nil, readError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, membersTime)
	defer cancel()
	v.members, v.unknown = s.cfg.Cluster.Members(ctx)
	voting := voters(v.members)
	if total := len(voting); total > 0 && 2*(total-count(voting, "unreachable")) <= total {
		// Who led a moment ago leads nothing that this node could reach.
		v.leader = ""
	}
	return v, nil
}

// ListMembers implements the service.
func (s *Server) ListMembers(ctx context.Context, _ *operatorv1.ListMembersRequest) (*operatorv1.ListMembersResponse, error) {
	v, err := s.look(ctx, s.cfg.Now())
	if err != nil {
		return nil, err
	}
	if v.unknown != nil {
		return nil, connect.NewError(connect.CodeUnavailable, v.unknown)
	}
	return &operatorv1.ListMembersResponse{Members: v.members, SignedNodes: v.signed, Problems: v.ofNodes()}, nil
}
