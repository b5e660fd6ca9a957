package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/link"
	operators "github.com/vedette-edr/vedette/proto/operator"
	rpc "github.com/vedette-edr/vedette/proto/operatorv1/operatorv1connect"
)

// roles from least to most; each may do what those before it may.
var roles = []string{operators.RoleViewer, operators.RoleHunter, operators.RoleResponder, operators.RoleAdmin}

// least is the least role that each procedure needs. What is not here is denied
// to everybody.
var least = map[string]string{
	rpc.OperatorServiceGetStatusProcedure:          operators.RoleViewer,
	rpc.OperatorServiceListHostsProcedure:          operators.RoleViewer,
	rpc.OperatorServiceGetHostProcedure:            operators.RoleViewer,
	rpc.OperatorServiceGetHostHistoryProcedure:     operators.RoleViewer,
	rpc.OperatorServiceListFindingsProcedure:       operators.RoleViewer,
	rpc.OperatorServiceGetFindingProcedure:         operators.RoleViewer,
	rpc.OperatorServiceListIncidentsProcedure:      operators.RoleViewer,
	rpc.OperatorServiceGetIncidentProcedure:        operators.RoleViewer,
	rpc.OperatorServiceListInvestigationsProcedure: operators.RoleViewer,
	rpc.OperatorServiceGetInvestigationProcedure:   operators.RoleViewer,
	rpc.OperatorServiceListCampaignsProcedure:      operators.RoleViewer,
	rpc.OperatorServiceGetCampaignProcedure:        operators.RoleViewer,
	rpc.OperatorServiceSelectHostsProcedure:        operators.RoleViewer,
	rpc.OperatorServiceListIsolationsProcedure:     operators.RoleViewer,
	rpc.OperatorServiceGetOperationProcedure:       operators.RoleViewer,
	// An auditor is a viewer: the record must be checkable by who may change nothing.
	rpc.OperatorServiceListAuditProcedure:        operators.RoleViewer,
	rpc.OperatorServiceListMembersProcedure:      operators.RoleViewer,
	rpc.OperatorServiceDebugInfoProcedure:        operators.RoleAdmin,
	rpc.OperatorServiceWatchProcedure:            operators.RoleViewer,
	rpc.OperatorServiceCloseIncidentProcedure:    operators.RoleHunter,
	rpc.OperatorServiceSubmitGrantProcedure:      operators.RoleResponder,
	rpc.OperatorServicePreviewOrderProcedure:     operators.RoleViewer,
	rpc.OperatorServiceListOperationsProcedure:   operators.RoleViewer,
	rpc.OperatorServiceApproveOperationProcedure: operators.RoleResponder,
	rpc.OperatorServiceVetoOperationProcedure:    operators.RoleResponder,
	rpc.OperatorServiceGetIntentProcedure:        operators.RoleViewer,
	rpc.OperatorServiceListIntentsProcedure:      operators.RoleViewer,
	rpc.OperatorServiceTestIntentProcedure:       operators.RoleViewer,
	rpc.OperatorServiceGetScorecardProcedure:     operators.RoleViewer,
	// Intent is strategy: it says what may be done to the fleet without asking anybody.
	rpc.OperatorServiceApplyIntentProcedure: operators.RoleAdmin,
	// Rules make the findings that the intent acts on, and a flood of them hides others.
	rpc.OperatorServicePutRulesProcedure: operators.RoleAdmin,
	// Taking them back only brings the rules of before.
	rpc.OperatorServiceHaltRulesProcedure:    operators.RoleResponder,
	rpc.OperatorServiceGetRulesProcedure:     operators.RoleViewer,
	rpc.OperatorServiceListRulesProcedure:    operators.RoleViewer,
	rpc.OperatorServiceCreateTokenProcedure:  operators.RoleAdmin,
	rpc.OperatorServiceRemoveMemberProcedure: operators.RoleAdmin,
	// All that the cluster knows, at once, and its key when that is asked for.
	rpc.OperatorServiceBackupProcedure: operators.RoleAdmin,
	// It says what stays open to every isolated host.
	rpc.OperatorServicePutSignedNodesProcedure: operators.RoleAdmin,
	// Who is who.
	rpc.OperatorServiceListOperatorsProcedure:   operators.RoleViewer,
	rpc.OperatorServicePutRevocationsProcedure:  operators.RoleAdmin,
	rpc.OperatorServiceRemoveHostProcedure:      operators.RoleAdmin,
	rpc.OperatorServiceListCheckpointsProcedure: operators.RoleViewer,
	// A report of what a person did on a host; nothing is done by it.
	rpc.OperatorServicePutDrillsProcedure:  operators.RoleHunter,
	rpc.OperatorServiceListDrillsProcedure: operators.RoleViewer,
	// Every operator's context follows it.
	rpc.OperatorServiceGetTrustProcedure:    operators.RoleViewer,
	rpc.OperatorServicePrepareRootProcedure: operators.RoleAdmin,
	rpc.OperatorServicePutTrustProcedure:    operators.RoleAdmin,
	// What is normal: a hunter may say what is, and only who may act that something was not.
	rpc.OperatorServiceListBehavioursProcedure: operators.RoleViewer,
	rpc.OperatorServiceDiffBaselinesProcedure:  operators.RoleViewer,
	rpc.OperatorServiceListRolesProcedure:      operators.RoleViewer,
	rpc.OperatorServiceListRollOutsProcedure:   operators.RoleViewer,
	rpc.OperatorServiceListUnlearnsProcedure:   operators.RoleViewer,
	rpc.OperatorServiceGetPackProcedure:        operators.RoleViewer,
	rpc.OperatorServicePutPackProcedure:        operators.RoleHunter,
	rpc.OperatorServiceUnlearnProcedure:        operators.RoleResponder,
	// It costs the hosts, and shows what people did there.
	rpc.OperatorServiceHuntProcedure: operators.RoleHunter,
}

// pageRole is the same for what is no procedure.
var pageRole = map[string]string{pageMetrics: operators.RoleViewer, pageHealth: operators.RoleViewer, pageReady: operators.RoleViewer}

// may says whether a role may call a procedure, and which role it needs.
func may(role, procedure string) (needed string, ok bool) {
	needed, named := least[procedure]
	if !named {
		needed, named = pageRole[procedure]
	}
	have := slices.Index(roles, role)
	return needed, named && have >= 0 && have >= slices.Index(roles, needed)
}

// aboutNodes are asked of a node that is not fit too: they tell what it is that it has.
var aboutNodes = map[string]bool{
	rpc.OperatorServiceGetStatusProcedure:   true,
	rpc.OperatorServiceListMembersProcedure: true,
	rpc.OperatorServiceDebugInfoProcedure:   true,
	pageMetrics:                             true, pageHealth: true, pageReady: true,
}

type operatorKey struct{}

// operator is who calls; the middleware has put it there.
func operator(ctx context.Context) link.Peer {
	peer, _ := ctx.Value(operatorKey{}).(link.Peer)
	return peer
}

// actor is how the audit names the caller.
func actor(ctx context.Context) string { return "operator:" + operator(ctx).ID }

// authorise lets a request through to the service when its certificate's role allows it.
func (s *Server) authorise(next http.Handler) http.Handler {
	errorWriter := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, named, err := s.identify(r)
		if err == nil {
			err = s.stillOperator(r.Context(), peer, named)
		}
		if err == nil {
			needed, ok := may(peer.Role, r.URL.Path)
			unfit := error(nil)
			if ok && !aboutNodes[r.URL.Path] {
				unfit = s.cfg.Log.Fit()
			}
			switch {
			case unfit != nil:
				_ = errorWriter.Write(w, r, connect.NewError(connect.CodeUnavailable, unfit))
				return
			case ok:
				s.noteOperator(peer, named)
				s.tellTrust(w, r, peer)
				next.ServeHTTP(w, r.WithContext(context.WithValue(context.WithValue(r.Context(), operatorKey{}, peer), namedKey{}, named)))
				return
			case needed == "":
				err = connect.NewError(connect.CodePermissionDenied, fmt.Errorf("%s is nothing that an operator may call", r.URL.Path))
			default:
				err = connect.NewError(connect.CodePermissionDenied,
					fmt.Errorf("operator %q has role %q, this needs role %q or above: ask an admin", peer.ID, peer.Role, needed))
			}
		}
		s.deniedAll.Add(1)
		s.mu.Lock()
		s.denied[peer.ID]++
		count := s.denied[peer.ID]
		if len(s.denied) > 1000 {
			clear(s.denied)
		}
		s.mu.Unlock()
		s.cfg.Logger.Warn("operator request denied", "operator", peer.ID, "path", r.URL.Path, "address", r.RemoteAddr, "denied_so_far", count, "error", err)
		if errorWriter.IsSupported(r) {
			_ = errorWriter.Write(w, r, err)
			return
		}
		http.Error(w, err.Error(), http.StatusForbidden)
	})
}

// identify takes the caller from the verified certificate, and all whom its chains name.
func (s *Server) identify(r *http.Request) (peer link.Peer, named []string, err error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.PeerCertificates) == 0 {
		return link.Peer{}, nil, connect.NewError(connect.CodeUnauthenticated, errors.New("an operator certificate is needed: use the context file that 'vedette-coordinator init' wrote"))
	}
	leaf := r.TLS.PeerCertificates[0]
	peer, err = link.PeerOf(leaf)
	if err != nil {
		return link.Peer{}, nil, connect.NewError(connect.CodeUnauthenticated, err)
	}
	switch {
	case peer.Kind != link.KindOperator:
		return peer, nil, connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("this certificate is of %s %q: operators have their own", peer.Kind, peer.ID))
	case peer.Cluster != s.cfg.Authority.Cluster():
		return peer, nil, connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("this certificate is of cluster %s, this node is of %s", peer.Cluster, s.cfg.Authority.Cluster()))
	}
	return peer, namedBy(r.TLS.VerifiedChains), nil
}
