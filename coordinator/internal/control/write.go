package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/proto/grant"
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
	if _, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: r.GetIdempotencyKey(), Body: &raftv1.Command_CloseIncident{
		CloseIncident: &raftv1.CloseIncident{Id: r.GetId(), Disposition: r.GetDisposition(), Reason: r.GetReason()}}}); err != nil {
		return nil, err
	}
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	incident, err := s.cfg.DB.Incident(ctx, r.GetId())
	if err != nil {
		return nil, readError(err)
	}
	return &operatorv1.CloseIncidentResponse{Incident: incident}, nil
}

// SubmitGrant implements the service. The sensors verify the grant again: this
// node's word alone moves no host.
func (s *Server) SubmitGrant(ctx context.Context, r *operatorv1.SubmitGrantRequest) (*operatorv1.SubmitGrantResponse, error) {
	now := s.cfg.Now()
	decoded, signers, err := grant.VerifyWaiting(r.GetGrant(), s.operatorRoots(), s.cfg.Authority.Cluster(), now)
	if err != nil {
		return nil, grantError(err)
	}
	caller := operator(ctx)
	if len(signers) != 1 || signers[0].ID != caller.ID {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("operator %q submits a grant that another signed, or nobody, or several: each signs their own", caller.ID))
	}
	set, err := grant.NewHostSet(r.GetHosts())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if !set.Matches(decoded) {
		return nil, invalid("the grant was signed for other hosts than those that come with it")
	}
	if err := checkGrant(decoded, now); err != nil {
		return nil, err
	}
	if err := checkText(decoded.GetReason(), r.GetIdempotencyKey()); err != nil {
		return nil, err
	}
	var missing []error
	for _, id := range set.Hosts() {
		host, err := s.cfg.DB.Host(ctx, id)
		if err == nil && host.GetId() != id {
			err = invalid("the grant names host %q by its name: sign ids", id)
		}
		if err != nil {
			missing = append(missing, err)
		}
	}
	if len(missing) > 0 {
		return nil, readError(errors.Join(missing...))
	}
	res, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: r.GetIdempotencyKey(), Body: &raftv1.Command_RequestResponse{
		RequestResponse: &raftv1.RequestResponse{Operation: decoded.GetOperation(), Grant: r.GetGrant(), Decoded: decoded, Hosts: set.Hosts()}}})
	if err != nil {
		return nil, err
	}
	s.cfg.Logger.Info("grant accepted", "action", actionWords[decoded.GetAction()], "operation", decoded.GetOperation(),
		"operator", caller.ID, "hosts", set.Count())
	operation := decoded.GetOperation()
	if res.GetId() != "" {
		operation = res.GetId() // the same idempotency key again: what the first one made
	}
	return &operatorv1.SubmitGrantResponse{Operation: operation, Index: res.GetIndex()}, nil
}

func grantError(err error) error {
	code := connect.CodeInvalidArgument
	if errors.Is(err, grant.ErrUntrusted) || errors.Is(err, grant.ErrForbidden) || errors.Is(err, grant.ErrSignature) || errors.Is(err, grant.ErrForeign) {
		code = connect.CodePermissionDenied
	}
	return connect.NewError(code, err)
}

func checkGrant(g *sensorv1.Grant, now time.Time) error {
	switch lease := time.Duration(min(g.GetLeaseSeconds(), 1<<32)) * time.Second; {
	case actionWords[g.GetAction()] == "":
		return invalid("the grant's action is neither isolate nor release")
	case !strings.HasPrefix(g.GetOperation(), "op-") || len(g.GetOperation()) > 64:
		return invalid("the grant's operation id %.64q must begin with op-", g.GetOperation())
	case g.GetAction() == sensorv1.Action_ACTION_ISOLATE && (lease < time.Second || lease > maxLease):
		return invalid("the lease of %s is not within 1s and %s", lease, maxLease)
	case time.Unix(0, g.GetNotAfter()).Sub(now) > maxGrantAge:
		return invalid("the grant may be used for more than %s: sign a shorter one", maxGrantAge)
	}
	return nil
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
	token := link.NewToken(s.cfg.Authority.Pin(), link.Pin(s.cfg.Operators))
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
