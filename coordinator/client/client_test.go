package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/operatorv1/operatorv1connect"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node answers calls as a test wants it to.
type node struct {
	operatorv1connect.UnimplementedOperatorServiceHandler
	address string
	calls   atomic.Int64
	status  func(ctx context.Context, call int64) error
	submit  func(*operatorv1.SubmitGrantRequest) (*operatorv1.SubmitGrantResponse, error)
	watch   func(context.Context, *connect.ServerStream[operatorv1.WatchResponse]) error
	op      func(call int64) (*operatorv1.GetOperationResponse, error)
	list    func(*operatorv1.ListFindingsRequest) (*operatorv1.ListFindingsResponse, error)
}

func (n *node) GetStatus(ctx context.Context, _ *operatorv1.GetStatusRequest) (*operatorv1.GetStatusResponse, error) {
	call := n.calls.Add(1)
	if n.status != nil {
		if err := n.status(ctx, call); err != nil {
			return nil, err
		}
	}
	return &operatorv1.GetStatusResponse{NodeId: n.address}, nil
}

func (n *node) SubmitGrant(_ context.Context, r *operatorv1.SubmitGrantRequest) (*operatorv1.SubmitGrantResponse, error) {
	return n.submit(r)
}

func (n *node) GetOperation(context.Context, *operatorv1.GetOperationRequest) (*operatorv1.GetOperationResponse, error) {
	return n.op(n.calls.Add(1))
}

func (n *node) Watch(ctx context.Context, _ *operatorv1.WatchRequest, stream *connect.ServerStream[operatorv1.WatchResponse]) error {
	n.calls.Add(1)
	return n.watch(ctx, stream)
}

func serve(t *testing.T, ca *linktest.CA, kind string, n *node) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(operatorv1connect.NewOperatorServiceHandler(n))
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Roots(),
		Certificates: []tls.Certificate{ca.IssueBetween(kind, "n", "", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))},
	}
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	n.address = s.Listener.Addr().String()
	return n.address
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func connectTo(t *testing.T, ca *linktest.CA, opt client.Options, nodes ...string) *client.Client {
	t.Helper()
	cert := ca.IssueBetween(link.KindOperator, "alice", "admin", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(&client.Context{
		Name: "t", Nodes: nodes, CA: block("CERTIFICATE", ca.Certificate.Raw), Operators: block("CERTIFICATE", ca.Certificate.Raw), Certificate: block("CERTIFICATE", cert.Certificate[0]),
		Key: block("PRIVATE KEY", key), ClusterID: linktest.Cluster,
	}, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// closed is an address where nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	// Bound and not listening: the next server of a test would be given a port that was let go.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", at.(*syscall.SockaddrInet4).Port)
}

func unavailable(context.Context, int64) error {
	return connect.NewError(connect.CodeUnavailable, errors.New("no leader"))
}

// Ensure a call goes on to the next node, and the next call starts at the one that answered.
func TestGoesOnToTheNextNode(t *testing.T) {
	ca := linktest.NewCA(t)
	leaderless, well := &node{status: unavailable}, &node{}
	c := connectTo(t, ca, client.Options{}, closed(t), serve(t, ca, link.KindNode, leaderless), serve(t, ca, link.KindNode, well))
	for range 3 {
		st, err := c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st.GetNodeId() != well.address || c.Node() != well.address {
			t.Errorf("answered by %s, want %s", st.GetNodeId(), well.address)
		}
	}
	if got := leaderless.calls.Load(); got != 1 {
		t.Errorf("the leaderless node was asked %d times, want 1", got)
	}
}

// Ensure a failover is waited for.
func TestWaitsForALeader(t *testing.T) {
	ca := linktest.NewCA(t)
	n := &node{status: func(ctx context.Context, call int64) error {
		if call < 4 {
			return unavailable(ctx, call)
		}
		return nil
	}}
	c := connectTo(t, ca, client.Options{}, serve(t, ca, link.KindNode, n))
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	ca := linktest.NewCA(t)
	fail := func(code connect.Code) *node {
		return &node{status: func(context.Context, int64) error { return connect.NewError(code, errors.New("because")) }}
	}
	soon := client.Options{RetryFor: time.Millisecond, RetryUnreachable: time.Millisecond}
	for _, tt := range []struct {
		name  string
		nodes []string
		want  error
	}{
		{"nobody listens", []string{closed(t), closed(t)}, client.ErrUnreachable},
		{"no leader anywhere", []string{closed(t), serve(t, ca, link.KindNode, &node{status: unavailable})}, client.ErrNoLeader},
		{"denied", []string{serve(t, ca, link.KindNode, fail(connect.CodePermissionDenied))}, client.ErrDenied},
		{"unauthenticated", []string{serve(t, ca, link.KindNode, fail(connect.CodeUnauthenticated))}, client.ErrDenied},
		{"not found", []string{serve(t, ca, link.KindNode, fail(connect.CodeNotFound))}, client.ErrNotFound},
		{"invalid", []string{serve(t, ca, link.KindNode, fail(connect.CodeInvalidArgument))}, client.ErrInvalid},
		{"a server of another CA", []string{serve(t, linktest.NewCA(t), link.KindNode, &node{})}, client.ErrUntrusted},
		{"a host that plays a node", []string{serve(t, ca, link.KindHost, &node{})}, client.ErrUntrusted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := connectTo(t, ca, soon, tt.nodes...).Status(t.Context())
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// Ensure a node of another cluster under the same CA is told nothing.
func TestOtherCluster(t *testing.T) {
	ca := linktest.NewCA(t)
	n := &node{}
	ca.Cluster = "c-other"
	addr := serve(t, ca, link.KindNode, n)
	ca.Cluster = linktest.Cluster
	if _, err := connectTo(t, ca, client.Options{}, addr).Status(t.Context()); !errors.Is(err, client.ErrUntrusted) {
		t.Errorf("got %v, want %v", err, client.ErrUntrusted)
	}
	if n.calls.Load() != 0 {
		t.Error("the foreign node was asked")
	}
}

// Ensure an operator of another CA learns that it is denied, and not that the cluster is away.
func TestForeignOperator(t *testing.T) {
	ca, other := linktest.NewCA(t), linktest.NewCA(t)
	addr := serve(t, ca, link.KindNode, &node{})
	cert := other.IssueBetween(link.KindOperator, "mallory", "admin", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(&client.Context{
		Name: "t", Nodes: []string{addr}, CA: block("CERTIFICATE", ca.Certificate.Raw), Operators: block("CERTIFICATE", ca.Certificate.Raw), Certificate: block("CERTIFICATE", cert.Certificate[0]),
		Key: block("PRIVATE KEY", key), ClusterID: linktest.Cluster,
	}, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Status(t.Context()); !errors.Is(err, client.ErrDenied) {
		t.Errorf("got %v, want %v", err, client.ErrDenied)
	}
}

// Ensure the caller's deadline is a time-out and the caller's cancellation is one.
func TestDeadlineAndCancel(t *testing.T) {
	ca := linktest.NewCA(t)
	n := &node{status: func(ctx context.Context, _ int64) error { <-ctx.Done(); return ctx.Err() }}
	c := connectTo(t, ca, client.Options{}, serve(t, ca, link.KindNode, n))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := c.Status(ctx); !errors.Is(err, client.ErrTimeout) {
		t.Errorf("got %v, want %v", err, client.ErrTimeout)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := c.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// Ensure an order is signed so that a sensor honours it, and given at another node
// with the same key when the first loses it.
func TestGive(t *testing.T) {
	ca := linktest.NewCA(t)
	var keys []string
	lost := &node{submit: func(r *operatorv1.SubmitGrantRequest) (*operatorv1.SubmitGrantResponse, error) {
		keys = append(keys, r.GetIdempotencyKey())
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("the leader was lost while it decided"))
	}}
	took := &node{submit: func(r *operatorv1.SubmitGrantRequest) (*operatorv1.SubmitGrantResponse, error) {
		keys = append(keys, r.GetIdempotencyKey())
		g, signers, err := grant.Verify(r.GetGrant(), ca.Roots(), linktest.Cluster, time.Now())
		if err != nil {
			return nil, err
		}
		if signers[0].ID != "alice" || g.GetReason() != "why" || g.GetHostCount() != 1 || len(r.GetHosts()) != 1 || g.GetLeaseSeconds() != 3600 {
			t.Errorf("unexpected grant by %s: %v", signers[0].ID, g)
		}
		if good := time.Until(time.Unix(0, g.GetNotAfter())); good > time.Hour || good < 59*time.Minute {
			t.Errorf("honoured for %s, want the lease", good)
		}
		return &operatorv1.SubmitGrantResponse{Operation: g.GetOperation()}, nil
	}}
	c := connectTo(t, ca, client.Options{}, serve(t, ca, link.KindNode, lost), serve(t, ca, link.KindNode, took))
	order := client.Order{Action: sensorv1.Action_ACTION_ISOLATE, Hosts: []string{"h-1"}, Lease: time.Hour, Reason: "why",
		Seen: &operatorv1.PreviewOrderResponse{ClusterId: linktest.Cluster, Epoch: uint64(time.Now().UnixNano()), Fleet: 10, Approvals: 1}}
	op, err := c.Give(t.Context(), order)
	if err != nil || op.GetOperation() == "" {
		t.Fatalf("got operation %q, error %v", op, err)
	}
	if len(keys) != 2 || keys[0] == "" || keys[0] != keys[1] {
		t.Errorf("got keys %q, want the same one twice", keys)
	}
	for name, change := range map[string]func(*client.Order){
		"no host":         func(o *client.Order) { o.Hosts = nil },
		"another cluster": func(o *client.Order) { o.Seen = &operatorv1.PreviewOrderResponse{ClusterId: "c-other", Epoch: 1} },
		"no lease":        func(o *client.Order) { o.Lease = 0 },
		"too long":        func(o *client.Order) { o.Lease = 25 * time.Hour },
	} {
		bad := order
		change(&bad)
		if _, err := c.Give(t.Context(), bad); err == nil {
			t.Errorf("an order with %s was given", name)
		}
	}
}

// Ensure Wait ends when all have settled, and keeps what it knows when time runs out.
func TestWait(t *testing.T) {
	ca := linktest.NewCA(t)
	rows := func(states ...string) (*operatorv1.GetOperationResponse, error) {
		res := &operatorv1.GetOperationResponse{}
		for _, s := range states {
			res.Hosts = append(res.Hosts, &operatorv1.Isolation{State: s})
		}
		return res, nil
	}
	n := &node{op: func(call int64) (*operatorv1.GetOperationResponse, error) {
		if call < 3 {
			return rows("applied", "pending")
		}
		return rows("applied", "refused")
	}}
	c := connectTo(t, ca, client.Options{}, serve(t, ca, link.KindNode, n))
	seen := 0
	got, err := c.Wait(t.Context(), "op", func([]*operatorv1.Isolation) { seen++ })
	if err != nil || len(got) != 2 || seen != 3 {
		t.Errorf("got %v after %d answers, error %v", got, seen, err)
	}
	stuck := &node{op: func(int64) (*operatorv1.GetOperationResponse, error) { return rows("pending") }}
	c = connectTo(t, ca, client.Options{}, serve(t, ca, link.KindNode, stuck))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	got, err = c.Wait(ctx, "op", func([]*operatorv1.Isolation) {})
	if !errors.Is(err, client.ErrTimeout) || len(got) != 1 {
		t.Errorf("got %v, error %v; want the pending host and %v", got, err, client.ErrTimeout)
	}
}

// Ensure the waiting for an order that never goes out ends by who stopped it and why.
func TestWaitIsStopped(t *testing.T) {
	for _, tt := range []struct {
		order *operatorv1.Operation
		want  []string
	}{
		{&operatorv1.Operation{Id: "op-1", State: "vetoed", VetoedBy: "operator:bob", VetoReason: "planned work"}, []string{"op-1", "vetoed by operator:bob", "planned work"}},
		{&operatorv1.Operation{Id: "op-1", State: "expired", ApprovalsMissing: 1, Expires: 1_000_000_000}, []string{"op-1", "expired at 1970-01-01T00:00:01Z", "1 had not"}},
	} {
		ca := linktest.NewCA(t)
		n := &node{op: func(call int64) (*operatorv1.GetOperationResponse, error) {
			if call < 2 {
				return &operatorv1.GetOperationResponse{Order: &operatorv1.Operation{State: "waiting"}}, nil
			}
			return &operatorv1.GetOperationResponse{Order: tt.order}, nil
		}}
		c := connectTo(t, ca, client.Options{}, serve(t, ca, link.KindNode, n))
		_, err := c.Wait(t.Context(), "op-1", func([]*operatorv1.Isolation) {})
		if !errors.Is(err, client.ErrStopped) {
			t.Errorf("%s: got %v, want %v", tt.order.GetState(), err, client.ErrStopped)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not say %q", tt.order.GetState(), err, want)
			}
		}
	}
}

// Ensure a node that is away for a moment does not end the waiting for an approval.
func TestWaitOutlastsTheNode(t *testing.T) {
	ca := linktest.NewCA(t)
	n := &node{op: func(call int64) (*operatorv1.GetOperationResponse, error) {
		switch call {
		case 1:
			return &operatorv1.GetOperationResponse{Order: &operatorv1.Operation{State: "waiting"}}, nil
		case 2:
			return nil, connect.NewError(connect.CodeUnavailable, errors.New("no leader"))
		}
		return &operatorv1.GetOperationResponse{Order: &operatorv1.Operation{State: "ordered"}, Hosts: []*operatorv1.Isolation{{State: "applied"}}}, nil
	}}
	soon := client.Options{RetryFor: time.Millisecond, RetryUnreachable: time.Millisecond}
	c := connectTo(t, ca, soon, serve(t, ca, link.KindNode, n))
	if got, err := c.Wait(t.Context(), "op", func([]*operatorv1.Isolation) {}); err != nil || len(got) != 1 {
		t.Errorf("got %v, error %v; want the host", got, err)
	}
}

// Ensure a watcher is taken on at the next node, and that nobody has to send an
// event for that to be known.
func TestWatchFailsOver(t *testing.T) {
	ca := linktest.NewCA(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	dying := &node{watch: func(_ context.Context, s *connect.ServerStream[operatorv1.WatchResponse]) error {
		if err := s.Send(&operatorv1.WatchResponse{Host: "a"}); err != nil {
			return err
		}
		return connect.NewError(connect.CodeUnavailable, errors.New("stopping"))
	}}
	well := &node{watch: func(ctx context.Context, s *connect.ServerStream[operatorv1.WatchResponse]) error {
		if err := s.Send(nil); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}}
	first, second := serve(t, ca, link.KindNode, dying), serve(t, ca, link.KindNode, well)
	c := connectTo(t, ca, client.Options{}, first, second)
	var events, changes []string
	err := c.Watch(ctx, "", func(ev *operatorv1.WatchResponse) { events = append(events, ev.GetHost()) }, func(node string, err error) {
		if err != nil {
			node = "lost " + node
		}
		changes = append(changes, node)
		if node == second {
			cancel()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != 1 || len(changes) != 3 || changes[0] != first || changes[1] != "lost "+first || changes[2] != second {
		t.Errorf("events %q, changes %q", events, changes)
	}
}
