package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func (a *app) hostCommand() *cobra.Command {
	return noun("host", "the hosts that sensors watch", "  vedette host list -l role=web\n  vedette host show web1",
		a.hostListCommand(), a.hostShowCommand(), a.hostHistoryCommand(), a.hostRemoveCommand())
}

// hostStates are the words for what a host is like now.
var hostStates = []string{"online", "blind", "silent", "stopped", "never-seen"}

func (a *app) hostListCommand() *cobra.Command {
	var sel selection
	var limit int
	var state string
	c := &cobra.Command{
		Use:   "list [HOST...]",
		Short: "list hosts, all of them when none is selected",
		Long: `Lists hosts. LOST counts every event that a sensor did not see or could not keep;
-o wide says why, 'host show' what it means.`,
		Example: `  vedette host list
  vedette host list -l role=web -o wide
  vedette host list --limit 20
  vedette host list --state stopped
  vedette host list -o json | jq '.[] | select(.events_lost > 0)'
  vedette host list -l role=web -o name | vedette isolate - --reason "…"`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.completeHosts,
		RunE: a.listing(func(ctx context.Context, s *session, args []string) error {
			if state != "" && !slices.Contains(hostStates, state) {
				return usage("--state %q: use online, blind, silent, stopped or never-seen", state)
			}
			selector, err := sel.resolve(s.stdin, args)
			if err != nil {
				return err
			}
			size := page(limit)
			if state != "" {
				size = 0 // most may be of another state
			}
			absent := make(map[string]bool)
			for _, id := range selector.GetIds() {
				absent[id] = true
			}
			rows := func(yield func(*operatorv1.Host, error) bool) {
				for h, err := range s.api.Hosts(ctx, selector, size) {
					delete(absent, h.GetId())
					delete(absent, h.GetName())
					if err == nil && state != "" && h.GetState() != state {
						continue
					}
					if !yield(h, err) {
						return
					}
				}
			}
			n, err := output.Print(s.Printer, a.hostTable(), head(rows, limit))
			if err != nil {
				return err
			}
			if len(absent) > 0 && (limit <= 0 || n < limit) {
				return exit(exitNotFound, "no such host: %s", strings.Join(slices.Sorted(maps.Keys(absent)), ", "))
			}
			if n == 0 && state != "" && s.Human() {
				s.say("no hosts are %s", state)
			} else if n == 0 && s.Human() {
				s.say("no hosts: make a token with 'vedette token create' and run 'vedette-sensor enroll' on a host")
			}
			return nil
		}),
	}
	sel.flags(c)
	c.Flags().StringVar(&state, "state", "", "only those that are online, blind, silent, stopped or never-seen")
	completeWords(c, "state", hostStates...)
	limitFlag(c, &limit)
	return c
}

func (a *app) hostTable() output.List[*operatorv1.Host] {
	type host = *operatorv1.Host
	return output.List[host]{
		Name:  host.GetId,
		Value: func(h host) any { return shape.FromHost(h) },
		Columns: []output.Column[host]{
			{Head: "ID", Cell: host.GetId},
			{Head: "NAME", Cell: host.GetName, Max: 32},
			{Head: "ADDRESS", Cell: host.GetAddress, Wide: true},
			{Head: "STATE", Cell: host.GetState, Paint: func(h host) output.Colour { return stateColour(h.GetState()) }},
			{Head: "ISOLATION", Cell: host.GetIsolation, Paint: func(h host) output.Colour { return stateColour(h.GetIsolation()) }},
			{Head: "SEEN", Cell: func(h host) string { return a.ago(h.GetLastSeen()) }},
			{Head: "EVENTS", Right: true, Cell: func(h host) string { return number(h.GetEventsTotal()) }},
			{Head: "SUPPRESSED", Right: true, Wide: true, Cell: func(h host) string { return number(h.GetEventsSuppressed()) }},
			{Head: "LOST", Right: true, Cell: func(h host) string { return number(h.GetEventsLost()) }, Paint: lossColour},
			{Head: "BASELINE", Cell: func(h host) string { return learnt(h.GetBaseline()) }},
			{Head: "LABELS", Wide: true, Cell: func(h host) string { return labels(h.GetLabels()) }},
			{Head: "VERSION", Wide: true, Cell: host.GetSensorVersion},
			{Head: "NODE", Wide: true, Cell: host.GetNode},
			{Head: "LOSSES", Wide: true, Cell: func(h host) string { return losses(h.GetLosses()) }},
		},
	}
}

func lossColour(h *operatorv1.Host) output.Colour {
	if h.GetEventsLost() > 0 {
		return output.Red
	}
	return output.Plain
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// learnt is how far a baseline is, in a few words.
func learnt(b *sensorv1.BaselineState) string {
	if b == nil {
		return "none"
	}
	word := "known"
	if b.GetLearning() {
		word = "learning"
	}
	return fmt.Sprintf("%s %.0f%%, %d of %d", word, 100*b.GetConfidence(), b.GetKnown(), b.GetBehaviours())
}

func labels(m map[string]string) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, key+"="+m[key])
	}
	return strings.Join(parts, ",")
}

func losses(in []*sensorv1.Loss) string {
	var parts []string
	for _, l := range in {
		if l.GetCount() > 0 {
			parts = append(parts, fmt.Sprintf("%s/%s %d", l.GetWhere(), l.GetCause(), l.GetCount()))
		}
	}
	return strings.Join(parts, ", ")
}

func (a *app) hostShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show HOST",
		Short:             "show one host: health, losses, blind spots, what is new",
		Example:           "  vedette host show web1\n  vedette host show h-abcdefghijkl -o json | jq .losses",
		Args:              exactly("HOST"),
		ValidArgsFunction: a.completeHosts,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			res, err := s.api.Host(ctx, args[0])
			if err != nil {
				return err
			}
			return s.Show(output.Shown{
				Name: res.GetHost().GetId(), Value: shape.FromHostDetail(res),
				Page: func(g *output.Page) { a.hostPage(g, res) },
			})
		}),
	}
}

func (a *app) hostPage(g *output.Page, res *operatorv1.GetHostResponse) {
	h := res.GetHost()
	facts, health := h.GetFacts(), h.GetHealth()
	title := fmt.Sprintf("%s (%s) is %s", first(h.GetName(), h.GetId()), h.GetId(), h.GetState())
	if i := h.GetIsolation(); i != "" && i != "none" {
		title += ", isolation " + i
	}
	g.Title(stateColour(h.GetState()), title)
	g.Field("address", h.GetAddress())
	g.Field("addresses", strings.Join(facts.GetAddresses(), " "))
	g.Field("system", strings.Join(fields(facts.GetOs(), facts.GetKernel(), facts.GetArch()), ", "))
	g.Field("labels", labels(h.GetLabels()))
	g.Field("scope", facts.GetScope())
	g.Field("sensor", h.GetSensorVersion())
	g.Field("last seen", clock(h.GetLastSeen())+", "+a.ago(h.GetLastSeen())+byNode(h.GetNode()))
	g.Field("enrolled", clock(h.GetEnrolledAt()))

	if health.GetBlind() {
		g.Painted(output.Red, "blind", "the sensor does not see: "+first(health.GetBlindReason(), "it does not say why"))
	}
	if h.GetTwoPlaces() != "" {
		g.Painted(output.Red, "identity", fmt.Sprintf("used in two places at once, %s: see 'vedette finding show %s'", a.ago(h.GetTwoPlacesAt()), h.GetTwoPlaces()))
	}
	if how := ended(h); how != "" {
		g.Field("ended", how)
	}

	g.Section("Baseline")
	b := h.GetBaseline()
	g.Field("learnt", fmt.Sprintf("%d of %d behaviours are known, confidence %.0f %%", b.GetKnown(), b.GetBehaviours(), 100*b.GetConfidence()))
	if b.GetLearning() {
		g.Painted(output.Yellow, "learning", "yes: what is merely new is no finding yet")
	}

	g.Section("What the sensor saw")
	g.Field("events", fmt.Sprintf("%d, of which %d known and only counted", h.GetEventsTotal(), h.GetEventsSuppressed()))
	g.Painted(lossColour(h), "lost", number(h.GetEventsLost()))
	for _, l := range h.GetLosses() {
		if l.GetCount() > 0 {
			g.Painted(output.Red, "  "+l.GetWhere(), fmt.Sprintf("%d, %s", l.GetCount(), l.GetCause()))
		}
	}
	if n := health.GetDroppedRecords(); n > 0 {
		g.Painted(output.Red, "dropped records", fmt.Sprintf("%d: its spool was full while the coordinator was away", n))
	}
	g.Field("spool", fmt.Sprintf("%s in %d records not yet acknowledged", size(health.GetSpoolBytes()), health.GetSpoolRecords()))
	g.Field("memory", size(health.GetRssBytes()))
	g.Field("cpu", time.Duration(health.GetCpuNs()).Round(time.Millisecond).String()+" in its last window")

	if lines := health.GetDegraded(); len(lines) > 0 {
		g.Section("What it leaves out to stay in its budget")
		for _, l := range lines {
			g.Item(l)
		}
	}
	g.Section("Coverage")
	if gaps := shape.Gaps(h); len(gaps) > 0 {
		g.Text("The kernel or the set-up there leaves these gaps:")
		for _, gap := range gaps {
			g.Item(gap)
		}
	} else if health != nil {
		g.Text("The sensor knows of no gap there.")
	} else {
		g.Text("Not told yet.")
	}
	if rows := res.GetBehaviours(); len(rows) > 0 {
		g.Section("Newest behaviours")
		for _, row := range rows {
			g.Line(0, output.Plain, behaviourLine(row))
		}
	}
	g.Section("Next")
	hostNext(g, h)
}

func behaviourLine(row *operatorv1.BehaviourRow) string {
	b := row.GetBehaviour()
	known := "new"
	if row.GetKnown() {
		known = "known"
	}
	return fmt.Sprintf("%-6s %-5s %s → %s, %s, on %s, last %s",
		shape.Kind(b.GetKind()), known, b.GetSubject(), b.GetObject(), plural(int(row.GetCount()), "time"), plural(int(row.GetHosts()), "host"), clock(row.GetLastSeen()))
}

func hostNext(g *output.Page, h *operatorv1.Host) {
	name := handle(h.GetId(), h.GetName())
	switch h.GetState() {
	case "blind":
		g.Try("The sensor does not see there. If nobody on that host did it, take it for an attack", "journalctl -u vedette-sensor")
	case "stopped":
		g.Try("Its sensor was stopped in an orderly way; start it again there", "systemctl start vedette-sensor")
	case "silent":
		g.Try("The host is silent: it may be down, cut off, or its sensor killed. Check it by another way in", "systemctl status vedette-sensor")
	case "never-seen":
		g.Try("It enrolled but never reported. On the host", "journalctl -u vedette-sensor")
	}
	switch h.GetIsolation() {
	case "applied":
		g.Try("It is isolated; give it back", "vedette release "+name)
	case "pending":
		g.Try("An order for it is not carried out yet", "vedette isolation list --host "+name)
	case "failed":
		g.Try("Its isolation failed and was reverted; see why", "vedette isolation list -o wide --host "+name)
	}
	if h.GetEventsLost() > 0 {
		g.Item("Events were lost: that nothing was found in those windows proves nothing.")
	}
	g.Try("Its findings", "vedette finding list --host "+name)
}

// ended says in words how the last session ended; "" while one stands.
func ended(h *operatorv1.Host) string {
	how := map[string]string{
		"stopped": "its sensor said goodbye", "failed": "its sensor ended with an error",
		"closed": "it closed the connection without a goodbye", "unheard": "nothing came any more, without a goodbye",
		"node": "the node that it was connected to was lost",
	}[h.GetEnded()]
	if how != "" && h.GetEndedDetail() != "" {
		how += ": " + h.GetEndedDetail()
	}
	return how
}

func fields(in ...string) []string {
	return slices.DeleteFunc(in, func(s string) bool { return s == "" })
}

func byNode(node string) string {
	if node == "" {
		return ""
	}
	return ", at node " + node
}

func size(n uint64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	default:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
}
