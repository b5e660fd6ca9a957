package intent

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Dispositions of a finding that somebody judged.
const (
	Malicious = "malicious"
	Benign    = "benign"
)

// Replayed is a finding of the past and what people said of it: malicious, benign, or
// anything else for nothing.
type Replayed struct {
	Finding     *sensorv1.Finding
	Host        Host
	Disposition string
}

// Replay is a question to an intent about the past.
type Replay struct {
	Policy  *Policy // that is tried
	InForce *Policy // nil: Defaults
	Fleet   int     // hosts enrolled
	// Hosts by the value of the governor's group label; a group that is missing counts
	// the hosts of it among the findings.
	Groups   map[string]int
	Findings []Replayed
}

// replayed is one finding and one candidate for it.
type replayed struct {
	Replayed
	action   sensorv1.Action
	wanted   Verdict
	levelNow int
	held     string
}

// Verdicts say what the intent would have done about the findings, in the order of
// their times, with the governor's caps as they would have stood then: every host that is
// contained counts for ten minutes and for a day, whatever is done to it but a release, and
// nobody vetoes. Level is what the policies give and Held why it would not be done after
// all. Left out is what both intents only recommend.
func (r Replay) Verdicts() []*operatorv1.Verdict {
	var verdicts []*operatorv1.Verdict
	for _, one := range r.run() {
		if one.wanted.Wanted == Recommend && one.levelNow == Recommend {
			continue
		}
		verdicts = append(verdicts, &operatorv1.Verdict{
			Finding: one.Finding.GetId(), Host: one.Host.ID, HostName: one.Host.Name, Time: one.Finding.GetTime(), Title: one.Finding.GetTitle(),
			Action: ActionName(one.action), Level: uint32(one.wanted.Wanted), LevelNow: uint32(one.levelNow), //nolint:gosec // 0 to 4
			Policies: one.wanted.Policies, Held: one.held, Disposition: one.Disposition,
		})
	}
	return verdicts
}

func (r Replay) run() []replayed {
	inForce := r.InForce
	if inForce == nil {
		inForce, _ = Compile(nil) // the defaults compile: TestDefaults
	}
	findings := slices.Clone(r.Findings)
	slices.SortStableFunc(findings, func(a, b Replayed) int {
		return cmp.Or(cmp.Compare(a.Finding.GetTime(), b.Finding.GetTime()), cmp.Compare(a.Finding.GetId(), b.Finding.GetId()))
	})
	caps := newCapSimulation(r, findings)
	var all []replayed
	for _, f := range findings {
		proposals := r.Policy.Propose(f.Finding, f.Host)
		now := proposals
		if inForce != r.Policy { // a scorecard asks one policy, and half as long
			now = inForce.Propose(f.Finding, f.Host)
		}
		for i, proposal := range proposals {
			one := replayed{Replayed: f, action: proposal.Action, wanted: proposal.Verdict, levelNow: now[i].Verdict.Wanted, held: proposal.Verdict.Held}
			if proposal.Verdict.Level >= Veto && proposal.Action != sensorv1.Action_ACTION_RELEASE {
				one.held = caps.contain(f.Host, f.Finding.GetTime())
			}
			all = append(all, one)
		}
	}
	return all
}

const (
	tenMinutes = int64(10 * time.Minute)
	day        = int64(24 * time.Hour)
)

// capSimulation is the governor over the times of findings.
type capSimulation struct {
	governor *sensorv1.Governor
	fleet    int
	groups   map[string]int
	began    map[string]int64 // when a host's newest containment began, Unix ns
	group    map[string]string
}

func newCapSimulation(r Replay, findings []Replayed) *capSimulation {
	s := &capSimulation{
		governor: r.Policy.intent.GetGovernor(), fleet: r.Fleet, groups: map[string]int{}, began: map[string]int64{}, group: map[string]string{},
	}
	label := GroupLabel(s.governor)
	for _, f := range findings {
		if _, seen := s.group[f.Host.ID]; !seen {
			s.group[f.Host.ID] = f.Host.Labels[label]
			s.groups[f.Host.Labels[label]]++
		}
	}
	s.fleet = max(s.fleet, len(s.group))
	maps.Copy(s.groups, r.Groups)
	delete(s.groups, "") // hosts without the label are no group
	return s
}

// contain counts a containment, or says which cap keeps automation from it.
func (s *capSimulation) contain(h Host, at int64) string {
	if began, ok := s.began[h.ID]; ok && at-began < tenMinutes {
		return "" // it is contained already
	}
	group := s.group[h.ID]
	fleet, own := Extent{Hosts: s.fleet, New: 1}, Extent{Hosts: s.groups[group], New: 1}
	for host, began := range s.began {
		if at-began >= day {
			delete(s.began, host) // findings come in the order of their times
			continue
		}
		if host == h.ID {
			continue
		}
		short := 0
		if at-began < tenMinutes {
			short = 1
		}
		fleet.Day, fleet.TenMinutes = fleet.Day+1, fleet.TenMinutes+short
		if s.group[host] == group {
			own.Day, own.TenMinutes = own.Day+1, own.TenMinutes+short
		}
	}
	groups := map[string]Extent{}
	if group != "" {
		groups[group] = own
	}
	if caps, _ := Exceeds(s.governor, fleet, groups); len(caps) > 0 {
		return caps[0]
	}
	s.began[h.ID] = at
	return ""
}

// confidenceBands are what the scorecard tells apart, in percent; each reaches to the next.
var confidenceBands = []uint32{0, 50, 70, 80, 90, 95, 100}

type scoreKey struct {
	action sensorv1.Action
	group  string
	band   int
}

// Scores say how far people agreed with what the intent would have done: by action, by
// the intent's group that the host is in (each of them; none is "") and by confidence.
// Findings of which nobody said anything count for nothing.
func (r Replay) Scores() []*operatorv1.Score {
	scores := make(map[scoreKey]*operatorv1.Score)
	levels := make(map[scoreKey]*[Act + 1]int)
	for _, one := range r.run() {
		groups := r.Policy.Groups(one.Host)
		if len(groups) == 0 {
			groups = []string{""}
		}
		for _, group := range groups {
			key := scoreKey{one.action, group, bandOf(one.Finding.GetScore())}
			s := scores[key]
			if s == nil {
				s = &operatorv1.Score{
					Action: ActionName(one.action), Group: group,
					ConfidenceFrom: confidenceBands[key.band], ConfidenceTo: confidenceBands[key.band+1],
				}
				scores[key], levels[key] = s, new([Act + 1]int)
			}
			count(s, one)
			levels[key][one.levelNow]++
		}
	}
	keys := slices.SortedFunc(maps.Keys(scores), func(a, b scoreKey) int {
		return cmp.Or(cmp.Compare(a.action, b.action), cmp.Compare(a.group, b.group), cmp.Compare(a.band, b.band))
	})
	var all []*operatorv1.Score
	for _, key := range keys {
		s, most := scores[key], 0
		for level, n := range levels[key] {
			if n > levels[key][most] {
				most = level
			}
		}
		s.Level = uint32(most) //nolint:gosec // 0 to 4
		s.SupportedLevel, s.Supports = supported(s.GetAgreed(), s.GetDisagreed())
		all = append(all, s)
	}
	return all
}

func bandOf(score float64) int {
	percent := confidenceOf(score/100).Float() * 100
	for band := len(confidenceBands) - 2; band > 0; band-- {
		if percent >= float64(confidenceBands[band]) {
			return band
		}
	}
	return 0
}

func count(s *operatorv1.Score, one replayed) {
	s.Findings++
	switch one.Disposition {
	case Malicious:
		s.Agreed++
	case Benign:
		s.Disagreed++
	default:
		s.Unjudged++
	}
	switch level := one.wanted.Wanted; {
	case level >= Veto && one.held == "":
		s.WouldAct++
	case level >= Approve && one.wanted.Level != Recommend:
		s.WouldAsk++ // held by a cap: it takes people
	case level >= Recommend:
		s.WouldRecommend++
	}
}

// What figures support a level: so many findings judged, and so large a share of them
// malicious with 95 % certainty (the one-sided lower bound of Wilson's score interval).
var support = []struct {
	level  uint32
	judged uint64
	share  float64
}{{Act, 20, 0.95}, {Veto, 20, 0.90}, {Approve, 5, 0.50}}

// z is the standard normal quantile of 95 %.
const z = 1.6448536269514722

// wilson is the lower bound of the share of hits, by E. B. Wilson, JASA 22 (1927).
func wilson(hits, n uint64) float64 {
	if n == 0 {
		return 0
	}
	p, m := float64(hits)/float64(n), float64(n)
	return (p + z*z/(2*m) - z*math.Sqrt(p*(1-p)/m+z*z/(4*m*m))) / (1 + z*z/m)
}

func supported(agreed, disagreed uint64) (uint32, string) {
	judged := agreed + disagreed
	if judged == 0 {
		return Recommend, fmt.Sprintf("nobody judged any: level 1; close incidents as malicious or benign, from %d on they say something", support[len(support)-1].judged)
	}
	bound := wilson(agreed, judged)
	level, next := uint32(Recommend), support[len(support)-1]
	for i, s := range support {
		if judged >= s.judged && bound >= s.share {
			level = s.level
			if i > 0 {
				next = support[i-1]
			}
			break
		}
	}
	text := fmt.Sprintf("%d of %d judged were malicious, with 95 %% certainty at least %.1f %%: supports level %d (%s)",
		agreed, judged, math.Floor(bound*1000)/10, level, LevelText(int(level)))
	if level < Act {
		text += fmt.Sprintf("; level %d needs %.0f %% of %d or more", next.level, next.share*100, next.judged)
	}
	return level, text
}
