package consensus

import (
	"context"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// alwaysSpoken is the newest command that the first release knew: whatever runs knows those.
const alwaysSpoken = 29

// newestCommand is the highest number of a command that this release knows.
func newestCommand() (newest uint32) {
	fields := (&raftv1.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	for i := range fields.Len() {
		newest = max(newest, uint32(fields.Get(i).Number())) //nolint:gosec // a field's number
	}
	return newest
}

// heldBack refuses, on the leader, a command that a member does not know. In the log it
// would stop that node until it is upgraded, and in the middle of a rolling upgrade that is
// the quorum. A member that never answered is not waited for: it is away, not old.
func (n *Node) heldBack(ctx context.Context, cmd *raftv1.Command) error {
	if _, usual := cmd.GetBody().(*raftv1.Command_Ingest); usual {
		return nil
	}
	m := cmd.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().ByName("body"))
	if field == nil || field.Number() <= alwaysSpoken {
		return nil
	}
	number := uint32(field.Number()) //nolint:gosec // above zero
	n.speak.Store(n.cfg.ID, n.cfg.Speaks)
	for _, server := range n.servers() {
		if n.knows(server.ID, number) {
			continue
		}
		// It may have been upgraded a moment ago, or nobody has asked it yet.
		n.status(ctx, &operatorv1.Member{Id: string(server.ID), Address: string(server.Address)})
		if _, asked := n.speak.Load(string(server.ID)); asked && !n.knows(server.ID, number) {
			return refusal(fmt.Sprintf("node %s runs an older release, which does not know %q: upgrade all nodes first ('vedette cluster members -o wide' says their versions)", server.ID, kindOf(cmd)))
		}
	}
	return nil
}

// knows says whether a member has said that it knows a command.
func (n *Node) knows(id raft.ServerID, number uint32) bool {
	said, ok := n.speak.Load(string(id))
	return ok && said.(uint32) >= number
}
