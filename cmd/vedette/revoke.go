package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/revocation"
)

// operatorRow is `operator list`.
type operatorRow struct {
	Operator  string     `json:"operator"`
	Role      string     `json:"role"`
	State     string     `json:"state"`
	Expires   shape.Time `json:"expires"`
	MadeBy    string     `json:"made_by"`
	FirstSeen shape.Time `json:"first_seen"`
	RevokedAt shape.Time `json:"revoked_at"`
	RevokedBy string     `json:"revoked_by"`
	Reason    string     `json:"reason"`
	// MakerRevoked: that certificate counts for nothing, since who signed it is revoked.
	MakerRevoked bool `json:"made_by_revoked"`
}

func (a *app) operatorListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the operators that the cluster has seen, and those who were revoked",
		Long: `Lists operators. Making one asks no cluster, so one who never came is not here, and can be
revoked all the same. MADE BY is whose authority signed them; empty: the root. Whom a
revoked admin made is refused too.`,
		Example: "  vedette operator list\n  vedette operator list -o json | jq '.[] | select(.state == \"revoked\")'",
		Args:    none,
		RunE: a.listing(func(ctx context.Context, s *session, _ []string) error {
			rows, _, err := s.api.Operators(ctx)
			if err != nil {
				return err
			}
			type row = *operatorv1.OperatorRow
			gone := revokedOf(rows)
			_, err = output.Print(s.Printer, output.List[row]{
				Name:  row.GetName,
				Value: func(o row) any { return fromOperator(o, gone) },
				Columns: []output.Column[row]{
					{Head: "OPERATOR", Cell: row.GetName},
					{Head: "ROLE", Cell: row.GetRole},
					{Head: "STATE", Cell: operatorState},
					{Head: "EXPIRES", Cell: func(o row) string { return clock(o.GetNotAfter()) }},
					{Head: "MADE BY", Cell: func(o row) string {
						if gone[o.GetMadeBy()] {
							return o.GetMadeBy() + ", revoked"
						}
						return o.GetMadeBy()
					}},
					{Head: "REVOKED BY", Cell: row.GetRevokedBy},
					{Head: "REASON", Wide: true, Cell: row.GetReason},
				},
			}, output.Rows(rows))
			return err
		}),
	}
}

func operatorState(o *operatorv1.OperatorRow) string {
	switch {
	case o.GetRevokedAt() != 0:
		return "revoked"
	case o.GetNotAfter() != 0 && o.GetNotAfter() < time.Now().UnixNano():
		return "expired"
	}
	return "active"
}

// revokedOf are the names of those who are revoked.
func revokedOf(rows []*operatorv1.OperatorRow) map[string]bool {
	gone := map[string]bool{}
	for _, o := range rows {
		if o.GetRevokedAt() != 0 {
			gone[o.GetName()] = true
		}
	}
	return gone
}

// madeBy are those of rows who are refused because one of names made them: their newest
// certificate is by one of those, and they are not revoked themselves.
func madeBy(rows []*operatorv1.OperatorRow, names []string) (made []string) {
	for _, o := range rows {
		if slices.Contains(names, o.GetMadeBy()) && !slices.Contains(names, o.GetName()) && o.GetRevokedAt() == 0 {
			made = append(made, o.GetName())
		}
	}
	slices.Sort(made)
	return made
}

func fromOperator(o *operatorv1.OperatorRow, gone map[string]bool) operatorRow {
	return operatorRow{o.GetName(), o.GetRole(), operatorState(o), stamp(o.GetNotAfter()), o.GetMadeBy(), stamp(o.GetFirstSeen()), stamp(o.GetRevokedAt()), o.GetRevokedBy(), o.GetReason(), gone[o.GetMadeBy()]}
}

func (a *app) operatorRevokeCommand() *cobra.Command {
	var reason string
	var yes bool
	c := &cobra.Command{
		Use:   "revoke NAME...",
		Short: "end what a person may ask and order, at nodes and hosts",
		Long: `Signs a list of who is no operator any more with your key, on this machine, and gives it
to every node and every sensor. It takes an admin.

From then on nodes refuse them, watches that they have open end, the log takes no order that
they signed, and hosts honour no grant of theirs, whoever brings it. The same goes for
everybody whom they made an operator. What they ordered before goes on to the end of its lease.

A name is revoked for good, with every certificate that it has: a person who is to go on
gets a context with another name. A name that the cluster has never seen can be revoked.
Those whom a revoked admin made keep their names: another admin makes them anew.

Nobody revokes themselves, so that an admin is always left: with the root's file another one is
made ('vedette operator create NAME --role admin --root FILE') to revoke the last. Whoever has the
root's key can make operators of any name: no list ends that, so take it offline.`,
		Example: "  vedette operator revoke bob --reason \"left the company\"\n  vedette operator revoke bob --reason \"laptop stolen\" --yes",
		Args:    cobra.MinimumNArgs(1),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usage("--reason is needed: the next person will ask why")
			}
			looking, looked := s.limit(ctx)
			rows, before, err := s.api.Operators(looking)
			looked()
			if err != nil {
				return err
			}
			known := revocation.Names(before)
			args = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(args))), func(name string) bool {
				_, already := known[name]
				if already {
					s.say("%s is revoked already", name)
				}
				return already
			})
			if len(args) == 0 {
				return nil
			}
			list, err := s.api.NewRevocations(args, before)
			if err != nil {
				return usage("%w", err)
			}
			for _, name := range args {
				made := 0
				seen := "never seen by this cluster"
				for _, o := range rows {
					if o.GetMadeBy() == name {
						made++
					}
					if o.GetName() == name {
						seen = o.GetRole()
					}
				}
				s.say("  %s  %s, and %s made by them", name, seen, plural(made, "operator"))
			}
			if !yes {
				tty, ok := s.terminal()
				if !ok {
					return usage("nobody can be asked here (no terminal): repeat with --yes to revoke %s", strings.Join(args, ", "))
				}
				defer func() { _ = tty.Close() }()
				if err := ask(ctx, tty, "About to revoke "+strings.Join(args, ", ")+" for good. Type yes to go on: ", "yes"); err != nil {
					return err
				}
			}
			ctx, cancel := s.limit(ctx)
			defer cancel()
			if err := s.api.Revoke(ctx, list, reason); err != nil {
				return err
			}
			s.say("revoked %s; connected hosts have the list in a moment, others with their next session", strings.Join(args, ", "))
			if made := madeBy(rows, args); len(made) > 0 {
				s.say("refused with them, since they made them: %s; who is to go on is made anew by another admin, under the same name ('vedette operator create')", strings.Join(made, ", "))
			}
			return s.saySigned(ctx, args)
		}),
	}
	c.Flags().StringVar(&reason, "reason", "", "why; it is recorded")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// saySigned names what stays in force of those who were revoked, for somebody else to sign.
func (s *session) saySigned(ctx context.Context, names []string) error {
	in, _, err := s.api.IntentInForce(ctx, client.Mark{})
	if err != nil && !errors.Is(err, client.ErrIntentChain) {
		return err
	}
	if in != nil && slices.Contains(names, in.Signer) {
		s.say("the intent in force was signed by %s: hosts that hold it keep it, others do not take it; apply it again", in.Signer)
	}
	_, signed, err := s.api.MembersAndSigned(ctx)
	if err != nil {
		return err
	}
	if list, err := s.api.VerifyNodes(signed); err == nil && slices.Contains(names, list.GetOperator()) {
		s.say("the list of nodes was signed by %s: run 'vedette cluster sign-nodes'", list.GetOperator())
	}
	return nil
}

func (a *app) hostRemoveCommand() *cobra.Command {
	var reason string
	var yes bool
	c := &cobra.Command{
		Use:   "remove HOST",
		Short: "end a host's identity: its sensor is refused, for good",
		Long: `Ends a host's identity: its session is closed at whatever node has it, later ones and
renewals are refused, and its key enrols no more. The host leaves the lists; what was
found on it and what was ordered stays. To have the machine back, enrol it anew.

It does not change the machine: what is in force there, as an isolation, ends with its lease.
Release it before, or make a release token for it ('vedette release --offline-token').`,
		Example:           "  vedette host remove web1 --reason \"machine stolen\"",
		Args:              exactly("HOST"),
		ValidArgsFunction: a.completeHosts,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usage("--reason is needed: the next person will ask why")
			}
			looking, looked := s.limit(ctx)
			found, err := s.api.Host(looking, args[0])
			looked()
			if err != nil {
				return err
			}
			host := found.GetHost()
			if isolated := host.GetIsolation(); isolated != "" && isolated != "none" {
				s.say("its isolation is %s: the cluster can release it no more once it is removed", isolated)
			}
			if !yes {
				tty, ok := s.terminal()
				if !ok {
					return usage("nobody can be asked here (no terminal): repeat with --yes to remove %s (%s)", host.GetId(), host.GetName())
				}
				defer func() { _ = tty.Close() }()
				if err := ask(ctx, tty, "About to remove "+host.GetName()+" ("+host.GetId()+") for good. Type its id to go on: ", host.GetId()); err != nil {
					return err
				}
			}
			ctx, cancel := s.limit(ctx)
			defer cancel()
			if _, err := s.api.RemoveHost(ctx, host.GetId(), reason); err != nil {
				return err
			}
			s.say("removed %s (%s)", host.GetId(), host.GetName())
			return nil
		}),
	}
	c.Flags().StringVar(&reason, "reason", "", "why; it is recorded")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}
