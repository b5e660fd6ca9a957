package consensus

import (
	"context"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

const (
	// contactThreshold is how long a node may have heard nothing of the leader and still
	// be fit to vote: twice a heartbeat timeout.
	contactThreshold = 2 * time.Second
	// trailingEntries is how far behind it may be: what a second of writing makes.
	trailingEntries = 250
	// minMembers stay: a dead node of three is somebody's to replace, since two nodes
	// stop when one of them does.
	minMembers = 3
)

// steer lets autopilot decide, on the leader, who becomes a voter and which dead node is
// removed, until the node closes.
func (n *Node) steer() {
	ticker := time.NewTicker(n.cfg.SteerPeriod)
	defer ticker.Stop()
	var pilot *autopilot.Autopilot
	stop := func() {
		if pilot != nil {
			<-pilot.Stop()
			pilot = nil
		}
	}
	defer stop()
	for {
		switch leads := n.IsLeader(); {
		case leads && pilot == nil:
			// A new one each time: what the last leadership knew of others is old.
			n.known.Clear()
			pilot = autopilot.New(steered{n.raft}, &steering{n}, autopilot.WithPromoter(&promoter{node: n}), autopilot.WithLogger(newLogger(n.cfg.Logger)),
				autopilot.WithUpdateInterval(n.cfg.SteerPeriod), autopilot.WithReconcileInterval(n.cfg.SteerPeriod))
			pilot.Start(n.closing)
		case !leads:
			stop()
		}
		select {
		case <-n.closing.Done():
			return
		case <-ticker.C:
		}
	}
}

// steered is raft as autopilot may change it. Autopilot promotes by the address of its
// last look: a node that has moved or was promoted meanwhile must not be put back there.
type steered struct{ *raft.Raft }

// AddVoter implements autopilot.Raft.
func (r steered) AddVoter(id raft.ServerID, _ raft.ServerAddress, _ uint64, timeout time.Duration) raft.IndexFuture {
	now := r.GetConfiguration()
	if err := now.Error(); err != nil {
		return decided{err}
	}
	for _, server := range now.Configuration().Servers {
		if server.ID == id && server.Suffrage == raft.Nonvoter {
			return r.Raft.AddVoter(id, server.Address, now.Index(), timeout) // or not, when the members change before
		}
	}
	return decided{}
}

// decided is the answer to what needs no entry of the log.
type decided struct{ err error }

func (d decided) Error() error { return d.err }
func (decided) Index() uint64  { return 0 }

// steering is what autopilot asks of the node.
type steering struct{ node *Node }

// AutopilotConfig implements autopilot.ApplicationIntegration.
func (s *steering) AutopilotConfig() *autopilot.Config {
	return &autopilot.Config{CleanupDeadServers: s.node.cfg.DeadAfter > 0, LastContactThreshold: contactThreshold, MaxTrailingLogs: trailingEntries,
		MinQuorum: minMembers, ServerStabilizationTime: s.node.cfg.StableFor}
}

// NotifyState implements autopilot.ApplicationIntegration.
func (s *steering) NotifyState(*autopilot.State) {}

// FetchServerStats implements autopilot.ApplicationIntegration. While everybody votes
// nobody is asked: nothing depends on it.
func (s *steering) FetchServerStats(ctx context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	n := s.node
	stats := make(map[raft.ServerID]*autopilot.ServerStats, len(servers))
	for _, server := range n.servers() {
		if _, asked := servers[server.ID]; !asked {
			continue
		}
		if server.Suffrage != raft.Nonvoter {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, statusTimeout)
		reply, err := n.askAt(asking, string(server.Address), tagStatus, &raftv1.Command{})
		cancel()
		if err != nil || reply.GetResult().GetId() != string(server.ID) {
			continue
		}
		said := reply.GetStatus()
		stats[server.ID] = &autopilot.ServerStats{LastContact: time.Duration(said.GetLastContact()), LastTerm: said.GetLastTerm(), LastIndex: said.GetLastIndex()}
	}
	return stats
}

// KnownServers implements autopilot.ApplicationIntegration.
func (s *steering) KnownServers() map[raft.ServerID]*autopilot.Server {
	known := make(map[raft.ServerID]*autopilot.Server)
	for _, server := range s.node.servers() {
		status := autopilot.NodeAlive
		if s.node.cfg.DeadAfter > 0 && s.node.silentFor(string(server.ID)) > s.node.cfg.DeadAfter {
			status = autopilot.NodeFailed
		}
		known[server.ID] = &autopilot.Server{ID: server.ID, Name: string(server.ID), Address: server.Address, NodeStatus: status,
			RaftVersion: int(raft.ProtocolVersionMax), IsLeader: string(server.ID) == s.node.cfg.ID, NodeType: autopilot.NodeVoter}
	}
	return known
}

// RemoveFailedServer implements autopilot.ApplicationIntegration.
func (s *steering) RemoveFailedServer(server *autopilot.Server) {
	n := s.node
	if _, already := n.removing.LoadOrStore(server.ID, true); already {
		return
	}
	n.start(func() {
		defer n.removing.Delete(server.ID)
		ctx, cancel := context.WithTimeout(n.closing, n.cfg.ProposeTimeout)
		defer cancel()
		n.cfg.Logger.Warn("a node is dead and is removed: to have it back, empty its directory and let it join with a new token",
			"removed", string(server.ID), "silent_for", n.silentFor(string(server.ID)).Round(time.Second).String())
		cmd := &raftv1.Command{Body: &raftv1.Command_RemoveNode{RemoveNode: &raftv1.RemoveNode{Id: string(server.ID)}}}
		if err := n.changeMembership(ctx, cmd); err != nil {
			n.cfg.Logger.Error("removing a dead node", "node", string(server.ID), "error", err)
		}
	})
}

// silentFor is how long a member has not answered this leader, 0 for the node itself. It
// counts from when it was a member and this node led, so that neither a new one nor one
// that comes back under an old name is taken for dead, nor anybody by a new leader.
func (n *Node) silentFor(id string) time.Duration {
	if id == n.cfg.ID {
		return 0
	}
	since, _ := n.known.LoadOrStore(id, time.Now().UnixNano())
	at := since.(int64)
	if seen, ok := n.contacts.Load(id); ok {
		at = max(at, seen.(contact).at)
	}
	return time.Since(time.Unix(0, at))
}

// promoter is autopilot's own, which promotes whoever was healthy for long enough, with
// another mind about removals.
type promoter struct {
	autopilot.StablePromoter
	node *Node
}

// FilterFailedServerRemovals implements autopilot.Promoter. Of what failed only so many
// may go that those who answer now are a majority of the rest: a leader that is cut off
// from half of the cluster must not make the other half small. A member without a row is
// somebody's removal that is under way, and not autopilot's.
func (p *promoter) FilterFailedServerRemovals(_ *autopilot.Config, _ *autopilot.State, failed *autopilot.FailedServers) *autopilot.FailedServers {
	voters, answering := 0, 0
	for _, server := range p.node.servers() {
		if server.Suffrage != raft.Voter {
			continue
		}
		voters++
		if p.node.silentFor(string(server.ID)) < 3*p.node.cfg.LookPeriod {
			answering++
		}
	}
	kept := &autopilot.FailedServers{FailedNonVoters: failed.FailedNonVoters}
	for _, server := range failed.FailedVoters {
		if 2*answering > voters-1 && answering >= minMembers {
			kept.FailedVoters = append(kept.FailedVoters, server)
			voters--
		}
	}
	return kept
}

// fitness is what a node says of itself as a voter.
func (n *Node) fitness(s *raftv1.NodeStatus) {
	stats := n.raft.Stats()
	s.LastIndex, _ = strconv.ParseUint(stats["last_log_index"], 10, 64)
	s.LastTerm, _ = strconv.ParseUint(stats["last_log_term"], 10, 64)
	switch last := n.raft.LastContact(); {
	case n.IsLeader():
		s.LastContact = 0
	case last.IsZero():
		s.LastContact = -1
	default:
		s.LastContact = int64(time.Since(last))
	}
}
