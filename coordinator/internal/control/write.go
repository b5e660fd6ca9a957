package control

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Bounds of what an operator writes.
const (
	maxReason = 1000
	maxKey    = 128
	maxLabels = 64
	// maxLease is the longest containment without a new decision (DESIGN: leases).
	maxLease = 24 * time.Hour
	// maxGrantAge is how far a grant's not_after may lie ahead: a grant that stays
	// valid for days is one that can be replayed for days.
	maxGrantAge = 24 * time.Hour
)

// CloseIncident implements the service.
func (s *Server) CloseIncident(ctx context.Context, r *operatorv1.CloseIncidentRequest) (*operatorv1.CloseIncidentResponse, error) {
	switch r.GetDisposition() {
	case "benign", "malicious":
	default:
		return nil, invalid("disposition %q is neither benign nor malicious", r.GetDisposition())
	}
	if strings.TrimSpace(r.GetReason()) == "" {
		return nil, invalid("a reason is needed: the next person will ask why")
	}
	if err := checkText(r.GetReason(), r.GetIdempotencyKey()); err != nil {
		return nil, err
	}
	if err := s.checkDispositions(ctx, r); err != nil {
		return nil, err
	}
	rest, closed, err := s.untold(ctx, r)
	if err != nil {
		return nil, err
	}
	if !closed || len(rest) == 0 {
		if _, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: r.GetIdempotencyKey(), Body: &raftv1.Command_CloseIncident{
			CloseIncident: &raftv1.CloseIncident{Id: r.GetId(), Disposition: r.GetDisposition(), Reason: r.GetReason()}}}); err != nil {
			return nil, err
		}
	}
	untold, err := s.tellSensors(ctx, rest)
	if err != nil {
		return nil, err
	}
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	told, err := s.toldOf(ctx, r)
	if err != nil {
		return nil, err
	}
	incident, err := s.cfg.DB.Incident(ctx, r.GetId())
	if err != nil {
		return nil, readError(err)
	}
	return &operatorv1.CloseIncidentResponse{Incident: incident, Untold: untold, Told: told}, nil
}

// CreateToken implements the service. The secret is in the answer and nowhere else.
func (s *Server) CreateToken(ctx context.Context, r *operatorv1.CreateTokenRequest) (*operatorv1.CreateTokenResponse, error) {
	kinds := map[string]sensorv1.EnrollKind{"sensor": sensorv1.EnrollKind_ENROLL_KIND_SENSOR, "": sensorv1.EnrollKind_ENROLL_KIND_SENSOR,
		"node": sensorv1.EnrollKind_ENROLL_KIND_NODE}
	kind, ok := kinds[r.GetKind()]
	if !ok {
		return nil, invalid("kind %q is neither sensor nor node", r.GetKind())
	}
	ttl, err := identity.CheckTokenLifetime(time.Duration(min(r.GetTtlSeconds(), 1<<32)) * time.Second)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if err := checkLabels(r.GetLabels()); err != nil {
		return nil, err
	}
	token := link.NewToken(s.cfg.Authority.Pin(), link.Pin(s.cfg.Operators()))
	hash := identity.HashSecret(token.Secret[:])
	expires := s.cfg.Now().Add(ttl).UnixNano()
	if _, err := s.propose(ctx, &raftv1.Command{
		// The id is drawn here, so a proposal that is repeated below makes one token.
		IdempotencyKey: "token/" + token.ID + "/" + rand.Text(),
		Body: &raftv1.Command_CreateToken{CreateToken: &raftv1.CreateToken{
			TokenId: token.ID, SecretSha256: hash[:], Kind: kind, Expires: expires, Labels: r.GetLabels()}}}); err != nil {
		return nil, err
	}
	return &operatorv1.CreateTokenResponse{Token: token.String(), Expires: expires}, nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return invalid("%d labels, the limit is %d", len(labels), maxLabels)
	}
	for k, v := range labels {
		if k == "" || len(k) > 63 || len(v) > 255 || strings.ContainsAny(k, "=, \n\t") {
			return invalid("label %.63q: a key has 1 to 63 characters without '=', ',' and blanks, a value at most 255", k)
		}
	}
	return nil
}

// RemoveMember implements the service.
func (s *Server) RemoveMember(ctx context.Context, r *operatorv1.RemoveMemberRequest) (*operatorv1.RemoveMemberResponse, error) {
	// Without a leader nobody can be removed, and what this node believes of the others is old.
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	members, err := s.cfg.Cluster.Members(ctx)
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	votes := slices.ContainsFunc(members, func(m *operatorv1.Member) bool { return m.GetId() == r.GetId() })
	known := votes
	if !known {
		nodes, err := s.cfg.DB.Nodes(ctx)
		if err != nil {
			return nil, readError(err)
		}
		known = slices.ContainsFunc(nodes, func(n *sensorv1.Node) bool { return n.GetId() == r.GetId() })
	}
	if !known {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no node %q in this cluster", r.GetId()))
	}
	if len(members) == 1 && members[0].GetId() == r.GetId() {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("node %q is the last one: stop it and remove its data directory to end the cluster", r.GetId()))
	}
	if err := leavesQuorum(members, r.GetId()); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	// Out of the state first, in the operator's name, so that the audit says who did it.
	if _, err := s.propose(ctx, &raftv1.Command{Body: &raftv1.Command_RemoveNode{RemoveNode: &raftv1.RemoveNode{Id: r.GetId()}}}); err != nil && connect.CodeOf(err) != connect.CodeNotFound {
		return nil, err
	}
	if !votes { // it enrolled and never ran
		return &operatorv1.RemoveMemberResponse{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	if err := s.cfg.Cluster.RemoveMember(ctx, r.GetId()); err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("the node is out of the list but still votes, ask again: %w", err))
	}
	return &operatorv1.RemoveMemberResponse{}, nil
}

// leavesQuorum refuses to take a voter away when those that stay and answer are no majority of
// those that stay: the removal itself would never be committed, nor anything after it.
func leavesQuorum(members []*operatorv1.Member, removed string) error {
	voters, answer := 0, 0
	var silent []string
	for _, m := range members {
		switch {
		case m.GetRole() == "joining":
			if m.GetId() == removed {
				return nil
			}
		case m.GetId() == removed:
		case m.GetState() == "alive":
			voters, answer = voters+1, answer+1
		default:
			voters++
			silent = append(silent, m.GetId())
		}
	}
	if answer > voters/2 {
		return nil
	}
	return fmt.Errorf("without node %q %d of %d voters would answer, which is no majority: the cluster would stop. Nothing was done; bring %s back, or remove it first",
		removed, answer, voters, strings.Join(silent, ", "))
}

func checkText(reason, key string) error {
	switch {
	case len(reason) > maxReason:
		return invalid("the reason has %d bytes, the limit is %d", len(reason), maxReason)
	case len(key) > maxKey:
		return invalid("the idempotency key has %d bytes, the limit is %d", len(key), maxKey)
	}
	return nil
}
