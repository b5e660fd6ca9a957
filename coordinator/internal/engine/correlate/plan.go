package correlate

import (
	"cmp"
	"crypto/sha256"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
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
	// incident says that the investigator takes one of its storylines for one; unheard is when the
	// oldest finding was stored that he has not spoken of (Unix ns).
	incident bool
	heard    bool // he spoke of all its findings
	unheard  int64
}

// components joins what changed with the storylines that hops, or one open incident, connect
// it to, and keeps what deserves a person: a severity of high or above, or enough score in sum.
// What a host reports while it learns adds no score, for there everything is new. What is
// connected to nothing that changed is not looked at: a plan costs what is new, not what is known.
//
// What the investigator says comes before the sum: an incident is one whatever the scores, a
// storyline that stands alone is none if he says so, what is benign adds no score, and what
// he has not looked at waits for him.
func (w *window) components(open *ledger, threshold float64) (kept []component) {
	seen := make(map[storyKey]bool)
	clear(w.waiting)
	for key := range w.changed {
		if s := w.stories[key]; s == nil || len(s.findings) == 0 || seen[key] {
			continue
		}
		c := w.component(key, open, seen)
		switch {
		case c.severity >= high || c.incident || len(open.about(c.stories)) > 0:
			kept = append(kept, c)
		case c.score < threshold, len(c.stories) == 1 && c.heard:
		case w.waits != 0 && c.unheard > w.waits:
			w.waiting[key] = true
		default:
			kept = append(kept, c)
		}
	}
	slices.SortFunc(kept, func(a, b component) int { return compareRows(a.findings[0], b.findings[0]) })
	return kept
}

// component is all that is connected to a storyline; seen are those that are part of one.
func (w *window) component(of storyKey, open *ledger, seen map[storyKey]bool) (c component) {
	seen[of] = true
	for next := []storyKey{of}; len(next) > 0; {
		s := w.stories[next[0]]
		next = next[1:]
		c.stories = append(c.stories, s)
		c.findings = append(c.findings, s.findings...)
		reached := open.siblings(s.key)
		for _, h := range w.joined(s) {
			if h.from == s.key { // its other end finds it too
				c.hops = append(c.hops, h)
			}
			reached = append(reached, h.from, h.to)
		}
		for _, key := range reached {
			if other := w.stories[key]; other != nil && len(other.findings) > 0 && !seen[key] {
				seen[key] = true
				next = append(next, key)
			}
		}
	}
	slices.SortFunc(c.stories, func(a, b *story) int {
		return cmp.Or(compareRows(a.findings[0], b.findings[0]), strings.Compare(a.key.String(), b.key.String()))
	})
	slices.SortFunc(c.hops, compareHops)
	slices.SortFunc(c.findings, compareRows)
	for _, s := range c.stories {
		c.weigh(s)
	}
	c.heard = c.unheard == 0
	return c
}

// weigh adds a storyline to what the component says.
func (c *component) weigh(s *story) {
	c.incident = c.incident || s.verdict == state.VerdictIncident
	upTo := int64(0) // what is older than what he read he read as well, or it is too old
	for _, row := range s.findings {
		if s.heard[row.GetFinding().GetId()] {
			upTo = max(upTo, row.GetStoredAt())
		}
	}
	for _, row := range s.findings {
		c.severity = max(c.severity, severityOf(row))
		heard := row.GetStoredAt() <= upTo
		// The oldest that was not: with the newest a trickle of findings would put it off for ever.
		if !heard && (c.unheard == 0 || row.GetStoredAt() < c.unheard) {
			c.unheard = row.GetStoredAt()
		}
		if !row.GetFinding().GetLearning() && (s.verdict != state.VerdictBenign || !heard) {
			c.score += row.GetFinding().GetScore()
		}
	}
}

// judged takes in what the investigator says of a storyline.
func (w *window) judged(key storyKey, in *raftv1.Investigation) {
	s := w.stories[key]
	if s == nil {
		return
	}
	s.verdict, s.heard = in.GetVerdict(), make(map[string]bool, len(in.GetFindings()))
	for _, id := range in.GetFindings() {
		s.heard[id] = true
	}
	w.changed[key] = true
}

// facts is what the account needs to know beside the findings.
type facts struct {
	hosts      map[string]*operatorv1.Host
	isolations map[string][]*operatorv1.Isolation // by host
}

// plan compares what the incidents should say of these components with what they say and
// returns the difference. Planning again after applying it returns nothing.
func plan(components []component, open *ledger, known facts) []*raftv1.PutIncident {
	var puts []*raftv1.PutIncident
	taken := make(map[string]bool)
	for _, c := range components {
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
func (c *component) incidents(open *ledger, taken map[string]bool) []*raftv1.Incident {
	mine := slices.DeleteFunc(open.about(c.stories), func(in *raftv1.Incident) bool { return taken[in.GetId()] })
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
