package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// maxTokenLife is the coordinator's bound, said here before it refuses.
const maxTokenLife = time.Hour

// token is `token create`.
type token struct {
	Token   string     `json:"token"`
	Kind    string     `json:"kind"`
	Expires shape.Time `json:"expires"`
}

func (a *app) tokenCommand() *cobra.Command {
	return noun("token", "single-use tokens that let a host or a node join", "  vedette token create", a.tokenCreateCommand())
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var forNode bool
	var ttl time.Duration
	var given []string
	c := &cobra.Command{
		Use:   "create",
		Short: "make a token, good for one host or node",
		Long: `Makes a token, prints it once and keeps only its hash. It lets one host enrol, or with
--node one coordinator node join, and is of no use afterwards.`,
		Example: `  vedette token create --label role=web
  vedette-sensor enroll --coordinator node1:7443 --token "$(vedette token create)"
  vedette token create --node --ttl 10m`,
		Args: none,
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			if ttl < time.Second || ttl > maxTokenLife {
				return usage("--ttl %s: a token lives from 1s to %s", ttl, maxTokenLife)
			}
			kind := "sensor"
			if forNode {
				kind = "node"
			}
			labels := map[string]string{}
			for _, l := range given {
				key, value, ok := strings.Cut(l, "=")
				if !ok || key == "" {
					return usage("label %q is not of the form key=value", l)
				}
				labels[key] = value
			}
			if forNode && len(labels) > 0 {
				return usage("--label is for hosts: a node has none")
			}
			res, err := s.api.CreateToken(ctx, &operatorv1.CreateTokenRequest{
				Kind: kind, TtlSeconds: uint64(ttl / time.Second), Labels: labels,
			})
			if err != nil {
				return err
			}
			t := token{res.GetToken(), kind, stamp(res.GetExpires())}
			err = s.Show(output.Shown{Name: t.Token, Value: t, Page: func(g *output.Page) { g.Title(output.Plain, t.Token) }})
			if err == nil {
				s.say("good for one %s until %s", map[bool]string{true: "node", false: "host"}[forNode], clock(res.GetExpires()))
			}
			return err
		}),
	}
	f := c.Flags()
	f.BoolVar(&forNode, "node", false, "for a coordinator node, not a host")
	f.DurationVar(&ttl, "ttl", maxTokenLife, "how long it may wait to be used, at most 1h")
	f.StringSliceVar(&given, "label", nil, "key=value, given to the host that enrols with it")
	return c
}
