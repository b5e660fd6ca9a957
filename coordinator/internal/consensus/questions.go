package consensus

import (
	"context"
	"fmt"
	"net"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// tagQuestion opens a stream with a NodeQuestion, answered by NodeAnswers until the side
// that asked closes it. Nothing of it is in the log.
const tagQuestion = 'Q'

// questionsSpoken is the command that came with these streams: who knows it knows them.
var questionsSpoken = func() uint32 {
	cmd := (&raftv1.Command{Body: &raftv1.Command_NoteHunt{}}).ProtoReflect()
	return uint32(cmd.WhichOneof(cmd.Descriptor().Oneofs().ByName("body")).Number()) //nolint:gosec // a field's number
}()

// OpenQuestions opens a stream for questions to the hosts whose sessions are at a member.
func (n *Node) OpenQuestions(ctx context.Context, member string) (net.Conn, error) {
	for _, server := range n.servers() {
		if string(server.ID) != member {
			continue
		}
		if !n.knows(server.ID, questionsSpoken) {
			n.status(ctx, &operatorv1.Member{Id: member, Address: string(server.Address)})
			if _, asked := n.speak.Load(member); asked && !n.knows(server.ID, questionsSpoken) {
				return nil, refusal(fmt.Sprintf("node %s runs an older release, which passes no questions on: upgrade it", member))
			}
		}
		return n.peers.open(ctx, string(server.Address), tagQuestion)
	}
	return nil, refusal(fmt.Sprintf("node %s, where the host was last, is no member any more", member))
}

// ServeQuestions has fn answer the streams that other members open; it returns when the
// stream is of no more use.
func (n *Node) ServeQuestions(fn func(ctx context.Context, conn net.Conn)) { n.asked.Store(&fn) }

func (n *Node) serveQuestions(ctx context.Context, peer link.Peer, stream net.Conn) {
	fn := n.asked.Load()
	if fn == nil || !n.isMember(peer.ID) {
		return
	}
	(*fn)(ctx, stream)
}
