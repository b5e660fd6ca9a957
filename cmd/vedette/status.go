package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "is all well, and what is not",
		Long: `Shows the cluster, its nodes and what is open, with what to do about each problem. That the
cluster is well says nothing of the fleet: incidents that wait for a decision, sensors that
were stopped and isolations that did not succeed are told apart from it.

The exit code is 6 when the cluster has no leader: nothing can be decided then,
but sensors go on watching and keep what they have to say.`,
		Example: "  vedette status\n  vedette status -o json | jq -r '.problems[]'",
		Args:    none,
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			st, err := s.api.Status(ctx)
			if err != nil {
				return err
			}
			list, broken := s.api.VerifyNodes(st.GetSignedNodes())
			err = s.Show(output.Shown{
				Name: st.GetClusterId(), Value: shape.FromStatus(st, list), Page: func(g *output.Page) { statusPage(g, st, nodesSigned(list, broken)) },
			})
			if unknown := strangers(s.context.Nodes, st.GetMembers()); !remember(st.GetClusterId(), st.GetMembers()) && unknown > 0 && s.Human() {
				s.say("%s of the cluster not in this context: run 'vedette config update-nodes'", plural(unknown, "node"))
			}
			for _, said := range s.own(st.GetTime()) {
				s.say("%s", said)
			}
			if err == nil && st.GetLeaderId() == "" {
				return exit(exitUnavailable, "the cluster has no leader: a majority of its nodes must be up and reach each other")
			}
			return err
		}),
	}
}

const (
	// clockOff is how far this machine's clock may be off a node's: what is signed here
	// says when.
	clockOff = time.Minute
	// endsSoon is when a person should ask for another certificate.
	endsSoon = 14 * 24 * time.Hour
)

// own is what is wrong on this machine, which no node can know.
func (s *session) own(nodeTime int64) (said []string) {
	if off := s.now().Sub(time.Unix(0, nodeTime)); nodeTime > 0 && off.Abs() > clockOff {
		way := "ahead of"
		if off < 0 {
			way = "behind"
		}
		said = append(said, fmt.Sprintf("this machine's clock is %s %s the node's: run 'timedatectl' on both; what you sign says when, and a wrong time is refused", span(off.Abs()), way))
	}
	from, until := s.api.Certificate()
	if left := until.Sub(s.now()); left < endsSoon && left < until.Sub(from)/3 {
		how := fmt.Sprintf("ask an admin for another one, by 'vedette operator create %s --role %s'", s.api.Operator(), s.context.Role)
		if s.context.HoldsRoot() {
			how = "run 'vedette cluster root renew-mine'"
		}
		said = append(said, fmt.Sprintf("your certificate ends at %s: %s", clock(until.UnixNano()), how))
	}
	if ends, soon := ownAuthorityEnds(s.context, s.now()); soon {
		said = append(said, ends)
	}
	return said
}

// strangers counts the nodes that the context could not fall back to.
func strangers(known []string, members []*operatorv1.Member) int {
	n := 0
	for _, m := range members {
		if m.GetOperatorAddress() != "" && !slices.Contains(known, m.GetOperatorAddress()) {
			n++
		}
	}
	return n
}

// nodesSigned says what isolated hosts follow.
func nodesSigned(list *sensorv1.NodeAddresses, broken error) string {
	switch {
	case broken != nil:
		return broken.Error()
	case list == nil:
		return "not signed: with 'vedette cluster sign-nodes' isolated hosts follow when nodes change"
	}
	return fmt.Sprintf("signed by %s at %s, until %s", list.GetOperator(), clock(nodelist.Signed(list).UnixNano()), clock(list.GetNotAfter()))
}

func statusPage(g *output.Page, st *operatorv1.GetStatusResponse, signed string) {
	// The first words are whether anything can be done at all.
	waits := needsPerson(st)
	switch n := len(st.GetProblems()); {
	case st.GetLeaderId() == "":
		g.Title(output.Red, fmt.Sprintf("The cluster can decide nothing now (no leader); %s:", plural(n, "problem")))
	case n == 0 && len(waits) > 0:
		g.Title(output.Yellow, "The cluster is well.")
	case n == 0:
		g.Title(output.Green, "All is well.")
	default:
		g.Title(output.Yellow, fmt.Sprintf("The cluster works; %s:", plural(n, "problem")))
	}
	for _, problem := range st.GetProblems() {
		g.Item(problem)
	}
	if len(waits) > 0 {
		g.Section("What needs a person")
		for _, w := range waits {
			g.Try(w.what, w.command)
		}
	}
	g.Section("Cluster")
	g.Field("id", st.GetClusterId())
	g.Field("leader", first(st.GetLeaderId(), "none"))
	g.Field("answered by", fmt.Sprintf("%s, version %s, index %d", st.GetNodeId(), st.GetVersion(), st.GetAppliedIndex()))
	for _, m := range st.GetMembers() {
		state := m.GetState()
		switch {
		case state == "unreachable" && m.GetLastContact() > 0:
			state += " for " + span(time.Duration(st.GetTime()-m.GetLastContact()))
		case len(m.GetNotReady()) > 0:
			state += ", not ready"
		}
		g.Painted(stateColour(m.GetState()), "node "+m.GetId(), strings.Join(fields(roleWord(m), state, m.GetAddress()), ", "))
	}
	g.Field("node list", signed)
	g.Section("Fleet")
	hosts := strconv.FormatUint(st.GetHosts(), 10)
	for _, some := range []struct {
		n   uint64
		are string
	}{{st.GetHostsSilent(), "silent"}, {st.GetHostsBlind(), "blind"}, {st.GetHostsStopped(), "stopped"}} {
		if some.n > 0 {
			hosts += fmt.Sprintf(", %d %s", some.n, some.are)
		}
	}
	if st.GetHostsSilent()+st.GetHostsBlind()+st.GetHostsStopped() > 0 {
		hosts += ": see 'vedette host list'"
	}
	g.Field("hosts", hosts)
	g.Field("isolated", strconv.FormatUint(st.GetIsolated(), 10))
	g.Field("findings, last 24 h", strconv.FormatUint(st.GetFindingsDay(), 10))
	open := strconv.FormatUint(st.GetIncidentsOpen(), 10)
	if st.GetIncidentsOpen() > 0 {
		open += ": see 'vedette incident list --status open'"
	}
	g.Field("incidents open", open)
	drillField(g, st.GetDrills())
}

// wait is a fact about the fleet that somebody should look at, and where.
type wait struct{ what, command string }

// needsPerson is what no problem of the cluster is and nobody should go to bed over: as many
// lines at most as there are kinds of it, however large the fleet is.
func needsPerson(st *operatorv1.GetStatusResponse) (out []wait) {
	for _, w := range []struct {
		n         uint64
		one, many string
		command   string
	}{
		{st.GetIncidentsOpen(), "1 incident waits for a decision", "%d incidents wait for a decision", "vedette incident list --status open"},
		{st.GetIsolationsFailed(), "At 1 host the newest order to isolate or release failed or was refused; another one settles it",
			"At %d hosts the newest order to isolate or release failed or was refused; another one settles it", "vedette isolation list -o wide"},
		{st.GetIsolationsPending(), "1 host has not answered an order to isolate or release", "%d hosts have not answered an order to isolate or release",
			"vedette isolation list --active"},
		{st.GetHostsStopped(), "1 sensor is stopped (by an administrator, the removal of its package or a shutdown), so nothing is found there",
			"%d sensors are stopped (by an administrator, the removal of their package or a shutdown), so nothing is found there", "vedette host list --state stopped"},
	} {
		switch {
		case w.n == 1:
			out = append(out, wait{w.one, w.command})
		case w.n > 1:
			out = append(out, wait{fmt.Sprintf(w.many, w.n), w.command})
		}
	}
	return out
}

// stateColour is the colour of a host's, a node's or an isolation's state.
func stateColour(state string) output.Colour {
	switch state {
	case "online", "alive", "released", "benign":
		return output.Green
	case "silent", "blind", "unreachable", "failed", "refused":
		return output.Red
	case "pending", "stopped", "applied", "unknown", "never-seen", "open", "expired":
		return output.Yellow
	default:
		return output.Plain
	}
}

func severityColour(severity string) output.Colour {
	switch severity {
	case "critical", "high":
		return output.Red
	case "medium":
		return output.Yellow
	default:
		return output.Plain
	}
}

// handle is what a suggested command calls a host: its name where that is a plain
// word, else its id. A host names itself, and the command will be pasted into a shell.
func handle(id, name string) string {
	const word = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	if name == "" || name[0] == '-' || strings.Trim(name, word) != "" {
		return id
	}
	return name
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// clock shows a time in tables and pages: UTC, to the second.
func clock(ns int64) string {
	if ns == 0 {
		return ""
	}
	return time.Unix(0, ns).UTC().Format("2006-01-02 15:04:05Z")
}

// ago shows how long ago a time was, in its largest unit.
func (a *app) ago(ns int64) string {
	if ns == 0 {
		return "never"
	}
	return span(a.now().Sub(time.Unix(0, ns))) + " ago"
}

func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
