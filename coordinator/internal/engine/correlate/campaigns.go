package correlate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// patience is how long a storyline of an open incident or campaign waits for the next hop.
// Nothing younger is ever removed from the store by age while its incident is open.
const patience = 7 * 24 * time.Hour

func (e *Engine) forget() {
	now := e.cfg.Now()
	e.window.forget(now.Add(-e.cfg.Horizon), now.Add(-patience), func(key storyKey) bool {
		return len(e.ledger.byStory[key.String()]) > 0 || len(e.roster.byStory[key]) > 0
	})
}

// maxWaiting bounds the findings of open incidents that are older than the window which a
// new leader reads.
const maxWaiting = 20_000

// beginCampaigns reads what a new leader needs of campaigns: the open ones, and the findings
// of open incidents that are older than the window and yet wait for a hop.
func (e *Engine) beginCampaigns(ctx context.Context, open []*raftv1.Incident) error {
	if e.usual == nil {
		e.usual = newCustoms(e.cfg.DB, e.cfg.Now)
	}
	e.window.usual = e.usual
	var campaigns []*raftv1.Campaign
	for token := ""; len(campaigns) < maxOpen; {
		page, next, err := e.cfg.DB.Campaigns(ctx, store.IncidentFilter{Status: "open"}, store.Page{Size: store.MaxPage, Token: token})
		if err != nil {
			return fmt.Errorf("reading campaigns: %w", err)
		}
		campaigns = append(campaigns, page...)
		if token = next; token == "" {
			break
		}
	}
	e.roster = newRoster(campaigns)
	now := e.cfg.Now()
	waiting := 0
	for _, in := range open {
		if in.GetFirstSeen() >= now.Add(-e.cfg.Horizon).UnixNano() || in.GetLastSeen() < now.Add(-patience).UnixNano() || waiting >= maxWaiting {
			continue
		}
		rows, _, err := e.cfg.DB.Findings(ctx, store.FindingFilter{Incident: in.GetId()}, store.Page{Size: maxFindingsPerStory})
		if err != nil {
			return fmt.Errorf("reading findings of %s: %w", in.GetId(), err)
		}
		for _, row := range rows {
			e.window.addFinding(row)
		}
		waiting += len(rows)
	}
	return nil
}

// campaigns proposes what the campaigns lack. They are planned after the incidents, which
// they join.
func (e *Engine) campaigns(ctx context.Context) error {
	groups := e.window.groups(e.ledger, e.roster)
	if err := e.usual.failed(); err != nil {
		return err
	}
	for _, put := range e.window.planCampaigns(groups, e.ledger, e.roster) {
		if err := e.proposeCampaign(ctx, put); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) proposeCampaign(ctx context.Context, put *raftv1.PutCampaign) error {
	id := put.GetCampaign().GetId()
	res, err := e.cfg.Log.Propose(ctx, &raftv1.Command{Time: e.cfg.Now().UnixNano(), Actor: "engine:correlate",
		Body: &raftv1.Command_PutCampaign{PutCampaign: put}})
	switch {
	case errors.Is(err, consensus.ErrRefused) || errors.Is(err, consensus.ErrInvalid):
		// A node of an older release is there, or it is too large: the incidents stand, the next
		// thing that happens in it plans it again, and nothing else must wait for it.
		e.cfg.Logger.Warn("campaign not written", "campaign", id, "error", err)
		return nil
	case err != nil:
		return fmt.Errorf("proposing campaign %s: %w", id, err)
	case res.GetRejected() == state.RejectCampaignClosed:
		signal(e.reload)
		signal(e.wake)
		return nil
	case res.GetRejected() != "":
		return fmt.Errorf("proposing campaign %s: %s: %s", id, res.GetRejected(), res.GetMessage())
	}
	e.cfg.Logger.Info("campaign written", "campaign", id, "title", put.GetCampaign().GetTitle(), "hosts", len(put.GetCampaign().GetHosts()), "merged", len(put.GetMerged()))
	for _, merged := range put.GetMerged() {
		e.roster.remove(merged)
	}
	written, err := e.cfg.DB.Campaign(ctx, id)
	if err != nil {
		return fmt.Errorf("reading campaign %s: %w", id, err)
	}
	e.roster.put(written)
	for _, incident := range written.GetIncidents() {
		if e.ledger.byID[incident].GetCampaign() == id || e.ledger.byID[incident] == nil {
			continue
		}
		in, err := e.cfg.DB.Incident(ctx, incident)
		if err != nil {
			return fmt.Errorf("reading incident %s: %w", incident, err)
		}
		e.ledger.put(in)
	}
	return nil
}
