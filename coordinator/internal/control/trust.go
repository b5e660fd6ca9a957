package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/trust"
)

const (
	// trustHeader carries epochs: of the context in a request, of the cluster in the answer.
	trustHeader = "Vedette-Trust"
	// maxUnready are named in an answer.
	maxUnready = 20
	// leastSeen is how far back hosts must be looked at before an authority goes: the
	// certificate of one that was away for longer has ended anyhow.
	leastSeen = 24 * time.Hour
	day       = 24 * time.Hour
)

// GetTrust implements the service; it is linearizable: an admin signs the next list over
// what it answers.
func (s *Server) GetTrust(ctx context.Context, r *operatorv1.GetTrustRequest) (*operatorv1.GetTrustResponse, error) {
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	signed, err := s.cfg.DB.Trust(ctx)
	if err != nil {
		return nil, readError(err)
	}
	roots, issuer := s.cfg.Authority.Certificates()
	var epoch uint64
	if signed != nil {
		t, err := trust.Decode(signed.GetPayload())
		if err != nil {
			return nil, readError(err)
		}
		roots, issuer, epoch = t.GetRoots(), int(t.GetIssuer()), t.GetEpoch()
	}
	// Who would be cut off, did all but the one that signs go.
	keys := [][]byte{trust.Key(roots[issuer])}
	enough, err := s.trustedSince(ctx, roots[issuer], epoch)
	if err != nil {
		return nil, readError(err)
	}
	out, err := s.cfg.DB.TrustHolders(ctx, enough, keys, r.GetSeenSince(), maxUnready)
	if err != nil {
		return nil, readError(err)
	}
	out.Trust, out.Roots, out.Issuer, out.Operators = signed, roots, uint32(issuer), s.cfg.Operators().Raw //nolint:gosec // an index below four
	return out, nil
}

// trustedSince is the epoch since which all lists have a root.
func (s *Server) trustedSince(ctx context.Context, root []byte, epoch uint64) (uint64, error) {
	all, err := s.cfg.DB.Trusts(ctx)
	if err != nil {
		return 0, err
	}
	for _, signed := range all {
		t, err := trust.Decode(signed.GetPayload())
		if err != nil {
			return 0, err
		}
		if !contains(t.GetRoots(), root) {
			break
		}
		epoch = t.GetEpoch()
	}
	return epoch, nil
}

func contains(roots [][]byte, root []byte) bool {
	return slices.ContainsFunc(roots, func(r []byte) bool { return bytes.Equal(r, root) })
}

// PrepareRoot implements the service. The key stays at this node until a list names its
// certificate; then the others ask for it. So a second try makes another one.
func (s *Server) PrepareRoot(ctx context.Context, r *operatorv1.PrepareRootRequest) (*operatorv1.PrepareRootResponse, error) {
	if s.cfg.PrepareRoot == nil {
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New("this node makes no authorities"))
	}
	der, err := s.cfg.PrepareRoot(r.GetRenew())
	if err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	s.cfg.Logger.Warn("an authority was made; nothing trusts it yet", "operator", operator(ctx).ID, "authority", trust.Short(der))
	return &operatorv1.PrepareRootResponse{Root: der}, nil
}

// PutTrust implements the service. Nodes and sensors verify the list again.
func (s *Server) PutTrust(ctx context.Context, r *operatorv1.PutTrustRequest) (*operatorv1.PutTrustResponse, error) {
	if strings.TrimSpace(r.GetReason()) == "" {
		return nil, invalid("a reason is needed: the next person will ask why")
	}
	if err := checkText(r.GetReason(), ""); err != nil {
		return nil, err
	}
	if since := s.cfg.Now().Add(-leastSeen + time.Hour).UnixNano(); r.GetSeenSince() > since {
		return nil, invalid("hosts that were seen within %s must count at least", leastSeen)
	}
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	held, err := s.cfg.DB.Trust(ctx)
	if err != nil {
		return nil, readError(err)
	}
	list, signer, err := trust.Verify(r.GetSigned(), s.cfg.Operators(), s.cfg.Authority.Cluster(), 0, s.cfg.Now())
	if err != nil {
		return nil, grantError(err)
	}
	if caller := operator(ctx); signer.ID != caller.ID {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("operator %q submits a list of trusted authorities that %q signed: each signs their own", caller.ID, signer.ID))
	}
	if held == nil {
		// The log knows no list before the first: this node knows what is trusted.
		if first := s.cfg.Authority.Certificate().Raw; !bytes.Equal(list.GetRoots()[0], first) {
			return nil, invalid("the first list begins with the authority that there is, %s", trust.Short(first))
		}
	}
	for i, der := range list.GetRoots() {
		if root, err := trust.Root(der, s.cfg.Authority.Cluster()); err == nil && root.NotAfter.Sub(s.cfg.Now()) < day && i == int(list.GetIssuer()) {
			return nil, invalid("authority %s ends at %s: it cannot be the one that signs", trust.Short(der), root.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	// The epoch makes a repetition harmless.
	if _, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: fmt.Sprintf("trust/%d/%d", list.GetEpoch(), list.GetSignedAt()),
		Body: &raftv1.Command_PutTrust{PutTrust: &raftv1.PutTrust{Signed: r.GetSigned(), Reason: r.GetReason(), SeenSince: r.GetSeenSince(), Force: r.GetForce()}}}); err != nil {
		return nil, err
	}
	s.cfg.Logger.Warn("trusted authorities changed", "operator", signer.ID, "epoch", list.GetEpoch(), "authorities", len(list.GetRoots()))
	return &operatorv1.PutTrustResponse{Epoch: list.GetEpoch()}, nil
}

// tellTrust tells a caller which list is in force here, and has the log told which one their
// context holds.
func (s *Server) tellTrust(w http.ResponseWriter, r *http.Request, peer link.Peer) {
	signed, err := s.cfg.DB.Trust(r.Context())
	if err != nil || signed == nil {
		return
	}
	t, err := trust.Decode(signed.GetPayload())
	if err != nil {
		return
	}
	w.Header().Set(trustHeader, strconv.FormatUint(t.GetEpoch(), 10))
	if epoch, err := strconv.ParseUint(r.Header.Get(trustHeader), 10, 64); err == nil && epoch > 0 && epoch <= t.GetEpoch() {
		s.noteContext(peer.ID, epoch)
	}
}

// noteContext has the log told once what an operator's context holds. It waits for nothing.
func (s *Server) noteContext(name string, epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.contexts[name] >= epoch || s.unheld == nil {
		return
	}
	select {
	case s.unheld <- &raftv1.HolderTrust{Name: name, Epoch: epoch}:
		if len(s.contexts) >= maxNoted {
			clear(s.contexts)
		}
		s.contexts[name] = epoch
	default:
	}
}

// noteContexts brings what noteContext saw into the log until ctx ends.
func (s *Server) noteContexts(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case held := <-s.unheld:
			proposing, cancel := context.WithTimeout(ctx, proposeTimeout)
			_, err := s.cfg.Log.Propose(proposing, &raftv1.Command{Time: s.cfg.Now().UnixNano(), Actor: "node:" + s.cfg.NodeID,
				Body: &raftv1.Command_NoteTrust{NoteTrust: &raftv1.NoteTrust{Operators: []*raftv1.HolderTrust{held}}}})
			cancel()
			if err != nil {
				s.mu.Lock()
				clear(s.contexts)
				s.mu.Unlock()
			}
		}
	}
}
