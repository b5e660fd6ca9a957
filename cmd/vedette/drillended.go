package main

import (
	"context"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// investigated asks for the incidents that the findings went into.
func (s *session) investigated(ctx context.Context, all []*drilled) {
	for _, d := range all {
		for _, row := range d.findings {
			if row.GetIncident() == "" || d.incident != nil {
				continue
			}
			limited, cancel := s.limit(ctx)
			res, err := s.api.Incident(limited, row.GetIncident())
			cancel()
			if err != nil {
				s.say("incident %s cannot be read: %s", row.GetIncident(), err)
				continue
			}
			d.incident = res.GetIncident()
		}
		if d.incident == nil {
			d.ended = s.ended(ctx, d.findings)
		}
	}
}

// ended is how the storylines of findings ended that made no incident: the gravest word.
func (s *session) ended(ctx context.Context, rows []*operatorv1.FindingRow) (gravest string) {
	asked := map[string]bool{}
	for _, row := range rows {
		if asked[row.GetFinding().GetStoryline()] {
			continue
		}
		asked[row.GetFinding().GetStoryline()] = true
		limited, cancel := s.limit(ctx)
		res, err := s.api.FindingDetail(limited, row.GetFinding().GetId())
		cancel()
		if err != nil {
			s.say("finding %s cannot be read: %s", row.GetFinding().GetId(), err)
			continue
		}
		if v := res.GetInvestigation().GetVerdict(); v == "watching" || gravest == "" {
			gravest = v
		}
	}
	return gravest
}

func (d *drilled) investigation() string {
	switch {
	case d.incident.GetStatus() == "closed":
		return "closed as " + d.incident.GetDisposition()
	case d.incident != nil:
		return "incident"
	case d.ended != "":
		return d.ended
	case len(d.findings) > 0:
		return "recorded" // it was not investigated yet
	}
	return ""
}
