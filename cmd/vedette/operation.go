package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func (a *app) operationCommand() *cobra.Command {
	return noun("operation", "orders as wholes, and which of them wait for a person",
		"  vedette operation list --open\n  vedette operation show op-abcdefghijkl",
		a.operationListCommand(), a.operationShowCommand())
}

func (a *app) operationListCommand() *cobra.Command {
	var open bool
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "list orders, newest first",
		Long: `Lists orders, of operators and of automation. Its state is ordered (it went out), waiting
(another operator must sign), window (it goes out by itself unless somebody vetoes it),
vetoed, or expired (it waited for too long).`,
		Example: "  vedette operation list --open\n  vedette operation list -o json | jq '.[0].approved_by'",
		Args:    none,
		RunE: a.listing(func(ctx context.Context, s *session, _ []string) error {
			n, err := output.Print(s.Printer, operationTable(), head(s.api.Operations(ctx, open, page(limit)), limit))
			if err == nil && n == 0 && s.Human() {
				s.say("no operations")
			}
			return err
		}),
	}
	c.Flags().BoolVar(&open, "open", false, "only what waits for somebody")
	limitFlag(c, &limit)
	return c
}

func operationTable() output.List[*operatorv1.Operation] {
	type row = *operatorv1.Operation
	return output.List[row]{
		Name:  row.GetId,
		Value: func(o row) any { return shape.FromOperation(o) },
		Columns: []output.Column[row]{
			{Head: "OPERATION", Cell: row.GetId},
			{Head: "ACTION", Cell: row.GetAction},
			{Head: "STATE", Cell: row.GetState, Paint: func(o row) output.Colour { return stateColour(o.GetState()) }},
			{Head: "HOSTS", Right: true, Cell: func(o row) string { return fmt.Sprint(len(o.GetHosts())) }},
			{Head: "BY", Max: 24, Cell: row.GetRequestedBy},
			{Head: "REQUESTED", Cell: func(o row) string { return clock(o.GetRequestedAt()) }},
			{Head: "WAITS FOR", Cell: waitsFor},
			{Head: "REASON", Max: 60, Cell: row.GetReason},
			{Head: "APPROVED BY", Wide: true, Cell: func(o row) string { return strings.Join(o.GetApprovedBy(), ",") }},
			{Head: "FINDING", Wide: true, Cell: row.GetFinding},
		},
	}
}

func waitsFor(o *operatorv1.Operation) string {
	switch o.GetState() {
	case "waiting":
		return plural(int(o.GetApprovalsMissing()), "operator")
	case "window":
		return "a veto until " + clock(o.GetWindowEnds())
	}
	return ""
}

func (a *app) operationShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show OPERATION", Short: "show one order with what it is signed for",
		Example: "  vedette operation show op-abcdefghijkl", Args: exactly("OPERATION"),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			res, err := s.api.Operation(ctx, args[0])
			if err != nil {
				return err
			}
			names := s.hostNames(ctx, res.GetOrder().GetHosts())
			return s.Show(output.Shown{
				Name: args[0], Value: shape.FromOperationDetail(res.GetOrder()),
				Page: func(g *output.Page) { operationPage(g, res.GetOrder(), names) },
			})
		}),
	}
}

// operationPage shows the grant as its bytes say, not as the node describes it:
// they are what an approver signs.
func operationPage(g *output.Page, o *operatorv1.Operation, names map[string]string) {
	g.Title(stateColour(o.GetState()), fmt.Sprintf("%s: %s", strings.ToUpper(o.GetState()), o.GetId()))
	if signed, err := grant.Decode(o.GetGrant().GetPayload()); err == nil {
		grantLines(g, signed)
	} else if o.GetGrant() != nil {
		g.Painted(output.Red, "grant", "it cannot be read: "+err.Error())
	}
	g.Field("requested by", o.GetRequestedBy())
	g.Field("requested at", clock(o.GetRequestedAt()))
	g.Field("approved by", strings.Join(o.GetApprovedBy(), ", "))
	g.Field("waits for", waitsFor(o))
	if o.GetState() == "waiting" || o.GetState() == "window" {
		g.Field("until", clock(o.GetExpires()))
	}
	if o.GetVetoedBy() != "" {
		g.Painted(output.Red, "vetoed by", o.GetVetoedBy()+": "+o.GetVetoReason())
	}
	g.Field("finding", o.GetFinding())
	g.Field("policies", strings.Join(o.GetPolicies(), ", "))
	g.Section(fmt.Sprintf("Hosts (%d)", len(o.GetHosts())))
	const shown = 50
	for i, host := range o.GetHosts() {
		if i == shown {
			g.Item(fmt.Sprintf("… and %d more", len(o.GetHosts())-shown))
			break
		}
		g.Item(strings.Join(fields(host, names[host]), "  "))
	}
}

func grantLines(g *output.Page, signed *sensorv1.Grant) {
	for _, f := range grantFields(signed) {
		g.Field(f[0], f[1])
	}
}

// grantFields is all that a grant asks for, by name; "" where it says nothing of it.
func grantFields(signed *sensorv1.Grant) [][2]string {
	action := grant.Word(signed.GetAction())
	if signed.GetAction() == sensorv1.Action_ACTION_ISOLATE {
		action += ", level " + grant.LevelWord(signed.GetLevel())
	}
	if signed.GetPreview() {
		action += " (asks only: the hosts say what they would do, and do nothing)"
	}
	lease := ""
	if signed.GetLeaseSeconds() > 0 {
		lease = (time.Duration(min(signed.GetLeaseSeconds(), 1<<32)) * time.Second).String()
	}
	return [][2]string{
		{"action", action}, {"target", targetText(signed.GetTarget())}, {"lease", lease}, {"undoes", signed.GetUndoes()},
		{"reason", signed.GetReason()}, {"signed for", plural(int(signed.GetHostCount()), "host")},
	}
}

// targetText says what an action is done to.
func targetText(t *sensorv1.Target) string {
	var parts []string
	add := func(what, value string) {
		if value != "" {
			parts = append(parts, what+" "+value)
		}
	}
	add("storyline", t.GetStoryline())
	if p := t.GetProcess(); p != nil {
		add("process", fmt.Sprintf("%d.%d", p.GetPid(), p.GetStart()))
	}
	add("image", hex.EncodeToString(t.GetImageSha256()))
	add("addresses", strings.Join(t.GetPrefixes(), ", "))
	add("name", t.GetName())
	add("account", t.GetAccount())
	add("file", string(t.GetPath()))
	add("of host", t.GetSuspect())
	return strings.Join(parts, ", ")
}
