package correlate

import (
	"cmp"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Bounds of what a person is shown.
const (
	maxAccountLines = 10
	maxTimeline     = 200
	maxListed       = 500
	maxText         = 480 // runes of one line: a reason in full
)

// describe writes the incident down. before is what the store holds of it (nil:
// nothing), absorbed are all open incidents it continues, before among them:
// whatever they listed stays listed even when it has left the window.
func (c *component) describe(before *raftv1.Incident, absorbed []*raftv1.Incident, known facts) *raftv1.Incident {
	first, last := c.findings[0], c.findings[len(c.findings)-1]
	inc := &raftv1.Incident{Id: incidentID(first), Status: "open", FirstSeen: first.GetFinding().GetTime()}
	if before != nil {
		inc = proto.CloneOf(before)
	}
	severity := c.severity
	for _, old := range absorbed {
		severity = max(severity, slices.Index(severities, old.GetSeverity()))
		inc.FirstSeen = min(inc.FirstSeen, old.GetFirstSeen())
		inc.LastSeen = max(inc.LastSeen, old.GetLastSeen())
		inc.Hosts = union(inc.Hosts, old.GetHosts())
		inc.Techniques = union(inc.Techniques, old.GetTechniques())
		inc.Storylines = union(inc.Storylines, old.GetStorylines())
		inc.Findings = union(inc.Findings, old.GetFindings())
		inc.ActionsTaken = union(inc.ActionsTaken, old.GetActionsTaken())
		inc.Timeline = append(inc.Timeline, old.GetTimeline()...)
		inc.Edges = append(inc.Edges, old.GetEdges()...)
	}
	inc.FirstSeen = min(inc.FirstSeen, first.GetFinding().GetTime())
	inc.LastSeen = max(inc.LastSeen, last.GetFinding().GetTime())
	inc.Severity = severities[severity]
	for _, s := range c.stories {
		inc.Hosts = union(inc.Hosts, []string{s.key.host})
		inc.Storylines = union(inc.Storylines, []string{s.key.String()})
	}
	for _, row := range c.findings {
		f := row.GetFinding()
		inc.Techniques = union(inc.Techniques, f.GetTechniques())
		inc.Findings = union(inc.Findings, []string{f.GetId()})
		inc.Timeline = append(inc.Timeline, &raftv1.TimelineEntry{Time: f.GetTime(), Host: row.GetHost(), Finding: f.GetId(),
			Text: told(f)})
	}
	for _, h := range c.hops {
		inc.LastSeen = max(inc.LastSeen, h.time)
		inc.Edges = append(inc.Edges, &raftv1.Edge{From: h.from.host, To: h.to.host, Kind: "flow", Time: h.time, Evidence: line("%s (%s → %s)",
			h.flow, imageText(h.client), imageText(h.server))})
		inc.Timeline = append(inc.Timeline, &raftv1.TimelineEntry{Time: h.time, Host: h.from.host,
			Text: line("on to %s, opened by %s (%s)", c.name(h.to.host), imageText(h.client), h.flow)})
	}
	inc.Edges = tidyEdges(inc.Edges)
	inc.Timeline = tidyTimeline(inc.Timeline)
	slices.Sort(inc.Techniques)
	inc.Title = c.title()
	inc.Confidence = c.confidence()
	inc.Account = c.account()
	inc.ActionsTaken = union(inc.ActionsTaken, c.actions(known))
	inc.Recommended = c.recommended(inc, known)
	inc.Limits = c.limits(known)
	return inc
}

// title is the worst finding's, after the way that the hosts were taken.
func (c *component) title() string {
	worst := lead(c.findings)
	hosts := c.hostNames()
	title := cmp.Or(worst.GetFinding().GetTitle(), "Unusual activity")
	switch len(hosts) {
	case 1:
		return line("%s on %s", title, hosts[0])
	case 2, 3, 4:
		return line("Moved over %d hosts, %s: %s", len(hosts), strings.Join(hosts, " → "), title)
	}
	return line("Moved over %d hosts, %s …: %s", len(hosts), strings.Join(hosts[:4], " → "), title)
}

// lead is the finding that says most: of those that stand by themselves the most
// severe, then the highest score, then the first.
func lead(findings []*operatorv1.FindingRow) *operatorv1.FindingRow {
	own := func(row *operatorv1.FindingRow) int {
		if kind := row.GetFinding().GetKind(); kind == "follow-up" || kind == state.KindReturned {
			return 0
		}
		return 1
	}
	return slices.MaxFunc(findings, func(a, b *operatorv1.FindingRow) int {
		return cmp.Or(cmp.Compare(own(a), own(b)), cmp.Compare(severityOf(a), severityOf(b)),
			cmp.Compare(a.GetFinding().GetScore(), b.GetFinding().GetScore()))
	})
}

// hostNames are the component's hosts in the order they were reached.
func (c *component) hostNames() []string {
	var names []string
	for _, s := range c.stories {
		if name := c.name(s.key.host); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (c *component) name(host string) string {
	for _, s := range c.stories {
		if s.key.host == host && s.hostName != "" {
			return s.hostName
		}
	}
	return host
}

// confidence combines independent reasons: one minus the chance that all of
// them are accidents. A finding of a learning host counts half.
func (c *component) confidence() float64 {
	doubt := 1.0
	seen := make(map[string]bool)
	for _, row := range c.findings {
		f := row.GetFinding()
		// The same rule twice on a storyline is one reason, not two.
		reason := row.GetHost() + "\x00" + f.GetStoryline() + "\x00" + f.GetKind() + "\x00" + f.GetRuleId() + "\x00" + f.GetTitle()
		if seen[reason] {
			continue
		}
		seen[reason] = true
		weight := weights[severityOf(row)]
		if f.GetLearning() {
			weight /= 2
		}
		doubt *= 1 - weight
	}
	if len(c.hops) > 0 {
		doubt *= 1 - hopWeight
	}
	return math.Round(min(1-doubt, 0.99)*100) / 100
}

// account tells what happened, host by host, in plain language.
func (c *component) account() string {
	first, last := c.findings[0].GetFinding().GetTime(), c.findings[len(c.findings)-1].GetFinding().GetTime()
	hosts := len(c.hostNames())
	lines := []string{line("%d finding%s on %d host%s, the worst of severity %s, from %s UTC, within %s.",
		len(c.findings), plural(len(c.findings)), hosts, plural(hosts), severities[c.severity], clock(first), span(last-first))}
	for i, s := range c.stories {
		// Leave the last line for what has to be left out.
		if len(lines) >= maxAccountLines-2 && len(c.stories)-i > 1 {
			lines = append(lines, line("%d more storylines are in the timeline.", len(c.stories)-i))
			break
		}
		for _, h := range c.hops {
			if h.to == s.key && len(lines) < maxAccountLines-2 {
				lines = append(lines, line("From %s it went on to %s: %s opened %s.", c.name(h.from.host), c.name(s.key.host), imageText(h.client), h.flow))
				break
			}
		}
		f := lead(s.findings).GetFinding()
		more := ""
		if extra := len(s.findings) - 1; extra > 0 {
			more = fmt.Sprintf(" (%d more finding%s there.)", extra, plural(extra))
		}
		reason := cmp.Or(f.GetReason(), told(f))
		lines = append(lines, line("On %s: %s%s", c.name(s.key.host), shorten(reason, maxText-len(more)-80), more))
	}
	return strings.Join(lines, "\n")
}

// span is a duration for people.
func span(ns int64) string {
	return max(time.Duration(ns).Round(time.Second), time.Second).String()
}

// actions are what people have had done to the hosts since it began.
func (c *component) actions(known facts) []string {
	var done []string
	since := c.findings[0].GetFinding().GetTime()
	for _, host := range c.hostIDs() {
		for _, iso := range known.isolations[host] {
			if iso.GetRequestedAt() < since {
				continue
			}
			what := map[string]string{"isolate": "isolation", "release": "release"}[iso.GetAction()]
			done = append(done, line("%s UTC: %s of %s requested by %s (%s)", clock(iso.GetRequestedAt()), cmp.Or(what, iso.GetAction()),
				cmp.Or(iso.GetHostName(), host), iso.GetRequestedBy(), iso.GetOperation()))
		}
	}
	slices.Sort(done)
	return done
}

func (c *component) hostIDs() []string {
	var ids []string
	for _, s := range c.stories {
		ids = union(ids, []string{s.key.host})
	}
	return ids
}

// recommended are commands that can be run as they stand.
func (c *component) recommended(inc *raftv1.Incident, known facts) []string {
	var open []string
	for _, host := range inc.GetHosts() {
		if state := known.hosts[host].GetIsolation(); state != "applied" && state != "pending" {
			open = append(open, host)
		}
	}
	var next []string
	if len(open) > 0 {
		next = append(next, fmt.Sprintf("vedette isolate %s --reason %q", strings.Join(open, " "), "incident "+inc.GetId()))
	}
	return append(next, fmt.Sprintf("vedette incident close %s --as benign --reason %q", inc.GetId(), "why it is expected"))
}

// limits say what the claim does not cover.
func (c *component) limits(known facts) []string {
	lost := make(map[string]uint64) // "host where: cause"
	learning := make(map[string]bool)
	for _, row := range c.findings {
		name := c.name(row.GetHost())
		for _, loss := range row.GetFinding().GetLosses() {
			if loss.GetCount() > 0 {
				lost[line("%s at %s (%s)", name, loss.GetWhere(), loss.GetCause())] += loss.GetCount()
			}
		}
		if row.GetFinding().GetLearning() {
			learning[name] = true
		}
	}
	var limits []string
	for where, count := range lost {
		limits = append(limits, line("%d events were lost on %s in the windows of these findings: something may be missing.", count, where))
	}
	for name := range learning {
		limits = append(limits, line("%s was still learning what is normal there: what is new on it says less.", name))
	}
	for _, host := range c.hostIDs() {
		h := known.hosts[host]
		gaps := union(slices.Clone(h.GetFacts().GetCoverageGaps()), h.GetHealth().GetCoverageGaps())
		if len(gaps) > 0 {
			slices.Sort(gaps)
			limits = append(limits, line("%s cannot see: %s.", c.name(host), strings.Join(gaps, "; ")))
		}
	}
	slices.Sort(limits)
	return append(limits, "Hosts are joined by the exact addresses and ports of a flow: a hop through address translation or a proxy, or to a host without a sensor, is not seen.")
}

// told is a finding in one line; not every one is about a process.
func told(f *sensorv1.Finding) string {
	if f.GetProcess() == nil {
		return line("%s", f.GetTitle())
	}
	return line("%s: %s", f.GetTitle(), processText(f.GetProcess()))
}

func processText(p *sensorv1.Process) string {
	if p == nil {
		return "an unknown process"
	}
	text := imageText(p)
	if len(p.GetArgv()) > 0 {
		args := make([]string, 0, len(p.GetArgv()))
		for _, a := range p.GetArgv() {
			args = append(args, string(a))
		}
		text = shorten(strings.Join(args, " "), 120)
	}
	return fmt.Sprintf("%s (pid %d, user %s)", printable(text), p.GetPid(), cmp.Or(p.GetUser(), fmt.Sprint(p.GetUid())))
}

func imageText(p *sensorv1.Process) string {
	if len(p.GetImage()) == 0 {
		return "an unknown process"
	}
	return path.Base(string(p.GetImage()))
}

// printable makes what a process named itself safe for a terminal and for protobuf strings.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func shorten(s string, limit int) string {
	runes := []rune(strings.ToValidUTF8(s, "?"))
	if len(runes) <= limit {
		return string(runes)
	}
	return string(runes[:limit-1]) + "…"
}

func line(format string, args ...any) string {
	return printable(shorten(fmt.Sprintf(format, args...), maxText))
}

func clock(at int64) string { return time.Unix(0, at).UTC().Format("2006-01-02 15:04:05") }

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// union appends what have lacks, keeps the order and the bound.
func union(have, add []string) []string {
	for _, s := range add {
		if s != "" && len(have) < maxListed && !slices.Contains(have, s) {
			have = append(have, s)
		}
	}
	return have
}

// tidyTimeline orders the entries and drops what is said twice. An entry is the
// finding's, or the flow's that stands last in its text: the wording may differ
// between two plans when the window knew less.
func tidyTimeline(entries []*raftv1.TimelineEntry) []*raftv1.TimelineEntry {
	key := func(e *raftv1.TimelineEntry) string {
		if e.GetFinding() != "" {
			return e.GetFinding()
		}
		return e.GetText()[max(0, strings.LastIndex(e.GetText(), "(")):]
	}
	compare := func(a, b *raftv1.TimelineEntry) int {
		return cmp.Or(cmp.Compare(a.GetTime(), b.GetTime()), strings.Compare(a.GetHost(), b.GetHost()), strings.Compare(key(a), key(b)))
	}
	slices.SortStableFunc(entries, compare)
	entries = slices.CompactFunc(entries, func(a, b *raftv1.TimelineEntry) bool { return compare(a, b) == 0 })
	if len(entries) > maxTimeline {
		// How it began and how it stands matter most.
		entries = slices.Concat(entries[:maxTimeline/4], entries[len(entries)-maxTimeline*3/4:])
	}
	return entries
}

// tidyEdges does the same for edges: one for each flow and direction.
func tidyEdges(edges []*raftv1.Edge) []*raftv1.Edge {
	compare := func(a, b *raftv1.Edge) int {
		flowA, _, _ := strings.Cut(a.GetEvidence(), " (")
		flowB, _, _ := strings.Cut(b.GetEvidence(), " (")
		return cmp.Or(cmp.Compare(a.GetTime(), b.GetTime()), strings.Compare(a.GetFrom(), b.GetFrom()),
			strings.Compare(a.GetTo(), b.GetTo()), strings.Compare(flowA, flowB))
	}
	slices.SortStableFunc(edges, compare)
	edges = slices.CompactFunc(edges, func(a, b *raftv1.Edge) bool { return compare(a, b) == 0 })
	if len(edges) > maxTimeline {
		edges = edges[:maxTimeline]
	}
	return edges
}
