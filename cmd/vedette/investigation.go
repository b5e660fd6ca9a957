package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

func (a *app) investigationCommand() *cobra.Command {
	return noun("investigation", "what was found out about findings, with nobody asking",
		"  vedette investigation list --verdict watching\n  vedette investigation show 01JDGF2J3Z8QK9W3V5T0YXN7RM",
		a.investigationListCommand(), a.investigationShowCommand())
}

func (a *app) investigationListCommand() *cobra.Command {
	var req operatorv1.ListInvestigationsRequest
	var since string
	var limit int
	c := &cobra.Command{
		Use:     "list",
		Short:   "list investigations, newest first",
		Example: "  vedette investigation list --verdict benign --since 24h\n  vedette investigation list --host web-1 -o json | jq -r '.[].because'",
		Args:    none,
		RunE: a.listing(func(ctx context.Context, s *session, _ []string) error {
			switch req.Verdict {
			case "", "benign", "watching", "incident":
			default:
				return usage("--verdict %q: use benign, watching or incident", req.Verdict)
			}
			var err error
			if req.Since, err = a.instant(since); err != nil {
				return err
			}
			req.PageSize = page(limit)
			n, err := output.Print(s.Printer, investigationTable(), head(s.api.Investigations(ctx, &req), limit))
			if err == nil && n == 0 && s.Human() {
				s.say("no investigations")
			}
			return err
		}),
	}
	f := c.Flags()
	f.StringVar(&req.Verdict, "verdict", "", "only those that ended as benign, watching or incident")
	f.StringVar(&req.Host, "host", "", "only of this host (id or name)")
	f.StringVar(&since, "since", "", "only ended since: a duration such as 90m, or a time as 2026-01-31T09:00:00Z")
	limitFlag(c, &limit)
	completeWords(c, "verdict", "benign", "watching", "incident")
	return c
}

func endColour(verdict string) output.Colour {
	switch verdict {
	case "incident":
		return output.Red
	case "watching":
		return output.Yellow
	}
	return output.Green
}

func investigationTable() output.List[*raftv1.Investigation] {
	type row = *raftv1.Investigation
	return output.List[row]{
		Name:  func(in row) string { return in.GetHost() + "/" + in.GetStoryline() },
		Value: func(in row) any { return shape.FromInvestigation(in) },
		Columns: []output.Column[row]{
			{Head: "ENDED", Cell: func(in row) string { return clock(in.GetEnded()) }},
			{Head: "HOST", Max: 24, Cell: func(in row) string { return first(in.GetHostName(), in.GetHost()) }},
			{Head: "VERDICT", Cell: row.GetVerdict, Paint: func(in row) output.Colour { return endColour(in.GetVerdict()) }},
			{Head: "CHANCE", Right: true, Cell: chance},
			{Head: "FINDINGS", Right: true, Cell: func(in row) string { return fmt.Sprint(len(in.GetFindings())) }},
			{Head: "FIRST FINDING", Cell: func(in row) string { return firstOf(in.GetFindings()) }},
			{Head: "TITLE", Max: 50, Cell: row.GetTitle},
			{Head: "STORYLINE", Wide: true, Cell: row.GetStoryline},
			{Head: "TOOK", Wide: true, Right: true, Cell: took},
			{Head: "ROUNDS", Wide: true, Right: true, Cell: func(in row) string { return fmt.Sprint(in.GetRounds()) }},
			{Head: "JUDGED", Wide: true, Cell: row.GetDisposition},
			{Head: "BECAUSE", Wide: true, Cell: row.GetBecause},
		},
	}
}

func chance(in *raftv1.Investigation) string { return fmt.Sprintf("%.0f%%", 100*in.GetConfidence()) }

func firstOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func took(in *raftv1.Investigation) string {
	if in.GetRounds() != 1 {
		return "" // the last look was at something later
	}
	return time.Duration(in.GetEnded() - in.GetBegan()).Round(100 * time.Millisecond).String()
}

func (a *app) investigationShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show FINDING|HOST/STORYLINE",
		Short: "show what was found out about one storyline, and what would have changed it",
		Example: `  vedette investigation show 01JDGF2J3Z8QK9W3V5T0YXN7RM
  vedette investigation show h-abcdefghijklmnop/1207.88123456789`,
		Args: exactly("FINDING"),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			in, err := s.investigation(ctx, args[0])
			if err != nil {
				return err
			}
			return s.Show(output.Shown{Name: in.GetHost() + "/" + in.GetStoryline(), Value: shape.FromInvestigation(in),
				Page: func(g *output.Page) {
					g.Title(endColour(in.GetVerdict()), fmt.Sprintf("%s: %s on %s", strings.ToUpper(in.GetVerdict()), in.GetTitle(), first(in.GetHostName(), in.GetHost())))
					investigationPart(g, in)
				}})
		}),
	}
}

func (s *session) investigation(ctx context.Context, name string) (*raftv1.Investigation, error) {
	if host, storyline, ok := strings.Cut(name, "/"); ok {
		return s.api.Investigation(ctx, host, storyline)
	}
	res, err := s.api.FindingDetail(ctx, name)
	if err != nil {
		return nil, err
	}
	if res.GetInvestigation() == nil {
		return nil, exit(exitError, "the storyline of finding %s was not investigated: it takes up to 30 s; a finding about the sensor itself has none", name)
	}
	return res.GetInvestigation(), nil
}

// investigationPart shows all of an investigation but its title.
func investigationPart(g *output.Page, in *raftv1.Investigation) {
	for line := range strings.Lines(in.GetAccount()) {
		g.Text(strings.TrimRight(line, "\n"))
	}
	g.Section("Investigation of " + in.GetHost() + "/" + in.GetStoryline())
	g.Painted(endColour(in.GetVerdict()), "verdict", in.GetVerdict())
	g.Field("because", in.GetBecause())
	g.Field("chance", chance(in)+" that it deserves a person")
	if d := in.GetDisposition(); d != "" {
		g.Field("judged", fmt.Sprintf("%s by %s", d, in.GetJudgedBy()))
	}
	g.Field("ended", fmt.Sprintf("%s, look %d", clock(in.GetEnded()), in.GetRounds()))
	if in.GetQuestion() != "" {
		g.Field("asked", fmt.Sprintf("%s: %d of %d records", in.GetQuestion(), in.GetAnswered(), in.GetScanned()))
	}
	g.Field("tactics", strings.Join(in.GetTactics(), ", "))
	if len(in.GetTerms()) > 0 {
		g.Section("What it was weighed by (bits; each doubles the odds)")
		for _, t := range in.GetTerms() {
			g.Marked(fmt.Sprintf("%+5.1f  ", t.GetBits()), t.GetText())
		}
	}
	points(g, "What would have changed its mind", in.GetUnless())
	if len(in.GetTouched()) > 0 {
		g.Section("Touched")
		for _, t := range in.GetTouched() {
			g.Line(0, output.Plain, fmt.Sprintf("%-8s %s", t.GetKind(), t.GetText()))
		}
	}
	points(g, "How usual it is", in.GetPrevalence())
	if len(in.GetTimeline()) > 0 {
		g.Section("What it did")
		for _, m := range in.GetTimeline() {
			g.Line(0, output.Plain, clock(m.GetTime())+"  "+m.GetText())
		}
	}
	points(g, "Done so far", in.GetActionsTaken())
	points(g, "What limits this", in.GetLimits())
	if len(in.GetRecommended()) > 0 {
		g.Section("Next")
		for _, step := range in.GetRecommended() {
			g.Line(0, output.Bold, step)
		}
	}
}
