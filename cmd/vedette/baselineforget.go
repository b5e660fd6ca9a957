package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func (a *app) baselineForgetCommand() *cobra.Command {
	var u sensorv1.Unlearn
	var subject, since string
	var yes, wait bool
	c := &cobra.Command{
		Use:   "forget HOST [KEY...]",
		Short: "have a host unlearn: what it forgets is new again",
		Long: `Signs an order with your key, on this machine, by which a host forgets what it has learnt: the
behaviours with these keys ('baseline show -o wide' has them), or all that one image does and
that starts it (--subject), or all that came first since a time (--since). It takes a responder.

What is forgotten is new again: the kernel tells it, it is judged, and it is learnt only as
anything new is. Its counts stay in all totals. A host that is away does it when it comes
back, within 30 days. The order and the host's answer are in the audit.`,
		Example: `  vedette baseline forget web1 --subject /tmp/x --reason "the implant of INC-7"
  vedette baseline forget web1 --since 2026-01-31T09:00:00Z --reason "it was attacked then"
  vedette baseline forget web1 3f2a9c1b77d0e4a8b1c2d3e4f5a6b7c8 --reason "…" --wait`,
		Args:              atLeast("HOST"),
		ValidArgsFunction: a.completeHosts,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) (err error) {
			if u.GetReason() == "" {
				return usage("a reason is needed: the next person will ask why (--reason)")
			}
			for _, text := range args[1:] {
				key, err := hex.DecodeString(text)
				if err != nil || len(key) != pack.KeySize {
					return usage("%q is no key: 32 hex digits, as 'vedette baseline show -o wide' tells them", text)
				}
				u.Keys = append(u.Keys, key)
			}
			u.Subject = []byte(subject)
			if u.Since, err = a.instant(since); err != nil {
				return err
			}
			ways := 0
			for _, given := range []bool{len(u.GetKeys()) > 0, subject != "", since != ""} {
				if given {
					ways++
				}
			}
			if ways != 1 {
				return usage("say what to forget: keys, or --subject, or --since")
			}
			looking, cancel := s.limit(ctx)
			defer cancel()
			res, err := s.api.Host(looking, args[0])
			if err != nil {
				return err
			}
			u.Host = res.GetHost().GetId()
			if !yes {
				tty, ok := s.terminal()
				if !ok {
					return usage("nobody can be asked here (no terminal): repeat with --yes")
				}
				defer func() { _ = tty.Close() }()
				if err := ask(ctx, tty, fmt.Sprintf("About to have %s forget %s. Type yes to go on: ", first(res.GetHost().GetName(), u.GetHost()), unlearnText(&u)), "yes"); err != nil {
					return err
				}
			}
			acting, cancel := s.limit(ctx)
			defer cancel()
			id, err := s.api.Unlearn(acting, &u)
			if err != nil {
				return err
			}
			return s.forgotten(acting, id, wait)
		}),
	}
	f := c.Flags()
	f.StringVar(&subject, "subject", "", "all that this image does, and that starts it, by its path as 'baseline show' tells it")
	f.StringVar(&since, "since", "", "all first seen since: a duration such as 90m, or a time as 2026-01-31T09:00:00Z")
	f.StringVar(&u.Reason, "reason", "", "why, for the audit")
	f.BoolVar(&wait, "wait", false, "wait for the host's answer")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// unlearnText says what an order to forget is about.
func unlearnText(u *sensorv1.Unlearn) string {
	switch {
	case len(u.GetKeys()) > 0:
		return "the behaviours of " + plural(len(u.GetKeys()), "key")
	case len(u.GetSubject()) > 0:
		return "all that " + string(u.GetSubject()) + " does, and that starts it"
	default:
		return "all that came first since " + clock(u.GetSince())
	}
}

// forgotten shows an order, after the host's answer when somebody waits for it.
func (s *session) forgotten(ctx context.Context, id string, wait bool) error {
	for {
		r, err := s.api.UnlearnOrder(ctx, id)
		if err != nil {
			return err
		}
		if r == nil {
			return exit(exitNotFound, "no order to forget has the id %s", id)
		}
		if !wait || r.GetState() != "pending" {
			_, err := output.Print(s.Printer, unlearnTable(), output.Rows([]*operatorv1.UnlearnRow{r}))
			if err == nil && r.GetState() == "failed" {
				err = exit(exitPartial, "the host forgot nothing: %s", r.GetFailure())
			}
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return exit(exitTimeout, "the host has not answered yet: 'vedette baseline forgotten' tells when it does")
			}
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (a *app) baselineForgottenCommand() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:     "forgotten [HOST]",
		Short:   "list the orders to forget, newest first, and what became of each",
		Example: "  vedette baseline forgotten --limit 20\n  vedette baseline forgotten web1 -o json",
		Args:    atMost(1, "host"),
		RunE: a.listing(func(ctx context.Context, s *session, args []string) error {
			host := ""
			if len(args) > 0 {
				host = args[0]
			}
			_, err := output.Print(s.Printer, unlearnTable(), head(s.api.Unlearns(ctx, host, page(limit)), limit))
			return err
		}),
	}
	limitFlag(c, &limit)
	return c
}

func unlearnTable() output.List[*operatorv1.UnlearnRow] {
	type row = *operatorv1.UnlearnRow
	return output.List[row]{
		Name:  row.GetId,
		Value: func(r row) any { return shape.FromUnlearn(r) },
		Columns: []output.Column[row]{
			{Head: "ID", Cell: row.GetId},
			{Head: "TIME", Cell: func(r row) string { return clock(r.GetTime()) }},
			{Head: "HOST", Cell: row.GetHost},
			{Head: "STATE", Cell: row.GetState, Paint: func(r row) output.Colour { return stateColour(r.GetState()) }},
			{Head: "FORGOT", Right: true, Cell: func(r row) string { return fmt.Sprint(r.GetBehaviours()) }},
			{Head: "BY", Cell: row.GetOperator},
			{Head: "WHAT", Max: 60, Cell: row.GetWhat},
			{Head: "REASON", Wide: true, Cell: row.GetReason},
			{Head: "FAILURE", Wide: true, Cell: row.GetFailure},
		},
	}
}
