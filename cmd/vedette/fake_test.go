package main

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/goccy/go-yaml"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/operatorv1/operatorv1connect"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// fake is a coordinator with fixed rows behind real TLS: what the CLI says and how
// it ends must not depend on what a cluster happens to hold.
type fake struct {
	operatorv1connect.UnimplementedOperatorServiceHandler
	t  testing.TB
	ca *linktest.CA

	at   []string // its two nodes
	dead string   // where there is none

	mu    sync.Mutex
	mode  string // how it behaves, set by the script
	polls int
	ops   map[string][]*operatorv1.Isolation // by operation
	keys  map[string]string                  // idempotency key → operation
	// what waits for another operator
	grants map[string]*sensorv1.SignedGrant
	orders map[string][]string
	given  map[string]*operatorv1.Operation // what went out, as a whole
	calls  map[string]int
	// versions of the intent, oldest first, and the one that connected hosts hold
	intents []*sensorv1.SignedIntent
	held    uint64
	// the list of the nodes as it was signed last
	nodes *sensorv1.SignedNodes
	// revocations is the list of who is no operator any more.
	revocations *sensorv1.SignedRevocations
	// the order to forget that was given last, and how often was asked what became of it
	unlearn      *sensorv1.Unlearn
	unlearnAsked int
	// what the hosts of an incident were told when it was closed
	disposed []*sensorv1.Disposition
	// sets of rules, oldest first, with what became of each
	rules []*fakeRules
	// how often was asked for hosts and for the intent when the last was applied
	quick, asked int
}

// start serves the fake on two nodes and writes context files into dir.
func start(t testing.TB, dir string) (*fake, func(string) string) {
	t.Helper()
	f := &fake{t: t, ca: linktest.NewCA(t), ops: map[string][]*operatorv1.Isolation{}, keys: map[string]string{}, calls: map[string]int{},
		grants: map[string]*sensorv1.SignedGrant{}, orders: map[string][]string{}, given: map[string]*operatorv1.Operation{}}
	n1, n2 := f.serve(f.ca, "n1"), f.serve(f.ca, "n2")
	f.at = []string{n1, n2}
	stranger := f.serve(linktest.NewCA(t), "n1")
	host := f.serveAs(f.ca, f.ca.IssueBetween(link.KindNode, "n1", "", time.Now().Add(-time.Hour), time.Now().Add(time.Hour)), "c-other")
	dead := unused(t)
	f.dead = dead
	hour := time.Hour
	now := time.Now()
	alice := f.ca.IssueBetween(link.KindOperator, "alice", "admin", now.Add(-hour), now.Add(hour))
	for name, c := range map[string]*client.Context{
		"admin":   f.context("test", alice, n1, n2),
		"half":    f.context("half", alice, dead, n2),
		"dead":    f.context("dead", alice, dead),
		"foreign": f.context("foreign", alice, stranger),
		"other":   f.context("other", alice, host),
		"viewer":  f.context("viewer", f.ca.IssueBetween(link.KindOperator, "bob", "viewer", now.Add(-hour), now.Add(hour)), n1),
		"expired": f.context("expired", f.ca.IssueBetween(link.KindOperator, "eve", "admin", now.Add(-2*hour), now.Add(-hour)), n1),
		"unknown": f.context("unknown", linktest.NewCA(t).IssueBetween(link.KindOperator, "mallory", "admin", now.Add(-hour), now.Add(hour)), n1),
	} {
		if name == "admin" {
			c.Authority, c.AuthorityKey = c.Operators, f.pemKey(f.ca.Key())
		}
		raw, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".context.yaml"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f, func(s string) string {
		return strings.NewReplacer(n1, "NODE1", n2, "NODE2", stranger, "STRANGER", host, "OTHER", dead, "DEAD").Replace(s)
	}
}

func (f *fake) context(name string, cert tls.Certificate, nodes ...string) *client.Context {
	block := func(der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	peer, err := link.PeerOf(cert.Leaf)
	if err != nil {
		f.t.Fatal(err)
	}
	return &client.Context{
		Name: name, Nodes: nodes, CA: block(f.ca.Certificate.Raw), Operators: block(f.ca.Certificate.Raw), Certificate: block(cert.Certificate[0]),
		Key: f.pemKey(cert.PrivateKey.(ed25519.PrivateKey)), ClusterID: linktest.Cluster, Operator: peer.ID, Role: peer.Role,
	}
}

func (f *fake) pemKey(key ed25519.PrivateKey) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (f *fake) serve(ca *linktest.CA, id string) string {
	return f.serveAs(ca, ca.IssueBetween(link.KindNode, id, "", time.Now().Add(-time.Hour), time.Now().Add(time.Hour)), "")
}

// serveAs serves with a certificate; a wrong cluster in its URI when one is given.
func (f *fake) serveAs(ca *linktest.CA, cert tls.Certificate, cluster string) string {
	if cluster != "" {
		old := f.ca.Cluster
		f.ca.Cluster = cluster
		cert = f.ca.IssueBetween(link.KindNode, "n1", "", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		f.ca.Cluster = old
	}
	mux := http.NewServeMux()
	mux.Handle(operatorv1connect.NewOperatorServiceHandler(f, connect.WithInterceptors(f)))
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Roots(),
	}
	s.Config.ErrorLog = nil
	s.StartTLS()
	f.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.Listener.Addr().String()
}

func unused(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Interceptors: roles and the script's mode, before any method.

func (f *fake) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		method := req.Spec().Procedure[strings.LastIndex(req.Spec().Procedure, "/")+1:]
		f.mu.Lock()
		mode := f.mode
		f.calls[method]++
		f.mu.Unlock()
		switch mode {
		case "no-leader":
			return nil, connect.NewError(connect.CodeUnavailable, errors.New("no leader: 1 of 3 nodes"))
		case "slow":
			<-ctx.Done()
			return nil, ctx.Err()
		case "broken":
			return nil, connect.NewError(connect.CodeInternal, errors.New("the disk of \x1b[31mn1 is full"))
		case "viewer":
			if slices.Contains([]string{"SubmitGrant", "CreateToken", "RemoveMember", "CloseIncident", "ApplyIntent", "PutSignedNodes", "DebugInfo", "PutRevocations", "RemoveHost", "PrepareRoot", "PutTrust"}, method) {
				return nil, connect.NewError(connect.CodePermissionDenied, errors.New("role viewer may not do this: it needs responder"))
			}
		}
		return next(ctx, req)
	}
}

func (f *fake) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (f *fake) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func (f *fake) is(mode string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mode == mode
}

func (f *fake) GetStatus(context.Context, *operatorv1.GetStatusRequest) (*operatorv1.GetStatusResponse, error) {
	st := fixedStatus()
	if f.is("leaderless") {
		st.LeaderId = ""
	}
	switch {
	case f.is("all well"):
		st.Problems, st.HostsSilent, st.HostsBlind, st.HostsStopped, st.IncidentsOpen = nil, 0, 0, 0, 0
	case f.is("well uncut"):
		st.Problems, st.IsolationsFailed, st.IsolationsPending = nil, 2, 1
	case f.is("well"):
		st.Problems = nil
	}
	f.mu.Lock()
	st.SignedNodes = f.nodes
	f.mu.Unlock()
	return st, nil
}

func (f *fake) hosts(sel *operatorv1.Selector, all bool) []*operatorv1.Host {
	if f.is("empty") {
		return nil
	}
	return slices.DeleteFunc(f.holding(fixedHosts()), func(h *operatorv1.Host) bool {
		switch {
		case len(sel.GetIds()) > 0:
			return !slices.Contains(sel.GetIds(), h.GetId()) && !slices.Contains(sel.GetIds(), h.GetName())
		case len(sel.GetLabels()) > 0:
			for k, v := range sel.GetLabels() {
				if h.GetLabels()[k] != v {
					return true
				}
			}
			return false
		case sel.GetIncident() != "":
			return !slices.Contains(fixedIncident().GetHosts(), h.GetId())
		case sel.GetCampaign() != "":
			return !slices.Contains(fixedCampaign().GetHosts(), h.GetId())
		}
		return !all && !sel.GetAll()
	})
}

// ListHosts pages by one, so that every script also tests paging.
func (f *fake) ListHosts(_ context.Context, r *operatorv1.ListHostsRequest) (*operatorv1.ListHostsResponse, error) {
	hosts := f.hosts(r.GetSelector(), true)
	at := len(r.GetPageToken())
	if at >= len(hosts) {
		return &operatorv1.ListHostsResponse{}, nil
	}
	return &operatorv1.ListHostsResponse{Hosts: hosts[at : at+1], PageToken: strings.Repeat("x", at+1)}, nil
}

func (f *fake) GetHost(_ context.Context, r *operatorv1.GetHostRequest) (*operatorv1.GetHostResponse, error) {
	hosts := f.hosts(&operatorv1.Selector{Ids: []string{r.GetId()}}, false)
	if len(hosts) != 1 {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no host %q", r.GetId()))
	}
	return &operatorv1.GetHostResponse{Host: hosts[0], Behaviours: fixedBehaviours()}, nil
}

func (f *fake) PreviewOrder(_ context.Context, r *operatorv1.PreviewOrderRequest) (*operatorv1.PreviewOrderResponse, error) {
	out := &operatorv1.PreviewOrderResponse{Hosts: f.hosts(r.GetSelector(), false), ClusterId: linktest.Cluster,
		Epoch: uint64(time.Now().UnixNano()), Fleet: 3, Approvals: 1}
	if f.is("capped") {
		out.Approvals, out.Caps, out.Protected = 2, []string{"3 of the 3 hosts of the fleet would be contained"}, []string{"h-cccccccccccc"}
		out.Dependents = []*operatorv1.Dependent{{Host: "h-dddddddddddd", Name: "shop1", On: "db1", Service: "tcp/5432 /usr/bin/postgres", Flows: 7}}
	}
	return out, nil
}

func (f *fake) waiting(op string, g *sensorv1.SignedGrant) *operatorv1.Operation {
	o := &operatorv1.Operation{Id: op, State: "waiting", Action: "isolate", Grant: g, Hosts: f.orders[op], RequestedBy: "bob", Reason: "drill",
		ApprovedBy: []string{"bob"}, ApprovalsMissing: 1, RequestedAt: at(1), Expires: at(3600)}
	switch f.mode {
	case "vetoed":
		o.State, o.VetoedBy, o.VetoReason = "vetoed", "operator:bob", "planned work"
	case "expired":
		o.State = "expired"
	}
	return o
}

func (f *fake) ApproveOperation(_ context.Context, r *operatorv1.ApproveOperationRequest) (*operatorv1.ApproveOperationResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	signed := f.grants[r.GetOperation()]
	payload := signed.GetPayload()
	if len(r.GetPayload()) > 0 {
		payload = r.GetPayload()
	}
	signer, err := grant.VerifyPayload(r.GetSignature(), payload, f.ca.Roots(), linktest.Cluster, time.Now())
	if err != nil {
		return nil, connect.NewError(connect.CodePermissionDenied, err)
	}
	o := f.waiting(r.GetOperation(), signed)
	o.State, o.ApprovalsMissing, o.ApprovedBy = "ordered", 0, append(o.GetApprovedBy(), signer.ID)
	return &operatorv1.ApproveOperationResponse{Operation: o}, nil
}

func (f *fake) VetoOperation(_ context.Context, r *operatorv1.VetoOperationRequest) (*operatorv1.VetoOperationResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.waiting(r.GetOperation(), f.grants[r.GetOperation()])
	o.State, o.VetoedBy, o.VetoReason = "vetoed", "operator:alice", r.GetReason()
	return &operatorv1.VetoOperationResponse{Operation: o}, nil
}

func (f *fake) ListOperations(context.Context, *operatorv1.ListOperationsRequest) (*operatorv1.ListOperationsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &operatorv1.ListOperationsResponse{}
	for op, signed := range f.grants {
		out.Operations = append(out.Operations, f.waiting(op, signed))
	}
	return out, nil
}

func (f *fake) ListFindings(ctx context.Context, r *operatorv1.ListFindingsRequest) (*operatorv1.ListFindingsResponse, error) {
	if f.is("empty") {
		return &operatorv1.ListFindingsResponse{}, nil
	}
	if res, err := f.longList(ctx, r); res != nil || err != nil {
		return res, err
	}
	if r.GetHost() != "" && len(f.hosts(&operatorv1.Selector{Ids: []string{r.GetHost()}}, false)) == 0 {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("host %q: not found", r.GetHost()))
	}
	rows := slices.DeleteFunc(fixedFindings(), func(row *operatorv1.FindingRow) bool {
		return r.GetHost() != "" && row.GetHost() != r.GetHost() && row.GetHostName() != r.GetHost() || row.GetFinding().GetTime() < r.GetSince()
	})
	return &operatorv1.ListFindingsResponse{Findings: rows}, nil
}

func (f *fake) GetFinding(_ context.Context, r *operatorv1.GetFindingRequest) (*operatorv1.GetFindingResponse, error) {
	for _, row := range fixedFindings() {
		if row.GetFinding().GetId() == r.GetId() {
			return &operatorv1.GetFindingResponse{Finding: row}, nil
		}
	}
	return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no finding %q", r.GetId()))
}

func (f *fake) ListIncidents(context.Context, *operatorv1.ListIncidentsRequest) (*operatorv1.ListIncidentsResponse, error) {
	return &operatorv1.ListIncidentsResponse{Incidents: append(fixedIncidents(), fixedIncident())}, nil
}

func (f *fake) SubmitGrant(_ context.Context, r *operatorv1.SubmitGrantRequest) (*operatorv1.SubmitGrantResponse, error) {
	g, signers, err := grant.VerifyWaiting(r.GetGrant(), f.ca.Roots(), linktest.Cluster, time.Now())
	if err != nil {
		return nil, connect.NewError(connect.CodePermissionDenied, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.GetIdempotencyKey() == "" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no idempotency key"))
	}
	if op, ok := f.keys[r.GetIdempotencyKey()]; ok {
		return &operatorv1.SubmitGrantResponse{Operation: op}, nil
	}
	op := fmt.Sprintf("op-%d", len(f.ops)+1)
	f.keys[r.GetIdempotencyKey()] = op
	f.polls = 0
	if g.GetApprovals() > 1 {
		f.grants[op], f.orders[op], f.ops[op] = r.GetGrant(), r.GetHosts(), nil
		return &operatorv1.SubmitGrantResponse{Operation: op, ApprovalsMissing: g.GetApprovals() - 1}, nil
	}
	f.given[op] = &operatorv1.Operation{Id: op, State: "ordered", Action: grant.Word(g.GetAction()), Grant: r.GetGrant(), Hosts: r.GetHosts()}
	for n, host := range r.GetHosts() {
		i := &operatorv1.Isolation{
			Id: op + "/" + host, Host: host, HostName: names[host], State: "pending", RequestedBy: signers[0].ID, Reason: g.GetReason(),
			Operation: op, Action: grant.Word(g.GetAction()), Target: g.GetTarget(),
		}
		if i.State = f.outcome(n, i.Action); g.GetPreview() {
			i.State, i.Detail = "previewed", "3 processes would end"
		}
		if i.State == "applied" {
			i.AppliedAt = at(5)
			i.LeaseExpires = at(5) + int64(g.GetLeaseSeconds())*int64(time.Second)
			i.SelfTest = "coordinator reached, probe cut"
		}
		if i.State == "refused" {
			i.Detail = "isolation is disabled in its configuration"
		}
		f.ops[op] = append(f.ops[op], i)
	}
	return &operatorv1.SubmitGrantResponse{Operation: op}, nil
}

func (f *fake) outcome(n int, action string) string {
	switch f.mode {
	case "pending", "late":
		return "pending"
	case "mixed":
		return []string{"applied", "refused", "failed"}[n%3]
	case "refused":
		return "refused"
	}
	if action == "release" {
		return "released"
	}
	return "applied"
}

func (f *fake) GetOperation(_ context.Context, r *operatorv1.GetOperationRequest) (*operatorv1.GetOperationResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rows := f.ops[r.GetOperation()]
	if r.GetOperation() == "op-proposed" {
		return &operatorv1.GetOperationResponse{Operation: r.GetOperation(), Order: f.proposal()}, nil
	}
	if signed := f.grants[r.GetOperation()]; signed != nil {
		return &operatorv1.GetOperationResponse{Operation: r.GetOperation(), Order: f.waiting(r.GetOperation(), signed)}, nil
	}
	if rows == nil {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no operation %q", r.GetOperation()))
	}
	f.polls++
	if f.mode == "late" && f.polls > 2 {
		for _, i := range rows {
			i.State, i.AppliedAt, i.LeaseExpires = "applied", at(5), at(3605)
		}
	}
	return &operatorv1.GetOperationResponse{Operation: r.GetOperation(), Hosts: rows, Order: f.given[r.GetOperation()]}, nil
}

func (f *fake) ListIsolations(_ context.Context, r *operatorv1.ListIsolationsRequest) (*operatorv1.ListIsolationsResponse, error) {
	if f.is("empty") {
		return &operatorv1.ListIsolationsResponse{}, nil
	}
	return &operatorv1.ListIsolationsResponse{Isolations: fixedIsolations()}, nil
}

func (f *fake) ListAudit(_ context.Context, r *operatorv1.ListAuditRequest) (*operatorv1.ListAuditResponse, error) {
	entries := fixedAudit()
	if f.is("forged") {
		entries[1].Actor = "operator:nobody"
	}
	if f.is("rewritten") {
		entries = chain("operator:nobody", 3)
	}
	entries = entries[min(int(r.GetAfter()), len(entries)):]
	n := min(2, len(entries))
	return &operatorv1.ListAuditResponse{Entries: entries[:n], More: len(entries) > n}, nil
}

func (f *fake) CreateToken(context.Context, *operatorv1.CreateTokenRequest) (*operatorv1.CreateTokenResponse, error) {
	token := link.NewToken(f.ca.Pin(), f.ca.Pin())
	switch {
	case f.is("stolen"):
		token.Operators[0] ^= 1
	case f.is("impostor"):
		token.CA[0] ^= 1
	}
	return &operatorv1.CreateTokenResponse{Token: token.String(), Expires: at(3600)}, nil
}

func (f *fake) RemoveMember(_ context.Context, r *operatorv1.RemoveMemberRequest) (*operatorv1.RemoveMemberResponse, error) {
	if r.GetId() == "n9" {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no node %q in this cluster", r.GetId()))
	}
	return &operatorv1.RemoveMemberResponse{}, nil
}

func (f *fake) Watch(ctx context.Context, r *operatorv1.WatchRequest, stream *connect.ServerStream[operatorv1.WatchResponse]) error {
	if err := stream.Send(nil); err != nil {
		return err
	}
	for _, ev := range fixedEvents() {
		if r.GetHost() == "" || r.GetHost() == ev.GetHost() || r.GetHost() == ev.GetHostName() {
			if err := stream.Send(ev); err != nil {
				return err
			}
		}
	}
	if f.is("restart") {
		f.mu.Lock()
		f.mode = ""
		f.mu.Unlock()
		return connect.NewError(connect.CodeUnavailable, errors.New("the node is stopping"))
	}
	<-ctx.Done()
	return nil
}
