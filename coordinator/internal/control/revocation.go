package control

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/link"
	operators "github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/revocation"
)

const (
	// maxUnnoted bounds the operators that wait to be noted; who is dropped comes again.
	maxUnnoted = 64
	// maxNoted bounds what this node remembers of whom it noted.
	maxNoted = 10_000
)

// RemoveHost implements the service. Sessions end where they are when the entry is
// applied there.
func (s *Server) RemoveHost(ctx context.Context, r *operatorv1.RemoveHostRequest) (*operatorv1.RemoveHostResponse, error) {
	if strings.TrimSpace(r.GetReason()) == "" {
		return nil, invalid("a reason is needed: the next person will ask why")
	}
	if err := checkText(r.GetReason(), r.GetIdempotencyKey()); err != nil {
		return nil, err
	}
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	host, err := s.cfg.DB.Host(ctx, r.GetHost())
	if err != nil {
		return nil, readError(err)
	}
	_, err = s.propose(ctx, &raftv1.Command{IdempotencyKey: r.GetIdempotencyKey(), Body: &raftv1.Command_RetireHost{
		RetireHost: &raftv1.RetireHost{Host: host.GetId(), Reason: r.GetReason()}}})
	if errors.Is(err, consensus.ErrRefused) {
		// A node of an older release is there. A stolen host is not to wait for its upgrade; the
		// orders that wait for it then go on waiting.
		_, err = s.propose(ctx, &raftv1.Command{IdempotencyKey: r.GetIdempotencyKey(), Body: &raftv1.Command_RemoveHost{
			RemoveHost: &raftv1.RemoveHost{Host: host.GetId(), Reason: r.GetReason()}}})
	}
	if err != nil {
		return nil, err
	}
	s.cfg.Logger.Warn("host removed", "host", host.GetId(), "name", host.GetName(), "operator", operator(ctx).ID)
	return &operatorv1.RemoveHostResponse{Host: host}, nil
}

// ListOperators implements the service; it is linearizable: an admin signs the next
// list of revoked operators over what it answers.
func (s *Server) ListOperators(ctx context.Context, r *operatorv1.ListOperatorsRequest) (*operatorv1.ListOperatorsResponse, error) {
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	rows, token, err := s.cfg.DB.Operators(ctx, store.Page{Size: cmp.Or(r.GetPageSize(), store.MaxPage), Token: r.GetPageToken()})
	if err != nil {
		return nil, readError(err)
	}
	out := &operatorv1.ListOperatorsResponse{Operators: rows, PageToken: token}
	if r.GetPageToken() == "" {
		out.Revocations, err = s.cfg.DB.Revocations(ctx)
	}
	return out, readError(err)
}

// PutRevocations implements the service. The sensors verify the list again.
func (s *Server) PutRevocations(ctx context.Context, r *operatorv1.PutRevocationsRequest) (*operatorv1.PutRevocationsResponse, error) {
	if strings.TrimSpace(r.GetReason()) == "" {
		return nil, invalid("a reason is needed: the next person will ask why")
	}
	if err := checkText(r.GetReason(), ""); err != nil {
		return nil, err
	}
	list, signer, err := revocation.Verify(r.GetSigned(), s.operatorRoots(), s.cfg.Authority.Cluster(), s.cfg.Now())
	if err != nil {
		return nil, grantError(err)
	}
	if caller := operator(ctx); signer.ID != caller.ID {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("operator %q submits a list of revoked operators that %q signed: each signs their own", caller.ID, signer.ID))
	}
	// The serial makes a repetition harmless.
	if _, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: fmt.Sprintf("revocations/%d", list.GetSerial()),
		Body: &raftv1.Command_PutRevocations{PutRevocations: &raftv1.PutRevocations{Signed: r.GetSigned(), Reason: r.GetReason()}}}); err != nil {
		return nil, err
	}
	s.cfg.Logger.Warn("operators revoked", "operator", signer.ID, "serial", list.GetSerial(), "names", len(list.GetOperators()))
	return &operatorv1.PutRevocationsResponse{Serial: list.GetSerial()}, nil
}

// stillOperator says why a caller may ask no more, from what this node knows now: the
// names that the verified chains have (named) and when the certificate ends.
func (s *Server) stillOperator(ctx context.Context, peer link.Peer, named []string) error {
	if s.cfg.Now().After(peer.Certificate.NotAfter) {
		// A connection may outlive the certificate that it was opened with.
		return connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("the certificate of operator %q has expired: ask an admin for a new context", peer.ID))
	}
	revoked, err := s.cfg.DB.Revoked(ctx)
	if err != nil {
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("this node cannot read who is revoked, so it answers nobody: ask another one: %w", err))
	}
	for _, name := range named {
		if at, ok := revoked[name]; ok {
			return connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("operator %q is revoked (%q, since %s): ask an admin for a context with another name", peer.ID, name, time.Unix(0, at).UTC().Format(time.RFC3339)))
		}
	}
	return nil
}

// namedBy are all whom the verified chains name but for the root: the caller, and
// whose authority made the caller.
func namedBy(chains [][]*x509.Certificate) (named []string) {
	for _, chain := range chains {
		named = append(named, revocation.NamedBy(chain[:max(len(chain)-1, 1)])...)
	}
	slices.Sort(named)
	return slices.Compact(named)
}

type namedKey struct{}

// stillMay is for what goes on after a request was let through.
func (s *Server) stillMay(ctx context.Context) error {
	named, _ := ctx.Value(namedKey{}).([]string)
	return s.stillOperator(ctx, operator(ctx), named)
}

// noteOperator has the log told once of each certificate that this node sees, so that
// people can see who is an operator. It waits for nothing.
func (s *Server) noteOperator(peer link.Peer, named []string) {
	serial := link.Serial(peer.Certificate)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noted[serial] || s.unnoted == nil {
		return
	}
	put := &raftv1.PutOperator{Name: peer.ID, Role: peer.Role, NotAfter: peer.Certificate.NotAfter.UnixNano()}
	for _, name := range named {
		if name != peer.ID {
			put.MadeBy = name
		}
	}
	if !slices.Contains(roles, put.GetRole()) || operators.CheckRole(put.GetRole()) != nil {
		return
	}
	select {
	case s.unnoted <- put:
		if len(s.noted) >= maxNoted {
			clear(s.noted)
		}
		s.noted[serial] = true
	default:
	}
}

// noteOperators brings whom noteOperator saw into the log until ctx ends. What fails is
// forgotten: the next request of that operator brings it again.
func (s *Server) noteOperators(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case put := <-s.unnoted:
			ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
			if id, err := s.cfg.DB.ClusterID(ctx); err == nil && id != "" {
				_, err = s.cfg.Log.Propose(ctx, &raftv1.Command{Time: s.cfg.Now().UnixNano(), Actor: "node:" + s.cfg.NodeID,
					IdempotencyKey: fmt.Sprintf("operator/%s/%d", put.GetName(), put.GetNotAfter()), Body: &raftv1.Command_PutOperator{PutOperator: put}})
				if err == nil {
					cancel()
					continue
				}
			}
			cancel()
			s.mu.Lock()
			clear(s.noted)
			s.mu.Unlock()
		}
	}
}
