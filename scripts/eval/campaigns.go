package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/vedette-edr/vedette/coordinator/campaigneval"
	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// The weights of joins were set on weeks 1, 101 and 102; weeks from campaignSeed on were not
// looked at for it.
const (
	campaignSeed  = 201
	campaignHosts = 1000
	// Weeks of a run: of a short one, and of -full.
	campaignWeeks, campaignWeeksFull = 3, 10
)

func campaignsTable(ctx context.Context, w io.Writer, cfg config) ([]figure.Row, error) {
	hosts, weeks := campaignHosts, campaignWeeks
	switch {
	case cfg.quick:
		hosts, weeks = campaigneval.Least, 1
	case cfg.full:
		weeks = campaignWeeksFull
	}
	var seeds []uint64
	for i := range weeks {
		seeds = append(seeds, campaignSeed+uint64(i)) //nolint:gosec // not negative
	}
	r, err := campaigneval.Run(ctx, hosts, seeds)
	if err != nil {
		return nil, fmt.Errorf("playing campaigns: %w", err)
	}
	if cfg.words {
		for _, why := range r.Why {
			fmt.Fprintln(w, why)
		}
	}
	rules := []struct {
		name string
		s    campaigneval.Score
	}{{"vedette", r.Engine}, {"never-seen edge", r.NeverSeen}, {"any flow between findings", r.AnyFlow}}
	table := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(table, "RULE\tJOINED INTO ONE\tHOST PRECISION\tFALSE PER 1,000 HOSTS AND WEEK")
	for _, rule := range rules {
		fmt.Fprintf(table, "%s\t%.1f %%\t%.3f\t%.1f\n", rule.name, 100*rule.s.Recall(), rule.s.Precision(), float64(rule.s.False)/r.Weeks())
	}
	fmt.Fprintln(table, "\nATTACK\tJOINED\tOF\tNEVER-SEEN EDGE\tANY FLOW")
	for _, kind := range slices.Sorted(maps.Keys(r.Engine.ByKind)) {
		k := r.Engine.ByKind[kind]
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\n", kind, k.Joined, k.Of, r.NeverSeen.ByKind[kind].Joined, r.AnyFlow.ByKind[kind].Joined)
	}
	fmt.Fprintln(table)
	if err := table.Flush(); err != nil {
		return nil, fmt.Errorf("printing the campaigns' table: %w", err)
	}
	var curves []series
	for _, rule := range rules {
		curves = append(curves, series{rule.name, joinedCurve(rule.s)})
	}
	return campaignRows(r), draw(filepath.Join(cfg.out, "eval", "campaigns-pr.svg"), "Campaigns: the strongest first (precision and recall)",
		"attacks joined into one (recall)", "campaigns that are of an attack (precision)", curves)
}

func campaignRows(r campaigneval.Result) []figure.Row {
	e, wrong := r.Engine, float64(r.Engine.False)/r.Weeks()
	note := fmt.Sprintf("%d hosts, a week each of seeds %d to %d, weights from seeds 1, 101, 102; %d records, in process", r.Hosts, r.Seeds[0], r.Seeds[len(r.Seeds)-1], r.Records)
	rows := []figure.Row{
		figure.AtLeast("campaigns: joined into one", 100*e.Recall(), 95, "%", fmt.Sprintf("%d of %d; %s", e.Joined, e.Attacks, note)),
		figure.AtLeast("campaigns: host precision", e.Precision(), 0.98, "", fmt.Sprintf("%d of %d hosts that they name", e.Right, e.Named)),
		figure.AtMost("campaigns: false per 1,000 hosts and week", wrong, 1, "", fmt.Sprintf("%d in %.2f", e.False, r.Weeks())),
		figure.Exactly("campaigns: joined later than 5 s after their last record", float64(e.Late), 0, "", "a plan each 5 s at most"),
	}
	for _, rule := range []struct {
		name string
		s    campaigneval.Score
	}{{"never-seen edge", r.NeverSeen}, {"any flow between findings", r.AnyFlow}} {
		rows = append(rows, figure.Info("campaigns: joined into one, "+rule.name, 100*rule.s.Recall(), "%",
			fmt.Sprintf("host precision %.3f, %.1f false per 1,000 hosts and week", rule.s.Precision(), float64(rule.s.False)/r.Weeks())))
	}
	return rows
}

// joinedCurve is what telling the strongest campaigns alone would be worth, from few to all.
func joinedCurve(s campaigneval.Score) (points []point) {
	told := slices.SortedFunc(slices.Values(s.Told), func(a, b campaigneval.Told) int { return cmp.Compare(b.Strength, a.Strength) })
	whole, right := 0.0, 0.0
	for i, t := range told {
		if t.Whole {
			whole++
		}
		if t.True {
			right++
		}
		if i+1 == len(told) || told[i+1].Strength != t.Strength {
			points = append(points, point{whole / max(float64(s.Attacks), 1), right / float64(i+1)})
		}
	}
	return points
}
