package consensus

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// ServeConn answers a peer's streams until the connection ends. It is the
// handler of ALPN vedette-raft/1; the peer's certificate is a node's (package link).
func (n *Node) ServeConn(ctx context.Context, conn *link.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(n.closing, cancel)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	// A read that waits for a silent peer ends with the connection.
	defer func() { _ = conn.CloseWithReason(link.CodeShutdown, "the node is stopping") }()
	for {
		stream, err := conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		wg.Go(func() { n.serveStream(ctx, conn.Peer(), stream) })
	}
}

func (n *Node) serveStream(ctx context.Context, peer link.Peer, stream net.Conn) {
	var tag [1]byte
	_ = stream.SetReadDeadline(time.Now().Add(rpcTimeout))
	if _, err := stream.Read(tag[:]); err != nil {
		_ = stream.Close()
		return
	}
	_ = stream.SetReadDeadline(time.Time{})
	if tag[0] == tagRaft {
		n.layer.deliver(ctx, stream)
		return
	}
	defer func() { _ = stream.Close() }()
	if tag[0] == tagState {
		stop := context.AfterFunc(ctx, func() { _ = stream.SetDeadline(time.Unix(1, 0)) })
		defer stop()
		if err := n.handState(peer, stream); err != nil {
			n.cfg.Logger.Warn("handing the state to a node", "peer", peer.ID, "error", err)
		}
		return
	}
	if tag[0] == tagQuestion {
		n.serveQuestions(ctx, peer, stream)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, n.cfg.ProposeTimeout)
	defer cancel()
	stop := interruptible(ctx, stream)
	defer stop()
	cmd := &raftv1.Command{}
	if err := frame.Read(stream, cmd); err != nil {
		n.cfg.Logger.Debug("reading a peer's request", "peer", peer.ID, "error", err)
		return
	}
	if err := frame.Write(stream, n.answer(ctx, peer, tag[0], cmd)); err != nil {
		n.cfg.Logger.Debug("answering a peer", "peer", peer.ID, "error", err)
	}
}

// answer does what a peer asks for. It never forwards what was forwarded: two
// nodes that take each other for the leader would send it round for ever.
func (n *Node) answer(ctx context.Context, peer link.Peer, tag byte, cmd *raftv1.Command) *raftv1.ForwardReply {
	if tag == tagStatus {
		if servers := n.servers(); len(servers) > 0 && !n.isMember(peer.ID) {
			return reply(nil, refusal(notMember(peer.ID)))
		}
		return &raftv1.ForwardReply{Result: &raftv1.Result{Id: n.cfg.ID, Index: n.AppliedIndex()}, Status: n.statusOf()}
	}
	if tag == tagMembership && cmd.GetPutNode().GetNode().GetId() == peer.ID && peer.ID != "" {
		// A node that joins asks whichever it knows; its certificate says who it is.
		return reply(&raftv1.Result{Id: peer.ID}, n.admit(ctx, cmd.GetPutNode().GetNode()))
	}
	if tag == tagKey {
		return n.handKey(ctx, peer, cmd)
	}
	if !n.IsLeader() || n.Fit() != nil {
		return &raftv1.ForwardReply{NotLeader: true}
	}
	// A node that was removed has a valid certificate for some hours yet.
	if !n.isMember(peer.ID) {
		return reply(nil, refusal(notMember(peer.ID)))
	}
	switch tag {
	case tagPropose:
		data, err := proto.Marshal(cmd)
		if err != nil || cmd.GetBody() == nil {
			return reply(nil, refusal("the command has no body that this node knows: bring all nodes to one version"))
		}
		if err := n.heldBack(ctx, cmd); err != nil {
			return reply(nil, err)
		}
		return reply(n.commit(ctx, data))
	case tagBarrier:
		index, err := n.barrier(ctx)
		return reply(&raftv1.Result{Index: index}, err)
	case tagMembership:
		return reply(&raftv1.Result{}, n.changeMembership(ctx, cmd))
	}
	return reply(nil, refusal("the request is unknown: bring all nodes to one version"))
}

// admit lets a node join that spent a join token (which made its row) and was
// not removed since: its certificate outlives its membership by some hours.
func (n *Node) admit(ctx context.Context, node *sensorv1.Node) error {
	if err := n.ReadBarrier(ctx); err != nil {
		return err
	}
	nodes, err := n.db.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, known := range nodes {
		if known.GetId() == node.GetId() {
			return n.AddVoter(ctx, node)
		}
	}
	return refusal("node " + node.GetId() + " is not known to this cluster: join with a new token")
}

func notMember(id string) string {
	return "node " + id + " is not a member of this cluster: join again with a new token"
}

func refusal(text string) error { return &refusedError{text} }

// refusedError is an ErrRefused with the text that the peer shall show.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

// Unwrap makes it an ErrRefused.
func (e *refusedError) Unwrap() error { return ErrRefused }

// reply encodes an outcome: an error beside a result is a refusal, one alone an
// uncertain outcome.
func reply(result *raftv1.Result, err error) *raftv1.ForwardReply {
	switch {
	case err == nil:
		return &raftv1.ForwardReply{Result: result}
	case errors.Is(err, errElsewhere):
		return &raftv1.ForwardReply{NotLeader: true}
	case errors.Is(err, ErrRefused):
		return &raftv1.ForwardReply{Error: err.Error(), Result: &raftv1.Result{}}
	}
	return &raftv1.ForwardReply{Error: err.Error()}
}

func (n *Node) isMember(id string) bool {
	for _, s := range n.servers() {
		if string(s.ID) == id {
			return true
		}
	}
	return false
}

// servers are the members as this node knows them.
func (n *Node) servers() []raft.Server {
	future := n.raft.GetConfiguration()
	if future.Error() != nil {
		return nil
	}
	return future.Configuration().Servers
}
