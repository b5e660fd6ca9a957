package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

func (a *app) approveCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "approve OPERATION",
		Short: "sign an order that waits for another operator, or that automation proposes",
		Long: `Shows the order as its bytes say and adds your signature, made with your key on this
machine. An order above the governor's caps needs two operators; what automation
proposes becomes your own order.`,
		Example: "  vedette operation list --open\n  vedette approve op-abcdefghijkl",
		Args:    exactly("OPERATION"),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			return approve(ctx, s, args[0], yes)
		}),
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func approve(ctx context.Context, s *session, operation string, yes bool) error {
	looking, looked := s.limit(ctx)
	defer looked()
	res, err := s.api.Operation(looking, operation)
	if err != nil {
		return err
	}
	order := res.GetOrder()
	if order.GetState() != "waiting" && order.GetState() != "window" {
		return exit(exitError, "operation %s waits for nobody: it is %s", operation, order.GetState())
	}
	g, err := grant.Decode(order.GetGrant().GetPayload())
	if err != nil {
		return fmt.Errorf("reading operation %s: %w", operation, err)
	}
	var seen *operatorv1.PreviewOrderResponse
	if g.GetOperator() == "" {
		if seen, err = pick(looking, s, &operatorv1.PreviewOrderRequest{Selector: &operatorv1.Selector{Ids: order.GetHosts()},
			Action: g.GetAction(), Level: g.GetLevel(), Target: g.GetTarget()}); err != nil {
			return err
		}
	}
	if yes {
		blast(s, seen)
	} else {
		tty, ok := s.terminal()
		if !ok {
			return usage("nobody can be asked here (no terminal): look with vedette operation show %s, then repeat with --yes", operation)
		}
		defer func() { _ = tty.Close() }()
		for _, f := range append(grantFields(g), [2]string{"requested by", order.GetRequestedBy()}, [2]string{"finding", order.GetFinding()}) {
			if f[1] != "" {
				s.say("%-12s  %s", f[0], f[1])
			}
		}
		names := s.hostNames(looking, order.GetHosts())
		for i, host := range order.GetHosts() {
			if i == 20 {
				s.say("  … and %d more", len(order.GetHosts())-i)
				break
			}
			s.say("  %s", strings.Join(fields(host, names[host]), "  "))
		}
		blast(s, seen)
		want := fmt.Sprint(g.GetHostCount())
		if err := ask(ctx, tty, "About to sign it. Type the number of hosts to go on: ", want); err != nil {
			return err
		}
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	after, err := s.api.Approve(ctx, order, seen)
	if err != nil {
		return err
	}
	if missing := int(after.GetApprovalsMissing()); missing > 0 {
		s.say("signed; it still waits for %s", plural(missing, "more operator"))
	} else {
		s.say("signed; it goes out: vedette isolation watch %s", operation)
	}
	return showOperation(s, after)
}

func (a *app) vetoCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "veto OPERATION --reason TEXT",
		Short: "stop an order that has not gone out",
		Long: `Stops what waits for another operator, and what automation would do when its window
closes. What has gone out is ended with vedette release.`,
		Example: "  vedette veto op-abcdefghijkl --reason \"planned maintenance\"",
		Args:    exactly("OPERATION"),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usage("--reason is needed: the next person will ask why")
			}
			after, err := s.api.Veto(ctx, args[0], reason)
			if err != nil {
				return err
			}
			s.say("vetoed; nothing was done")
			return showOperation(s, after)
		}),
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return c
}

func showOperation(s *session, o *operatorv1.Operation) error {
	if s.Human() {
		_, err := output.Print(s.Printer, operationTable(), output.Rows([]*operatorv1.Operation{o}))
		return err
	}
	return s.Show(output.Shown{Name: o.GetId(), Value: shape.FromOperation(o)})
}
