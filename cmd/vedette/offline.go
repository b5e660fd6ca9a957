package main

import (
	"context"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// defaultRelease is how long a release token may be used when nobody says otherwise.
const defaultRelease = 4 * time.Hour

// hostID is a host's id, as opposed to its name: what needs no cluster to be sure of.
var hostID = regexp.MustCompile(`^h-[a-z2-7]{12}$`)

// offlineToken is `release --offline-token`.
type offlineToken struct {
	Token     string     `json:"token"`
	Host      string     `json:"host"`
	Operation string     `json:"operation"`
	Expires   shape.Time `json:"expires"`
}

// offline adds the way to release a host that no coordinator reaches. What concerns
// an order that a coordinator carries has no meaning for it.
func (a *app) offline(c *cobra.Command) *cobra.Command {
	var asked bool
	var ttl time.Duration
	order := c.RunE
	c.RunE = func(cmd *cobra.Command, args []string) error {
		given := cmd.Flags().Changed
		if !asked && !given("ttl") {
			return order(cmd, args)
		}
		return a.connected(func(ctx context.Context, s *session, args []string) error {
			if !asked {
				return usage("--ttl is for --offline-token; a release that a coordinator brings lasts")
			}
			for _, other := range []string{"selector", "file", "incident", "campaign", "all", "dry-run", "wait", "idempotency-key"} {
				if given(other) {
					return usage("--%s has no meaning with --offline-token, which is for one host", other)
				}
			}
			if len(args) != 1 {
				return usage("--offline-token is for exactly one HOST, %d given", len(args))
			}
			reason, err := cmd.Flags().GetString("reason")
			if err != nil {
				return err
			}
			return s.releaseOffline(ctx, args[0], reason, ttl)
		})(cmd, args)
	}
	f := c.Flags()
	f.BoolVar(&asked, "offline-token", false, "print a token with which root of the host releases it: 'vedette-sensor release', without a coordinator")
	f.DurationVar(&ttl, "ttl", defaultRelease, "how long the offline token may be used, at most 24h")
	return c
}

func (s *session) releaseOffline(ctx context.Context, host, reason string, ttl time.Duration) error {
	if ttl < time.Minute || ttl > grant.MaxReleaseTime {
		return usage("--ttl %s: a release token is good for 1m to 24h", ttl)
	}
	if !hostID.MatchString(host) {
		looking, looked := s.limit(ctx)
		defer looked()
		found, err := pick(looking, s, &operatorv1.PreviewOrderRequest{Selector: &operatorv1.Selector{Ids: []string{host}}, Action: sensorv1.Action_ACTION_RELEASE})
		if err != nil {
			s.say("%q is a name, which only the cluster knows: without it, give the host's id, h-…, which its sensor logs at each start", host)
			return err
		}
		if n := len(found.GetHosts()); n != 1 {
			return usage("%q names %d hosts: use the id", host, n)
		}
		host = found.GetHosts()[0].GetId()
	}
	made, err := s.api.ReleaseOffline(host, reason, ttl)
	if err != nil {
		return err
	}
	t := offlineToken{made.Token, host, made.Operation, stamp(made.Expires.UnixNano())}
	err = s.Show(output.Shown{Name: t.Token, Value: t, Page: func(g *output.Page) { g.Title(output.Plain, t.Token) }})
	if err == nil {
		s.say("releases %s and no other host, once, until %s (operation %s)", host, clock(made.Expires.UnixNano()), made.Operation)
		s.say("there, as root: vedette-sensor release --token-file FILE")
	}
	return err
}
