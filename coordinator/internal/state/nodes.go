package state

import (
	"fmt"
	"strings"

	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// putSignedNodes takes a newer list of the nodes' addresses. Its signature is the
// proposer's and every sensor's to verify. Whether it names the members is not asked: it
// is signed before a node joins and before one is removed, and what it lacks is shown.
func (a *applier) putSignedNodes(in *raftv1.PutSignedNodes) (*raftv1.Result, error) {
	next, err := nodelist.Decode(in.GetSigned().GetPayload())
	if err != nil {
		return reject(RejectInvalid, "%v", err), nil
	}
	cluster, err := a.tx.Cluster()
	if err != nil {
		return nil, fmt.Errorf("reading cluster: %w", err)
	}
	current, err := a.tx.SignedNodes()
	if err != nil {
		return nil, fmt.Errorf("reading list of nodes: %w", err)
	}
	switch {
	case next.GetClusterId() != cluster:
		return reject(RejectWrongCluster, "the list of nodes is for cluster %q, this is %q: use the right context", next.GetClusterId(), cluster), nil
	case next.GetNotAfter() <= a.cmd.GetTime():
		return reject(RejectNodesExpired, "the list of nodes has ended: sign it again (and compare the clocks)"), nil
	}
	if current != nil {
		held, err := nodelist.Decode(current.GetPayload())
		if err != nil {
			return nil, fmt.Errorf("decoding the list of nodes in force: %w", err)
		}
		if next.GetSerial() <= held.GetSerial() {
			return reject(RejectStaleNodes, "a list with serial %d is in force, and this one has %d: sensors take only what is newer; sign it again (and compare the clocks)", held.GetSerial(), next.GetSerial()), nil
		}
	}
	if err := a.tx.PutSignedNodes(in.GetSigned()); err != nil {
		return nil, fmt.Errorf("storing list of nodes: %w", err)
	}
	return accept(fmt.Sprint(next.GetSerial())), a.audit("nodes-sign", fmt.Sprintf("serial %d", next.GetSerial()),
		"by operator %s, until %d, %s", next.GetOperator(), next.GetNotAfter(), nodesInWords(next.GetNodes()))
}

func nodesInWords(nodes []*sensorv1.NodeAddress) string {
	texts := make([]string, len(nodes))
	for i, n := range nodes {
		texts[i] = n.GetId() + "=" + n.GetAddress()
	}
	return strings.Join(texts, " ")
}
