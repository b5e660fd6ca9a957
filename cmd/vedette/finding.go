package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func (a *app) findingCommand() *cobra.Command {
	return noun("finding", "scored anomalies and rule matches, with their evidence",
		"  vedette finding list --host web1 --since 1h\n  vedette finding show 01JD…",
		a.findingListCommand(), a.findingShowCommand())
}

func (a *app) findingListCommand() *cobra.Command {
	var req operatorv1.ListFindingsRequest
	var since string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "list findings, newest first",
		Example: `  vedette finding list --since 1h
  vedette finding list --host web1 -o wide
  vedette finding list -o jsonl | jq -r 'select(.score > 80) | .title'`,
		Args: none,
		RunE: a.listing(func(ctx context.Context, s *session, _ []string) error {
			var err error
			if req.Since, err = a.instant(since); err != nil {
				return err
			}
			req.PageSize = page(limit)
			n, err := output.Print(s.Printer, findingTable(), head(s.api.Findings(ctx, &req), limit))
			if err == nil && n == 0 && s.Human() {
				s.say("no findings")
			}
			return err
		}),
	}
	f := c.Flags()
	f.StringVar(&req.Host, "host", "", "only of this host, by id or name")
	f.StringVar(&req.Storyline, "storyline", "", "only of this storyline")
	f.StringVar(&since, "since", "", "only since: a duration such as 90m, or a time as 2026-01-31T09:00:00Z")
	limitFlag(c, &limit)
	a.completeHostFlag(c)
	return c
}

func findingTable() output.List[*operatorv1.FindingRow] {
	type row = *operatorv1.FindingRow
	return output.List[row]{
		Name:  func(r row) string { return r.GetFinding().GetId() },
		Value: func(r row) any { return shape.FromFinding(r) },
		Columns: []output.Column[row]{
			{Head: "ID", Cell: func(r row) string { return r.GetFinding().GetId() }},
			{Head: "TIME", Cell: func(r row) string { return clock(r.GetFinding().GetTime()) }},
			{Head: "HOST", Max: 24, Cell: func(r row) string { return first(r.GetHostName(), r.GetHost()) }},
			{
				Head: "SEVERITY", Cell: func(r row) string { return r.GetFinding().GetSeverity() },
				Paint: func(r row) output.Colour { return severityColour(r.GetFinding().GetSeverity()) },
			},
			{Head: "SCORE", Right: true, Cell: func(r row) string { return fmt.Sprintf("%.0f", r.GetFinding().GetScore()) }},
			{Head: "KIND", Cell: func(r row) string { return r.GetFinding().GetKind() }},
			{Head: "TITLE", Max: 60, Cell: func(r row) string { return r.GetFinding().GetTitle() }},
			{Head: "STATE", Wide: true, Cell: row.GetDisposition},
			{Head: "INCIDENT", Wide: true, Cell: row.GetIncident},
			{Head: "TECHNIQUES", Wide: true, Cell: func(r row) string { return strings.Join(r.GetFinding().GetTechniques(), ",") }},
			{Head: "STORYLINE", Wide: true, Cell: func(r row) string { return r.GetFinding().GetStoryline() }},
			{Head: "LOSSES", Wide: true, Cell: func(r row) string { return losses(r.GetFinding().GetLosses()) }},
			{Head: "COMMAND", Wide: true, Cell: func(r row) string { return command(r.GetFinding().GetProcess()) }},
		},
	}
}

func (a *app) findingShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show FINDING",
		Short:   "show one finding: what happened, who started it, why it stands out",
		Example: "  vedette finding show 01JDGF2J3Z8QK9W3V5T0YXN7RM",
		Args:    exactly("FINDING"),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			res, err := s.api.FindingDetail(ctx, args[0])
			if err != nil {
				return err
			}
			row := res.GetFinding()
			return s.Show(output.Shown{
				Name: row.GetFinding().GetId(), Value: shape.FromFindingDetail(res),
				Page: func(g *output.Page) { findingPage(g, row, res.GetInvestigation()) },
			})
		}),
	}
}

func findingPage(g *output.Page, row *operatorv1.FindingRow, in *raftv1.Investigation) {
	f := row.GetFinding()
	host := first(row.GetHostName(), row.GetHost())
	g.Title(severityColour(f.GetSeverity()), fmt.Sprintf("%s on %s: %s", strings.ToUpper(first(f.GetSeverity(), "finding")), host, f.GetTitle()))
	g.Text(f.GetReason())
	g.Section("What")
	g.Field("when", clock(f.GetTime()))
	g.Field("host", fmt.Sprintf("%s (%s)", host, row.GetHost()))
	g.Field("kind", first(f.GetKind(), "unknown")+bracket(f.GetRuleId()))
	g.Field("score", fmt.Sprintf("%.0f of 100", f.GetScore()))
	if p := f.GetPValue(); p > 0 {
		g.Field("p-value", fmt.Sprintf("%.2g (of a window)", p))
	}
	for i, id := range f.GetTechniques() {
		label := "technique"
		if i > 0 {
			label = ""
		}
		g.Field(label, techniqueLabel(id))
	}
	g.Field("state", strings.TrimSpace(row.GetDisposition()+" "+row.GetIncident()))
	g.Field("finding", f.GetId())
	if in != nil {
		g.Painted(endColour(in.GetVerdict()), "investigated", fmt.Sprintf("%s (%s): %s", in.GetVerdict(), chance(in), in.GetBecause()))
	}
	if f.GetLearning() {
		g.Painted(output.Yellow, "learning", "the host was still learning what is normal there")
	}
	termsPart(g, f)
	processPart(g, f.GetProcess())
	treePart(g, f)
	flowsPart(g, f)
	lossesPart(g, f.GetLosses())
	g.Section("Next")
	name := handle(row.GetHost(), row.GetHostName())
	if row.GetIncident() != "" {
		g.Try("The whole story", output.Command([]string{"vedette", "incident", "show", row.GetIncident()}))
	}
	if in != nil {
		g.Try("What was found out about it", output.Command([]string{"vedette", "investigation", "show", f.GetId()}))
	}
	g.Try("What else this storyline did", output.Command([]string{"vedette", "finding", "list", "--host", name, "--storyline", f.GetStoryline()}))
	g.Try("Cut the host off while you look", output.Command([]string{"vedette", "isolate", name, "--reason", "finding " + f.GetId()}))
}

// termsPart says what an odd behaviour's score was made of.
func termsPart(g *output.Page, f *sensorv1.Finding) {
	if len(f.GetTerms()) == 0 {
		return
	}
	g.Section("Why it is odd (bits of evidence; each doubles the odds)")
	for _, t := range f.GetTerms() {
		if t.GetBits() == 0 {
			g.Text(t.GetText() + ".")
			continue
		}
		g.Marked(fmt.Sprintf("%+5.1f  ", t.GetBits()), t.GetText())
	}
}

func bracket(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

func processPart(g *output.Page, p *sensorv1.Process) {
	if p == nil {
		return
	}
	g.Section("Process")
	g.Field("command", command(p))
	if p.GetArgvTruncated() {
		g.Painted(output.Yellow, "", fmt.Sprintf("its %d bytes of arguments were cut to the above", p.GetArgvBytes()))
	}
	g.Field("image", string(p.GetImage()))
	g.Painted(output.Red, "image is", strings.Join(p.GetImageTraits(), ", "))
	g.Field("sha256", hex.EncodeToString(p.GetSha256()))
	g.Field("pid", fmt.Sprintf("%d, since %s", p.GetPid(), clock(p.GetStartTime())))
	g.Field("id", shape.ProcessID(p))
	g.Field("user", fmt.Sprintf("%s (uid %d)", shape.User(p), p.GetUid()))
	g.Field("directory", string(p.GetCwd()))
	g.Field("unit", p.GetUnit())
	g.Field("container", p.GetContainer())
}

// treePart draws who started whom, the oldest first.
func treePart(g *output.Page, f *sensorv1.Finding) {
	if len(f.GetAncestors()) == 0 {
		return
	}
	g.Section("Started by")
	depth := 0
	for i := len(f.GetAncestors()) - 1; i >= 0; i-- {
		g.Branch(depth, output.Plain, leaf(f.GetAncestors()[i]))
		depth++
	}
	g.Branch(depth, output.Bold, leaf(f.GetProcess())+"   ← this")
	if o := f.GetOrigin(); o != nil {
		g.Text("It came in over the network: " + flowLine(o))
	}
}

func leaf(p *sensorv1.Process) string {
	return fmt.Sprintf("%s [%d] %s", output.Cut(command(p), 100), p.GetPid(), shape.User(p))
}

// command is the command line, or the image of a process that has none.
func command(p *sensorv1.Process) string {
	if p == nil {
		return "" // not every finding is about one
	}
	argv := make([]string, len(p.GetArgv()))
	for i, arg := range p.GetArgv() {
		argv[i] = string(arg)
	}
	if len(argv) == 0 {
		return path.Base(string(p.GetImage()))
	}
	return output.Command(argv)
}

func flowsPart(g *output.Page, f *sensorv1.Finding) {
	if len(f.GetFlows()) > 0 {
		g.Section("Talked to")
		for _, flow := range f.GetFlows() {
			g.Line(0, output.Plain, flowLine(flow))
		}
	}
	if len(f.GetLookups()) > 0 {
		g.Section("Looked up")
		g.Text(strings.Join(f.GetLookups(), ", "))
	}
}

func flowLine(f *sensorv1.Flow) string {
	s := shape.FromFlow(f)
	arrow := "to"
	if f.GetInbound() {
		arrow = "from"
	}
	line := fmt.Sprintf("%s %s %s", s.Protocol, arrow, s.Remote)
	if s.Name != "" {
		line += " (" + s.Name + ")"
	}
	line += fmt.Sprintf(", %s out, %s in", size(s.BytesOut), size(s.BytesIn))
	if f.GetClosed() == 0 {
		return line + ", still open when seen"
	}
	return line + ", " + time.Duration(f.GetClosed()-f.GetOpened()).Round(time.Millisecond).String()
}

func lossesPart(g *output.Page, in []*sensorv1.Loss) {
	if text := losses(in); text != "" {
		g.Section("Not seen in this window")
		g.Text("The sensor lost events (" + text + "): there may be more to this than is shown.")
	}
}
