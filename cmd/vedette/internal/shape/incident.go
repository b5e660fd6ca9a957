package shape

import (
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Incident is a row of `incident list`.
type Incident struct {
	ID           string   `json:"id"`
	Status       string   `json:"status"`
	Severity     string   `json:"severity"`
	Confidence   float64  `json:"confidence"`
	Title        string   `json:"title"`
	Hosts        []string `json:"hosts"`
	Techniques   []string `json:"techniques"`
	FirstSeen    Time     `json:"first_seen"`
	LastSeen     Time     `json:"last_seen"`
	Storylines   []string `json:"storylines"`
	Campaign     *string  `json:"campaign"`
	Account      string   `json:"account"`
	Timeline     []Moment `json:"timeline"`
	ActionsTaken []string `json:"actions_taken"`
	Recommended  []string `json:"recommended"`
	Limits       []string `json:"limits"`
}

// Moment is one line of an incident's timeline.
type Moment struct {
	Time    Time   `json:"time"`
	Host    string `json:"host"`
	Finding string `json:"finding"`
	Text    string `json:"text"`
}

// Edge is what joins two storylines of an incident.
type Edge struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Kind     string `json:"kind"`
	Time     Time   `json:"time"`
	Evidence string `json:"evidence"`
}

// IncidentDetail is what `incident show` adds.
type IncidentDetail struct {
	Incident
	Disposition string    `json:"disposition"`
	ClosedBy    string    `json:"closed_by"`
	CloseReason string    `json:"close_reason"`
	Edges       []Edge    `json:"edges"`
	Findings    []Finding `json:"findings"`
	// Investigations are of its storylines, those that were investigated.
	Investigations []Investigation `json:"investigations"`
	// Dispositions are what the sensors of its hosts were told when it was closed.
	Dispositions []Disposition `json:"dispositions"`
}

// Disposition is what one host's sensor was told of its findings, and what became of it.
type Disposition struct {
	ID          string `json:"id"`
	Host        string `json:"host"`
	Operator    string `json:"operator"`
	Time        Time   `json:"time"`
	Disposition string `json:"disposition"`
	Findings    uint32 `json:"findings"`
	State       string `json:"state"`
	Taken       uint32 `json:"taken"`
	Failure     string `json:"failure"`
	AnsweredAt  Time   `json:"answered_at"`
}

// FromDisposition shapes one.
func FromDisposition(r *operatorv1.DispositionRow) Disposition {
	said := "benign"
	if r.GetMalicious() {
		said = "malicious"
	}
	return Disposition{r.GetId(), r.GetHost(), r.GetOperator(), Time(r.GetTime()), said, r.GetFindings(), r.GetState(), r.GetTaken(), r.GetFailure(), Time(r.GetAnsweredAt())}
}

// FromIncident shapes an incident.
func FromIncident(i *raftv1.Incident) Incident {
	out := Incident{
		i.GetId(), i.GetStatus(), i.GetSeverity(), i.GetConfidence(), i.GetTitle(), list(i.GetHosts()), list(i.GetTechniques()),
		Time(i.GetFirstSeen()), Time(i.GetLastSeen()), list(i.GetStorylines()), text(i.GetCampaign()), i.GetAccount(), []Moment{},
		list(i.GetActionsTaken()), list(i.GetRecommended()), list(i.GetLimits()),
	}
	for _, m := range i.GetTimeline() {
		out.Timeline = append(out.Timeline, Moment{Time(m.GetTime()), m.GetHost(), m.GetFinding(), m.GetText()})
	}
	return out
}

// FromIncidentDetail shapes an incident with its findings.
func FromIncidentDetail(res *operatorv1.GetIncidentResponse) IncidentDetail {
	i := res.GetIncident()
	out := IncidentDetail{FromIncident(i), i.GetDisposition(), i.GetClosedBy(), i.GetCloseReason(), []Edge{}, []Finding{}, []Investigation{}, []Disposition{}}
	for _, e := range i.GetEdges() {
		out.Edges = append(out.Edges, Edge{e.GetFrom(), e.GetTo(), e.GetKind(), Time(e.GetTime()), e.GetEvidence()})
	}
	for _, f := range res.GetFindings() {
		out.Findings = append(out.Findings, FromFinding(f))
	}
	for _, in := range res.GetInvestigations() {
		out.Investigations = append(out.Investigations, FromInvestigation(in))
	}
	for _, d := range res.GetDispositions() {
		out.Dispositions = append(out.Dispositions, FromDisposition(d))
	}
	return out
}
