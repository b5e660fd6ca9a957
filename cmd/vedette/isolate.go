package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// defaultLease is how long an isolation lasts when nobody says otherwise.
const defaultLease = 4 * time.Hour

// order is the command line of an isolation or a release.
type order struct {
	action    sensorv1.Action
	verb      string // isolate, release
	selection selection
	reason    string
	ttl       time.Duration
	level     string
	undoes    string
	target    *sensorv1.Target
	ask       bool // the hosts what they would do
	key       string
	dryRun    bool
	yes       bool
	wait      bool
}

func (a *app) isolateCommand() *cobra.Command {
	o := &order{action: sensorv1.Action_ACTION_ISOLATE, verb: "isolate"}
	c := &cobra.Command{
		Use:   "isolate HOST...",
		Short: "cut hosts off the network, by a lease that ends",
		Long: `Cuts hosts off: IPv4, IPv6, containers and raw sockets, in and out, established
connections too. Loopback, ARP and ND, DHCP and the sensor's way to the coordinator
stay open. A host proves to itself that it is cut and that it can still be released,
or reverts with the reason. The lease ends by itself.

First you see which hosts it would be and who depends on them. Above the governor's
caps (by default 1 % of the fleet and at least 3 hosts in ten minutes, 5 % in a day,
of each role as well) a second operator must sign: vedette approve OPERATION.

Each host gets one result: applied, pending (not yet heard of, the order stands until
the lease would end), refused or failed. Without --wait the results are those of now.
Ctrl-C during --wait only stops waiting.`,
		Example: `  vedette isolate web1 --reason "incident inc-abcdefghijkl" --wait
  vedette isolate --incident inc-abcdefghijkl --reason "contain" --ttl 2h --yes --wait
  vedette isolate -l role=web --dry-run
  vedette host list -l role=web -o name | vedette isolate - --reason "…" --yes`,
		RunE: a.connected(o.run),
	}
	c.Flags().DurationVar(&o.ttl, "ttl", defaultLease, "how long, at most 24h; then the host is released by itself")
	c.Flags().StringVar(&o.level, "level", "full", "full: everything; egress-only: nothing leaves, what comes in is received; jump: all but what the intent opens to a jump host")
	completeWords(c, "level", "full", "egress-only", "jump")
	o.flags(a, c)
	return c
}

func (a *app) releaseCommand() *cobra.Command {
	o := &order{action: sensorv1.Action_ACTION_RELEASE, verb: "release"}
	c := &cobra.Command{
		Use:   "release HOST...",
		Short: "give isolated hosts their network back",
		Long: `Ends the isolation of hosts. Each gets one result: applied (the network is back),
pending, refused or failed.`,
		Example: `  vedette release web1 --reason "cleaned" --wait
  vedette release --incident inc-abcdefghijkl --yes --wait
  vedette release web1 --operation op-abcdefghijkl --reason "false alarm"
  vedette release h-abcdefghijkl --offline-token --reason "its link is dead" >token.txt`,
		RunE: a.connected(o.run),
	}
	c.Flags().StringVar(&o.undoes, "operation", "", "end what this operation contained (see vedette contain), and not the isolation")
	o.flags(a, c)
	return a.offline(c)
}

func (o *order) flags(a *app, c *cobra.Command) {
	c.Args = cobra.ArbitraryArgs
	c.ValidArgsFunction = a.completeHosts
	o.selection.flags(c)
	f := c.Flags()
	f.StringVar(&o.reason, "reason", "", "why, for the record and for whoever finds the host cut off")
	f.BoolVar(&o.dryRun, "dry-run", false, "show which hosts it would be, and do nothing")
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&o.wait, "wait", false, "wait until every host has answered, or --timeout is over")
	f.StringVar(&o.key, "idempotency-key", "", "a repeated command with the same key gives no second order")
}

func (o *order) run(ctx context.Context, s *session, args []string) error {
	if o.leased() && (o.ttl < time.Second || o.ttl > client.MaxLease) {
		return usage("--ttl %s: it must be from 1s to 24h; %s again when it must be longer", o.ttl, o.verb)
	}
	level, known := grant.Level(first(o.level, "full"))
	if !known {
		return usage("--level %q: use full, egress-only or jump", o.level)
	}
	selector, err := o.selection.required(s.stdin, args)
	if err != nil {
		return err
	}
	looking, looked := s.limit(ctx)
	seen, err := pick(looking, s, &operatorv1.PreviewOrderRequest{Selector: selector, Action: o.action, Level: level, Target: o.target})
	looked()
	if err != nil {
		return err
	}
	hosts := seen.GetHosts()
	if o.dryRun {
		results := make([]result, len(hosts))
		for i, h := range hosts {
			results[i] = o.planned(h)
		}
		if err := printResults(s, results); err != nil {
			return err
		}
		blast(s, seen)
		s.say("would %s", o.what(len(hosts)))
		s.say("dry run: nothing was done")
		return nil
	}
	if err := o.confirm(ctx, s, seen); err != nil {
		return err
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	ids := make([]string, len(hosts))
	for i, h := range hosts {
		ids[i] = h.GetId()
	}
	given, err := s.api.Give(ctx, client.Order{
		Action: o.action, Hosts: ids, Lease: o.ttl.Truncate(time.Second), Reason: o.reason, Key: o.key,
		Level: level, Target: o.target, Undoes: o.undoes, Preview: o.ask, Seen: seen,
	})
	if err != nil {
		return err
	}
	operation := given.GetOperation()
	s.say("operation %s: %s", operation, o.what(len(hosts)))
	if missing := int(given.GetApprovalsMissing()); missing > 0 {
		s.say("nothing is done yet: it waits for %s to run: vedette approve %s", plural(missing, "more operator"), operation)
	}
	return o.follow(ctx, s, operation, hosts)
}

// leased says whether what is ordered ends by itself.
func (o *order) leased() bool {
	return o.action != sensorv1.Action_ACTION_RELEASE && o.action != sensorv1.Action_ACTION_KILL
}

// pick resolves the selection and refuses what is not exactly what was named.
func pick(ctx context.Context, s *session, req *operatorv1.PreviewOrderRequest) (*operatorv1.PreviewOrderResponse, error) {
	res, err := s.api.PreviewOrder(ctx, req)
	if err != nil {
		return nil, err
	}
	absent, err := missing(req.GetSelector().GetIds(), res.GetHosts())
	if err != nil {
		return nil, err
	}
	if len(absent) > 0 {
		return nil, exit(exitNotFound, "no such host: %s; nothing was done", strings.Join(absent, ", "))
	}
	if len(res.GetHosts()) == 0 {
		return nil, exit(exitNotFound, "the selection matches no host; nothing was done")
	}
	return res, nil
}

// blast says what else an order touches, and what the governor wants for it.
func blast(s *session, seen *operatorv1.PreviewOrderResponse) {
	if n := len(seen.GetProtected()); n > 0 {
		s.say("protected by the intent, and named all the same: %s", strings.Join(seen.GetProtected()[:min(n, 5)], ", ")+more(n, 5))
	}
	const shown = 10
	if n := len(seen.GetDependents()) + int(seen.GetDependentsMore()); n > 0 {
		s.say("who uses these hosts, by their flow baselines:")
		for i, d := range seen.GetDependents() {
			if i == shown {
				s.say("  … and %d more", n-shown)
				break
			}
			s.say("  %s", strings.Join(fields(first(d.GetName(), d.GetHost()), "→ "+d.GetOn(), d.GetService(), plural(int(d.GetFlows()), "flow"), labels(d.GetLabels())), "  "))
		}
	}
	for _, cap := range seen.GetCaps() {
		s.say("above a cap: %s", cap)
	}
	if seen.GetApprovals() > 1 {
		s.say("%d operators must sign this", seen.GetApprovals())
	}
}

func more(n, shown int) string {
	if n <= shown {
		return ""
	}
	return fmt.Sprintf(" and %d more", n-shown)
}

// confirm asks a person, or wants --yes where there is none.
func (o *order) confirm(ctx context.Context, s *session, seen *operatorv1.PreviewOrderResponse) error {
	hosts := seen.GetHosts()
	if o.yes {
		blast(s, seen)
		return nil
	}
	tty, ok := s.terminal()
	if !ok {
		return usage("nobody can be asked here (no terminal): repeat with --yes to %s, or look first with --dry-run",
			o.what(len(hosts)))
	}
	defer func() { _ = tty.Close() }()
	const shown = 20
	for i, h := range hosts {
		if i == shown {
			s.say("  … and %d more", len(hosts)-shown)
			break
		}
		s.say("  %s", strings.Join(fields(h.GetId(), h.GetName(), h.GetAddress(), h.GetState(), labels(h.GetLabels())), "  "))
	}
	blast(s, seen)
	want, how := "yes", "yes"
	if len(hosts) > 1 {
		want, how = fmt.Sprint(len(hosts)), "the number of hosts"
	}
	return ask(ctx, tty, fmt.Sprintf("About to %s. Type %s to go on: ", o.what(len(hosts)), how), want)
}

// what says the whole of what is ordered: who agrees to it agrees to no more.
func (o *order) what(n int) string {
	hosts := plural(n, "host")
	text := o.verb + " " + hosts
	switch target := targetText(o.target); {
	case o.undoes != "":
		text = "end what operation " + o.undoes + " contained on " + hosts
	case target != "":
		text = o.verb + " " + target + " on " + hosts
	case o.level != "" && o.level != "full":
		text += ", level " + o.level
	}
	if o.ask {
		return text + " (asks only: the hosts say what they would do, and do nothing)"
	}
	if o.leased() {
		text += " for " + o.ttl.String()
	}
	return text
}

// planned is the result of a dry run at one host.
func (o *order) planned(h *operatorv1.Host) result {
	return result{
		Host: h.GetId(), Name: h.GetName(), Action: o.verb, Result: "dry-run",
		Detail: strings.Join(fields(h.GetState(), "isolation "+first(h.GetIsolation(), "none"), targetText(o.target)), ", "),
	}
}

// follow prints what became of the order, at once or after waiting.
func (o *order) follow(ctx context.Context, s *session, operation string, hosts []*operatorv1.Host) error {
	var rows []*operatorv1.Isolation
	var failed error
	if o.wait {
		told := map[string]bool{}
		rows, failed = s.api.Wait(ctx, operation, func(now []*operatorv1.Isolation) {
			o.progress(s, now, told)
		})
	} else {
		res, err := s.api.Operation(ctx, operation)
		if rows, failed = res.GetHosts(), err; err == nil {
			failed = client.Stopped(res.GetOrder()) // by a key that was used before
		}
	}
	if errors.Is(failed, context.Canceled) {
		return exit(exitInterrupted, "stopped waiting; operation %s goes on: vedette isolation watch %s", operation, operation)
	}
	results := o.results(operation, hosts, rows)
	var stopped *client.StoppedError
	if errors.As(failed, &stopped) {
		for i := range results {
			results[i].Result, results[i].Detail = stopped.Order.GetState(), stopped.Order.GetVetoReason()
		}
	}
	if failed != nil && errors.Is(failed, client.ErrTimeout) && len(rows) == 0 {
		s.say("operation %s still waits for another operator: vedette approve %s, or vedette veto %s", operation, operation, operation)
	}
	if err := printResults(s, results); err != nil {
		return err
	}
	if stopped != nil {
		return exit(exitError, "operation %w", stopped)
	}
	if failed != nil && !errors.Is(failed, client.ErrTimeout) {
		return fmt.Errorf("operation %s was given, but what became of it is not known: %w", operation, failed)
	}
	return o.verdict(operation, results, failed != nil)
}

// progress says of every host that has settled since the last time.
func (o *order) progress(s *session, now []*operatorv1.Isolation, told map[string]bool) {
	done := 0
	var fresh []string
	for _, i := range now {
		if !client.Settled(i) {
			continue
		}
		done++
		if !told[i.GetHost()] {
			told[i.GetHost()] = true
			fresh = append(fresh, first(i.GetHostName(), i.GetHost())+" "+outcome(i))
		}
	}
	if len(fresh) > 0 {
		s.say("%d of %d: %s", done, len(now), strings.Join(fresh, ", "))
	}
}

func (o *order) results(operation string, hosts []*operatorv1.Host, rows []*operatorv1.Isolation) []result {
	by := map[string]*operatorv1.Isolation{}
	for _, i := range rows {
		by[i.GetHost()] = i
	}
	results := make([]result, len(hosts))
	for n, h := range hosts {
		r := result{Host: h.GetId(), Name: h.GetName(), Action: o.verb, Operation: operation, Result: "pending"}
		if i := by[h.GetId()]; i != nil {
			r.Result, r.Detail, r.SelfTest = outcome(i), i.GetDetail(), i.GetSelfTest()
			r.AppliedAt, r.LeaseExpires = stamp(i.GetAppliedAt()), stamp(i.GetLeaseExpires())
		}
		if r.Result == "pending" && r.Detail == "" && h.GetState() != "online" && h.GetState() != "blind" {
			r.Detail = "the host is " + h.GetState() + "; the order waits for it"
		}
		results[n] = r
	}
	return results
}
