package correlate

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// member writes a storyline of a campaign down, as the window and the incidents have it.
func (w *window) member(c *raftv1.Campaign, key storyKey, open *ledger) {
	at := slices.IndexFunc(c.Members, func(m *raftv1.CampaignMember) bool { return memberKey(m) == key })
	var m *raftv1.CampaignMember
	if at >= 0 {
		m = c.Members[at]
	} else {
		if len(c.Members) >= maxMembers {
			return
		}
		m = &raftv1.CampaignMember{Host: key.host, Storyline: key.storyline}
		c.Members = append(c.Members, m)
	}
	about := slices.Sorted(maps.Keys(open.byStory[key.String()]))
	if len(about) > 0 && !slices.Contains(about, m.Incident) {
		m.Incident = about[0]
	}
	c.Incidents = union(c.Incidents, about)
	s := w.stories[key]
	if s == nil {
		return
	}
	m.HostName = cmp.Or(s.hostName, m.HostName)
	first, last := int64(0), int64(0)
	if n := len(s.findings); n > 0 {
		first, last = s.findings[0].GetFinding().GetTime(), s.findings[n-1].GetFinding().GetTime()
		worst := lead(s.findings).GetFinding()
		m.Title, m.Severity, m.Carried = line("%s", worst.GetTitle()), severities[max(slices.Index(severities, m.Severity), s.worst)], false
		for _, row := range s.findings {
			m.Techniques = union(m.Techniques, row.GetFinding().GetTechniques())
		}
		slices.Sort(m.Techniques)
	} else if m.Title == "" {
		m.Carried, m.Severity, m.Title = s.carried != "", severities[0], "Reached, and nothing found there"
	}
	if len(s.findings) == 0 {
		for _, e := range s.in {
			if e.opened != 0 && (first == 0 || e.opened < first) {
				first, last = e.opened, e.opened
			}
		}
	}
	if m.FirstSeen == 0 || first != 0 && first < m.FirstSeen {
		m.FirstSeen = first
	}
	m.LastSeen = max(m.LastSeen, last)
}

// finish says what follows from members and edges.
func (w *window) finish(c *raftv1.Campaign, g group) {
	slices.SortFunc(c.Members, func(a, b *raftv1.CampaignMember) int {
		return cmp.Or(cmp.Compare(a.GetFirstSeen(), b.GetFirstSeen()), compareKeys(memberKey(a), memberKey(b)))
	})
	slices.SortStableFunc(c.Edges, func(a, b *raftv1.CampaignEdge) int {
		return cmp.Or(cmp.Compare(a.GetTime(), b.GetTime()), strings.Compare(a.GetFrom(), b.GetFrom()), strings.Compare(a.GetTo(), b.GetTo()),
			strings.Compare(a.GetFromStoryline(), b.GetFromStoryline()), strings.Compare(a.GetToStoryline(), b.GetToStoryline()))
	})
	c.Hosts, c.FirstSeen, c.LastSeen = nil, 0, 0
	severity, names := 0, []string{}
	for _, m := range c.Members {
		if !slices.Contains(c.Hosts, m.GetHost()) && len(c.Hosts) < maxListed {
			c.Hosts = append(c.Hosts, m.GetHost())
			names = append(names, cmp.Or(m.GetHostName(), m.GetHost()))
		}
		if c.FirstSeen == 0 || m.GetFirstSeen() != 0 && m.GetFirstSeen() < c.FirstSeen {
			c.FirstSeen = m.GetFirstSeen()
		}
		c.LastSeen = max(c.LastSeen, m.GetLastSeen())
		severity = max(severity, slices.Index(severities, m.GetSeverity()))
		c.Techniques = union(c.Techniques, m.GetTechniques())
	}
	for _, e := range c.Edges {
		c.LastSeen = max(c.LastSeen, e.GetTime())
	}
	slices.Sort(c.Techniques)
	slices.Sort(c.Incidents)
	c.Severity = severities[severity]
	if c.Id == "" {
		// Of the first one: two leaders that plan the same campaign name it the same.
		sum := sha256.Sum256([]byte(memberKey(c.Members[0]).String()))
		c.Id = "cmp-" + idEncoding.EncodeToString(sum[:])[:12]
	}
	path := strings.Join(names[:min(len(names), 4)], " → ")
	if len(names) > 4 {
		path += " …"
	}
	c.Title = line("%d hosts, %s", len(c.Hosts), path)
	c.Confidence = weakest(c)
	w.credentials(c, g)
	c.Refused = slices.DeleteFunc(c.Refused, func(s string) bool {
		from, rest, _ := strings.Cut(s, " → ")
		to, _, _ := strings.Cut(rest, " by ")
		return slices.Contains(names, from) && slices.Contains(names, to) // joined since
	})
	for _, t := range g.refused {
		w.refuse(c, t)
	}
	c.Limits = w.campaignLimits(c, g)
}

// weakest is how sure the host is that is tied the least: a campaign is as sure as that.
func weakest(c *raftv1.Campaign) float64 {
	sure := make(map[string]float64)
	for _, e := range c.GetEdges() {
		p := 1 / (1 + math.Exp(-e.GetWeight()))
		sure[e.GetFrom()], sure[e.GetTo()] = max(sure[e.GetFrom()], p), max(sure[e.GetTo()], p)
	}
	least := 1.0
	for _, p := range sure {
		least = min(least, p)
	}
	return math.Round(min(least, 0.99)*100) / 100
}

// credentials are the accounts and keys by which its hosts were entered.
func (w *window) credentials(c *raftv1.Campaign, g group) {
	for _, key := range g.keys {
		s := w.stories[key]
		if s == nil {
			continue
		}
		for i := range s.shared {
			if i.kind == "account" || i.kind == "key" {
				c.Credentials = union(c.Credentials, []string{line("%s %s", i.kind, i.value)})
			}
		}
	}
	slices.Sort(c.Credentials)
}

// refuse says of what was looked at why it is not part of the campaign; once for two hosts.
func (w *window) refuse(c *raftv1.Campaign, t tie) {
	if slices.Contains(c.Hosts, t.from.host) && slices.Contains(c.Hosts, t.to.host) {
		return
	}
	head := line("%s → %s ", w.hostName(t.from.host, t.from), w.hostName(t.to.host, t.to))
	if len(c.Refused) >= maxRefused || slices.ContainsFunc(c.Refused, func(s string) bool { return strings.HasPrefix(s, head) }) {
		return
	}
	terms := make([]string, len(t.terms))
	for i, x := range t.terms {
		terms[i] = x.String()
	}
	c.Refused = append(c.Refused, line("%sby %s weighs %+.1f: %s", head, t.best.kind, t.weight, strings.Join(terms, "; ")))
}

func (w *window) campaignLimits(c *raftv1.Campaign, g group) (limits []string) {
	carried := 0
	for _, m := range c.GetMembers() {
		if m.GetCarried() {
			carried++
		}
	}
	if carried > 0 {
		limits = append(limits, fmt.Sprintf("%d of its storylines have no finding of their own: the mark came to them with a connection.", carried))
	}
	if slices.ContainsFunc(c.GetEdges(), func(e *raftv1.CampaignEdge) bool { return e.GetKind() == "nat" || e.GetKind() == "relay" }) {
		limits = append(limits, "Where addresses are translated or a host is passed through, time and size speak, not numbers that both ends saw.")
	}
	if g.left > 0 || len(c.GetMembers()) >= maxMembers {
		limits = append(limits, fmt.Sprintf("It has more than %d storylines; the others are left out.", maxMembers))
	}
	return append(limits, "A host without a sensor is seen only by what others did with it.")
}
