package shape

import (
	"encoding/hex"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// IntentRow is a row of `intent history`.
type IntentRow struct {
	Version       uint64 `json:"version"`
	Author        string `json:"author"`
	IssuedAt      Time   `json:"issued_at"`
	Reason        string `json:"reason"`
	AutomationOff bool   `json:"automation_off"`
	Restores      uint64 `json:"restores"`
	Policies      int    `json:"policies"`
	Digest        string `json:"digest"`
	Previous      string `json:"previous"`
}

// Intent is `intent show`. Version 0 is what holds before one was applied.
type Intent struct {
	IntentRow
	VetoSeconds  uint32          `json:"veto_seconds"`
	LeaseSeconds uint64          `json:"lease_seconds"`
	Groups       []IntentGroup   `json:"groups"`
	Governor     IntentGovernor  `json:"governor"`
	Jump         []IntentOpening `json:"jump"`
	Policy       string          `json:"policy"`
	Hosts        uint64          `json:"hosts"`
	HostsCurrent uint64          `json:"hosts_current"`
}

// IntentGroup is the hosts whose labels all match.
type IntentGroup struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
}

// IntentGovernor is the limits, defaults filled in.
type IntentGovernor struct {
	Hosts10m       int           `json:"hosts_10m"`
	Permille10m    uint32        `json:"permille_10m"`
	PermilleDay    uint32        `json:"permille_day"`
	GroupLabel     string        `json:"group_label"`
	Protected      []IntentGroup `json:"protected"`
	ProtectedHosts []string      `json:"protected_hosts"`
}

// IntentOpening is what isolation level jump leaves open.
type IntentOpening struct {
	Prefix   string `json:"prefix"`
	Protocol uint32 `json:"protocol"`
	Port     uint32 `json:"port"`
	Inbound  bool   `json:"inbound"`
	Comment  string `json:"comment"`
}

// FromIntentRow shapes a version for a list.
func FromIntentRow(i *client.Intent) IntentRow {
	in := i.Effective()
	row := IntentRow{
		Version: in.GetVersion(), Author: in.GetAuthor(), IssuedAt: Time(in.GetIssuedAt()), Reason: in.GetReason(),
		AutomationOff: in.GetAutomationOff(), Restores: in.GetRestores(),
		Digest: hex.EncodeToString(i.Digest()), Previous: hex.EncodeToString(in.GetPrevious()),
	}
	if policy, err := intent.Compile(in); err == nil {
		row.Policies = len(policy.PolicyIDs())
	}
	return row
}

// FromIntent shapes a version whole.
func FromIntent(i *client.Intent, spread client.Spread) Intent {
	in := i.Effective()
	g := in.GetGovernor()
	out := Intent{
		IntentRow: FromIntentRow(i), VetoSeconds: intent.VetoSeconds(in), LeaseSeconds: intent.LeaseSeconds(in),
		Groups: intentGroups(in.GetGroups()), Jump: []IntentOpening{}, Policy: in.GetPolicy(), Hosts: spread.Hosts, HostsCurrent: spread.Current,
		Governor: IntentGovernor{
			Hosts10m: intent.CapsOf(g, 0).TenMinutes, Permille10m: g.GetPermille_10M(), PermilleDay: g.GetPermilleDay(),
			GroupLabel: intent.GroupLabel(g), Protected: intentGroups(g.GetProtected()), ProtectedHosts: list(g.GetProtectedHosts()),
		},
	}
	if out.Governor.Permille10m == 0 {
		out.Governor.Permille10m = intent.DefaultPermille10m
	}
	if out.Governor.PermilleDay == 0 {
		out.Governor.PermilleDay = max(intent.DefaultPermilleDay, out.Governor.Permille10m)
	}
	for _, o := range in.GetJump() {
		out.Jump = append(out.Jump, IntentOpening{o.GetPrefix(), o.GetProtocol(), o.GetPort(), o.GetInbound(), o.GetComment()})
	}
	return out
}

func intentGroups(groups []*sensorv1.Group) []IntentGroup {
	out := make([]IntentGroup, len(groups))
	for i, g := range groups {
		out[i] = IntentGroup{g.GetName(), g.GetLabels()}
		if out[i].Labels == nil {
			out[i].Labels = map[string]string{}
		}
	}
	return out
}

// Difference is `intent diff`.
type Difference struct {
	From    string   `json:"from"`
	To      string   `json:"to"`
	Changes []string `json:"changes"`
	Shrinks []string `json:"shrinks"`
}

// Verdict is a row of `intent test`.
type Verdict struct {
	Time        Time     `json:"time"`
	Host        string   `json:"host"`
	HostName    string   `json:"host_name"`
	Finding     string   `json:"finding"`
	Title       string   `json:"title"`
	Action      string   `json:"action"`
	Level       uint32   `json:"level"`
	LevelNow    uint32   `json:"level_now"`
	Policies    []string `json:"policies"`
	Held        string   `json:"held"`
	Disposition string   `json:"disposition"`
}

// FromVerdict shapes what an intent says of a finding and an action.
func FromVerdict(v *operatorv1.Verdict) Verdict {
	return Verdict{
		Time(v.GetTime()), v.GetHost(), v.GetHostName(), v.GetFinding(), v.GetTitle(), v.GetAction(), v.GetLevel(), v.GetLevelNow(),
		list(v.GetPolicies()), v.GetHeld(), v.GetDisposition(),
	}
}

// Score is a row of `intent scorecard`.
type Score struct {
	Action         string `json:"action"`
	Group          string `json:"group"`
	ConfidenceFrom uint32 `json:"confidence_from"`
	ConfidenceTo   uint32 `json:"confidence_to"`
	Findings       uint64 `json:"findings"`
	Agreed         uint64 `json:"agreed"`
	Disagreed      uint64 `json:"disagreed"`
	Unjudged       uint64 `json:"unjudged"`
	WouldRecommend uint64 `json:"would_recommend"`
	WouldAsk       uint64 `json:"would_ask"`
	WouldAct       uint64 `json:"would_act"`
	Level          uint32 `json:"level"`
	SupportedLevel uint32 `json:"supported_level"`
	Supports       string `json:"supports"`
}

// FromScore shapes a line of the scorecard.
func FromScore(s *operatorv1.Score) Score {
	return Score{
		s.GetAction(), s.GetGroup(), s.GetConfidenceFrom(), s.GetConfidenceTo(), s.GetFindings(), s.GetAgreed(), s.GetDisagreed(), s.GetUnjudged(),
		s.GetWouldRecommend(), s.GetWouldAsk(), s.GetWouldAct(), s.GetLevel(), s.GetSupportedLevel(), s.GetSupports(),
	}
}
