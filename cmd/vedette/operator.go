package main

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operator"
)

// madeOperator is `operator create`.
type madeOperator struct {
	Operator  string     `json:"operator"`
	Role      string     `json:"role"`
	ClusterID string     `json:"cluster_id"`
	Expires   shape.Time `json:"expires"`
	Authority bool       `json:"authority"`
	File      string     `json:"file"`
}

func (a *app) operatorCommand() *cobra.Command {
	return noun("operator", "people who may ask and order", "  vedette operator create bob --role responder", a.operatorCreateCommand(), a.operatorListCommand(), a.operatorRevokeCommand())
}

func (a *app) operatorCreateCommand() *cobra.Command {
	var role, out string
	var ttl time.Duration
	var nodes []string
	var without bool
	root := &rootFile{}
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "make a person's context file, with the authority in this one",
		Long: `Makes a key and a certificate for a person and writes them to a context file of mode
0600, which they take over with 'vedette config import'. No cluster is asked: nodes and
hosts know an operator by the operators' authority, whose key is in admins' contexts and
on no node. Give the file to that person by a way that nobody else can read.

Roles: viewer reads; hunter also closes incidents; responder also isolates and releases;
admin also makes tokens and removes nodes. An admin whom the root makes gets an authority of
their own, so that they can make operators too, but no admin who can; every certificate's
chain shows who made its holder. The root's key is in the first admin's context, or in the file
that it was taken offline to: --root FILE signs with it, in memory only, and works without any
context too.

An operator is taken back with 'vedette operator revoke'. A host that no node reaches cannot
hear of that, and honours what a person carries to it: --ttl says until when at most.`,
		Example: `  vedette operator create bob --role responder
  vedette operator create ann --role admin --ttl 2160h --out /media/stick/ann.context.yaml
  vedette operator create ann --role admin --root /media/stick/prod.root
  vedette operator create vic --node node1:7444 --node node2:7444`,
		Args: exactly("NAME"),
		RunE: bare(func(ctx context.Context, args []string) error {
			if out == "" {
				out = args[0] + ".context.yaml"
			}
			return a.createOperator(ctx, root, client.NewOperator{
				Name: args[0], Role: role, Lifetime: ttl, Nodes: nodes, Authority: role == operator.RoleAdmin && !without,
			}, out)
		}),
	}
	f := c.Flags()
	f.StringVar(&role, "role", operator.RoleViewer, "viewer, hunter, responder or admin")
	f.StringVar(&out, "out", "", "`file` to write, which must not exist (default NAME.context.yaml)")
	f.DurationVar(&ttl, "ttl", operator.Lifetime, "how long the person is an operator, at most 8760h")
	f.StringSliceVar(&nodes, "node", nil, "operator `addresses` of nodes for the new context (default: those known here)")
	f.BoolVar(&without, "without-authority", false, "an admin who makes no operators")
	root.flags(c)
	completeWords(c, "role", operator.RoleViewer, operator.RoleHunter, operator.RoleResponder, operator.RoleAdmin)
	return c
}

func (a *app) createOperator(ctx context.Context, root *rootFile, o client.NewOperator, out string) error {
	mine, err := a.context()
	if errors.Is(err, client.ErrNoContext) && root.path != "" && !a.named() {
		mine, err = a.contextOfRoot(ctx, root)
	} else if err == nil {
		err = a.useRoot(ctx, root, mine)
	}
	if err != nil {
		return err
	}
	p, err := a.printer(mine.Output)
	if err != nil {
		return err
	}
	mine.Nodes = remembered(mine.ClusterID, mine.Nodes)
	made, err := mine.NewOperator(o)
	switch {
	case errors.Is(err, client.ErrNoAuthority):
		return exit(exitDenied, "%w", err)
	case errors.Is(err, operator.ErrMayNotDelegate):
		return exit(exitDenied, "%w: give the file with its key by --root FILE, or make %s an admin who makes no operators by --without-authority", err, o.Name)
	case err != nil:
		return usage("%w", err)
	}
	err = made.WriteNew(out)
	if errors.Is(err, fs.ErrExist) {
		return usage("%s exists, and may be somebody's only key: choose another file with --out", out)
	}
	if err != nil {
		return err
	}
	expires, err := made.Expires()
	if err != nil {
		return err
	}
	shown := madeOperator{made.Operator, made.Role, made.ClusterID, stamp(expires.UnixNano()), made.AuthorityKey != "", out}
	err = p.Show(output.Shown{Name: out, Value: shown, Page: func(g *output.Page) { g.Title(output.Plain, out) }})
	if err == nil {
		what := ""
		if shown.Authority {
			what = ", with authority to make operators"
		}
		a.say("made %s %s, until %s%s", made.Role, made.Operator, clock(expires.UnixNano()), what)
		a.say("the file is their key: hand it over unseen, and delete it here; they run 'vedette config import FILE'")
		if ends, soon := ownAuthorityEnds(mine, a.now()); soon && root.path == "" {
			a.say("%s", ends)
		}
	}
	return err
}

// contextOfRoot is what a root's file says of its cluster, when there is no context.
func (a *app) contextOfRoot(ctx context.Context, root *rootFile) (*client.Context, error) {
	file, err := root.parse()
	if err != nil {
		return nil, err
	}
	k, err := a.openRoot(ctx, root, file)
	if err != nil {
		return nil, err
	}
	c, err := client.ContextOf(k)
	if err == nil {
		a.say("there is no context here: going by what the file says, cluster %s with root %s; compare the name with the one that was noted", k.ClusterID, file.Root)
	}
	return c, err
}
