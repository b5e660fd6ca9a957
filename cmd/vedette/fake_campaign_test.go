package main

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

func fixedCampaign() *raftv1.Campaign {
	return &raftv1.Campaign{
		Id: "cmp-aaaaaaaaaaaa", Status: "open", Severity: "high", Confidence: 0.99, Title: "2 hosts, web1 → app1", Hosts: []string{web1, app1},
		Techniques: []string{"T1021.004", "T1059.004"}, Incidents: []string{"inc-aaaaaaaaaaaa"}, FirstSeen: at(1), LastSeen: at(60),
		Members: []*raftv1.CampaignMember{
			{Host: web1, HostName: "web1", Storyline: "812.1000", Incident: "inc-aaaaaaaaaaaa", FirstSeen: at(1), LastSeen: at(2), Severity: "high", Title: "A service started a shell", Techniques: []string{"T1059.004"}},
			{Host: app1, HostName: "app1", Storyline: "77.5", FirstSeen: at(10), LastSeen: at(60), Severity: "informational", Title: "Reached, " + hostile2(), Carried: true},
		},
		Edges: []*raftv1.CampaignEdge{{From: web1, FromStoryline: "812.1000", To: app1, ToStoryline: "77.5", Kind: "taint", Time: at(10), Evidence: "tcp 10.0.1.1:40022 → 10.0.1.2:22 (ssh → sshd)", Weight: 4.4,
			Terms: []string{"+9.0 both ends saw the same addresses and ports", "-4.6 most suspect pairs are two pieces of work"}}},
		Credentials: []string{"account root from 10.0.1.1"}, Refused: []string{"web1 → db1 by flow weighs -3.1: psql connects there since last year"},
		Limits: []string{"A host without a sensor is seen only by what others did with it."},
	}
}

func (f *fake) ListCampaigns(context.Context, *operatorv1.ListCampaignsRequest) (*operatorv1.ListCampaignsResponse, error) {
	return &operatorv1.ListCampaignsResponse{Campaigns: []*raftv1.Campaign{fixedCampaign()}}, nil
}

func (f *fake) GetCampaign(_ context.Context, r *operatorv1.GetCampaignRequest) (*operatorv1.GetCampaignResponse, error) {
	if r.GetId() != fixedCampaign().GetId() {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("campaign not found"))
	}
	return &operatorv1.GetCampaignResponse{Campaign: fixedCampaign(), Incidents: []*raftv1.Incident{fixedIncident()}}, nil
}
