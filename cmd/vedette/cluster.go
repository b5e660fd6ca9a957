package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func (a *app) clusterCommand() *cobra.Command {
	return noun("cluster", "the coordinator's nodes", "  vedette cluster members\n  vedette cluster remove node-3\n  vedette cluster sign-nodes",
		a.clusterMembersCommand(), a.clusterRemoveCommand(), a.clusterSignNodesCommand(), a.clusterBackupCommand(), a.clusterInspectCommand(), a.clusterRootCommand())
}

func (a *app) clusterMembersCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "members",
		Short:   "list the nodes, and what is wrong with them",
		Example: "  vedette cluster members -o wide",
		Args:    none,
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			res, err := s.api.MembersAndProblems(ctx)
			if err != nil {
				return err
			}
			members, signed := res.GetMembers(), res.GetSignedNodes()
			remember(s.context.ClusterID, members)
			list, broken := s.api.VerifyNodes(signed)
			if _, err = output.Print(s.Printer, a.memberTable(list), output.Rows(members)); err != nil {
				return err
			}
			if s.Human() {
				for _, problem := range res.GetProblems() {
					s.say("%s", problem)
				}
			}
			switch lacking := lackingNodes(list, members); {
			case broken != nil:
				s.say("%v", broken)
			case list == nil:
				s.say("nobody has signed the list of nodes: isolated hosts keep to the nodes that they knew; an admin runs 'vedette cluster sign-nodes'")
			case len(lacking) > 0:
				s.say("not on the signed list: %s; isolated hosts do not follow there until an admin runs 'vedette cluster sign-nodes'", strings.Join(lacking, ", "))
			}
			return nil
		}),
	}
}

func (a *app) memberTable(list *sensorv1.NodeAddresses) output.List[*operatorv1.Member] {
	type row = *operatorv1.Member
	return output.List[row]{
		Name:  row.GetId,
		Value: func(m row) any { return shape.FromMember(m, list) },
		Columns: []output.Column[row]{
			{Head: "ID", Cell: row.GetId},
			{Head: "ROLE", Cell: roleWord},
			{Head: "STATE", Cell: row.GetState, Paint: func(m row) output.Colour { return stateColour(m.GetState()) }},
			{Head: "READY", Cell: readyWord, Paint: readyColour},
			{Head: "INDEX", Right: true, Cell: func(m row) string { return number(m.GetAppliedIndex()) }},
			{Head: "CONTACT", Cell: func(m row) string { return a.ago(m.GetLastContact()) }},
			{Head: "ADDRESS", Cell: row.GetAddress},
			{Head: "SIGNED", Cell: func(m row) string { return yesNo(nodelist.Covers(list, m.GetId(), m.GetAddress())) }},
			{Head: "VERSION", Wide: true, Cell: row.GetVersion},
			{Head: "CLOCK", Wide: true, Cell: clockWord},
			{Head: "DISK FREE", Wide: true, Right: true, Cell: diskWord},
			{Head: "CERTIFICATE UNTIL", Wide: true, Cell: func(m row) string { return clock(m.GetCertificateEnds()) }},
			{Head: "OPERATOR ADDRESS", Wide: true, Cell: row.GetOperatorAddress},
		},
	}
}

// roleWord is a node's role; of one that does not answer, which may have led a moment ago, nothing is known.
func roleWord(m *operatorv1.Member) string {
	if m.GetState() == "unreachable" {
		return ""
	}
	return m.GetRole()
}

// readyWord says whether a node may be relied on, as far as it says that itself.
func readyWord(m *operatorv1.Member) string {
	if m.GetState() != "alive" {
		return ""
	}
	return yesNo(len(m.GetNotReady()) == 0)
}

func readyColour(m *operatorv1.Member) output.Colour {
	if m.GetState() == "alive" && len(m.GetNotReady()) > 0 {
		return output.Red
	}
	return output.Plain
}

// clockWord is how far a node's clock is certainly off that of the node that answers.
func clockWord(m *operatorv1.Member) string {
	if m.GetVersion() == "" {
		return "" // it does not say
	}
	return fmt.Sprintf("%+.1fs", time.Duration(m.GetClockOffset()).Seconds())
}

func diskWord(m *operatorv1.Member) string {
	free, total := m.GetDiskFree(), m.GetDiskTotal()
	if total == 0 {
		return ""
	}
	return fmt.Sprintf("%d MiB, %d%%", free>>20, free*100/total)
}

// removal is the question before a node is removed. One that enrolled and never ran is no
// member yet: the coordinator knows whether there is one.
func removal(members []*operatorv1.Member, id string) string {
	others, alive, found := 0, 0, false
	for _, m := range members {
		switch {
		case m.GetId() == id:
			found = true
		case m.GetRole() == "joining":
		case m.GetState() == "alive":
			others, alive = others+1, alive+1
		default:
			others++
		}
	}
	if !found {
		return fmt.Sprintf("About to remove %s, which is no member: a node that enrolled and never ran. Type its id to go on: ", id)
	}
	return fmt.Sprintf("About to remove %s; of the %d others who vote, %d are alive. Type its id to go on: ", id, others, alive)
}

func (a *app) clusterRemoveCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "remove NODE",
		Short: "take a node out of the cluster",
		Long: `Takes a node out of the cluster: it votes no more and its copy of the data grows old.
Stop it first; to have it back it must join again, with an empty data folder.`,
		Example: "  vedette cluster remove node-3",
		Args:    exactly("NODE"),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			id := args[0]
			looking, looked := s.limit(ctx)
			members, signed, err := s.api.MembersAndSigned(looking)
			looked()
			if err != nil {
				return err
			}
			if !yes {
				tty, ok := s.terminal()
				if !ok {
					return usage("nobody can be asked here (no terminal): repeat with --yes to remove node %s", id)
				}
				defer func() { _ = tty.Close() }()
				if err := ask(ctx, tty, removal(members, id), id); err != nil {
					return err
				}
			}
			ctx, cancel := s.limit(ctx)
			defer cancel()
			if err := s.api.RemoveMember(ctx, id); err != nil {
				return err
			}
			s.say("removed %s", id)
			if list, err := s.api.VerifyNodes(signed); err == nil && namesNode(list, id) {
				s.say("the signed list of nodes still names it: until an admin runs 'vedette cluster sign-nodes', isolated hosts stay open to it")
			}
			return nil
		}),
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}
