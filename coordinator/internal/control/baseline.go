package control

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

const (
	// groupPrefix says that a name is a role group's and no host's.
	groupPrefix = "group:"
	// compared is with how many of a group's hosts one is compared.
	compared = 64
	// packed is of how many of a group's hosts a pack is made.
	packed = 256
	// maxIdlePacks is how many packs may wait for groups that have no hosts.
	maxIdlePacks = 16
)

// ListBehaviours implements the service.
func (s *Server) ListBehaviours(ctx context.Context, r *operatorv1.ListBehavioursRequest) (*operatorv1.ListBehavioursResponse, error) {
	page, err := s.asked(ctx, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	host, err := s.cfg.DB.Host(ctx, r.GetHost())
	if err != nil {
		return nil, readError(err)
	}
	rows, row, err := s.cfg.DB.Baseline(ctx, host.GetId(), store.BaselineFilter{Kind: r.GetKind(), Subject: r.GetSubject(), NewOnly: r.GetNewOnly(), Since: r.GetSince()}, page)
	if err != nil {
		return nil, readError(err)
	}
	token, err := s.follows(ctx, row)
	return &operatorv1.ListBehavioursResponse{Behaviours: rows, PageToken: token}, err
}

// hostsOf are the rows of a host, or of some of a role group's hosts.
func (s *Server) hostsOf(ctx context.Context, name string, most int) (rows []int64, role string, err error) {
	role, group := strings.CutPrefix(name, groupPrefix)
	if !group {
		host, err := s.cfg.DB.Host(ctx, name)
		if err != nil {
			return nil, "", readError(err)
		}
		row, err := s.cfg.DB.HostRow(ctx, host.GetId())
		return []int64{row}, host.GetId(), readError(err)
	}
	rows, of, err := s.cfg.DB.RoleMembers(ctx, role, most)
	if err != nil {
		return nil, "", readError(err)
	}
	if of == 0 {
		return nil, "", readError(fmt.Errorf("role group %q: %w: 'vedette baseline groups' lists them", role, store.ErrNotFound))
	}
	return rows, role, nil
}

// DiffBaselines implements the service.
func (s *Server) DiffBaselines(ctx context.Context, r *operatorv1.DiffBaselinesRequest) (*operatorv1.DiffBaselinesResponse, error) {
	page, err := s.asked(ctx, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	host, err := s.cfg.DB.Host(ctx, r.GetHost())
	if err != nil {
		return nil, readError(err)
	}
	against := r.GetAgainst()
	if against == "" {
		role, err := s.cfg.DB.RoleOf(ctx, host.GetId())
		if err != nil {
			return nil, readError(err)
		}
		if role == "" {
			return nil, invalid("host %s is in no role group yet: say what to compare it with", host.GetName())
		}
		against = groupPrefix + role
	}
	others, _, err := s.hostsOf(ctx, against, compared)
	if err != nil {
		return nil, err
	}
	own, err := s.cfg.DB.HostRow(ctx, host.GetId())
	if err != nil {
		return nil, readError(err)
	}
	if len(others) > 1 { // in a group it is not compared with itself
		for i, row := range others {
			if row == own {
				others = append(others[:i:i], others[i+1:]...)
				break
			}
		}
	}
	out, err := s.cfg.DB.Difference(ctx, host.GetId(), others, page)
	if err != nil {
		return nil, readError(err)
	}
	out.PageToken, err = s.follows(ctx, out.GetPageToken())
	return out, err
}

// ListRoles implements the service.
func (s *Server) ListRoles(ctx context.Context, _ *operatorv1.ListRolesRequest) (*operatorv1.ListRolesResponse, error) {
	out, err := s.cfg.DB.Roles(ctx)
	return out, readError(err)
}

// GetPack implements the service. What hosts with an open incident do is in no pack.
func (s *Server) GetPack(ctx context.Context, r *operatorv1.GetPackRequest) (*operatorv1.GetPackResponse, error) {
	if r.GetPermille() > 1000 {
		return nil, invalid("a share of %d in 1000", r.GetPermille())
	}
	permille := r.GetPermille()
	if permille == 0 {
		permille = pack.DefaultPermille
	}
	rows, role, err := s.hostsOf(ctx, r.GetOf(), packed)
	if err != nil {
		return nil, err
	}
	if rows, err = s.cfg.DB.Trusted(ctx, rows); err != nil {
		return nil, readError(err)
	}
	if len(rows) == 0 {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("%s has an open incident: close it first; what happens in one is nothing to learn from", r.GetOf()))
	}
	p, leftOut, err := s.cfg.DB.PackOf(ctx, rows, permille)
	if err != nil {
		return nil, readError(err)
	}
	p.ClusterId, p.Role, p.MadeAt = s.cfg.Authority.Cluster(), role, s.cfg.Now().UnixNano()
	return &operatorv1.GetPackResponse{Pack: p, LeftOut: uint32(leftOut)}, nil //nolint:gosec // a count
}

// PutPack implements the service. The sensors verify the pack again.
func (s *Server) PutPack(ctx context.Context, r *operatorv1.PutPackRequest) (*operatorv1.PutPackResponse, error) {
	p, signer, err := pack.Verify(r.GetSigned(), s.operatorRoots(), s.cfg.Authority.Cluster(), s.cfg.Now())
	switch {
	case err != nil:
		return nil, packError(err)
	case signer == nil:
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("nobody signed the pack: 'vedette baseline import' does"))
	}
	if caller := operator(ctx); signer.ID != caller.ID {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("operator %q submits a pack that %q signed: each signs their own", caller.ID, signer.ID))
	}
	s.packing.Lock()
	defer s.packing.Unlock() // else many at once would each find room
	if err := s.boundIdle(ctx, p.GetRole()); err != nil {
		return nil, err
	}
	if _, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: fmt.Sprintf("pack/%s/%d", p.GetRole()[:min(64, len(p.GetRole()))], p.GetMadeAt()),
		Body: &raftv1.Command_LearningOrder{LearningOrder: &raftv1.LearningOrder{Body: &raftv1.LearningOrder_Pack{Pack: r.GetSigned()}}}}); err != nil {
		return nil, err
	}
	s.cfg.Logger.Info("baseline pack signed", "operator", signer.ID, "role", p.GetRole(), "behaviours", len(p.GetBehaviours()))
	_, hosts, err := s.cfg.DB.RoleMembers(ctx, p.GetRole(), 1)
	return &operatorv1.PutPackResponse{Hosts: uint64(hosts)}, readError(err) //nolint:gosec // a count
}

// boundIdle refuses one pack too many for groups that have no hosts: whoever may sign could else fill every
// node's state with packs that nobody goes by.
func (s *Server) boundIdle(ctx context.Context, role string) error {
	if err := s.barrier(ctx); err != nil {
		return err
	}
	_, hosts, err := s.cfg.DB.RoleMembers(ctx, role, 1)
	if err != nil || hosts > 0 {
		return readError(err)
	}
	idle, err := s.cfg.DB.IdlePacks(ctx, role, s.cfg.Now().UnixNano())
	if err != nil || idle < maxIdlePacks {
		return readError(err)
	}
	return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("no host is in role group %q, and %d packs wait for groups without hosts already: enrol its first host, or give the name of a group that 'vedette baseline groups' lists", role, idle))
}

func packError(err error) error {
	if errors.Is(err, pack.ErrMalformed) || errors.Is(err, pack.ErrTime) {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	return grantError(err)
}

// Unlearn implements the service. The sensor verifies the order again.
func (s *Server) Unlearn(ctx context.Context, r *operatorv1.UnlearnRequest) (*operatorv1.UnlearnResponse, error) {
	u, signer, err := pack.VerifyUnlearn(r.GetSigned(), s.operatorRoots(), s.cfg.Authority.Cluster(), s.cfg.Now())
	if err != nil {
		return nil, packError(err)
	}
	if caller := operator(ctx); signer.ID != caller.ID {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("operator %q submits an order that %q signed: each signs their own", caller.ID, signer.ID))
	}
	res, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: "unlearn/" + u.GetId()[:min(64, len(u.GetId()))],
		Body: &raftv1.Command_LearningOrder{LearningOrder: &raftv1.LearningOrder{Body: &raftv1.LearningOrder_Unlearn{Unlearn: r.GetSigned()}}}})
	if err != nil {
		return nil, err
	}
	s.cfg.Logger.Info("host told to unlearn", "operator", signer.ID, "host", u.GetHost(), "order", u.GetId())
	return &operatorv1.UnlearnResponse{Id: res.GetId()}, nil
}

// ListUnlearns implements the service; it is linearizable.
func (s *Server) ListUnlearns(ctx context.Context, r *operatorv1.ListUnlearnsRequest) (*operatorv1.ListUnlearnsResponse, error) {
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	host := ""
	if r.GetHost() != "" {
		h, err := s.cfg.DB.Host(ctx, r.GetHost())
		if err != nil {
			return nil, readError(err)
		}
		host = h.GetId()
	}
	kept, token, err := s.cfg.DB.Unlearns(ctx, host, r.GetId(), store.Page{Size: r.GetPageSize(), Token: r.GetPageToken()})
	if err != nil {
		return nil, readError(err)
	}
	out := &operatorv1.ListUnlearnsResponse{PageToken: token}
	for _, k := range kept {
		u, err := pack.DecodeUnlearn(k.Signed.GetPayload())
		if err != nil {
			return nil, readError(fmt.Errorf("reading an order to unlearn: %w", err))
		}
		row := &operatorv1.UnlearnRow{Id: u.GetId(), Host: k.Host, Operator: u.GetOperator(), Time: u.GetIssuedAt(), What: state.UnlearnInWords(u),
			Reason: u.GetReason(), Behaviours: k.Behaviours, Failure: k.Failure, AnsweredAt: k.AnsweredAt,
			State: orderState(k.AnsweredAt, u.GetNotAfter(), k.Failure, s.cfg.Now().UnixNano())}
		out.Rows = append(out.Rows, row)
	}
	return out, nil
}

// ListRollOuts implements the service.
func (s *Server) ListRollOuts(ctx context.Context, r *operatorv1.ListRollOutsRequest) (*operatorv1.ListRollOutsResponse, error) {
	page, err := s.asked(ctx, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	rows, row, err := s.cfg.DB.RollOuts(ctx, page)
	if err != nil {
		return nil, readError(err)
	}
	token, err := s.follows(ctx, row)
	return &operatorv1.ListRollOutsResponse{Rows: rows, PageToken: token}, err
}
