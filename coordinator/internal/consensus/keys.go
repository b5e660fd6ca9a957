package consensus

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// handKey gives a member the key of an authority. Who is a member this node must know now:
// one that was removed has a certificate for some time yet.
func (n *Node) handKey(ctx context.Context, peer link.Peer, cmd *raftv1.Command) *raftv1.ForwardReply {
	if err := n.ReadBarrier(ctx); err != nil {
		return reply(nil, err)
	}
	if !n.isMember(peer.ID) {
		return reply(nil, refusal(notMember(peer.ID)))
	}
	name, err := hex.DecodeString(cmd.GetActor())
	if err != nil || n.cfg.AuthorityKey == nil {
		return reply(nil, refusal("this node has no such key"))
	}
	key, err := n.cfg.AuthorityKey(name)
	if err != nil {
		return reply(nil, refusal(err.Error()))
	}
	n.cfg.Logger.Info("key of an authority given to a member", "peer", peer.ID, "authority", fmt.Sprintf("%.8x", name))
	return &raftv1.ForwardReply{Result: &raftv1.Result{Id: n.cfg.ID}, AuthorityKey: key}
}

// AuthorityKey asks the other members for the key of an authority, by its name.
func (n *Node) AuthorityKey(ctx context.Context, name []byte) ([]byte, error) {
	failures := []error{fmt.Errorf("asking for the key of authority %.8x", name)}
	for _, server := range n.servers() {
		if string(server.ID) == n.cfg.ID {
			continue
		}
		answer, err := n.askAt(ctx, string(server.Address), tagKey, &raftv1.Command{Actor: hex.EncodeToString(name)})
		switch {
		case err != nil:
			failures = append(failures, fmt.Errorf("node %s: %w", server.ID, err))
		case len(answer.GetAuthorityKey()) > 0:
			return answer.GetAuthorityKey(), nil
		default:
			failures = append(failures, fmt.Errorf("node %s: %s", server.ID, answer.GetError()))
		}
	}
	return nil, errors.Join(failures...)
}
