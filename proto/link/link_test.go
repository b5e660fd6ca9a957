package link_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type handlers = map[string]func(context.Context, *link.Conn)

// serve runs a node for the test and ends it with it.
func serve(t *testing.T, cfg link.ListenConfig, h handlers) *link.Listener {
	t.Helper()
	l, err := link.Listen("127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Serve(ctx, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return l
}

// echo answers every stream with what it says, after the peer's identity.
func echo(ctx context.Context, c *link.Conn) {
	for {
		s, err := c.AcceptStream(ctx)
		if err != nil {
			return
		}
		body, err := io.ReadAll(s)
		if err == nil {
			_, _ = fmt.Fprintf(s, "%s/%s %s", c.Peer().Kind, c.Peer().ID, body)
		}
		_ = s.Close()
	}
}

// ask sends text on a new stream and returns the answer.
func ask(t *testing.T, c *link.Conn, text string) (string, error) {
	t.Helper()
	s, err := c.OpenStream(t.Context())
	if err != nil {
		return "", err
	}
	defer s.Close()
	if _, err := io.WriteString(s, text); err != nil {
		return "", err
	}
	if err := s.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(s)
	return string(answer), err
}

func dial(t *testing.T, addr net.Addr, alpn string, cfg link.DialConfig) (*link.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := link.Dial(ctx, addr.String(), alpn, cfg)
	if err == nil {
		t.Cleanup(func() { _ = c.CloseWithReason(link.CodeOK, "") })
	}
	return c, err
}

// until polls for what happens on another goroutine.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited 10 s for: %s", what)
		case <-tick.C:
		}
	}
}

// Ensure all three ALPNs work on one socket, each peer known by its certificate,
// and that a node can dial from the socket it listens on.
func TestThreeProtocolsOneSocket(t *testing.T) {
	ca := linktest.NewCA(t)
	all := handlers{link.ALPNSensor: echo, link.ALPNRaft: echo, link.ALPNEnroll: echo}
	node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", "")}, all)
	other := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n2", "")}, all)

	sensor, err := dial(t, node.Addr(), link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, sensor, "hello"); err != nil || got != "host/h-1 hello" {
		t.Fatalf("sensor: got %q, %v", got, err)
	}
	if sensor.Peer().Kind != link.KindNode || sensor.Peer().ID != "n1" {
		t.Fatalf("sensor sees %+v", sensor.Peer())
	}

	joining, err := dial(t, node.Addr(), link.ALPNEnroll, link.DialConfig{PinnedCA: ca.Pin()})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, joining, "let me in"); err != nil || got != "/ let me in" {
		t.Fatalf("enrolment: got %q, %v", got, err)
	}

	peer, err := other.Dial(t.Context(), node.Addr().String(), link.ALPNRaft)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, peer, "vote"); err != nil || got != "node/n2 vote" {
		t.Fatalf("raft: got %q, %v", got, err)
	}
	if peer.LocalAddr().String() != other.Addr().String() {
		t.Errorf("a node dialled from %s, its socket is %s", peer.LocalAddr(), other.Addr())
	}
	stats := node.Stats()
	for _, alpn := range []string{link.ALPNSensor, link.ALPNRaft, link.ALPNEnroll} {
		if stats.Accepted[alpn] != 1 {
			t.Errorf("accepted on %s: got %d, want 1", alpn, stats.Accepted[alpn])
		}
	}
	if len(stats.Refused) != 0 || stats.Open != 3 {
		t.Errorf("stats: %+v", stats)
	}
}

// Ensure everybody who must stay outside does, is told why, and is counted.
func TestRefusals(t *testing.T) {
	ca, foreign := linktest.NewCA(t), linktest.NewCA(t)
	now := time.Now()
	expired := ca.IssueBetween(link.KindHost, "h-old", "", now.Add(-48*time.Hour), now.Add(-24*time.Hour))
	revoked := ca.IssueBetween(link.KindHost, "h-bad", "", now.Add(-time.Hour), now.Add(time.Hour))
	stranger := foreign.Issue(link.KindHost, "h-1", "")
	stranger.Roots = ca.Roots
	stale := lie(t, ca.Credentials(expired), func(leaf *x509.Certificate) { leaf.NotAfter = now.Add(time.Hour) })

	creds := ca.Issue(link.KindNode, "n1", "")
	creds.Revoked = func(serial string) bool { return serial == link.Serial(revoked.Leaf) }

	for _, tt := range []struct {
		name    string
		alpn    string
		creds   link.Credentials
		want    error
		code    uint64
		says    string
		counted string
	}{
		{"foreign CA", link.ALPNSensor, stranger, link.ErrForeignCA, 0, "another cluster", "tls:foreign-ca"},
		{"expired, known to itself", link.ALPNSensor, ca.Credentials(expired), link.ErrExpired, 0, "valid from", ""},
		{"expired, by the node's clock", link.ALPNSensor, stale, link.ErrExpired, 0, "compare the clocks", "tls:expired-certificate"},
		{"host on raft", link.ALPNRaft, ca.Issue(link.KindHost, "h-1", ""), nil, link.CodeWrongKind, "for node certificates", "wrong-kind"},
		{"node on sensor", link.ALPNSensor, ca.Issue(link.KindNode, "n9", ""), nil, link.CodeWrongKind, "for host certificates", "wrong-kind"},
		{"operator on sensor", link.ALPNSensor, ca.Issue(link.KindOperator, "alice", "admin"), nil, link.CodeWrongKind, "alice", "wrong-kind"},
		{"revoked", link.ALPNSensor, ca.Credentials(revoked), nil, link.CodeRevoked, "enrol again", "revoked"},
		{"unknown protocol", "vedette-sensor/99", ca.Issue(link.KindHost, "h-1", ""), link.ErrUnknownALPN, 0, "Vedette node of this version", "tls:unknown-alpn"},
		{"not served", link.ALPNEnroll, link.Credentials{Roots: ca.Roots}, nil, link.CodeNotServed, "does not serve", "not-served"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node := serve(t, link.ListenConfig{Credentials: creds}, handlers{link.ALPNSensor: echo, link.ALPNRaft: echo})
			expectRefusal(t, node, tt.alpn, link.DialConfig{Credentials: tt.creds}, tt.want, tt.code, tt.says, tt.counted)
		})
	}
	t.Run("foreign cluster under a shared CA", func(t *testing.T) {
		node := serve(t, link.ListenConfig{Credentials: creds}, handlers{link.ALPNSensor: echo})
		twin := *ca
		twin.Cluster = "c-twin"
		honest := twin.Issue(link.KindHost, "h-1", "")
		expectRefusal(t, node, link.ALPNSensor, link.DialConfig{Credentials: honest}, link.ErrWrongPeer, 0, "c-twin", "tls-peer:bad-certificate")
		lying := lie(t, honest, func(leaf *x509.Certificate) { leaf.URIs = []*url.URL{link.PeerURI(ca.Cluster, link.KindHost, "h-1")} })
		expectRefusal(t, node, link.ALPNSensor, link.DialConfig{Credentials: lying}, nil, link.CodeForeignCluster, "c-twin", "foreign-cluster")
	})
	t.Run("no certificate", func(t *testing.T) {
		node := serve(t, link.ListenConfig{Credentials: creds}, handlers{link.ALPNSensor: echo})
		none := link.Credentials{Roots: ca.Roots}
		expectRefusal(t, node, link.ALPNSensor, link.DialConfig{Credentials: none}, nil, 0, "none is configured", "")
	})
}

// lie makes a client that misreads its own certificate, so that the node's checks are met.
func lie(t *testing.T, creds link.Credentials, change func(*x509.Certificate)) link.Credentials {
	t.Helper()
	cert, err := creds.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	lying, leaf := *cert, *cert.Leaf
	change(&leaf)
	lying.Leaf = &leaf
	creds.Certificate = func() (*tls.Certificate, error) { return &lying, nil }
	return creds
}

func expectRefusal(t *testing.T, node *link.Listener, alpn string, cfg link.DialConfig, want error, code uint64, says, counted string) {
	t.Helper()
	c, err := dial(t, node.Addr(), alpn, cfg)
	if err == nil {
		_, err = ask(t, c, "let me in")
	}
	if err == nil {
		t.Fatal("was let in")
	}
	if want != nil && !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	if code != 0 {
		if closed, ok := errors.AsType[*link.ClosedError](err); !ok || closed.Code != code || !closed.Remote {
			t.Errorf("got %v, want close code %d", err, code)
		}
	}
	if !strings.Contains(err.Error(), says) {
		t.Errorf("%q does not say %q", err, says)
	}
	if counted != "" {
		until(t, "the refusal counted as "+counted, func() bool { return node.Stats().Refused[counted] == 1 })
	}
	if n := node.Stats().Accepted[alpn]; n != 0 {
		t.Errorf("%d handlers ran", n)
	}
}

// Ensure a sensor does not talk to what only pretends to be a node.
func TestDialVerifiesTheNode(t *testing.T) {
	ca, foreign := linktest.NewCA(t), linktest.NewCA(t)
	node := serve(t, link.ListenConfig{Credentials: foreign.Issue(link.KindNode, "n1", "")}, handlers{link.ALPNSensor: echo, link.ALPNEnroll: echo})
	_, err := dial(t, node.Addr(), link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")})
	if !errors.Is(err, link.ErrForeignCA) {
		t.Errorf("by roots: got %v, want %v", err, link.ErrForeignCA)
	}
	_, err = dial(t, node.Addr(), link.ALPNEnroll, link.DialConfig{PinnedCA: ca.Pin()})
	if !errors.Is(err, link.ErrForeignCA) || !strings.Contains(err.Error(), "join token") {
		t.Errorf("by pin: got %v, want %v", err, link.ErrForeignCA)
	}
	host := lie(t, ca.Issue(link.KindHost, "h-9", ""), func(leaf *x509.Certificate) {
		leaf.URIs = []*url.URL{link.PeerURI(ca.Cluster, link.KindNode, "n9")}
	})
	impostor := serve(t, link.ListenConfig{Credentials: host}, handlers{link.ALPNSensor: echo})
	_, err = dial(t, impostor.Addr(), link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")})
	if !errors.Is(err, link.ErrWrongPeer) {
		t.Errorf("a host in a node's place: got %v, want %v", err, link.ErrWrongPeer)
	}
	if _, err := link.Listen("127.0.0.1:0", link.ListenConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")}); !errors.Is(err, link.ErrWrongPeer) {
		t.Errorf("listening with a host's certificate: got %v", err)
	}
}

// Ensure the two commonest mistakes of an administrator are named.
func TestClearSocketErrors(t *testing.T) {
	ca := linktest.NewCA(t)
	creds := ca.Issue(link.KindNode, "n1", "")
	node := serve(t, link.ListenConfig{Credentials: creds}, nil)
	_, err := link.Listen(node.Addr().String(), link.ListenConfig{Credentials: creds})
	if !errors.Is(err, link.ErrAddrInUse) || !strings.Contains(err.Error(), "ss -ulpn") {
		t.Errorf("port in use: got %v", err)
	}
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = link.Dial(ctx, silent.LocalAddr().String(), link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")})
	if !errors.Is(err, link.ErrUnreachable) || !strings.Contains(err.Error(), silent.LocalAddr().String()) {
		t.Errorf("silent address: got %v", err)
	}
	for _, addr := range []string{"nohost", "127.0.0.1:http", "127.0.0.1:0", "127.0.0.1:70000"} {
		if _, err := link.Dial(t.Context(), addr, link.ALPNSensor, link.DialConfig{}); err == nil {
			t.Errorf("address %q was taken", addr)
		}
	}
}

// Ensure bad frames end the connection with a reason that the sender reads, and are counted.
func TestAbort(t *testing.T) {
	ca := linktest.NewCA(t)
	node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", "")}, handlers{
		link.ALPNSensor: func(ctx context.Context, c *link.Conn) {
			s, err := c.AcceptStream(ctx)
			if err != nil {
				return
			}
			if err := frame.Read(s, new(sensorv1.SensorMessage)); err != nil {
				_ = c.Abort(err)
			}
		},
	})
	for cause, bytes := range map[string]string{
		"frame-too-large": "\xff\xff\xff\xff",
		"frame-truncated": "\x00\x00\x00\x09abc",
		"frame-malformed": "\x00\x00\x00\x03\xff\xff\xff",
	} {
		c, err := dial(t, node.Addr(), link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")})
		if err != nil {
			t.Fatal(err)
		}
		_, err = ask(t, c, bytes)
		closed, ok := errors.AsType[*link.ClosedError](err)
		if !ok || closed.Code != link.CodeBadFrame || !strings.Contains(closed.Reason, "frame") {
			t.Errorf("%s: got %v", cause, err)
		}
		if got := node.Stats().Refused[cause]; got != 1 {
			t.Errorf("%s: counted %d times", cause, got)
		}
	}
}

// Ensure a stopping node tells its peers at once and waits for its handlers.
func TestShutdownIsTold(t *testing.T) {
	ca := linktest.NewCA(t)
	l, err := link.Listen("127.0.0.1:0", link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", "")})
	if err != nil {
		t.Fatal(err)
	}
	entered, left := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- l.Serve(ctx, handlers{link.ALPNSensor: func(ctx context.Context, _ *link.Conn) {
			close(entered)
			<-ctx.Done()
			close(left)
		}})
	}()
	c, err := dial(t, l.Addr(), link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")})
	if err != nil {
		t.Fatal(err)
	}
	<-entered
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	select {
	case <-left:
	default:
		t.Error("Serve returned before its handler")
	}
	<-c.Context().Done()
	if closed, ok := errors.AsType[*link.ClosedError](c.Err()); !ok || closed.Code != link.CodeShutdown {
		t.Errorf("the peer saw %v", c.Err())
	}
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
}

// Ensure a revocation and an expiry end what is already open.
func TestSweep(t *testing.T) {
	ca := linktest.NewCA(t)
	revoked := make(chan string, 1)
	serial := ""
	creds := ca.Issue(link.KindNode, "n1", "")
	creds.Revoked = func(s string) bool {
		select {
		case serial = <-revoked:
		default:
		}
		return s == serial
	}
	node := serve(t, link.ListenConfig{Credentials: creds}, handlers{link.ALPNSensor: echo})
	open := func(id string) (*link.Conn, link.Credentials) {
		host := ca.Issue(link.KindHost, id, "")
		c, err := dial(t, node.Addr(), link.ALPNSensor, link.DialConfig{Credentials: host})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ask(t, c, ""); err != nil {
			t.Fatal(err)
		}
		return c, host
	}
	bad, badCreds := open("h-1")
	good, _ := open("h-2")
	cert, err := badCreds.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	revoked <- link.Serial(cert.Leaf)
	node.Sweep(time.Now())
	<-bad.Context().Done()
	if closed, ok := errors.AsType[*link.ClosedError](bad.Err()); !ok || closed.Code != link.CodeRevoked {
		t.Errorf("revoked: %v", bad.Err())
	}
	if good.Err() != nil {
		t.Errorf("the other one: %v", good.Err())
	}
	node.Sweep(time.Now().Add(25 * time.Hour))
	<-good.Context().Done()
	if closed, ok := errors.AsType[*link.ClosedError](good.Err()); !ok || closed.Code != link.CodeExpired {
		t.Errorf("expired: %v", good.Err())
	}
}

// Ensure streams keep deadlines and that a Close ends a blocked Write.
func TestStreamIsANetConn(t *testing.T) {
	ca := linktest.NewCA(t)
	node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", "")}, handlers{
		link.ALPNSensor: func(ctx context.Context, c *link.Conn) { <-ctx.Done() }, // reads nothing
	})
	c, err := dial(t, node.Addr(), link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")})
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); err == nil || !err.(net.Error).Timeout() {
		t.Errorf("read past its deadline: %v", err)
	}
	blocked := make(chan error, 1)
	go func() {
		_, err := s.Write(make([]byte, 16<<20))
		blocked <- err
	}()
	until(t, "a blocked write", func() bool { return link.Writing(s) })
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-blocked; err == nil {
		t.Error("a write of more than the window succeeded")
	}
	if _, err := s.Write([]byte("x")); err == nil {
		t.Error("a write after Close succeeded")
	}
}
