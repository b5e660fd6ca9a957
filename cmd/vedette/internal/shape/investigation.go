package shape

import (
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Investigation is what was found out about a storyline, with nobody asking.
type Investigation struct {
	Host         string   `json:"host"`
	HostName     string   `json:"host_name"`
	Storyline    string   `json:"storyline"`
	Verdict      string   `json:"verdict"`
	Title        string   `json:"title"`
	Severity     string   `json:"severity"`
	Confidence   float64  `json:"confidence"`
	Terms        []Term   `json:"terms"`
	Account      string   `json:"account"`
	Because      string   `json:"because"`
	Unless       []string `json:"unless"`
	Techniques   []string `json:"techniques"`
	Tactics      []string `json:"tactics"`
	Touched      []Touch  `json:"touched"`
	Prevalence   []string `json:"prevalence"`
	Timeline     []Moment `json:"timeline"`
	ActionsTaken []string `json:"actions_taken"`
	Recommended  []string `json:"recommended"`
	Limits       []string `json:"limits"`
	Findings     []string `json:"findings"`
	Began        Time     `json:"began"`
	Ended        Time     `json:"ended"`
	Rounds       uint32   `json:"rounds"`
	Question     string   `json:"question"`
	Scanned      uint64   `json:"scanned"`
	Answered     uint64   `json:"answered"`
	// Disposition is null before people judged its incident.
	Disposition *string `json:"disposition"`
	JudgedBy    *string `json:"judged_by"`
}

// Touch is something that a storyline touched.
type Touch struct {
	Kind  string `json:"kind"`
	Text  string `json:"text"`
	Times uint32 `json:"times"`
}

// FromInvestigation shapes an investigation.
func FromInvestigation(in *raftv1.Investigation) Investigation {
	out := Investigation{in.GetHost(), in.GetHostName(), in.GetStoryline(), in.GetVerdict(), in.GetTitle(), in.GetSeverity(), in.GetConfidence(), []Term{},
		in.GetAccount(), in.GetBecause(), list(in.GetUnless()), list(in.GetTechniques()), list(in.GetTactics()), []Touch{}, list(in.GetPrevalence()), []Moment{},
		list(in.GetActionsTaken()), list(in.GetRecommended()), list(in.GetLimits()), list(in.GetFindings()), Time(in.GetBegan()), Time(in.GetEnded()),
		in.GetRounds(), in.GetQuestion(), in.GetScanned(), in.GetAnswered(), text(in.GetDisposition()), text(in.GetJudgedBy())}
	for _, t := range in.GetTerms() {
		out.Terms = append(out.Terms, Term{t.GetBits(), t.GetText()})
	}
	for _, t := range in.GetTouched() {
		out.Touched = append(out.Touched, Touch{t.GetKind(), t.GetText(), t.GetTimes()})
	}
	for _, m := range in.GetTimeline() {
		out.Timeline = append(out.Timeline, Moment{Time(m.GetTime()), in.GetHost(), "", m.GetText()})
	}
	return out
}

// FindingDetail is what `finding show` adds: null before its storyline was investigated.
type FindingDetail struct {
	Finding
	Investigation *Investigation `json:"investigation"`
}

// FromFindingDetail shapes a finding with what was found out about it.
func FromFindingDetail(res *operatorv1.GetFindingResponse) FindingDetail {
	out := FindingDetail{Finding: FromFinding(res.GetFinding())}
	if res.GetInvestigation() != nil {
		in := FromInvestigation(res.GetInvestigation())
		out.Investigation = &in
	}
	return out
}
