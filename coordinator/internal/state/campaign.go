package state

import (
	"fmt"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// RejectCampaignClosed: its incidents were judged; what comes later is another campaign.
const RejectCampaignClosed = "campaign-closed"

// putCampaign stores a campaign whole, has its open incidents name it, and closes the ones
// that it absorbs. Incidents whose id is unknown are ignored: they were pruned meanwhile.
func (a *applier) putCampaign(in *raftv1.PutCampaign) (*raftv1.Result, error) {
	campaign := in.GetCampaign()
	if !validID(campaign.GetId()) {
		return reject(RejectInvalid, "the campaign id %q is not 1 to %d printable characters", campaign.GetId(), maxID), nil
	}
	have, err := a.tx.Campaign(campaign.GetId())
	if err != nil {
		return nil, fmt.Errorf("reading campaign: %w", err)
	}
	if have.GetStatus() == "closed" {
		return reject(RejectCampaignClosed, "campaign %s is closed: open a new one", campaign.GetId()), nil
	}
	if have == nil {
		// Whatever ends with the last of its incidents must begin with one that is open.
		open, err := a.anyOpen(campaign.GetIncidents())
		if err != nil {
			return nil, err
		}
		if !open {
			return reject(RejectCampaignClosed, "no incident of campaign %s is open any more", campaign.GetId()), nil
		}
	}
	campaign.Status = "open"
	if err := a.tx.PutCampaign(campaign); err != nil {
		return nil, fmt.Errorf("storing campaign: %w", err)
	}
	for _, id := range in.GetMerged() {
		if err := a.absorb(id, campaign.GetId()); err != nil {
			return nil, err
		}
	}
	for _, id := range campaign.GetIncidents() {
		if err := a.nameCampaign(id, campaign.GetId()); err != nil {
			return nil, err
		}
	}
	if have != nil {
		return accept(campaign.GetId()), nil
	}
	return accept(campaign.GetId()), a.audit("campaign-open", campaign.GetId(), "%s", campaign.GetTitle())
}

func (a *applier) anyOpen(incidents []string) (bool, error) {
	for _, id := range incidents {
		in, err := a.tx.Incident(id)
		if err != nil {
			return false, fmt.Errorf("reading incident: %w", err)
		}
		if in.GetStatus() == "open" {
			return true, nil
		}
	}
	return false, nil
}

func (a *applier) nameCampaign(incident, campaign string) error {
	in, err := a.tx.Incident(incident)
	if err != nil {
		return fmt.Errorf("reading incident: %w", err)
	}
	if in == nil || in.GetCampaign() == campaign {
		return nil
	}
	in.Campaign = campaign
	if err := a.tx.PutIncident(a.index, in); err != nil {
		return fmt.Errorf("naming the incident's campaign: %w", err)
	}
	return nil
}

func (a *applier) absorb(id, into string) error {
	absorbed, err := a.tx.Campaign(id)
	if err != nil {
		return fmt.Errorf("reading campaign: %w", err)
	}
	if absorbed.GetStatus() != "open" || id == into {
		return nil
	}
	absorbed.Status, absorbed.Disposition = "closed", "merged"
	absorbed.ClosedBy, absorbed.CloseReason = a.cmd.GetActor(), "merged into "+into
	if err := a.tx.PutCampaign(absorbed); err != nil {
		return fmt.Errorf("storing campaign: %w", err)
	}
	return a.audit("campaign-merge", id, "into %s", into)
}

// campaignOf closes the campaign of an incident that was just closed, when it was the last:
// malicious if one of them was.
func (a *applier) campaignOf(incident *raftv1.Incident) error {
	if incident.GetCampaign() == "" {
		return nil
	}
	campaign, err := a.tx.Campaign(incident.GetCampaign())
	if err != nil {
		return fmt.Errorf("reading campaign: %w", err)
	}
	if campaign.GetStatus() != "open" {
		return nil
	}
	disposition := "benign"
	for _, id := range campaign.GetIncidents() {
		in, err := a.tx.Incident(id)
		if err != nil {
			return fmt.Errorf("reading incident: %w", err)
		}
		if in.GetStatus() == "open" {
			return nil
		}
		if in.GetDisposition() == "malicious" {
			disposition = "malicious"
		}
	}
	campaign.Status, campaign.Disposition = "closed", disposition
	campaign.ClosedBy, campaign.CloseReason = a.cmd.GetActor(), "the last of its incidents was closed: "+incident.GetCloseReason()
	if err := a.tx.PutCampaign(campaign); err != nil {
		return fmt.Errorf("storing campaign: %w", err)
	}
	return a.audit("campaign-close", campaign.GetId(), "%s", disposition)
}
