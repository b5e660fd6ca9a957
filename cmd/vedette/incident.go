package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

func (a *app) incidentCommand() *cobra.Command {
	return noun("incident", "what a person is asked to judge",
		"  vedette incident list --status open\n  vedette incident show inc-…\n  vedette incident close inc-… --as benign --reason \"planned migration\"",
		a.incidentListCommand(), a.incidentShowCommand(), a.incidentCloseCommand())
}

func (a *app) incidentListCommand() *cobra.Command {
	var req operatorv1.ListIncidentsRequest
	var since string
	var limit int
	c := &cobra.Command{
		Use:     "list",
		Short:   "list incidents, newest first",
		Example: "  vedette incident list --status open\n  vedette incident list --since 24h -o json | jq -r '.[].account'",
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
			n, err := output.Print(s.Printer, incidentTable(), head(s.api.Incidents(ctx, &req), limit))
			if err == nil && n == 0 && s.Human() {
				s.say("no incidents")
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

func incidentTable() output.List[*raftv1.Incident] {
	type row = *raftv1.Incident
	return output.List[row]{
		Name:  row.GetId,
		Value: func(i row) any { return shape.FromIncident(i) },
		Columns: []output.Column[row]{
			{Head: "ID", Cell: row.GetId},
			{Head: "STATUS", Cell: row.GetStatus, Paint: func(i row) output.Colour { return stateColour(i.GetStatus()) }},
			{Head: "SEVERITY", Cell: row.GetSeverity, Paint: func(i row) output.Colour { return severityColour(i.GetSeverity()) }},
			{Head: "CONFIDENCE", Right: true, Cell: func(i row) string { return fmt.Sprintf("%.0f%%", 100*i.GetConfidence()) }},
			{Head: "HOSTS", Right: true, Cell: func(i row) string { return fmt.Sprint(len(i.GetHosts())) }},
			{Head: "LAST SEEN", Cell: func(i row) string { return clock(i.GetLastSeen()) }},
			{Head: "TITLE", Max: 60, Cell: row.GetTitle},
			{Head: "FIRST SEEN", Wide: true, Cell: func(i row) string { return clock(i.GetFirstSeen()) }},
			{Head: "FINDINGS", Wide: true, Right: true, Cell: func(i row) string { return fmt.Sprint(len(i.GetFindings())) }},
			{Head: "HOST IDS", Wide: true, Cell: func(i row) string { return strings.Join(i.GetHosts(), ",") }},
			{Head: "TECHNIQUES", Wide: true, Cell: func(i row) string { return strings.Join(i.GetTechniques(), ",") }},
			{Head: "DISPOSITION", Wide: true, Cell: row.GetDisposition},
		},
	}
}

func (a *app) incidentShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show INCIDENT",
		Short:             "show one incident: the account, the timeline, what to do",
		Example:           "  vedette incident show inc-abcdefghijkl",
		Args:              exactly("INCIDENT"),
		ValidArgsFunction: a.completeIncidents,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			res, err := s.api.Incident(ctx, args[0])
			if err != nil {
				return err
			}
			err = s.Show(output.Shown{
				Name: res.GetIncident().GetId(), Value: shape.FromIncidentDetail(res),
				Page: func(g *output.Page) { incidentPage(g, res, s.hostNames(ctx, res.GetIncident().GetHosts())) },
			})
			if shown, all := len(res.GetFindings()), len(res.GetIncident().GetFindings()); err == nil && shown < all {
				s.say("%d of its %d findings are shown: the newest, at most %d, of those that are kept; 'vedette finding list --storyline STORYLINE' has the others",
					shown, all, maxPage)
			}
			return err
		}),
	}
}

// hostNames are the names of hosts by id; those that cannot be had are left out,
// because the ids say enough.
func (s *session) hostNames(ctx context.Context, ids []string) map[string]string {
	names := map[string]string{}
	if len(ids) == 0 {
		return names
	}
	for h, err := range s.api.Hosts(ctx, &operatorv1.Selector{Ids: ids}, 0) {
		if err != nil {
			break
		}
		names[h.GetId()] = h.GetName()
	}
	return names
}

func incidentPage(g *output.Page, res *operatorv1.GetIncidentResponse, names map[string]string) {
	i := res.GetIncident()
	for _, f := range res.GetFindings() {
		if f.GetHostName() != "" {
			names[f.GetHost()] = f.GetHostName()
		}
	}
	name := func(id string) string { return first(names[id], id) }
	hosts := make([]string, len(i.GetHosts()))
	for n, id := range i.GetHosts() {
		hosts[n] = name(id)
	}

	g.Title(severityColour(i.GetSeverity()), fmt.Sprintf("%s: %s", strings.ToUpper(first(i.GetSeverity(), "incident")), i.GetTitle()))
	for line := range strings.Lines(i.GetAccount()) {
		g.Text(strings.TrimRight(line, "\n"))
	}
	g.Section("Incident")
	g.Field("id", i.GetId())
	status := i.GetStatus()
	if i.GetStatus() == "closed" {
		status = fmt.Sprintf("closed as %s by %s: %s", i.GetDisposition(), i.GetClosedBy(), i.GetCloseReason())
	}
	g.Painted(stateColour(i.GetStatus()), "status", status)
	g.Field("confidence", fmt.Sprintf("%.0f %%", 100*i.GetConfidence()))
	g.Field("hosts", strings.Join(hosts, ", "))
	g.Field("from", clock(i.GetFirstSeen()))
	g.Field("to", clock(i.GetLastSeen()))
	g.Field("campaign", i.GetCampaign())
	for n, id := range i.GetTechniques() {
		label := "techniques"
		if n > 0 {
			label = ""
		}
		g.Field(label, techniqueLabel(id))
	}

	if len(i.GetTimeline()) > 0 {
		g.Section("Timeline")
		for _, m := range i.GetTimeline() {
			g.Line(0, output.Plain, fmt.Sprintf("%s  %-12s %s", clock(m.GetTime()), name(m.GetHost()), m.GetText()))
		}
	}
	if len(i.GetEdges()) > 0 {
		g.Section("How it moved")
		for _, e := range i.GetEdges() {
			g.Item(fmt.Sprintf("%s → %s at %s, %s: %s", e.GetFrom(), e.GetTo(), clock(e.GetTime()), e.GetKind(), e.GetEvidence()))
		}
	}
	for _, in := range res.GetInvestigations() {
		g.Section(fmt.Sprintf("Investigated on %s: %s (%s)", name(in.GetHost()), in.GetVerdict(), chance(in)))
		for line := range strings.Lines(in.GetAccount()) {
			g.Text(strings.TrimRight(line, "\n"))
		}
		for _, limit := range in.GetLimits() {
			g.Item("limit: " + limit)
		}
		if len(in.GetFindings()) > 0 {
			g.Try("All of it", output.Command([]string{"vedette", "investigation", "show", in.GetFindings()[0]}))
		}
	}
	for _, f := range res.GetFindings() {
		g.Section(fmt.Sprintf("Finding %s on %s: %s", f.GetFinding().GetId(), name(f.GetHost()), f.GetFinding().GetTitle()))
		g.Text(f.GetFinding().GetReason())
		g.Line(0, output.Plain, leaf(f.GetFinding().GetProcess()))
		for _, flow := range f.GetFinding().GetFlows() {
			g.Line(1, output.Plain, flowLine(flow))
		}
	}
	dispositionPart(g, res.GetDispositions(), name)
	points(g, "Done so far", i.GetActionsTaken())
	points(g, "What limits this account", i.GetLimits())
	g.Section("Next")
	for _, step := range i.GetRecommended() {
		if strings.HasPrefix(step, "vedette ") {
			g.Line(0, output.Bold, step) // a command, to be copied whole
			continue
		}
		g.Item(step)
	}
	if len(i.GetRecommended()) > 0 || i.GetStatus() == "closed" {
		return
	}
	g.Try("Cut its hosts off", output.Command([]string{"vedette", "isolate", "--incident", i.GetId(), "--reason", i.GetId()}))
	g.Try("Judge it (or --as malicious)", output.Command([]string{"vedette", "incident", "close", i.GetId(), "--as", "benign", "--reason"})+" …")
}

// dispositionPart says which of the hosts' sensors have learnt what the incident was.
func dispositionPart(g *output.Page, rows []*operatorv1.DispositionRow, name func(string) string) {
	if len(rows) == 0 {
		return
	}
	g.Section("What its sensors were told")
	for _, r := range rows {
		said := plural(int(r.GetFindings()), "odd finding") + " called benign"
		if r.GetMalicious() {
			said = plural(int(r.GetFindings()), "odd finding") + " called malicious"
		}
		switch r.GetState() {
		case "done":
			said += fmt.Sprintf(": it still knew %d, and took the word at %s", r.GetTaken(), clock(r.GetAnsweredAt()))
		case "failed":
			said += ": it refused: " + r.GetFailure()
		case "expired":
			said += ": it has not answered in 30 days, and is asked no more"
		default:
			said += ": it has not answered yet"
		}
		g.Item(name(r.GetHost()) + ": " + said)
	}
}

func points(g *output.Page, head string, items []string) {
	if len(items) == 0 {
		return
	}
	g.Section(head)
	for _, item := range items {
		g.Item(item)
	}
}

// closeIncident closes one, and tells the sensors of its hosts what it was.
func (s *session) closeIncident(ctx context.Context, req *operatorv1.CloseIncidentRequest) (*raftv1.Incident, error) {
	of, err := s.api.Incident(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	signed, leftOut, err := s.api.Dispositions(of, req.GetDisposition() == "malicious")
	if err != nil {
		return nil, err
	}
	req.Dispositions = signed
	res, err := s.api.CloseIncident(ctx, req)
	if err != nil {
		return nil, err
	}
	switch told := int(res.GetTold()); {
	case res.GetUntold() != "":
		s.say("vedette: %s is closed, but its sensors are not told what it was: %s; then close it as this once more", req.GetId(), res.GetUntold())
	case told < len(req.GetDispositions()):
		s.say("vedette: %s is closed, but %d of the %s to be told what it was are: an older node answered, or hosts are gone or have too much waiting", req.GetId(), told, plural(len(req.GetDispositions()), "host"))
	}
	if leftOut > 0 {
		s.say("vedette: %s is closed; the sensors of %s beyond the first %d are not told what it was", req.GetId(), plural(leftOut, "host"), len(signed))
	}
	return res.GetIncident(), nil
}

func (a *app) incidentCloseCommand() *cobra.Command {
	var as, reason, key string
	c := &cobra.Command{
		Use:   "close INCIDENT... --as benign|malicious --reason TEXT",
		Short: "close incidents with a judgement",
		Long: `Closes incidents with a judgement, which is kept in the audit record. It gives no
host back: that is 'vedette release'.

The sensors learn from it, by an order that is signed with your key on this machine. What was
told because it was odd and is benign counts as an ordinary day's from now on, and may be learnt;
what is malicious is unlearnt, and takes nothing of the budget for findings. What rules match is
told as before, and the score that is told from stays within its bounds whatever is closed.
'incident show' says which hosts have taken it; one that is away does when it comes back, within
30 days.`,
		Example: `  vedette incident close inc-abcdefghijkl --as benign --reason "backup migration, change 4711"
  vedette incident close inc-abcdefghijkl --as malicious --reason "web shell, host rebuilt"`,
		Args:              atLeast("INCIDENT"),
		ValidArgsFunction: a.completeIncidents,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if as != "benign" && as != "malicious" {
				return usage("say what it was: --as benign or --as malicious")
			}
			if strings.TrimSpace(reason) == "" {
				return usage("say why, for whoever reads the record later: --reason TEXT")
			}
			if key != "" && len(args) > 1 {
				return usage("--idempotency-key is for one incident at a time")
			}
			var closed []*raftv1.Incident
			var failures []error
			for _, id := range unique(args) {
				i, err := s.closeIncident(ctx, &operatorv1.CloseIncidentRequest{
					Id: id, Disposition: as, Reason: reason, IdempotencyKey: first(key, client.NewID("key")),
				})
				if err != nil {
					failures = append(failures, err)
					s.say("vedette: closing %s: %s", id, err)
					continue
				}
				closed = append(closed, i)
			}
			if len(closed) > 0 || !s.Human() {
				if _, err := output.Print(s.Printer, incidentTable(), output.Rows(closed)); err != nil {
					return err
				}
			}
			switch {
			case len(failures) == 0:
				return nil
			case len(closed) > 0:
				return exit(exitPartial, "%d of %s closed", len(closed), plural(len(closed)+len(failures), "incident"))
			default:
				return exit(exitCode(failures[0]), "none closed")
			}
		}),
	}
	f := c.Flags()
	f.StringVar(&as, "as", "", "the judgement: benign or malicious")
	f.StringVar(&reason, "reason", "", "why, for the record")
	f.StringVar(&key, "idempotency-key", "", "a repeated command with the same key changes nothing")
	// The judgement is called disposition where it is shown: that name is understood too.
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "disposition" {
			name = "as"
		}
		return pflag.NormalizedName(name)
	})
	completeWords(c, "as", "benign", "malicious")
	return c
}
