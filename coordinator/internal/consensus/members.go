package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// statusTimeout bounds how long a list of members waits for a silent one.
const statusTimeout = time.Second

// Members lists the cluster's nodes as this one knows them, asking each how far
// it is. Works on any node, without a leader too.
func (n *Node) Members(ctx context.Context) ([]*operatorv1.Member, error) {
	nodes, err := n.db.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	operators := make(map[string]string, len(nodes))
	for _, node := range nodes {
		operators[node.GetId()] = node.GetOperatorAddress()
	}
	leader, _, _ := n.leader()
	servers := n.servers()
	members := make([]*operatorv1.Member, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		m := &operatorv1.Member{Id: string(s.ID), Address: string(s.Address), OperatorAddress: operators[string(s.ID)], Role: "follower"}
		switch {
		case m.GetId() == leader:
			m.Role = "leader"
		case s.Suffrage != raft.Voter:
			m.Role = "joining"
		}
		members[i] = m
		wg.Go(func() { n.status(ctx, m) })
	}
	wg.Wait()
	return members, nil
}

// Looked is what Members said when this node looked around last, a few seconds ago; who asks
// waits for nobody.
func (n *Node) Looked() []*operatorv1.Member {
	if members := n.looked.Load(); members != nil {
		return *members
	}
	return nil
}

func (n *Node) status(ctx context.Context, m *operatorv1.Member) {
	if m.GetId() == n.cfg.ID {
		m.State, m.AppliedIndex, m.LastContact = "alive", n.AppliedIndex(), time.Now().UnixNano()
		told(m, n.statusOf())
		return
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	sent := time.Now()
	reply, err := n.askAt(ctx, m.GetAddress(), tagStatus, &raftv1.Command{})
	if err != nil || reply.GetResult().GetId() != m.GetId() {
		m.State = "unreachable"
		if seen, ok := n.contacts.Load(m.GetId()); ok {
			last := seen.(contact)
			m.LastContact, m.AppliedIndex = last.at, last.applied
		}
		return
	}
	received := time.Now()
	m.State, m.AppliedIndex, m.LastContact = "alive", reply.GetResult().GetIndex(), received.UnixNano()
	if s := reply.GetStatus(); s != nil { // an older node says nothing
		told(m, s)
		n.told.Store(m.GetId(), checksOfWire(s.GetChecks()))
		n.speak.Store(m.GetId(), s.GetSpeaks())
		m.ClockOffset = certainOffset(s.GetTime(), sent.UnixNano(), received.UnixNano())
	}
	n.contacts.Store(m.GetId(), contact{at: m.GetLastContact(), applied: m.GetAppliedIndex()})
}

// told copies what a node says of itself.
func told(m *operatorv1.Member, s *raftv1.NodeStatus) {
	m.Version, m.DiskFree, m.DiskTotal, m.CertificateEnds, m.NotReady = s.GetVersion(), s.GetDiskFree(), s.GetDiskTotal(), s.GetCertificateEnds(), s.GetNotReady()
	m.Alarms, m.Differs = s.GetAlarms(), s.GetDiffers()
}

// Removed says whether the cluster goes on without this node: it is without a
// leader, and most of the other nodes say that it is no member. Its own log
// cannot tell: it may end before the removal, or before the admission.
func (n *Node) Removed(ctx context.Context) bool {
	servers := n.servers()
	others := len(servers)
	if n.isMember(n.cfg.ID) {
		others--
	}
	if _, _, led := n.leader(); led || others <= 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var refused atomic.Int64
	var wg sync.WaitGroup
	for _, s := range servers {
		if string(s.ID) == n.cfg.ID {
			continue
		}
		wg.Go(func() {
			if _, err := n.askAt(ctx, string(s.Address), tagStatus, &raftv1.Command{}); errors.Is(err, ErrRefused) {
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	return 2*int(refused.Load()) > others
}

// contact is what was last known of a member.
type contact struct {
	at      int64
	applied uint64
}

// AddVoter makes a node that is running and serving a member, or changes its
// address. It can be asked of any node. A new member gets the log and does not vote; when
// it has that and was well for a while, the leader makes it a voter (steer.go). So what
// it lacks at first holds no writer up.
func (n *Node) AddVoter(ctx context.Context, node *sensorv1.Node) error {
	return n.membership(ctx, &raftv1.Command{Body: &raftv1.Command_PutNode{PutNode: &raftv1.PutNode{Node: node}}})
}

// RemoveMember takes a node out of the cluster, from any node (itself included).
func (n *Node) RemoveMember(ctx context.Context, id string) error {
	return n.membership(ctx, &raftv1.Command{Body: &raftv1.Command_RemoveNode{RemoveNode: &raftv1.RemoveNode{Id: id}}})
}

// membership is repeatable: both changes do nothing when they are done already.
func (n *Node) membership(ctx context.Context, cmd *raftv1.Command) error {
	return n.retry(ctx, true, func(ctx context.Context) error {
		if n.IsLeader() {
			return n.changeMembership(ctx, cmd)
		}
		_, err := n.ask(ctx, tagMembership, cmd)
		return err
	})
}

// Join asks the nodes at the given addresses, one after the other, to make this
// running node a member. It returns when one has done so; the node knows its
// cluster from then on, over restarts.
func (n *Node) Join(ctx context.Context, addrs []string, self *sensorv1.Node) error {
	if self.GetId() != n.cfg.ID {
		return fmt.Errorf("%w: joining as %q, this node is %q", ErrInvalid, self.GetId(), n.cfg.ID)
	}
	cmd := &raftv1.Command{Body: &raftv1.Command_PutNode{PutNode: &raftv1.PutNode{Node: self}}}
	return n.retry(ctx, true, func(ctx context.Context) error {
		err := fmt.Errorf("%w: no address to join at", ErrInvalid)
		for _, addr := range addrs {
			if _, err = n.askAt(ctx, addr, tagMembership, cmd); err == nil || errors.Is(err, ErrRefused) {
				return err
			}
		}
		return err
	})
}

// changeMembership does it on this leader: the rows first, so that a removed
// leader can still write them.
func (n *Node) changeMembership(ctx context.Context, cmd *raftv1.Command) error {
	cmd.Time, cmd.Actor = time.Now().UnixNano(), "node:"+n.cfg.ID
	if node := cmd.GetPutNode().GetNode(); node != nil {
		if err := n.commitAccepted(ctx, cmd); err != nil {
			return err
		}
		add := n.raft.AddNonvoter
		if n.Votes(node.GetId()) { // it has moved
			add = n.raft.AddVoter
		}
		n.known.Store(node.GetId(), time.Now().UnixNano())
		return n.await(ctx, add(raft.ServerID(node.GetId()), raft.ServerAddress(node.GetAddress()), 0, remaining(ctx)))
	}
	id := cmd.GetRemoveNode().GetId()
	if !n.isMember(id) {
		return refusal(fmt.Sprintf("no node is called %q: see `vedette cluster members`", id))
	}
	if len(n.servers()) == 1 {
		return refusal("the only node cannot be removed: stop it instead")
	}
	if err := n.commitAccepted(ctx, cmd); err != nil && !errors.Is(err, ErrRefused) {
		return err
	}
	return n.await(ctx, n.raft.RemoveServer(raft.ServerID(id), 0, remaining(ctx)))
}

// Votes says whether a member is one of those who make up a majority, as this node knows.
func (n *Node) Votes(id string) bool {
	for _, s := range n.servers() {
		if string(s.ID) == id {
			return s.Suffrage == raft.Voter
		}
	}
	return false
}

// commitAccepted commits on this leader and makes a rejection an ErrRefused.
func (n *Node) commitAccepted(ctx context.Context, cmd *raftv1.Command) error {
	data, err := encode(cmd)
	if err != nil {
		return err
	}
	result, err := n.commit(ctx, data)
	if err != nil {
		return err
	}
	if result.GetRejected() != "" {
		return refusal(result.GetMessage())
	}
	return nil
}
