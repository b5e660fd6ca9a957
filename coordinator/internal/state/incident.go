package state

import (
	"fmt"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// putIncident stores an incident whole, puts its findings into it, and closes
// the ones that it absorbs. Findings whose id is unknown are ignored: they were
// pruned since the engine read them.
func (a *applier) putIncident(in *raftv1.PutIncident) (*raftv1.Result, error) {
	incident := in.GetIncident()
	if !validID(incident.GetId()) {
		return reject(RejectInvalid, "the incident id %q is not 1 to %d printable characters", incident.GetId(), maxID), nil
	}
	have, err := a.tx.Incident(incident.GetId())
	if err != nil {
		return nil, fmt.Errorf("reading incident: %w", err)
	}
	if have.GetStatus() == "closed" {
		return reject(RejectIncidentClosed, "incident %s is closed: open a new one", incident.GetId()), nil
	}
	incident.Status = "open"
	if incident.GetCampaign() == "" {
		// Its campaign may have been named since the engine read it.
		incident.Campaign = have.GetCampaign()
	}
	if err := a.tx.PutIncident(a.index, incident); err != nil {
		return nil, fmt.Errorf("storing incident: %w", err)
	}
	for _, id := range in.GetMerged() {
		if err := a.merge(id, incident.GetId()); err != nil {
			return nil, err
		}
	}
	for _, id := range incident.GetFindings() {
		if err := a.tx.SetFindingIncident(id, incident.GetId(), "in-incident"); err != nil {
			return nil, fmt.Errorf("putting finding into incident: %w", err)
		}
	}
	if have != nil {
		return accept(incident.GetId()), nil
	}
	return accept(incident.GetId()), a.audit("incident-open", incident.GetId(), "%s", incident.GetTitle())
}

func (a *applier) merge(id, into string) error {
	absorbed, err := a.tx.Incident(id)
	if err != nil {
		return fmt.Errorf("reading incident: %w", err)
	}
	if absorbed.GetStatus() != "open" || id == into {
		return nil
	}
	absorbed.Status, absorbed.Disposition = "closed", "merged"
	absorbed.ClosedBy, absorbed.CloseReason = a.cmd.GetActor(), "merged into "+into
	if err := a.tx.PutIncident(a.index, absorbed); err != nil {
		return fmt.Errorf("storing incident: %w", err)
	}
	if err := a.tx.SetIncidentFindings(id, into, "in-incident"); err != nil {
		return fmt.Errorf("moving findings: %w", err)
	}
	return a.audit("incident-merge", id, "into %s", into)
}

func (a *applier) closeIncident(in *raftv1.CloseIncident) (*raftv1.Result, error) {
	if in.GetDisposition() != "benign" && in.GetDisposition() != "malicious" {
		return reject(RejectInvalid, "%q is no disposition: use benign or malicious", in.GetDisposition()), nil
	}
	if len(in.GetReason()) > maxReason {
		return reject(RejectInvalid, "the reason is longer than %d bytes", maxReason), nil
	}
	incident, err := a.tx.Incident(in.GetId())
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading incident: %w", err)
	case incident == nil:
		return reject(RejectUnknownIncident, "no incident is called %q: see `vedette incident list`", in.GetId()), nil
	case incident.GetStatus() == "closed":
		return reject(RejectIncidentClosed, "incident %s was closed by %s: %s", in.GetId(), incident.GetClosedBy(), incident.GetCloseReason()), nil
	}
	incident.Status, incident.Disposition = "closed", in.GetDisposition()
	incident.ClosedBy, incident.CloseReason = a.cmd.GetActor(), in.GetReason()
	if err := a.tx.PutIncident(a.index, incident); err != nil {
		return nil, fmt.Errorf("storing incident: %w", err)
	}
	if err := a.tx.SetIncidentFindings(in.GetId(), in.GetId(), "closed"); err != nil {
		return nil, fmt.Errorf("closing findings: %w", err)
	}
	if err := a.judge(incident); err != nil {
		return nil, err
	}
	if err := a.audit("incident-close", in.GetId(), "%s: %s", in.GetDisposition(), in.GetReason()); err != nil {
		return nil, err
	}
	return accept(in.GetId()), a.campaignOf(incident)
}
