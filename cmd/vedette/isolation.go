package main

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

func (a *app) isolationCommand() *cobra.Command {
	return noun("isolation", "orders to isolate and release, and what became of them",
		"  vedette isolation list --active\n  vedette isolation watch op-abcdefghijkl",
		a.isolationListCommand(), a.isolationWatchCommand())
}

func (a *app) isolationListCommand() *cobra.Command {
	var req operatorv1.ListIsolationsRequest
	var operation string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "list isolations and releases, newest first",
		Long: `Lists what was ordered, host by host: isolations, releases and containments. Its state is
pending, applied, released, refused (the host did not accept the order), failed (tried,
not proven, reverted), expired (the lease ended) or previewed (it only said what it would do).`,
		Example: "  vedette isolation list --active\n  vedette isolation list --host web1 -o wide\n  vedette isolation list --operation op-abcdefghijkl -o json",
		Args:    none,
		RunE: a.listing(func(ctx context.Context, s *session, _ []string) error {
			req.PageSize = page(limit)
			rows := s.api.Isolations(ctx, &req)
			if operation != "" {
				if req.Host != "" || req.Active {
					return usage("--operation shows all of one operation: leave out --host and --active")
				}
				res, err := s.api.Operation(ctx, operation)
				if err != nil {
					return err
				}
				rows = output.Rows(res.GetHosts())
			}
			return a.printIsolations(s, head(rows, limit))
		}),
	}
	f := c.Flags()
	f.StringVar(&req.Host, "host", "", "only of this host, by id or name")
	f.BoolVar(&req.Active, "active", false, "only what is pending or applied")
	f.StringVar(&operation, "operation", "", "only of this operation")
	limitFlag(c, &limit)
	a.completeHostFlag(c)
	return c
}

func (a *app) printIsolations(s *session, rows iter.Seq2[*operatorv1.Isolation, error]) error {
	n, err := output.Print(s.Printer, isolationTable(), rows)
	if err == nil && n == 0 && s.Human() {
		s.say("no isolations")
	}
	return err
}

func isolationTable() output.List[*operatorv1.Isolation] {
	type row = *operatorv1.Isolation
	return output.List[row]{
		Name:  row.GetId,
		Value: func(i row) any { return shape.FromIsolation(i) },
		Columns: []output.Column[row]{
			{Head: "HOST", Max: 32, Cell: func(i row) string { return first(i.GetHostName(), i.GetHost()) }},
			{Head: "ACTION", Cell: row.GetAction},
			{Head: "STATE", Cell: row.GetState, Paint: func(i row) output.Colour { return stateColour(i.GetState()) }},
			{Head: "BY", Max: 24, Cell: row.GetRequestedBy},
			{Head: "REQUESTED", Cell: func(i row) string { return clock(i.GetRequestedAt()) }},
			{Head: "UNTIL", Cell: func(i row) string { return clock(i.GetLeaseExpires()) }},
			{Head: "OPERATION", Cell: row.GetOperation},
			{Head: "REASON", Max: 40, Cell: row.GetReason},
			{Head: "TARGET", Wide: true, Cell: func(i row) string { return targetText(i.GetTarget()) }},
			{Head: "LEVEL", Wide: true, Cell: row.GetLevel},
			{Head: "HOST ID", Wide: true, Cell: row.GetHost},
			{Head: "APPLIED", Wide: true, Cell: func(i row) string { return clock(i.GetAppliedAt()) }},
			{Head: "SELF TEST", Wide: true, Cell: row.GetSelfTest},
			{Head: "DETAIL", Wide: true, Cell: row.GetDetail},
		},
	}
}

func (a *app) isolationWatchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch OPERATION",
		Short: "wait for one operation to settle at every host",
		Long: `Waits until every host of an operation has answered, says so as they do, and prints
the results. Ctrl-C stops waiting and nothing else. The exit code is that of the order
itself: 0 when all applied, 3 when some did, 1 when none or when it was vetoed or expired
before it went out, 7 when a host is still pending after --timeout.`,
		Example: "  vedette isolation watch op-abcdefghijkl --timeout 5m",
		Args:    exactly("OPERATION"),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			o := &order{verb: "operation " + args[0], wait: true}
			told := map[string]bool{}
			rows, err := s.api.Wait(ctx, args[0], func(now []*operatorv1.Isolation) { o.progress(s, now, told) })
			if errors.Is(err, context.Canceled) {
				return exit(exitInterrupted, "stopped waiting; operation %s goes on", args[0])
			}
			if len(rows) > 0 {
				if perr := a.printIsolations(s, output.Rows(rows)); perr != nil {
					return perr
				}
			}
			if errors.Is(err, client.ErrStopped) {
				return exit(exitError, "operation %w", err)
			}
			if err != nil && !errors.Is(err, client.ErrTimeout) {
				return err
			}
			results := make([]result, len(rows))
			for i, row := range rows {
				results[i].Result = outcome(row)
			}
			if err != nil && len(rows) == 0 {
				return fmt.Errorf("operation %s: %w", args[0], err)
			}
			return o.verdict(args[0], results, err != nil)
		}),
	}
}
