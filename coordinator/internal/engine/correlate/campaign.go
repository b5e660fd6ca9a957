package correlate

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Bounds of one campaign; beyond them it says what it leaves out.
const (
	maxMembers = 500
	maxEdges   = 1000
	maxRefused = 10
)

// group is what one campaign is to say: storylines of several hosts, and what ties them.
type group struct {
	keys    []storyKey
	ties    []tie
	refused []tie // looked at, and not enough
	left    int   // storylines beyond the bound
}

// groups joins what changed with all that evidence, or an open campaign, connects it to. Kept is
// what has two hosts or more, and something in it that a person is asked to judge.
func (w *window) groups(open *ledger, known *roster) (kept []group) {
	seen := make(map[storyKey]bool)
	for key := range w.changed {
		if s := w.stories[key]; s == nil || !w.counts(s, open) || seen[key] {
			continue
		}
		g := w.group(key, open, known, seen)
		hosts, judged := make(map[string]bool), false
		for _, k := range g.keys {
			hosts[k.host] = true
			judged = judged || len(open.byStory[k.String()]) > 0
		}
		if len(hosts) > 1 && judged {
			kept = append(kept, g)
		}
	}
	slices.SortFunc(kept, func(a, b group) int { return compareKeys(a.keys[0], b.keys[0]) })
	return kept
}

// counts says whether a storyline may be part of a campaign: it has findings, or its mark from
// one that has, or is part of an incident whose findings have left the window.
func (w *window) counts(s *story, open *ledger) bool {
	return len(s.findings) > 0 || s.carried != "" || len(open.byStory[s.key.String()]) > 0
}

func (w *window) group(of storyKey, open *ledger, known *roster, seen map[storyKey]bool) (g group) {
	seen[of] = true
	done := make(map[[2]storyKey]bool)
	for next := []storyKey{of}; len(next) > 0; {
		key := next[0]
		next = next[1:]
		if len(g.keys) >= maxMembers {
			g.left++
			continue
		}
		g.keys = append(g.keys, key)
		reached := append(known.siblings(key), open.siblings(key)...)
		if s := w.stories[key]; s != nil {
			for _, t := range w.tiesOf(s, open) {
				pair := [2]storyKey{t.from, t.to}
				if done[pair] {
					continue
				}
				done[pair] = true
				if !t.joins() {
					g.refused = append(g.refused, t)
					continue
				}
				g.ties = append(g.ties, t)
				reached = append(reached, t.from, t.to)
			}
		}
		for _, k := range reached {
			if !seen[k] {
				seen[k] = true
				next = append(next, k)
			}
		}
	}
	slices.SortFunc(g.keys, compareKeys)
	byTime := func(a, b tie) int {
		return cmp.Or(cmp.Compare(a.best.time, b.best.time), compareKeys(a.from, b.from), compareKeys(a.to, b.to))
	}
	slices.SortFunc(g.ties, byTime)
	slices.SortFunc(g.refused, byTime)
	return g
}

func compareKeys(a, b storyKey) int {
	return cmp.Or(strings.Compare(a.host, b.host), strings.Compare(a.storyline, b.storyline))
}

// tiesOf weighs all evidence between a storyline and those of other hosts.
func (w *window) tiesOf(s *story, open *ledger) (ties []tie) {
	pairs := make(map[storyKey][]clue)
	add := func(c clue) {
		other := c.from
		if other == s.key {
			other = c.to
		}
		pairs[other] = append(pairs[other], c)
	}
	for _, h := range w.hops(s, func(o *story) bool { return w.counts(o, open) }) {
		add(w.hopClue(h))
	}
	for _, p := range w.behind(s) {
		a, b := w.stories[p.out.key], w.stories[p.in.key]
		if len(a.findings) == 0 || len(b.findings) == 0 || p.kind == "relay" && a.worst < high && b.worst < high {
			continue
		}
		add(w.nearClue(p))
	}
	if len(open.byStory[s.key.String()]) > 0 {
		for i := range s.shared {
			if len(w.sharing[i]) > maxMembers {
				continue // so many suspect hosts share only what is usual
			}
			for key := range w.sharing[i] {
				other := w.stories[key]
				if key.host == s.key.host || len(open.byStory[key.String()]) == 0 {
					continue
				}
				if c, ok := w.sharedClue(s, other, i); ok {
					add(c)
				}
			}
		}
	}
	for _, clues := range pairs {
		ties = append(ties, w.weigh(clues))
	}
	return ties
}

// planCampaigns compares what the campaigns should say with what they say and returns the
// difference; planning again after applying it returns nothing.
func (w *window) planCampaigns(groups []group, open *ledger, known *roster) (puts []*raftv1.PutCampaign) {
	taken := make(map[string]bool)
	for _, g := range groups {
		var mine []*raftv1.Campaign
		for _, key := range g.keys {
			for id := range known.byStory[key] {
				if !taken[id] {
					taken[id] = true
					mine = append(mine, known.byID[id])
				}
			}
		}
		slices.SortFunc(mine, func(a, b *raftv1.Campaign) int {
			return cmp.Or(cmp.Compare(a.GetFirstSeen(), b.GetFirstSeen()), strings.Compare(a.GetId(), b.GetId()))
		})
		put := &raftv1.PutCampaign{Campaign: w.describeCampaign(g, mine, open)}
		for _, other := range mine[min(1, len(mine)):] {
			put.Merged = append(put.Merged, other.GetId())
		}
		if len(put.Merged) == 0 && len(mine) == 1 && proto.Equal(mine[0], put.Campaign) {
			continue
		}
		puts = append(puts, put)
	}
	return puts
}

// describeCampaign writes the campaign down. What it said stays said: an edge is not weighed
// again when what it stands on has become usual, or has left the window.
func (w *window) describeCampaign(g group, before []*raftv1.Campaign, open *ledger) *raftv1.Campaign {
	c := &raftv1.Campaign{Status: "open"}
	if len(before) > 0 {
		c = proto.CloneOf(before[0])
		for _, other := range before[1:] {
			c.Members = append(c.Members, proto.CloneOf(other).GetMembers()...)
			c.Edges = append(c.Edges, proto.CloneOf(other).GetEdges()...)
			c.Incidents = union(c.Incidents, other.GetIncidents())
			c.Techniques = union(c.Techniques, other.GetTechniques())
			c.Credentials = union(c.Credentials, other.GetCredentials())
			c.Refused = union(c.Refused, other.GetRefused())
		}
	}
	for _, key := range g.keys {
		w.member(c, key, open)
	}
	known := make(map[[2]storyKey]bool)
	for _, e := range c.Edges {
		known[[2]storyKey{{e.GetFrom(), e.GetFromStoryline()}, {e.GetTo(), e.GetToStoryline()}}] = true
	}
	for _, t := range g.ties {
		if known[[2]storyKey{t.from, t.to}] || len(c.Edges) >= maxEdges {
			continue
		}
		e := &raftv1.CampaignEdge{From: t.from.host, FromStoryline: t.from.storyline, To: t.to.host, ToStoryline: t.to.storyline,
			Kind: t.best.kind, Time: t.best.time, Evidence: t.best.evidence(), Weight: t.weight}
		for _, x := range t.terms {
			e.Terms = append(e.Terms, x.String())
		}
		c.Edges = append(c.Edges, e)
	}
	w.finish(c, g)
	return c
}
