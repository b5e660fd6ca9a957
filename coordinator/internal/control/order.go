package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// maxDependents bounds what a preview lists; it says how many more there are.
	maxDependents = 50
	// dependentHosts is of how many of the selected hosts the services are looked at:
	// who isolates more does not read the list.
	dependentHosts = 200
	// servicesEach bounds the services of one host.
	servicesEach = 200
)

// PreviewOrder implements the service; it is linearizable.
func (s *Server) PreviewOrder(ctx context.Context, r *operatorv1.PreviewOrderRequest) (*operatorv1.PreviewOrderResponse, error) {
	if grant.Word(r.GetAction()) == "" {
		return nil, invalid("action %d is unknown to this node", r.GetAction())
	}
	hosts, err := s.selected(ctx, r.GetSelector()) // behind a barrier
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	ids := make([]string, len(hosts))
	for i, host := range hosts {
		ids[i] = host.GetId()
	}
	fleet, contained, chosen, err := s.cfg.DB.Governed(ctx, now.UnixNano()-state.GovernorWindow, ids)
	if err != nil {
		return nil, readError(err)
	}
	epoch, err := s.cfg.DB.LastEpoch(ctx)
	if err != nil {
		return nil, readError(err)
	}
	policy, err := s.policy(ctx)
	if err != nil {
		return nil, err
	}
	out := &operatorv1.PreviewOrderResponse{
		Hosts: hosts, ClusterId: s.cfg.Authority.Cluster(), Fleet: uint32(fleet.Hosts), Approvals: 1, //nolint:gosec // a fleet is no billion
		Epoch: max(epoch+1, uint64(now.UnixNano())), //nolint:gosec // after 1970
	}
	if r.GetAction() == sensorv1.Action_ACTION_RELEASE {
		return out, nil
	}
	for _, host := range hosts {
		if policy.Protected(intent.Host{ID: host.GetId(), Name: host.GetName(), Labels: host.GetLabels()}) != "" {
			out.Protected = append(out.Protected, host.GetId())
		}
	}
	if out.Caps = state.Caps(policy.Intent().GetGovernor(), fleet, contained, chosen, now.UnixNano()); len(out.GetCaps()) > 0 {
		out.Approvals = 2
	}
	if r.GetAction() == sensorv1.Action_ACTION_ISOLATE {
		err = s.dependents(ctx, out)
	}
	return out, err
}

// dependents are the hosts outside of the selection that its services are used by,
// as the selected hosts' own baselines tell.
func (s *Server) dependents(ctx context.Context, out *operatorv1.PreviewOrderResponse) error {
	all, err := s.everyHost(ctx)
	if err != nil {
		return err
	}
	byAddress := make(map[string]*operatorv1.Host)
	for _, host := range all {
		for _, address := range append([]string{host.GetAddress()}, host.GetFacts().GetAddresses()...) {
			if prefix, err := netip.ParsePrefix(address); err == nil {
				address = prefix.Addr().String()
			}
			if ip, err := netip.ParseAddr(address); err == nil && !ip.IsLoopback() {
				byAddress[ip.Unmap().String()] = host
			}
		}
	}
	selected := make(map[string]bool, len(out.GetHosts()))
	for _, host := range out.GetHosts() {
		selected[host.GetId()] = true
	}
	var found []*operatorv1.Dependent
	for i, host := range out.GetHosts() {
		if i == dependentHosts {
			break
		}
		services, err := s.cfg.DB.Services(ctx, host.GetId(), servicesEach)
		if err != nil {
			return readError(err)
		}
		for _, service := range services {
			// "in tcp 10.0.0.7 5432", as the sensor's baseline writes it.
			parts := strings.Fields(service.Object)
			if len(parts) != 4 {
				continue
			}
			user := byAddress[parts[2]]
			if user == nil || selected[user.GetId()] {
				continue
			}
			found = append(found, &operatorv1.Dependent{
				Host: user.GetId(), Name: user.GetName(), Labels: maps.Clone(user.GetLabels()), On: host.GetName(),
				Service: parts[1] + "/" + parts[3] + " " + service.Subject, Flows: service.Count, LastSeen: service.LastSeen,
			})
		}
	}
	slices.SortStableFunc(found, func(a, b *operatorv1.Dependent) int { return cmp.Compare(b.GetFlows(), a.GetFlows()) })
	if len(found) > maxDependents {
		out.DependentsMore = uint32(len(found) - maxDependents) //nolint:gosec // at most dependentHosts times servicesEach
		found = found[:maxDependents]
	}
	out.Dependents = found
	return nil
}

func (s *Server) everyHost(ctx context.Context) (all []*operatorv1.Host, err error) {
	for token := ""; ; {
		hosts, next, err := s.cfg.DB.Hosts(ctx, store.HostFilter{}, store.Page{Size: store.MaxPage, Token: token})
		if err != nil {
			return nil, readError(err)
		}
		all = append(all, hosts...)
		if token = next; token == "" {
			return all, nil
		}
	}
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
	res, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: r.GetIdempotencyKey(), Body: &raftv1.Command_RequestResponse{
		RequestResponse: &raftv1.RequestResponse{Operation: decoded.GetOperation(), Grant: r.GetGrant(), Decoded: decoded, Hosts: set.Hosts()}}})
	if err != nil {
		return nil, err
	}
	s.cfg.Logger.Info("grant accepted", "action", grant.Word(decoded.GetAction()), "operation", decoded.GetOperation(),
		"operator", caller.ID, "hosts", set.Count(), "approvals", decoded.GetApprovals())
	operation := decoded.GetOperation()
	if res.GetId() != "" {
		operation = res.GetId() // the same idempotency key again: what the first one made
	}
	out := &operatorv1.SubmitGrantResponse{Operation: operation, Index: res.GetIndex()}
	if decoded.GetApprovals() > 1 {
		out.ApprovalsMissing = decoded.GetApprovals() - 1
	}
	return out, nil
}

func grantError(err error) error {
	code := connect.CodeInvalidArgument
	if errors.Is(err, grant.ErrUntrusted) || errors.Is(err, grant.ErrForbidden) || errors.Is(err, grant.ErrSignature) || errors.Is(err, grant.ErrForeign) {
		code = connect.CodePermissionDenied
	}
	return connect.NewError(code, err)
}

func checkGrant(g *sensorv1.Grant, now time.Time) error {
	leased := g.GetAction() != sensorv1.Action_ACTION_RELEASE && g.GetAction() != sensorv1.Action_ACTION_KILL && !g.GetPreview()
	switch lease := time.Duration(min(g.GetLeaseSeconds(), 1<<32)) * time.Second; {
	case grant.Word(g.GetAction()) == "":
		return invalid("action %d is unknown to this node: upgrade the coordinators", g.GetAction())
	case !strings.HasPrefix(g.GetOperation(), "op-") || len(g.GetOperation()) > 64:
		return invalid("the grant's operation id %.64q must begin with op-", g.GetOperation())
	case leased && (lease < time.Second || lease > maxLease):
		return invalid("the lease of %s is not within 1s and %s", lease, maxLease)
	case time.Unix(0, g.GetNotAfter()).Sub(now) > maxGrantAge:
		return invalid("the grant may be used for more than %s: sign a shorter one", maxGrantAge)
	}
	return nil
}

// GetOperation implements the service; it is linearizable.
func (s *Server) GetOperation(ctx context.Context, r *operatorv1.GetOperationRequest) (*operatorv1.GetOperationResponse, error) {
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	order, err := s.cfg.DB.Order(ctx, r.GetOperation(), s.cfg.Now())
	if err != nil {
		return nil, readError(err)
	}
	hosts, err := s.cfg.DB.Operation(ctx, r.GetOperation())
	if err != nil && !errors.Is(err, store.ErrNotFound) { // one that waits has none
		return nil, readError(err)
	}
	return &operatorv1.GetOperationResponse{Operation: r.GetOperation(), Hosts: hosts, Order: order}, nil
}

// ListOperations implements the service; it is linearizable.
func (s *Server) ListOperations(ctx context.Context, r *operatorv1.ListOperationsRequest) (*operatorv1.ListOperationsResponse, error) {
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	operations, token, err := s.cfg.DB.Orders(ctx, r.GetOpen(), s.cfg.Now(), store.Page{Size: r.GetPageSize(), Token: r.GetPageToken()})
	if err != nil {
		return nil, readError(err)
	}
	if r.GetOpen() {
		operations = slices.DeleteFunc(operations, func(o *operatorv1.Operation) bool { return o.GetState() == "expired" })
	}
	return &operatorv1.ListOperationsResponse{Operations: operations, PageToken: token}, nil
}

// ApproveOperation implements the service.
func (s *Server) ApproveOperation(ctx context.Context, r *operatorv1.ApproveOperationRequest) (*operatorv1.ApproveOperationResponse, error) {
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	waiting, err := s.cfg.DB.Order(ctx, r.GetOperation(), s.cfg.Now())
	if err != nil {
		return nil, readError(err)
	}
	payload := waiting.GetGrant().GetPayload()
	if len(r.GetPayload()) > 0 {
		payload = r.GetPayload()
	}
	signer, err := grant.VerifyPayload(r.GetSignature(), payload, s.operatorRoots(), s.cfg.Authority.Cluster(), s.cfg.Now())
	if err != nil {
		return nil, grantError(err)
	}
	if caller := operator(ctx); signer.ID != caller.ID {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("operator %q submits an approval that %q signed: each signs their own", caller.ID, signer.ID))
	}
	if err := checkText("", r.GetIdempotencyKey()); err != nil {
		return nil, err
	}
	if _, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: r.GetIdempotencyKey(), Body: &raftv1.Command_ApproveOperation{
		ApproveOperation: &raftv1.ApproveOperation{Operation: r.GetOperation(), Operator: signer.ID, Signature: r.GetSignature(), Payload: r.GetPayload()}}}); err != nil {
		return nil, err
	}
	order, err := s.order(ctx, r.GetOperation())
	return &operatorv1.ApproveOperationResponse{Operation: order}, err
}

// VetoOperation implements the service.
func (s *Server) VetoOperation(ctx context.Context, r *operatorv1.VetoOperationRequest) (*operatorv1.VetoOperationResponse, error) {
	if strings.TrimSpace(r.GetReason()) == "" {
		return nil, invalid("a reason is needed: the next person will ask why")
	}
	if err := checkText(r.GetReason(), r.GetIdempotencyKey()); err != nil {
		return nil, err
	}
	if _, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: r.GetIdempotencyKey(), Body: &raftv1.Command_VetoOperation{
		VetoOperation: &raftv1.VetoOperation{Operation: r.GetOperation(), Reason: r.GetReason()}}}); err != nil {
		return nil, err
	}
	order, err := s.order(ctx, r.GetOperation())
	return &operatorv1.VetoOperationResponse{Operation: order}, err
}

// order reads an operation as it stands after what was just committed.
func (s *Server) order(ctx context.Context, id string) (*operatorv1.Operation, error) {
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	order, err := s.cfg.DB.Order(ctx, id, s.cfg.Now())
	if err != nil {
		return nil, readError(err)
	}
	return order, nil
}
