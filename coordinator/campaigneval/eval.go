package campaigneval

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/engine/correlate"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// promised is how soon after the last record of an attack it must be one campaign.
const promised = 5 * time.Second

// Least is how few hosts a fleet may have: below, attacks find no hosts of their own.
const Least = 250

// Score is how a rule did over weeks.
type Score struct {
	Attacks, Joined int
	// Named is how many hosts the campaigns of attacks name, Right those that are in them.
	Named, Right int
	// False campaigns have nothing of an attack in them.
	False int
	// Late attacks were joined more than five seconds after their last record.
	Late   int
	ByKind map[string]Tally
	// Told are the rule's campaigns, each with what it says for it.
	Told []Told
}

// Tally counts the attacks of a kind, and those of them that were joined into one.
type Tally struct{ Joined, Of int }

// Told is one campaign of a rule.
type Told struct {
	// Strength orders them: the engine's confidence, 0 to 1, or the number of hosts.
	Strength float64
	// Whole says that it has all hosts of an attack that is in no other, True that it has any.
	Whole, True bool
}

// Recall is the share of attacks that were joined into one.
func (s Score) Recall() float64 { return ratio(s.Joined, s.Attacks) }

// Precision is the share of right hosts among those that campaigns of attacks name.
func (s Score) Precision() float64 { return ratio(s.Right, s.Named) }

func (s *Score) add(o Score) {
	s.Attacks, s.Joined, s.Named, s.Right = s.Attacks+o.Attacks, s.Joined+o.Joined, s.Named+o.Named, s.Right+o.Right
	s.False, s.Late, s.Told = s.False+o.False, s.Late+o.Late, append(s.Told, o.Told...)
	if s.ByKind == nil {
		s.ByKind = map[string]Tally{}
	}
	for k, v := range o.ByKind {
		s.ByKind[k] = Tally{s.ByKind[k].Joined + v.Joined, s.ByKind[k].Of + v.Of}
	}
}

func ratio(a, b int) float64 {
	if b == 0 {
		return 1
	}
	return float64(a) / float64(b)
}

// Result is what came of all weeks, by the engine and by two rules that anybody could write.
type Result struct {
	Hosts          int
	Seeds          []uint64
	Records, Plans int
	Engine         Score
	// NeverSeen joins what connections that their hosts never made before connect within a week,
	// whatever is found. AnyFlow joins every exact flow between two storylines with findings.
	NeverSeen, AnyFlow Score
	// Why has a line for each campaign that is wrong, and for each attack that is in several.
	Why []string
}

// Weeks is how many weeks of 1,000 hosts the result is of.
func (r Result) Weeks() float64 { return float64(len(r.Seeds)) * float64(r.Hosts) / 1000 }

// Run plays a week of so many hosts for each seed.
func Run(ctx context.Context, hosts int, seeds []uint64) (Result, error) {
	out := Result{Hosts: hosts, Seeds: seeds}
	if hosts < Least {
		return out, fmt.Errorf("playing a fleet's week: %d hosts, at least %d", hosts, Least)
	}
	for _, seed := range seeds {
		f := newFleet(seed, hosts)
		e := &run{engine: correlate.NewReplay(f)}
		if err := e.play(ctx, f); err != nil {
			return out, err
		}
		out.Records, out.Plans = out.Records+len(f.records), out.Plans+e.plans
		out.Engine.add(e.score(f))
		out.NeverSeen.add(f.score(f.neverSeen()))
		out.AnyFlow.add(f.score(f.anyFlow()))
		out.Why = append(out.Why, e.why...)
	}
	return out, nil
}

// run is the engine over a week.
type run struct {
	engine *correlate.Replay
	plans  int
	why    []string
}

// play feeds the week, with a plan at most every five seconds of it, and notes when each attack
// was whole.
func (e *run) play(ctx context.Context, f *fleet) error {
	const every = 5 * time.Second
	var next time.Time
	pending := f.attacks
	for i, rec := range f.records {
		if rec.row != nil {
			e.engine.Finding(rec.row)
		} else {
			e.engine.Note(f.id(rec.host), rec.at, rec.note)
		}
		last := i+1 == len(f.records)
		if !last && f.records[i+1].at.Before(next) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("playing a fleet's week: %w", err)
		}
		e.plans++
		e.engine.Plan(rec.at)
		next = rec.at.Add(every)
		pending = slices.DeleteFunc(slices.Clone(pending), func(a *attack) bool {
			if rec.at.Before(a.last) || e.holds(a) == nil {
				return false
			}
			a.joined = rec.at
			return true
		})
	}
	return nil
}

// holds is the one campaign that has all hosts of an attack; nil when there is none, or
// several have some.
func (e *run) holds(a *attack) *raftv1.Campaign {
	for _, c := range e.engine.Campaigns() {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(a.hosts)), func(h string) bool { return !slices.Contains(c.GetHosts(), h) }) {
			return c
		}
	}
	return nil
}

// score holds the campaigns against what truly was.
func (e *run) score(f *fleet) Score {
	campaigns := e.engine.Campaigns()
	slices.SortFunc(campaigns, func(a, b *raftv1.Campaign) int { return cmp.Compare(a.GetId(), b.GetId()) })
	var sets []group
	for _, c := range campaigns {
		g := group{strength: c.GetConfidence(), hosts: map[string]bool{}}
		for _, m := range c.GetMembers() {
			g.stories = append(g.stories, storyKey{m.GetHost(), m.GetStoryline()})
		}
		for _, h := range c.GetHosts() {
			g.hosts[h] = true
		}
		sets = append(sets, g)
	}
	s := f.score(sets)
	for i, told := range s.Told {
		if !told.True {
			e.why = append(e.why, fmt.Sprintf("false: %s %v", campaigns[i].GetTitle(), campaigns[i].GetEdges()))
		}
	}
	for _, a := range f.attacks {
		switch {
		case !a.one:
			e.why = append(e.why, fmt.Sprintf("apart: %s over %v", a.kind, slices.Sorted(maps.Keys(a.hosts))))
		case a.joined.Sub(a.last) > promised:
			s.Late++
		}
	}
	return s
}
