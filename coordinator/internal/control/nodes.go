package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// nodesEndSoon is how long before its end a signed list of nodes is a problem: an admin
// has to be found to sign another.
const nodesEndSoon = 14 * 24 * time.Hour

// PutSignedNodes implements the service. The sensors verify the list again.
func (s *Server) PutSignedNodes(ctx context.Context, r *operatorv1.PutSignedNodesRequest) (*operatorv1.PutSignedNodesResponse, error) {
	list, signer, err := nodelist.Verify(r.GetSigned(), s.operatorRoots(), s.cfg.Authority.Cluster(), s.cfg.Now())
	if err != nil {
		return nil, grantError(err)
	}
	if caller := operator(ctx); signer.ID != caller.ID {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("operator %q submits a list of nodes that %q signed: each signs their own", caller.ID, signer.ID))
	}
	// The serial makes a repetition harmless: the same list again is told that it is in force.
	if _, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: fmt.Sprintf("nodes/%d", list.GetSerial()),
		Body: &raftv1.Command_PutSignedNodes{PutSignedNodes: &raftv1.PutSignedNodes{Signed: r.GetSigned()}}}); err != nil {
		return nil, err
	}
	s.cfg.Logger.Info("list of nodes signed", "operator", signer.ID, "serial", list.GetSerial(), "nodes", len(list.GetNodes()))
	return &operatorv1.PutSignedNodesResponse{Serial: list.GetSerial()}, nil
}

// nodesProblem says what an isolated host would not follow, once somebody has signed a
// list at all; "" when all is well.
func nodesProblem(signed *sensorv1.SignedNodes, members []*operatorv1.Member, now time.Time) string {
	if signed == nil {
		return ""
	}
	const remedy = "an admin runs 'vedette cluster sign-nodes'"
	list, err := nodelist.Decode(signed.GetPayload())
	if err != nil {
		return fmt.Sprintf("The signed list of nodes cannot be read (%v): %s.", err, remedy)
	}
	end := time.Unix(0, list.GetNotAfter())
	var lacking, strangers []string
	for _, n := range list.GetNodes() {
		if !slices.ContainsFunc(members, func(m *operatorv1.Member) bool { return m.GetId() == n.GetId() }) {
			strangers = append(strangers, fmt.Sprintf("%s (%s)", n.GetId(), n.GetAddress()))
		}
	}
	for _, m := range members {
		if !nodelist.Covers(list, m.GetId(), m.GetAddress()) {
			lacking = append(lacking, fmt.Sprintf("%s (%s)", m.GetId(), m.GetAddress()))
		}
	}
	switch {
	case !end.After(now):
		return fmt.Sprintf("The signed list of nodes ended at %s, so isolated hosts follow no change of the nodes: %s.", end.UTC().Format(time.RFC3339), remedy)
	case len(lacking) > 0:
		return fmt.Sprintf("The list of nodes that %s signed does not name %s, so isolated hosts cannot reach them: %s before others are removed.",
			list.GetOperator(), strings.Join(lacking, ", "), remedy)
	case len(strangers) > 0 && len(members) > 0:
		return fmt.Sprintf("The list of nodes that %s signed names %s, no member of the cluster, so isolated hosts stay open to it: %s, unless it is about to join.",
			list.GetOperator(), strings.Join(strangers, ", "), remedy)
	case end.Sub(now) < nodesEndSoon:
		return fmt.Sprintf("The signed list of nodes ends at %s: %s before.", end.UTC().Format(time.RFC3339), remedy)
	}
	return ""
}
