package shape

import "github.com/vedette-edr/vedette/proto/operatorv1"

// History is a row of `host history`.
type History struct {
	Time          Time   `json:"time"`
	Grain         string `json:"grain"`
	Summaries     uint64 `json:"summaries"`
	Events        uint64 `json:"events"`
	NewBehaviours uint64 `json:"new_behaviours"`
	Losses        uint64 `json:"losses"`
	Findings      uint64 `json:"findings"`
	Flows         uint64 `json:"flows"`
}

// FromHistory shapes what a host told in a minute, an hour or a day.
func FromHistory(r *operatorv1.HistoryRow, grain string) History {
	return History{Time: Time(r.GetTime()), Grain: grain, Summaries: r.GetSummaries(), Events: r.GetEvents(), NewBehaviours: r.GetNewBehaviours(),
		Losses: r.GetLosses(), Findings: r.GetFindings(), Flows: r.GetFlows()}
}
