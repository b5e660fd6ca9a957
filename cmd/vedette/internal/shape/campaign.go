package shape

import "github.com/vedette-edr/vedette/proto/raftv1"

// Campaign is a row of `campaign list`.
type Campaign struct {
	ID         string         `json:"id"`
	Status     string         `json:"status"`
	Severity   string         `json:"severity"`
	Confidence float64        `json:"confidence"`
	Title      string         `json:"title"`
	Hosts      []string       `json:"hosts"`
	FirstHost  string         `json:"first_host"`
	Edges      []CampaignEdge `json:"edges"`
	Techniques []string       `json:"techniques"`
	Incidents  []string       `json:"incidents"`
	FirstSeen  Time           `json:"first_seen"`
	LastSeen   Time           `json:"last_seen"`
}

// CampaignEdge is what ties two of its hosts.
type CampaignEdge struct {
	Edge
	Weight        float64  `json:"weight"`
	Terms         []string `json:"terms"`
	FromStoryline string   `json:"from_storyline"`
	ToStoryline   string   `json:"to_storyline"`
}

// CampaignDetail is what `campaign show` adds.
type CampaignDetail struct {
	Campaign
	Members     []CampaignMember `json:"members"`
	Credentials []string         `json:"credentials"`
	Refused     []string         `json:"refused"`
	Limits      []string         `json:"limits"`
	Disposition string           `json:"disposition"`
	ClosedBy    string           `json:"closed_by"`
	CloseReason string           `json:"close_reason"`
}

// CampaignMember is one storyline of it.
type CampaignMember struct {
	Host       string   `json:"host"`
	HostName   string   `json:"host_name"`
	Storyline  string   `json:"storyline"`
	Incident   *string  `json:"incident"`
	FirstSeen  Time     `json:"first_seen"`
	LastSeen   Time     `json:"last_seen"`
	Severity   string   `json:"severity"`
	Title      string   `json:"title"`
	Techniques []string `json:"techniques"`
	Carried    bool     `json:"carried"`
}

// FromCampaign shapes a campaign.
func FromCampaign(c *raftv1.Campaign) Campaign {
	out := Campaign{ID: c.GetId(), Status: c.GetStatus(), Severity: c.GetSeverity(), Confidence: c.GetConfidence(), Title: c.GetTitle(),
		Hosts: list(c.GetHosts()), Edges: []CampaignEdge{}, Techniques: list(c.GetTechniques()), Incidents: list(c.GetIncidents()),
		FirstSeen: Time(c.GetFirstSeen()), LastSeen: Time(c.GetLastSeen())}
	if len(out.Hosts) > 0 {
		out.FirstHost = out.Hosts[0]
	}
	for _, e := range c.GetEdges() {
		out.Edges = append(out.Edges, CampaignEdge{Edge{e.GetFrom(), e.GetTo(), e.GetKind(), Time(e.GetTime()), e.GetEvidence()},
			e.GetWeight(), list(e.GetTerms()), e.GetFromStoryline(), e.GetToStoryline()})
	}
	return out
}

// FromCampaignDetail shapes a campaign with its members.
func FromCampaignDetail(c *raftv1.Campaign) CampaignDetail {
	out := CampaignDetail{Campaign: FromCampaign(c), Members: []CampaignMember{}, Credentials: list(c.GetCredentials()), Refused: list(c.GetRefused()),
		Limits: list(c.GetLimits()), Disposition: c.GetDisposition(), ClosedBy: c.GetClosedBy(), CloseReason: c.GetCloseReason()}
	for _, m := range c.GetMembers() {
		out.Members = append(out.Members, CampaignMember{m.GetHost(), m.GetHostName(), m.GetStoryline(), text(m.GetIncident()), Time(m.GetFirstSeen()),
			Time(m.GetLastSeen()), m.GetSeverity(), m.GetTitle(), list(m.GetTechniques()), m.GetCarried()})
	}
	return out
}
