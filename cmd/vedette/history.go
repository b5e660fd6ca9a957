package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

func (a *app) hostHistoryCommand() *cobra.Command {
	var req operatorv1.GetHostHistoryRequest
	var since, until string
	var limit int
	c := &cobra.Command{
		Use:   "history HOST",
		Short: "what a host told, by the minute, the hour or the day",
		Long: `Shows what a host told, oldest first, by the time that it came in at: what a full spool
brings a day late stands where it came. A time in which it told nothing has no row.

Without --grain it is the finest that is kept since --since and no longer than a screen:
minutes up to 3 hours, hours up to 4 days. Without --since it is the last hour of minutes,
24 hours or 60 days. How far back each grain goes is said on stderr.
The bar is logarithmic: one more mark is about twice the events.`,
		Example: `  vedette host history web1
  vedette host history web1 --since 1h
  vedette host history web1 --since 720h --grain day -o json`,
		Args:              exactly("HOST"),
		ValidArgsFunction: a.completeHosts,
		RunE: a.listing(func(ctx context.Context, s *session, args []string) (err error) {
			req.Host, req.PageSize = args[0], page(limit)
			if req.Since, err = a.instant(since); err != nil {
				return err
			}
			if req.Until, err = a.instant(until); err != nil {
				return err
			}
			var answer *operatorv1.GetHostHistoryResponse
			rows := s.api.HostHistory(ctx, &req, func(res *operatorv1.GetHostHistoryResponse) { answer = res })
			n, err := output.Print(s.Printer, historyRows(func() string { return answer.GetGrain() }), head(rows, limit))
			if answer != nil && s.Human() {
				s.sayHistory(answer, n)
			}
			return err
		}),
	}
	f := c.Flags()
	f.StringVar(&since, "since", "", "only since: a duration such as 90m, or a time as 2026-01-31T09:00:00Z")
	f.StringVar(&until, "until", "", "only until: a duration such as 30m ago, or a time")
	f.StringVar(&req.Grain, "grain", "", "minute, hour or day")
	limitFlag(c, &limit)
	completeWords(c, "grain", "minute", "hour", "day")
	return c
}

func historyRows(grain func() string) output.List[*operatorv1.HistoryRow] {
	type row = *operatorv1.HistoryRow
	n := func(head string, of func(row) uint64) output.Column[row] {
		return output.Column[row]{Head: head, Right: true, Cell: func(r row) string { return number(of(r)) }}
	}
	lost, found := n("LOST", row.GetLosses), n("FINDINGS", row.GetFindings)
	lost.Paint = func(r row) output.Colour { return redAbove(r.GetLosses()) }
	found.Paint = func(r row) output.Colour { return redAbove(r.GetFindings()) }
	return output.List[row]{
		Name:  func(r row) string { return time.Unix(0, r.GetTime()).UTC().Format(time.RFC3339) },
		Value: func(r row) any { return shape.FromHistory(r, grain()) },
		Columns: []output.Column[row]{
			{Head: "TIME", Cell: func(r row) string { return slot(r.GetTime(), grain()) }},
			n("SUMMARIES", row.GetSummaries), n("EVENTS", row.GetEvents),
			{Head: "", Cell: func(r row) string { return bar(r.GetEvents()) }},
			n("NEW", row.GetNewBehaviours), lost, found, n("FLOWS", row.GetFlows),
		},
	}
}

func redAbove(n uint64) output.Colour {
	if n > 0 {
		return output.Red
	}
	return output.Plain
}

// slot is a grain's time, no finer than the grain is.
func slot(ns int64, grain string) string {
	layout := map[string]string{"day": "2006-01-02", "hour": "2006-01-02 15:00Z"}[grain]
	return time.Unix(0, ns).UTC().Format(first(layout, "2006-01-02 15:04Z"))
}

// bar shows a count by the logarithm of it: rows come one by one, and nobody knows the largest yet.
func bar(n uint64) string { return strings.Repeat("▪", int(math.Ceil(math.Log2(float64(n)+1)))) }

// sayHistory says which grain it was and how far back each goes.
func (s *session) sayHistory(r *operatorv1.GetHostHistoryResponse, rows int) {
	if r.GetBegan() == 0 {
		s.say("the cluster keeps no history yet: it begins when all nodes run this release")
		return
	}
	var reach []string
	for _, g := range r.GetReaches() {
		if g.GetOldest() == 0 {
			reach = append(reach, g.GetGrain()+" nothing yet")
			continue
		}
		reach = append(reach, fmt.Sprintf("%s since %s", g.GetGrain(), clock(max(g.GetOldest(), r.GetBegan()))))
	}
	if rows == 0 {
		s.say("%s told nothing in that time", first(r.GetHostName(), r.GetHost()))
	}
	s.say("by the %s, from %s to %s; kept: %s", r.GetGrain(), clock(r.GetSince()), clock(r.GetUntil()), strings.Join(reach, ", "))
}
