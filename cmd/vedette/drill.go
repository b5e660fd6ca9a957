package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/drill"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

func (a *app) drillCommand() *cobra.Command {
	return noun("drill", "safe emulations of attack techniques, and what of them was found",
		"  vedette drill list\n  sudo -E vedette drill run\n  vedette drill report\n  vedette drill report -o layer > layer.json",
		a.drillListCommand(), a.drillRunCommand(), a.drillReportCommand())
}

func (a *app) drillListCommand() *cobra.Command {
	var tactic, technique string
	c := &cobra.Command{
		Use:   "list",
		Short: "list the drills, with what each does, touches, needs and cleans up",
		Example: `  vedette drill list -o wide
  vedette drill list --tactic persistence
  vedette drill list --technique T1053.003 -o json | jq -r '.[].does'`,
		Args: none,
		RunE: bare(func(_ context.Context, _ []string) error {
			p, err := a.printer("")
			if err != nil {
				return err
			}
			if tactic != "" && !slices.Contains(drill.Tactics(), tactic) {
				return usage("no tactic is called %q: use one of %s", tactic, strings.Join(drill.Tactics(), ", "))
			}
			rows := slices.DeleteFunc(drill.All(), func(d drill.Drill) bool {
				return tactic != "" && !slices.Contains(d.Tactics(), tactic) ||
					technique != "" && !slices.ContainsFunc(d.IDs(), func(id string) bool { return id == technique || strings.HasPrefix(id, technique+".") })
			})
			_, err = output.Print(p, drillTable(), output.Rows(rows))
			return err
		}),
	}
	c.Flags().StringVar(&tactic, "tactic", "", "only of this tactic")
	c.Flags().StringVar(&technique, "technique", "", "only of this technique or its sub-techniques")
	completeWords(c, "tactic", drill.Tactics()...)
	return c
}

func drillTable() output.List[drill.Drill] {
	type row = drill.Drill
	return output.List[row]{
		Name:  func(d row) string { return d.ID },
		Value: func(d row) any { return shape.FromDrill(d) },
		Columns: []output.Column[row]{
			{Head: "DRILL", Cell: func(d row) string { return d.ID }},
			{Head: "TECHNIQUES", Cell: func(d row) string { return strings.Join(d.IDs(), ",") }},
			{Head: "TACTICS", Max: 40, Cell: func(d row) string { return strings.Join(d.Tactics(), ",") }},
			{Head: "TITLE", Max: 50, Cell: func(d row) string { return d.Title }},
			{Head: "NEEDS", Cell: func(d row) string { return d.Needs }},
			{Head: "DOES", Wide: true, Cell: func(d row) string { return d.Does }},
			{Head: "TOUCHES", Wide: true, Cell: row.Touches},
			{Head: "EXPECT", Wide: true, Cell: func(d row) string { return d.Expect }},
		},
	}
}

func (a *app) drillReportCommand() *cobra.Command {
	var host string
	c := &cobra.Command{
		Use:   "report",
		Short: "say by technique what drills proved and missed, and where there is none",
		Long: `Says by technique what the last results of drills prove and miss, on one host or on all; where
no drill is, and where none makes sense. With -o layer it is a layer for ATT&CK Navigator: 100 is
proven, 0 missed, no score undecided.

The exit code is 0 whatever was missed: a report is no test.`,
		Example: `  vedette drill report
  vedette drill report --host web1 -o json | jq -r '.matrix[] | select(.status == "missed") | .technique'
  vedette drill report -o layer > layer.json`,
		Args: none,
	}
	run := func(layer *bool) func(ctx context.Context, s *session, _ []string) error {
		return func(ctx context.Context, s *session, _ []string) error {
			var results []*raftv1.DrillResult
			for r, err := range s.api.Drills(ctx, host) {
				if err != nil {
					return err
				}
				results = append(results, r)
			}
			slices.Reverse(results)
			gaps, err := s.hostGaps(ctx, results)
			if err != nil {
				return err
			}
			cells := drill.Matrix(results)
			if len(results) == 0 {
				s.say("no drill was ever done: run 'vedette drill run' as root on a host with a sensor")
			}
			if *layer {
				return s.Show(output.Shown{Value: drill.NewLayer(strings.TrimSpace("Vedette drills "+host), cells)})
			}
			return s.Show(output.Shown{Name: "drills", Value: shape.FromMatrix(cells, results, gaps), Page: func(g *output.Page) { drillPage(g, cells, results, gaps) }})
		}
	}
	var layer bool
	inner := a.with(run(&layer))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if a.output == "layer" {
			layer, a.output = true, string(output.JSON)
		}
		return inner(cmd, args)
	}
	c.Flags().StringVar(&host, "host", "", "only of this host, by id or name")
	a.completeHostFlag(c)
	return c
}

// maxGapHosts bounds the hosts that are asked what their sensors cannot see.
const maxGapHosts = 20

// hostGaps is what the sensors of the drilled hosts cannot see: why a technique may be missed there.
func (s *session) hostGaps(ctx context.Context, results []*raftv1.DrillResult) (gaps []string, err error) {
	var ids []string
	for _, r := range results {
		if !slices.Contains(ids, r.GetHost()) && len(ids) < maxGapHosts {
			ids = append(ids, r.GetHost())
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	for h, err := range s.api.Hosts(ctx, &operatorv1.Selector{Ids: ids}, maxGapHosts) {
		if err != nil {
			return nil, err
		}
		for _, gap := range shape.Gaps(h) {
			gaps = append(gaps, h.GetName()+": "+gap)
		}
	}
	return gaps, nil
}

func drillPage(g *output.Page, cells []drill.Cell, results []*raftv1.DrillResult, gaps []string) {
	missed := drill.Count(cells, drill.CellMissed)
	colour := output.Green
	if missed > 0 {
		colour = output.Yellow
	}
	g.Title(colour, fmt.Sprintf("%s proven, %d missed, %s closed", plural(drill.Count(cells, drill.CellProven), "technique"), missed, plural(drill.CountClosed(cells), "gap")))
	for _, tactic := range drill.Tactics() {
		in := slices.DeleteFunc(slices.Clone(cells), func(c drill.Cell) bool { return !slices.Contains(c.In(), tactic) })
		g.Section(drill.TacticTitle(tactic))
		g.Field("proven", idsOf(in, drill.CellProven))
		g.Painted(output.Red, "missed", idsOf(in, drill.CellMissed))
		g.Painted(output.Yellow, "not visible", idsOf(in, drill.CellUnseen))
		g.Field("no result", idsOf(in, drill.CellNotRun))
		g.Painted(output.Dim, "no drill", idsOf(in, drill.CellUndone))
		g.Painted(output.Dim, "not applicable", fmt.Sprint(drill.Count(in, drill.CellBeyond)))
	}
	points(g, "Missed", slices.Collect(func(yield func(string) bool) {
		for _, c := range cells {
			if c.Status == drill.CellMissed && !yield(c.ID+" "+c.Name()+": "+c.Why) {
				return
			}
		}
	}))
	points(g, "Could not be done or seen", slices.Collect(func(yield func(string) bool) {
		for _, c := range cells {
			if c.Status == drill.CellUnseen && !yield(c.ID+" "+c.Name()+": "+c.Why) {
				return
			}
		}
	}))
	var noisy []string
	for _, r := range results {
		if r.GetVerdict() == drill.Noisy {
			noisy = append(noisy, fmt.Sprintf("%s on %s: what the drills of its kind do around their techniques is found by itself, so that they prove less there", r.GetDrill(), first(r.GetHostName(), r.GetHost())))
		}
	}
	points(g, "Controls that were found", noisy)
	points(g, "What sensors cannot see", gaps)
}

func idsOf(cells []drill.Cell, status string) string {
	var ids []string
	for _, c := range cells {
		if c.Status == status {
			ids = append(ids, c.ID)
		}
	}
	return strings.Join(ids, " ")
}

// drillField is a line of the status.
func drillField(g *output.Page, c *operatorv1.DrillCoverage) {
	if c == nil {
		return
	}
	g.Field("drills", fmt.Sprintf("%d techniques proven, %d missed, %s closed; the last at %s: see 'vedette drill report'",
		c.GetProven(), c.GetMissed(), plural(int(c.GetClosed()), "gap"), clock(c.GetLast())))
}
