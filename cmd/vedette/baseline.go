package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func (a *app) baselineCommand() *cobra.Command {
	return noun("baseline", "what is normal on a host, in its role group and in the fleet",
		"  vedette baseline show web1 --new\n  vedette baseline diff web1 --against group:web\n  vedette baseline forget web1 --subject /tmp/x --reason \"…\"",
		a.baselineShowCommand(), a.baselineDiffCommand(), a.baselineForgetCommand(), a.baselineForgottenCommand(),
		a.baselineGroupsCommand(), a.baselineExportCommand(), a.baselineImportCommand(), a.baselineRollOutsCommand())
}

// behaviourKinds are the words for kinds.
var behaviourKinds = map[string]sensorv1.BehaviourKind{
	"exec": sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC, "flow": sensorv1.BehaviourKind_BEHAVIOUR_KIND_FLOW,
	"lookup": sensorv1.BehaviourKind_BEHAVIOUR_KIND_LOOKUP, "file": sensorv1.BehaviourKind_BEHAVIOUR_KIND_FILE,
	"privilege": sensorv1.BehaviourKind_BEHAVIOUR_KIND_PRIVILEGE,
}

func (a *app) baselineShowCommand() *cobra.Command {
	var req operatorv1.ListBehavioursRequest
	var kind, since string
	var limit int
	c := &cobra.Command{
		Use:   "show HOST",
		Short: "list what a host does, as far as it told",
		Long: `Lists a host's behaviours by kind, who does it and what it is done to, as the host's
summaries told: a behaviour is there at most a minute after it came, and the counts of what
is known are at most an hour old. HOSTS is on how many hosts of the fleet it is seen.`,
		Example: `  vedette baseline show web1
  vedette baseline show web1 --kind exec --subject nginx
  vedette baseline show web1 --new --since 24h -o json`,
		Args:              exactly("HOST"),
		ValidArgsFunction: a.completeHosts,
		RunE: a.listing(func(ctx context.Context, s *session, args []string) (err error) {
			if req.Since, err = a.instant(since); err != nil {
				return err
			}
			if kind != "" && behaviourKinds[kind] == 0 {
				return usage("no kind is called %q: exec, flow, lookup, file or privilege", kind)
			}
			req.Host, req.Kind, req.PageSize = args[0], behaviourKinds[kind], page(limit)
			n, err := output.Print(s.Printer, baselineTable(), head(s.api.Behaviours(ctx, &req), limit))
			if err == nil && n == 0 && s.Human() {
				s.say("no behaviours")
			}
			return err
		}),
	}
	f := c.Flags()
	f.StringVar(&kind, "kind", "", "only of this kind: exec, flow, lookup, file or privilege")
	f.StringVar(&req.Subject, "subject", "", "only where who does it contains this")
	f.BoolVar(&req.NewOnly, "new", false, "only what is not known there yet")
	f.StringVar(&since, "since", "", "only first seen since: a duration such as 90m, or a time as 2026-01-31T09:00:00Z")
	limitFlag(c, &limit)
	completeWords(c, "kind", "exec", "flow", "lookup", "file", "privilege")
	return c
}

func baselineTable() output.List[*operatorv1.BehaviourRow] {
	type row = *operatorv1.BehaviourRow
	return output.List[row]{
		Name:  func(r row) string { return shape.FromBaseline(r).Key },
		Value: func(r row) any { return shape.FromBaseline(r) },
		Columns: []output.Column[row]{
			{Head: "KIND", Cell: func(r row) string { return shape.Kind(r.GetBehaviour().GetKind()) }},
			{Head: "STATE", Cell: func(r row) string { return knownWord(r.GetKnown()) }},
			{Head: "SUBJECT", Max: 48, Cell: func(r row) string { return string(r.GetBehaviour().GetSubject()) }},
			{Head: "OBJECT", Max: 60, Cell: func(r row) string { return string(r.GetBehaviour().GetObject()) }},
			{Head: "COUNT", Right: true, Cell: func(r row) string { return number(r.GetCount()) }},
			{Head: "HOSTS", Right: true, Cell: func(r row) string { return number(r.GetHosts()) }},
			{Head: "FIRST", Wide: true, Cell: func(r row) string { return clock(r.GetBehaviour().GetFirstSeen()) }},
			{Head: "LAST", Cell: func(r row) string { return clock(r.GetLastSeen()) }},
			{Head: "KEY", Wide: true, Cell: func(r row) string { return shape.FromBaseline(r).Key }},
		},
	}
}

func knownWord(known bool) string {
	if known {
		return "known"
	}
	return "new"
}

func (a *app) baselineDiffCommand() *cobra.Command {
	var against string
	var limit int
	c := &cobra.Command{
		Use:   "diff HOST",
		Short: "what a host does that others do not, and the other way round",
		Long: `Compares a host with another one (--against HOST), with a role group (--against group:NAME),
or without --against with its own role group. "here" is what the host does and the other one,
or fewer than one in twenty of the group's hosts, does not; "there" what the other one, or at
least half of the group, does and the host does not. Of a group at most 64 hosts are looked
at, evenly chosen.`,
		Example: `  vedette baseline diff web1
  vedette baseline diff web1 --against web2
  vedette baseline diff web1 --against group:web -o json | jq '.[] | select(.side == "here")'`,
		Args:              exactly("HOST"),
		ValidArgsFunction: a.completeHosts,
		RunE: a.listing(func(ctx context.Context, s *session, args []string) error {
			var first *operatorv1.DiffBaselinesResponse
			rows := s.api.Differences(ctx, args[0], against, page(limit), func(r *operatorv1.DiffBaselinesResponse) { first = r })
			_, err := output.Print(s.Printer, differenceTable(), head(rows, limit))
			if err == nil && s.Human() {
				s.say("%s in common with %s", plural(int(first.GetCommon()), "behaviour"), plural(int(first.GetOf()), "host")) //nolint:gosec // a count
			}
			return err
		}),
	}
	c.Flags().StringVar(&against, "against", "", "a host, or group:NAME (default: the host's role group)")
	limitFlag(c, &limit)
	return c
}

func differenceTable() output.List[*operatorv1.DifferenceRow] {
	type row = *operatorv1.DifferenceRow
	return output.List[row]{
		Name:  func(r row) string { return shape.FromDifference(r).Key },
		Value: func(r row) any { return shape.FromDifference(r) },
		Columns: []output.Column[row]{
			{Head: "SIDE", Cell: func(r row) string { return shape.FromDifference(r).Side }},
			{Head: "KIND", Cell: func(r row) string { return shape.Kind(r.GetBehaviour().GetKind()) }},
			{Head: "SUBJECT", Max: 48, Cell: func(r row) string { return string(r.GetBehaviour().GetSubject()) }},
			{Head: "OBJECT", Max: 60, Cell: func(r row) string { return string(r.GetBehaviour().GetObject()) }},
			{Head: "OTHERS", Right: true, Cell: func(r row) string { return fmt.Sprint(r.GetOthers()) }},
			{Head: "HOSTS", Right: true, Cell: func(r row) string { return number(r.GetHosts()) }},
			{Head: "COUNT", Right: true, Cell: func(r row) string { return number(r.GetCount()) }},
			{Head: "LAST", Wide: true, Cell: func(r row) string { return clock(r.GetLastSeen()) }},
			{Head: "KEY", Wide: true, Cell: func(r row) string { return shape.FromDifference(r).Key }},
		},
	}
}

func (a *app) baselineGroupsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "groups",
		Short: "list the role groups, how each was found, and its pack",
		Long: `Lists the role groups: of hosts with the same operators' label (role, unless the intent names
another), which their token gave them, and of hosts without one that do the same (like:…).
A host's own label places it nowhere. The governor counts by labels alone: a group found by
similarity changes no limit.`,
		Example: "  vedette baseline groups\n  vedette baseline groups -o json",
		Args:    none,
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			res, err := s.api.Roles(ctx)
			if err != nil {
				return err
			}
			type row = *operatorv1.RoleRow
			_, err = output.Print(s.Printer, output.List[row]{
				Name:  row.GetName,
				Value: func(r row) any { return shape.FromRole(r) },
				Columns: []output.Column[row]{
					{Head: "NAME", Cell: row.GetName},
					{Head: "BASIS", Cell: row.GetBasis},
					{Head: "HOSTS", Right: true, Cell: func(r row) string { return number(r.GetHosts()) }},
					{Head: "FOUND", Cell: func(r row) string { return clock(r.GetMadeAt()) }},
					{Head: "PACK BY", Cell: func(r row) string { return first(r.GetPackOperator(), "nobody") }},
					{Head: "UNTIL", Cell: func(r row) string { return clock(r.GetPackNotAfter()) }},
				},
			}, output.Rows(res.GetRoles()))
			if err == nil && s.Human() && res.GetWithout() > 0 {
				s.say("%s without a role group", plural(int(res.GetWithout()), "host")) //nolint:gosec // a count
			}
			return err
		}),
	}
}

func (a *app) baselineRollOutsCommand() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:   "rollouts",
		Short: "list behaviours that came to many hosts by an installer, newest first",
		Long: `Lists what was taken for a change and not for an attack: a behaviour that came new to at least
three hosts within six hours, on four fifths of them within an hour after a package or
configuration manager worked there. Nothing is hidden by it, and rules match as ever: who
attacks by the same manager is in this list too.`,
		Example: "  vedette baseline rollouts --limit 20",
		Args:    none,
		RunE: a.listing(func(ctx context.Context, s *session, _ []string) error {
			type row = *operatorv1.RollOutRow
			n, err := output.Print(s.Printer, output.List[row]{
				Name:  func(r row) string { return shape.FromRollOut(r).Key },
				Value: func(r row) any { return shape.FromRollOut(r) },
				Columns: []output.Column[row]{
					{Head: "FIRST", Cell: func(r row) string { return clock(r.GetRollOut().GetFirstSeen()) }},
					{Head: "BY", Max: 24, Cell: func(r row) string { return r.GetRollOut().GetBy() }},
					{Head: "HOSTS", Right: true, Cell: func(r row) string { return fmt.Sprint(r.GetRollOut().GetHosts()) }},
					{Head: "INSTALLED", Right: true, Cell: func(r row) string { return fmt.Sprint(r.GetRollOut().GetInstalled()) }},
					{Head: "KIND", Cell: func(r row) string { return shape.Kind(r.GetBehaviour().GetKind()) }},
					{Head: "SUBJECT", Max: 40, Cell: func(r row) string { return string(r.GetBehaviour().GetSubject()) }},
					{Head: "OBJECT", Max: 50, Cell: func(r row) string { return string(r.GetBehaviour().GetObject()) }},
				},
			}, head(s.api.RollOuts(ctx, page(limit)), limit))
			if err == nil && n == 0 && s.Human() {
				s.say("no roll-outs")
			}
			return err
		}),
	}
	limitFlag(c, &limit)
	return c
}
