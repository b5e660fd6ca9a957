package main

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/graph"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

func (a *app) campaignCommand() *cobra.Command {
	return noun("campaign", "what moved over several hosts",
		"  vedette campaign list --status open\n  vedette campaign show cmp-…\n  vedette campaign graph cmp-… -o svg > campaign.svg",
		a.campaignListCommand(), a.campaignShowCommand(), a.campaignGraphCommand())
}

func (a *app) campaignListCommand() *cobra.Command {
	var req operatorv1.ListCampaignsRequest
	var since string
	var limit int
	c := &cobra.Command{
		Use:     "list",
		Short:   "list campaigns, newest first",
		Example: "  vedette campaign list --status open\n  vedette campaign list --since 24h -o json | jq -r '.[].edges[].evidence'",
		Args:    none,
		RunE: a.listing(func(ctx context.Context, s *session, _ []string) error {
			if req.Status != "" && req.Status != "open" && req.Status != "closed" {
				return usage("--status %q: use open or closed", req.Status)
			}
			var err error
			if req.Since, err = a.instant(since); err != nil {
				return err
			}
			req.PageSize = page(limit)
			n, err := output.Print(s.Printer, campaignTable(), head(s.api.Campaigns(ctx, &req), limit))
			if err == nil && n == 0 && s.Human() {
				s.say("no campaigns")
			}
			return err
		}),
	}
	f := c.Flags()
	f.StringVar(&req.Status, "status", "", "only open or closed ones")
	f.StringVar(&since, "since", "", "only since: a duration such as 90m, or a time as 2026-01-31T09:00:00Z")
	limitFlag(c, &limit)
	completeWords(c, "status", "open", "closed")
	return c
}

func campaignTable() output.List[*raftv1.Campaign] {
	type row = *raftv1.Campaign
	return output.List[row]{
		Name:  row.GetId,
		Value: func(c row) any { return shape.FromCampaign(c) },
		Columns: []output.Column[row]{
			{Head: "ID", Cell: row.GetId},
			{Head: "STATUS", Cell: row.GetStatus, Paint: func(c row) output.Colour { return stateColour(c.GetStatus()) }},
			{Head: "SEVERITY", Cell: row.GetSeverity, Paint: func(c row) output.Colour { return severityColour(c.GetSeverity()) }},
			{Head: "CONFIDENCE", Right: true, Cell: func(c row) string { return fmt.Sprintf("%.0f%%", 100*c.GetConfidence()) }},
			{Head: "HOSTS", Right: true, Cell: func(c row) string { return fmt.Sprint(len(c.GetHosts())) }},
			{Head: "EDGES", Right: true, Cell: func(c row) string { return fmt.Sprint(len(c.GetEdges())) }},
			{Head: "LAST SEEN", Cell: func(c row) string { return clock(c.GetLastSeen()) }},
			{Head: "TITLE", Max: 60, Cell: row.GetTitle},
			{Head: "FIRST SEEN", Wide: true, Cell: func(c row) string { return clock(c.GetFirstSeen()) }},
			{Head: "INCIDENTS", Wide: true, Cell: func(c row) string { return strings.Join(c.GetIncidents(), ",") }},
			{Head: "HOST IDS", Wide: true, Cell: func(c row) string { return strings.Join(c.GetHosts(), ",") }},
			{Head: "TECHNIQUES", Wide: true, Cell: func(c row) string { return strings.Join(c.GetTechniques(), ",") }},
		},
	}
}

func (a *app) campaignShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show CAMPAIGN",
		Short:             "show one campaign: its path, what joins it, and what does not",
		Example:           "  vedette campaign show cmp-abcdefghijkl",
		Args:              exactly("CAMPAIGN"),
		ValidArgsFunction: a.completeCampaigns,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			res, err := s.api.Campaign(ctx, args[0])
			if err != nil {
				return err
			}
			c := res.GetCampaign()
			return s.Show(output.Shown{Name: c.GetId(), Value: shape.FromCampaignDetail(c), Page: func(g *output.Page) { campaignPage(g, c, res.GetIncidents()) }})
		}),
	}
}

// campaignGraphCommand has an -o of its own: a picture is no data.
func (a *app) campaignGraphCommand() *cobra.Command {
	format := "dot"
	c := &cobra.Command{
		Use:   "graph CAMPAIGN",
		Short: "draw one campaign: hosts and what ties them",
		Long:  "Draws one campaign on stdout: as a text that Graphviz reads (dot), or as a picture (svg).",
		Example: `  vedette campaign graph cmp-abcdefghijkl -o svg > campaign.svg
  vedette campaign graph cmp-abcdefghijkl -o dot | dot -Tpng > campaign.png`,
		Args:              exactly("CAMPAIGN"),
		ValidArgsFunction: a.completeCampaigns,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			draw := map[string]func(graph.Graph) string{"dot": graph.DOT, "svg": graph.SVG}[format]
			if draw == nil {
				return usage("-o %q is no picture: use dot or svg", format)
			}
			res, err := s.api.Campaign(ctx, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(s.Out, draw(campaignGraph(res.GetCampaign())))
			return err
		}),
	}
	c.Flags().StringVarP(&format, "output", "o", "dot", "dot or svg")
	completeWords(c, "output", "dot", "svg")
	return c
}

func (a *app) completeCampaigns(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completions(prefix, func(ctx context.Context, s *session, add func(string)) {
		for c, err := range s.api.Campaigns(ctx, &operatorv1.ListCampaignsRequest{Status: "open"}) {
			if err != nil {
				return
			}
			add(c.GetId())
		}
	})
}

// campaignHosts are the hosts' names, and their worst storylines.
func campaignHosts(c *raftv1.Campaign) (name func(string) string, worst map[string]*raftv1.CampaignMember) {
	names := map[string]string{}
	worst = map[string]*raftv1.CampaignMember{}
	rank := map[string]int{"low": 1, "medium": 2, "high": 3, "critical": 4}
	for _, m := range c.GetMembers() {
		if m.GetHostName() != "" {
			names[m.GetHost()] = m.GetHostName()
		}
		if have := worst[m.GetHost()]; have == nil || rank[m.GetSeverity()] > rank[have.GetSeverity()] {
			worst[m.GetHost()] = m
		}
	}
	return func(id string) string { return first(names[id], id) }, worst
}

func campaignPage(g *output.Page, c *raftv1.Campaign, incidents []*raftv1.Incident) {
	name, worst := campaignHosts(c)
	hosts := make([]string, len(c.GetHosts()))
	for i, id := range c.GetHosts() {
		hosts[i] = name(id)
	}
	g.Title(severityColour(c.GetSeverity()), fmt.Sprintf("%s: %s", strings.ToUpper(first(c.GetSeverity(), "campaign")), c.GetTitle()))
	g.Section("Campaign")
	g.Field("id", c.GetId())
	status := c.GetStatus()
	if status == "closed" {
		status = fmt.Sprintf("closed as %s by %s: %s", c.GetDisposition(), c.GetClosedBy(), c.GetCloseReason())
	}
	g.Painted(stateColour(c.GetStatus()), "status", status)
	g.Field("confidence", fmt.Sprintf("%.0f %% (of the host that is tied the least)", 100*c.GetConfidence()))
	if len(hosts) > 0 {
		g.Field("first host", hosts[0])
	}
	g.Field("hosts", strings.Join(hosts, ", "))
	g.Field("from", clock(c.GetFirstSeen()))
	g.Field("to", clock(c.GetLastSeen()))
	for n, credential := range c.GetCredentials() {
		g.Field([]string{"credentials", ""}[min(n, 1)], credential)
	}
	g.Section("Path")
	for _, step := range pathOf(c) {
		m := worst[step.host]
		text := fmt.Sprintf("%s  %s", name(step.host), m.GetTitle())
		if step.edge != nil {
			text = fmt.Sprintf("%s  %s by %s  %s", name(step.host), clock(step.edge.GetTime()), step.edge.GetKind(), m.GetTitle())
		} else if m != nil {
			text = fmt.Sprintf("%s  %s  %s", name(step.host), clock(m.GetFirstSeen()), m.GetTitle())
		}
		g.Branch(step.depth, severityColour(m.GetSeverity()), text)
	}
	if len(c.GetTechniques()) > 0 {
		g.Section("Techniques")
		order, of := byTactic(c.GetTechniques())
		for _, tactic := range order {
			for n, id := range of[tactic] {
				g.Field([]string{first(tactic, "Other"), ""}[min(n, 1)], techniqueLabel(id))
			}
		}
	}
	g.Section("What joins it")
	for _, e := range c.GetEdges() {
		g.Line(0, output.Bold, fmt.Sprintf("%s → %s, %s: %s", name(e.GetFrom()), name(e.GetTo()), clock(e.GetTime()), weightWords(e.GetWeight())))
		g.Line(1, output.Plain, e.GetKind()+": "+e.GetEvidence())
		for _, t := range e.GetTerms() {
			g.Line(1, output.Plain, t)
		}
	}
	points(g, "What is not part of it", c.GetRefused())
	points(g, "What limits this account", c.GetLimits())
	if len(incidents) > 0 {
		g.Section("Incidents")
		for _, i := range incidents {
			g.Item(fmt.Sprintf("%s (%s): %s", i.GetId(), i.GetStatus(), i.GetTitle()))
		}
	}
	if c.GetStatus() != "open" {
		return
	}
	g.Section("Next")
	g.Try("Cut its hosts off", output.Command([]string{"vedette", "isolate", "--campaign", c.GetId(), "--reason", c.GetId()}))
	g.Try("See it", output.Command([]string{"vedette", "campaign", "graph", c.GetId(), "-o", "svg"})+" > "+c.GetId()+".svg")
}

// weightWords says natural log-odds in words.
func weightWords(w float64) string {
	odds := math.Exp(math.Abs(w))
	text := fmt.Sprintf("%.0f to 1", odds)
	switch {
	case odds < 10:
		text = fmt.Sprintf("%.1f to 1", odds)
	case odds > 10_000:
		text = "more than 10,000 to 1"
	}
	if w < 0 {
		return fmt.Sprintf("weight %+.1f, %s against", w, text)
	}
	how := "beyond reasonable doubt"
	switch {
	case w < 1:
		how = "barely"
	case w < 3:
		how = "probably"
	case w < 6:
		how = "very probably"
	}
	return fmt.Sprintf("weight %+.1f, %s one piece of work, %s", w, how, text)
}

// pathStep is a host on the path: how deep, and by which edge it was reached; nil for a first one.
type pathStep struct {
	host  string
	depth int
	edge  *raftv1.CampaignEdge
}

// pathOf is the campaign's hosts as a tree: each below the one that it was reached from first.
func pathOf(c *raftv1.Campaign) (steps []pathStep) {
	into := map[string]*raftv1.CampaignEdge{}
	for _, e := range c.GetEdges() {
		// An edge back to where it came from makes nobody a child of their child.
		if e.GetFrom() == e.GetTo() || into[e.GetTo()] != nil || above(into, e.GetFrom(), e.GetTo()) {
			continue
		}
		into[e.GetTo()] = e
	}
	below := map[string][]string{}
	var roots []string
	for _, h := range c.GetHosts() {
		if e := into[h]; e != nil {
			below[e.GetFrom()] = append(below[e.GetFrom()], h)
		} else {
			roots = append(roots, h)
		}
	}
	var walk func(host string, depth int)
	walk = func(host string, depth int) {
		steps = append(steps, pathStep{host, depth, into[host]})
		for _, next := range below[host] {
			walk(next, depth+1)
		}
	}
	for _, r := range roots {
		walk(r, 0)
	}
	return steps
}

// above says whether a host is among those that another was reached over.
func above(into map[string]*raftv1.CampaignEdge, host, of string) bool {
	for h := host; ; {
		if h == of {
			return true
		}
		e := into[h]
		if e == nil {
			return false
		}
		h = e.GetFrom()
	}
}

func campaignGraph(c *raftv1.Campaign) graph.Graph {
	name, worst := campaignHosts(c)
	g := graph.Graph{Title: c.GetId() + ": " + c.GetTitle()}
	for _, step := range pathOf(c) {
		m := worst[step.host]
		g.Nodes = append(g.Nodes, graph.Node{ID: step.host, Label: name(step.host), Sub: m.GetTitle(), Depth: step.depth, Severity: m.GetSeverity()})
	}
	for _, e := range c.GetEdges() {
		g.Edges = append(g.Edges, graph.Edge{From: e.GetFrom(), To: e.GetTo(), Label: e.GetKind() + " " + clock(e.GetTime()), Tip: e.GetEvidence() + ", " + weightWords(e.GetWeight())})
	}
	return g
}
