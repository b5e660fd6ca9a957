package shape

import (
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/ruleset"
)

// RuleNote is a row of `rule lint`.
type RuleNote struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Rule   string `json:"rule"`
	Weight string `json:"weight"`
	What   string `json:"what"`
	Advice string `json:"advice"`
}

// FromRuleNote makes the row.
func FromRuleNote(n ruleset.Note) RuleNote {
	return RuleNote{File: n.Path, Line: n.Line, Rule: n.Rule, Weight: string(n.Weight), What: n.What, Advice: n.Advice}
}

// RuleTest is a row of `rule test`: an event that was made up, or a record that was tried.
type RuleTest struct {
	Rule     string              `json:"rule"`
	ID       string              `json:"id"`
	Record   string              `json:"record"` // kind of record
	Want     string              `json:"want"`   // match, no match; empty: a record that was tried
	Got      string              `json:"got"`    // match, no match, open, none
	Fields   map[string][]string `json:"fields"`
	Time     string              `json:"time"`
	Line     int                 `json:"line"`
	Missing  string              `json:"missing"`
	Severity string              `json:"severity"`
}

// RuleSet is a row of `rule list`.
type RuleSet struct {
	Version    uint64 `json:"version"`
	Author     string `json:"author"`
	Reason     string `json:"reason"`
	PushedAt   Time   `json:"pushed_at"`
	State      string `json:"state"`
	Percent    uint32 `json:"percent"`
	RingSince  Time   `json:"ring_since"`
	Base       uint64 `json:"base"`
	Restores   uint64 `json:"restores"`
	Files      uint32 `json:"files"`
	Rules      uint32 `json:"rules"`
	Hosts      uint64 `json:"hosts"`
	HostsUsing uint64 `json:"hosts_using"`
	Matches    uint64 `json:"matches"`
	MatchesCut bool   `json:"matches_cut"`
	Why        string `json:"why"`
	WhyHost    string `json:"why_host"`
	EndedAt    Time   `json:"ended_at"`
	MostCostNs uint64 `json:"most_cost_ns"`
}

// FromRuleSet makes the row.
func FromRuleSet(r *operatorv1.RuleSetStatus) RuleSet {
	return RuleSet{
		Version: r.GetVersion(), Author: r.GetAuthor(), Reason: r.GetReason(), PushedAt: Time(r.GetPushedAt()), State: r.GetState(),
		Percent: r.GetPercent(), RingSince: Time(r.GetRingSince()), Base: r.GetBase(), Restores: r.GetRestores(), Files: r.GetFiles(),
		Rules: r.GetRules(), Hosts: r.GetHosts(), HostsUsing: r.GetHostsUsing(), Matches: r.GetMatches(), MatchesCut: r.GetMatchesCut(),
		Why: r.GetWhy(), WhyHost: r.GetWhyHost(), EndedAt: Time(r.GetEndedAt()), MostCostNs: r.GetMostCostNs(),
	}
}
