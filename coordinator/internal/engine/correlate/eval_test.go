package correlate

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// evalRun is the engine's own functions over a week: what the log would do is done by hand.
type evalRun struct {
	w     *window
	l     *ledger
	r     *roster
	plans int
}

func newEvalRun(f *evalFleet) *evalRun {
	e := &evalRun{w: newWindow(), l: newLedger(nil), r: newRoster(nil)}
	e.w.usual = f
	return e
}

func (e *evalRun) plan(now time.Time) {
	e.plans++
	e.w.forget(now.Add(-24*time.Hour), now.Add(-patience), func(key storyKey) bool {
		return len(e.l.byStory[key.String()]) > 0 || len(e.r.byStory[key]) > 0
	})
	for _, put := range plan(e.w.components(e.l, 120), e.l, facts{}) {
		for _, id := range put.GetMerged() {
			e.l.remove(id)
		}
		e.l.put(put.GetIncident())
	}
	for _, put := range e.w.planCampaigns(e.w.groups(e.l, e.r), e.l, e.r) {
		for _, id := range put.GetMerged() {
			e.r.remove(id)
		}
		e.r.put(proto.CloneOf(put.GetCampaign()))
	}
	clear(e.w.changed)
}

// play feeds the week, with a plan at most every five seconds of it, and notes when each attack
// was whole.
func (e *evalRun) play(f *evalFleet) {
	const every = 5 * time.Second
	var next time.Time
	pending := f.attacks
	for i, rec := range f.records {
		if rec.row != nil {
			e.w.addFinding(rec.row)
		} else {
			e.w.addNote(f.id(rec.host), rec.at.UnixNano(), rec.note)
		}
		if i+1 < len(f.records) && f.records[i+1].at.Before(next) {
			continue
		}
		if rec.at.After(next) || i+1 == len(f.records) || !f.records[i+1].at.Before(next) {
			e.plan(rec.at)
			next = rec.at.Add(every)
			pending = slices.DeleteFunc(slices.Clone(pending), func(a *evalAttack) bool {
				if rec.at.Before(a.last) || e.holds(a) == nil {
					return false
				}
				a.joined = rec.at
				return true
			})
		}
	}
}

// holds is the one campaign that has all hosts of an attack; nil when there is none, or
// several have some.
func (e *evalRun) holds(a *evalAttack) *raftv1.Campaign {
	for _, c := range e.r.byID {
		all := true
		for h := range a.hosts {
			all = all && slices.Contains(c.GetHosts(), h)
		}
		if all {
			return c
		}
	}
	return nil
}

// score is how a rule did over a week.
type evalScore struct {
	attacks, joined      int
	named, right         int // hosts that campaigns of attacks name, and those that are in them
	false, falseHosts    int
	late                 int // joined more than five seconds after the last record
	byKind               map[string][2]int
	incidents, campaigns int
}

func (s *evalScore) add(o evalScore) {
	s.attacks, s.joined, s.named, s.right = s.attacks+o.attacks, s.joined+o.joined, s.named+o.named, s.right+o.right
	s.false, s.falseHosts, s.late = s.false+o.false, s.falseHosts+o.falseHosts, s.late+o.late
	s.incidents, s.campaigns = s.incidents+o.incidents, s.campaigns+o.campaigns
	if s.byKind == nil {
		s.byKind = map[string][2]int{}
	}
	for k, v := range o.byKind {
		s.byKind[k] = [2]int{s.byKind[k][0] + v[0], s.byKind[k][1] + v[1]}
	}
}

func (e *evalRun) score(f *evalFleet, t *testing.T) (s evalScore) {
	s.byKind = map[string][2]int{}
	truth := f.owners
	ofAttack := map[*evalAttack]map[string]bool{} // campaigns that have some of it
	for _, c := range e.r.byID {
		s.campaigns++
		hosts, mine := map[*evalAttack]map[string]bool{}, (*evalAttack)(nil)
		for _, m := range c.GetMembers() {
			if a := truth[memberKey(m)]; a != nil {
				if ofAttack[a] == nil {
					ofAttack[a] = map[string]bool{}
				}
				ofAttack[a][c.GetId()] = true
				if hosts[a] == nil {
					hosts[a] = map[string]bool{}
				}
				hosts[a][m.GetHost()] = true
				if mine == nil || len(hosts[a]) > len(hosts[mine]) {
					mine = a
				}
			}
		}
		if mine == nil {
			s.false++
			s.falseHosts += len(c.GetHosts())
			if t != nil && os.Getenv("VEDETTE_CAMPAIGNS_WHY") != "" {
				t.Logf("false: %s %v", c.GetTitle(), c.GetEdges())
			}
			continue
		}
		s.named += len(c.GetHosts())
		s.right += len(hosts[mine])
		if t != nil && len(hosts[mine]) < len(c.GetHosts()) && os.Getenv("VEDETTE_CAMPAIGNS_WHY") != "" {
			t.Logf("too many: %s (%d right) %v", c.GetTitle(), len(hosts[mine]), c.GetEdges())
		}
	}
	for _, a := range f.attacks {
		s.attacks++
		k := s.byKind[a.kind]
		k[1]++
		if e.holds(a) != nil && len(ofAttack[a]) == 1 {
			s.joined++
			k[0]++
			if a.joined.Sub(a.last) > 5*time.Second {
				s.late++
			}
		} else if t != nil && os.Getenv("VEDETTE_CAMPAIGNS_WHY") != "" {
			t.Logf("apart: %s over %v is in %d campaigns", a.kind, sortedHosts(a.hosts), len(ofAttack[a]))
		}
		s.byKind[a.kind] = k
	}
	s.incidents = len(e.l.byID)
	return s
}

// groupsScore scores any other way to make campaigns: sets of storylines.
func (f *evalFleet) groupsScore(sets [][]storyKey) (s evalScore) {
	s.byKind = map[string][2]int{}
	parts := map[*evalAttack]int{}
	whole := map[*evalAttack]bool{}
	for _, set := range sets {
		hosts, of := map[string]bool{}, map[*evalAttack]map[string]bool{}
		var mine *evalAttack
		for _, key := range set {
			hosts[key.host] = true
			if a := f.owners[key]; a != nil {
				if of[a] == nil {
					of[a] = map[string]bool{}
					parts[a]++
				}
				of[a][key.host] = true
				if mine == nil || len(of[a]) > len(of[mine]) {
					mine = a
				}
			}
		}
		if len(hosts) < 2 {
			continue
		}
		if mine == nil {
			s.false++
			s.falseHosts += len(hosts)
			continue
		}
		s.named, s.right = s.named+len(hosts), s.right+len(of[mine])
		for a, h := range of {
			whole[a] = whole[a] || len(h) == len(a.hosts)
		}
	}
	for _, a := range f.attacks {
		s.attacks++
		k := s.byKind[a.kind]
		k[1]++
		if whole[a] && parts[a] == 1 {
			s.joined++
			k[0]++
		}
		s.byKind[a.kind] = k
	}
	return s
}

// neverSeen joins what connections that their hosts never made before connect within a day,
// whatever is found: the simplest rule there is.
func (f *evalFleet) neverSeen() [][]storyKey {
	return f.unite(func(l evalLink) bool { return l.fresh })
}

// anyFlow joins every exact flow between two storylines with findings.
func (f *evalFleet) anyFlow() [][]storyKey {
	found := map[storyKey]bool{}
	for _, rec := range f.records {
		if rec.row != nil {
			found[storyKey{rec.row.GetHost(), rec.row.GetFinding().GetStoryline()}] = true
		}
	}
	return f.unite(func(l evalLink) bool { return l.alike && found[l.from] && found[l.to] })
}

func (f *evalFleet) unite(joins func(evalLink) bool) [][]storyKey {
	parent := map[storyKey]storyKey{}
	var find func(storyKey) storyKey
	find = func(k storyKey) storyKey {
		p, ok := parent[k]
		if !ok || p == k {
			parent[k] = k
			return k
		}
		root := find(p)
		parent[k] = root
		return root
	}
	for _, l := range f.links {
		if joins(l) {
			parent[find(l.to)] = find(l.from)
		}
	}
	sets := map[storyKey][]storyKey{}
	for k := range parent {
		sets[find(k)] = append(sets[find(k)], k)
	}
	var all [][]storyKey
	for _, set := range sets {
		all = append(all, set)
	}
	return all
}

func ratio(a, b int) float64 {
	if b == 0 {
		return 1
	}
	return float64(a) / float64(b)
}

// TestCampaignEvaluation plays weeks of a fleet. By default a small one of a development seed;
// VEDETTE_CAMPAIGNS="1000 101 102 103" says hosts and seeds, and VEDETTE_OUT a file for the rows.
func TestCampaignEvaluation(t *testing.T) {
	hosts, seeds := 250, []uint64{1}
	if text := strings.Fields(os.Getenv("VEDETTE_CAMPAIGNS")); len(text) > 1 {
		hosts, _ = strconv.Atoi(text[0])
		seeds = nil
		for _, s := range text[1:] {
			seed, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			seeds = append(seeds, seed)
		}
	}
	var mine, edge, flow evalScore
	records, plans := 0, 0
	for _, seed := range seeds {
		f := newEvalFleet(seed, hosts)
		e := newEvalRun(f)
		e.play(f)
		records, plans = records+len(f.records), plans+e.plans
		mine.add(e.score(f, t))
		edge.add(f.groupsScore(f.neverSeen()))
		flow.add(f.groupsScore(f.anyFlow()))
	}
	weeks := float64(len(seeds)) * float64(hosts) / 1000
	table := []struct {
		name string
		s    evalScore
	}{{"evidence, weighed", mine}, {"never-seen edge", edge}, {"any flow between findings", flow}}
	t.Logf("%d hosts, a week of each of seeds %v: %d records, %d plans, %d attacks", hosts, seeds, records, plans, mine.attacks)
	t.Logf("%-26s %10s %10s %22s", "rule", "joined", "precision", "false per 1,000 h·week")
	for _, row := range table {
		t.Logf("%-26s %9.1f%% %10.3f %22.1f", row.name, 100*ratio(row.s.joined, row.s.attacks), ratio(row.s.right, row.s.named), float64(row.s.false)/weeks)
	}
	for _, kind := range sortedKinds(mine.byKind) {
		t.Logf("%-26s %4d of %4d (never-seen edge: %d, any flow: %d)", kind, mine.byKind[kind][0], mine.byKind[kind][1], edge.byKind[kind][0], flow.byKind[kind][0])
	}
	joined, precision, wrong := ratio(mine.joined, mine.attacks), ratio(mine.right, mine.named), float64(mine.false)/weeks
	note := fmt.Sprintf("%d hosts, seeds %v, a week each, compressed; in process", hosts, seeds)
	rows := []map[string]any{
		{"name": "campaigns joined into one", "value": 100 * joined, "unit": "%", "target": "≥ 95", "ok": joined >= 0.95, "note": note},
		{"name": "host precision of campaigns", "value": precision, "unit": "", "target": "≥ 0.98", "ok": precision >= 0.98, "note": note},
		{"name": "false campaigns per 1,000 hosts and week", "value": wrong, "unit": "", "target": "≤ 1", "ok": wrong <= 1, "note": note},
		{"name": "campaigns joined later than 5 s after the last record", "value": float64(mine.late), "unit": "", "target": "= 0", "ok": mine.late == 0, "note": note},
	}
	for _, row := range table[1:] {
		rows = append(rows, map[string]any{"name": "campaigns joined by " + row.name, "value": 100 * ratio(row.s.joined, row.s.attacks), "unit": "%", "target": "", "ok": true,
			"note": fmt.Sprintf("precision %.3f, %.1f false per 1,000 hosts and week", ratio(row.s.right, row.s.named), float64(row.s.false)/weeks)})
	}
	for _, row := range rows {
		if row["ok"] == false {
			t.Errorf("%s: %v, want %s", row["name"], row["value"], row["target"])
		}
	}
	if path := os.Getenv("VEDETTE_OUT"); path != "" {
		var b strings.Builder
		for _, row := range rows {
			line, err := json.Marshal(row)
			if err != nil {
				t.Fatal(err)
			}
			b.Write(append(line, '\n'))
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func sortedKinds(of map[string][2]int) (kinds []string) {
	for k := range of {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	return kinds
}
