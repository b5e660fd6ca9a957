package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func (a *app) clusterSignNodesCommand() *cobra.Command {
	var yes, dryRun bool
	var ttl time.Duration
	var given []string
	c := &cobra.Command{
		Use:   "sign-nodes",
		Short: "sign the nodes' addresses, which isolated hosts follow",
		Long: `Shows the addresses of the cluster's nodes beside those that were signed last, asks, signs
them with your key on this machine and gives them to every sensor. It takes an admin.

A host that is isolated reaches the nodes of the newest signed list and no others, whatever
the cluster says of itself: a node that somebody stole could else open it towards an address
of its own. So compare what is shown with what you know, and do not sign what you do not.

Run it after a node was added or moved, before the last node of the old list is taken away,
and after a stolen one was removed. The old nodes stay open to an isolated host until one of
the new list has answered it. Names are looked up here; of a node that hosts reach by other
addresses than its own (address translation), or that is yet to join, --address says them.`,
		Example: `  vedette cluster sign-nodes
  vedette cluster sign-nodes --dry-run
  vedette cluster sign-nodes --address node-1=203.0.113.5:7443 --yes`,
		Args: none,
		RunE: a.connected(func(ctx context.Context, s *session, _ []string) error {
			list, before, err := s.nodesToSign(ctx, given, ttl)
			if err != nil {
				return err
			}
			s.sayNodes(list, before)
			if dryRun {
				s.say("nothing was signed")
				return s.showNodes(list)
			}
			if !yes {
				tty, ok := s.terminal()
				if !ok {
					return usage("nobody can be asked here (no terminal): repeat with --yes to sign these addresses, or look first with --dry-run")
				}
				defer func() { _ = tty.Close() }()
				question := fmt.Sprintf("About to sign %s until %s: no others stay open to isolated hosts. Type yes to go on: ",
					plural(len(list.GetNodes()), "endpoint"), clock(list.GetNotAfter()))
				if err := ask(ctx, tty, question, "yes"); err != nil {
					return err
				}
			}
			ctx, cancel := s.limit(ctx)
			defer cancel()
			if err := s.api.SignNodes(ctx, list); err != nil {
				return err
			}
			s.say("signed; connected sensors have it in a moment, others with their next session")
			return s.showNodes(list)
		}),
	}
	f := c.Flags()
	f.StringSliceVar(&given, "address", nil, "`NODE=IP:PORT`, an address beside those that the nodes advertise")
	f.DurationVar(&ttl, "ttl", client.MaxNodesGood, "how long the list is honoured, at most 8760h; it ends with your certificate at the latest")
	f.BoolVar(&dryRun, "dry-run", false, "show what would be signed, and do nothing")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// nodesToSign makes the list of the members, by address, and of what was given; before
// is the list in force, nil for none.
func (s *session) nodesToSign(ctx context.Context, given []string, ttl time.Duration) (list, before *sensorv1.NodeAddresses, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	members, signed, err := s.api.MembersAndSigned(ctx)
	if err != nil {
		return nil, nil, err
	}
	if before, err = s.api.VerifyNodes(signed); err != nil {
		s.say("%v; this one takes its place", err)
	}
	var nodes []*sensorv1.NodeAddress
	add := func(id string, at netip.AddrPort) {
		node := &sensorv1.NodeAddress{Id: id, Address: netip.AddrPortFrom(at.Addr().Unmap(), at.Port()).String()}
		if !slices.ContainsFunc(nodes, func(n *sensorv1.NodeAddress) bool { return n.GetAddress() == node.GetAddress() && n.GetId() == id }) {
			nodes = append(nodes, node)
		}
	}
	for _, m := range members {
		found, err := resolveNode(ctx, m.GetAddress())
		if err != nil {
			return nil, nil, exit(exitError, "node %s: %w; nothing was signed", m.GetId(), err)
		}
		for _, at := range found {
			add(m.GetId(), at)
		}
	}
	for _, text := range given {
		id, address, _ := strings.Cut(text, "=")
		at, err := netip.ParseAddrPort(address)
		if id == "" || err != nil {
			return nil, nil, usage("--address %s: it is NODE=IP:PORT", text)
		}
		add(id, at)
	}
	list, err = s.api.NewNodes(nodes, ttl, before)
	if errors.Is(err, client.ErrInvalid) {
		return nil, nil, usage("%w", err)
	}
	return list, before, err
}

// resolveNode gives the addresses behind what a node advertises.
func resolveNode(ctx context.Context, address string) ([]netip.AddrPort, error) {
	if literal, err := netip.ParseAddrPort(address); err == nil {
		return []netip.AddrPort{literal}, nil
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("its address %q is no HOST:PORT: %w", address, err)
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, fmt.Errorf("its address %q: %w", address, err)
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("looking up its name: %w", err)
	}
	endpoints := make([]netip.AddrPort, len(found))
	for i, ip := range found {
		endpoints[i] = netip.AddrPortFrom(ip, uint16(port)) //nolint:gosec // LookupPort gives 0..65535
	}
	return endpoints, nil
}

// sayNodes shows what is to be signed beside what was.
func (s *session) sayNodes(list, before *sensorv1.NodeAddresses) {
	has := func(l *sensorv1.NodeAddresses, n *sensorv1.NodeAddress) bool {
		return slices.ContainsFunc(l.GetNodes(), func(o *sensorv1.NodeAddress) bool { return o.GetId() == n.GetId() && o.GetAddress() == n.GetAddress() })
	}
	for _, n := range list.GetNodes() {
		what := "new"
		if has(before, n) {
			what = "as signed"
		}
		s.say("  %s  %s  %s", n.GetId(), n.GetAddress(), what)
	}
	for _, n := range before.GetNodes() {
		if !has(list, n) {
			s.say("  %s  %s  no longer", n.GetId(), n.GetAddress())
		}
	}
}

func (s *session) showNodes(list *sensorv1.NodeAddresses) error {
	return s.Show(output.Shown{Name: list.GetClusterId(), Value: shape.FromSignedNodes(list), Page: func(g *output.Page) {
		for _, n := range list.GetNodes() {
			g.Field("node "+n.GetId(), n.GetAddress())
		}
		g.Field("until", clock(list.GetNotAfter()))
	}})
}

// lackingNodes are the ids of the members that a signed list does not name at their address.
func lackingNodes(list *sensorv1.NodeAddresses, members []*operatorv1.Member) (ids []string) {
	for _, m := range members {
		if !nodelist.Covers(list, m.GetId(), m.GetAddress()) {
			ids = append(ids, m.GetId())
		}
	}
	return ids
}

func namesNode(list *sensorv1.NodeAddresses, id string) bool {
	return slices.ContainsFunc(list.GetNodes(), func(n *sensorv1.NodeAddress) bool { return n.GetId() == id })
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}
