package correlate

import (
	"cmp"
	"crypto/sha256"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// severities from least to most.
var severities = []string{"informational", "low", "medium", "high", "critical"}

// weights say how sure one finding of each severity makes us that the
// storyline deserves a person.
var weights = []float64{0.05, 0.15, 0.35, 0.65, 0.85}

// hopWeight is what one exact cross-host flow adds: anomalies at both ends of
// a connection are rarely two accidents.
const hopWeight = 0.5

const high = 3 // index of "high"

func severityOf(row *operatorv1.FindingRow) int {
	return max(0, slices.Index(severities, row.GetFinding().GetSeverity()))
}

// component is what one incident is to say: storylines joined by hops.
type component struct {
	stories  []*story
	hops     []hop
	findings []*operatorv1.FindingRow // all, by time
	severity int
	score    float64
}

// components joins the storylines that hops connect and keeps those that
// deserve a person: a severity of high or above, or enough score in sum.
// What a host reports while it learns adds no score, for there everything is new.
func (w *window) components(threshold float64) []component {
	parent := make(map[storyKey]storyKey, len(w.stories))
	find := func(k storyKey) storyKey {
		for parent[k] != k {
			parent[k] = parent[parent[k]]
			k = parent[k]
		}
		return k
	}
	for key, s := range w.stories {
		if len(s.findings) > 0 {
			parent[key] = key
		}
	}
	hops := w.hops()
	for _, h := range hops {
		a, b := find(h.from), find(h.to)
		if a != b {
			parent[b] = a
		}
	}
	groups := make(map[storyKey]*component)
	for key := range parent {
		root := find(key)
		if groups[root] == nil {
			groups[root] = &component{}
		}
		groups[root].stories = append(groups[root].stories, w.stories[key])
	}
	for _, h := range hops {
		c := groups[find(h.from)]
		c.hops = append(c.hops, h)
	}
	var kept []component
	for _, c := range groups {
		slices.SortFunc(c.stories, func(a, b *story) int {
			return cmp.Or(compareRows(a.findings[0], b.findings[0]), strings.Compare(a.key.String(), b.key.String()))
		})
		for _, s := range c.stories {
			c.findings = append(c.findings, s.findings...)
		}
		slices.SortFunc(c.findings, compareRows)
		for _, row := range c.findings {
			c.severity = max(c.severity, severityOf(row))
			if !row.GetFinding().GetLearning() {
				c.score += row.GetFinding().GetScore()
			}
		}
		if c.severity >= high || c.score >= threshold {
			kept = append(kept, *c)
		}
	}
	slices.SortFunc(kept, func(a, b component) int { return compareRows(a.findings[0], b.findings[0]) })
	return kept
}

// facts is what the account needs to know beside the findings.
type facts struct {
	hosts      map[string]*operatorv1.Host
	isolations map[string][]*operatorv1.Isolation // by host
}

// plan compares what the incidents should say with what they say and returns
// the difference. Planning again after applying it returns nothing.
func plan(w *window, open []*raftv1.Incident, threshold float64, known facts) []*raftv1.PutIncident {
	var puts []*raftv1.PutIncident
	taken := make(map[string]bool)
	for _, c := range w.components(threshold) {
		mine := c.incidents(open, taken)
		put := &raftv1.PutIncident{}
		var before *raftv1.Incident
		if len(mine) > 0 {
			before = mine[0]
			for _, other := range mine[1:] {
				put.Merged = append(put.Merged, other.GetId())
			}
		}
		for _, m := range mine {
			taken[m.GetId()] = true
		}
		put.Incident = c.describe(before, mine, known)
		if len(put.Merged) == 0 && before != nil && proto.Equal(before, put.Incident) {
			continue
		}
		puts = append(puts, put)
	}
	return puts
}

// incidents are the open ones about any of the component's storylines, oldest first.
func (c *component) incidents(open []*raftv1.Incident, taken map[string]bool) []*raftv1.Incident {
	var mine []*raftv1.Incident
	for _, incident := range open {
		if incident.GetStatus() != "open" || taken[incident.GetId()] {
			continue
		}
		if slices.ContainsFunc(c.stories, func(s *story) bool {
			return slices.Contains(incident.GetStorylines(), s.key.String())
		}) {
			mine = append(mine, incident)
		}
	}
	slices.SortFunc(mine, func(a, b *raftv1.Incident) int {
		return cmp.Or(cmp.Compare(a.GetFirstSeen(), b.GetFirstSeen()), strings.Compare(a.GetId(), b.GetId()))
	})
	return mine
}

// incidentID derives the id from the first finding, so that two leaders that
// plan the same incident name it the same.
func incidentID(first *operatorv1.FindingRow) string {
	sum := sha256.Sum256([]byte(first.GetHost() + "\x00" + first.GetFinding().GetId()))
	return "inc-" + idEncoding.EncodeToString(sum[:])[:12]
}
