package detect

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/proto/taxonomy"
)

// Trial is what came of rules that were tried on events of the sensor's own kinds, made up from
// their conditions.
type Trial struct {
	// Mapped rules are used; for Positive of them an event was made up that matches, for
	// Negative one that does not.
	Mapped, Positive, Negative int
	// Without has a line for each used rule that lacks one of the two, with the reason.
	Without []string
}

// Try tries those of the rules that the engine uses. Nothing is told and nothing remembered.
func (e *Engine) Try(of []*sigma.Rule) (out Trial) {
	e.mu.Lock()
	defer e.mu.Unlock()
	kinds := make([]string, 0, len(e.sets))
	for kind := range e.sets {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	h := newHost()
	for _, r := range of {
		id := sigma.IDOf(&r.Header)
		used, matched, missed, why := false, false, false, ""
		for _, kind := range kinds {
			for _, m := range e.sets[kind].rules {
				if m.id != id {
					continue
				}
				used = true
				hit, passed, wrong := e.try(h, kind, m)
				matched, missed, why = matched || hit, missed || passed, why+wrong
			}
		}
		if !used {
			continue
		}
		out.Mapped++
		if matched {
			out.Positive++
		}
		if missed {
			out.Negative++
		}
		if !matched || !missed {
			out.Without = append(out.Without, strings.ToValidUTF8(r.Title+": "+why, "?"))
		}
	}
	return out
}

// try makes up both events for a rule about one kind; why says what was not as it must be.
func (e *Engine) try(h *host, kind string, m *rule) (matched, missed bool, why string) {
	match, miss, err := m.Examples(taxonomy.Given(kind))
	if err != nil {
		return false, false, err.Error() + "; "
	}
	for _, x := range []struct {
		example sigma.Example
		want    bool
	}{{match, true}, {miss, false}} {
		s := &staged{example: x.example}
		o, v, err := s.observation(h, kind)
		if err != nil {
			why += fmt.Sprintf("%s: %v; ", kind, err)
			continue
		}
		got := slices.Contains(e.matching(o, v), m)
		switch {
		case got && x.want:
			matched = true
		case !got && !x.want:
			missed = true
		default:
			why += fmt.Sprintf("%s: %v for %v; ", kind, got, x.example)
		}
	}
	return matched, missed, why
}

// trialEvents is how many events of ordinary work the cost is measured by, and trialTimes how
// often: other work on the machine empties the caches, and some rounds are left alone.
const trialEvents, trialTimes = 1000, 20

// RuleCost is the processor time that it takes to find the rules that match an event of ordinary
// work, made up and the same each time: the least and the median of trialTimes.
func (e *Engine) RuleCost() (least, median time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	work := ordinaryWork(trialEvents)
	took := make([]time.Duration, trialTimes)
	for i := range took {
		took[i] = e.measure(work)
	}
	slices.Sort(took)
	return took[0], took[trialTimes/2]
}
