package coordinator_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// patience bounds every wait of a test.
const patience = 20 * time.Second

// testNode is one real node on loopback.
type testNode struct {
	t      *testing.T
	cfg    coordinator.Config
	leads  func() (id string, ok bool)
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	once   sync.Once
}

// freePort finds one that both UDP and TCP have free.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		u, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port))
		_ = l.Close()
		if err == nil {
			_ = u.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func newConfig(t *testing.T, id string) coordinator.Config {
	t.Helper()
	cfg := coordinator.DefaultConfig()
	cfg.ID, cfg.Data = id, filepath.Join(t.TempDir(), id)
	cfg.StableFor = time.Second // on a busy machine the first node may be old when the last one joins
	cfg.Listen = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	cfg.OperatorListen = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil)).With("on", id)
	}
	return cfg
}

// start runs a node whose directory exists; the test's end stops it.
func start(t *testing.T, cfg coordinator.Config) *testNode {
	t.Helper()
	c, err := coordinator.New(cfg)
	if err != nil {
		t.Fatalf("making node: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &testNode{t: t, cfg: c.Config(), leads: c.Leader, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(n.done)
		n.err = c.Run(ctx)
	}()
	t.Cleanup(n.stop)
	select {
	case <-c.Ready():
	case <-n.done:
		t.Fatalf("node ended: %v", n.err)
	case <-time.After(patience):
		t.Fatal("node does not become ready")
	}
	return n
}

func (n *testNode) stop() {
	n.once.Do(func() {
		n.cancel()
		select {
		case <-n.done:
			if n.err != nil {
				n.t.Errorf("node %s ended with: %v", n.cfg.ID, n.err)
			}
		case <-time.After(patience):
			n.t.Errorf("node %s does not stop", n.cfg.ID)
		}
	})
}

// testCluster is a real cluster and its admin.
type testCluster struct {
	t     *testing.T
	nodes []*testNode
	admin *client.Context
	api   *client.Client
}

func startCluster(t *testing.T, size int) *testCluster {
	t.Helper()
	return startClusterOf(t, size, func(*coordinator.Config) {})
}

// startClusterOf has each node's configuration changed before it is made.
func startClusterOf(t *testing.T, size int, change func(*coordinator.Config)) *testCluster {
	t.Helper()
	cfg := newConfig(t, "n1")
	change(&cfg)
	path, err := coordinator.Init(cfg)
	if err != nil {
		t.Fatalf("init: %v", err)
	}
	c := &testCluster{t: t, nodes: []*testNode{start(t, cfg)}}
	if c.admin, err = client.LoadContext(path, ""); err != nil {
		t.Fatalf("loading context: %v", err)
	}
	c.connect()
	for i := 2; i <= size; i++ {
		next := newConfig(t, fmt.Sprintf("n%d", i))
		change(&next)
		if err := coordinator.Join(t.Context(), next, c.nodes[0].cfg.Advertise, c.token("node")); err != nil {
			t.Fatalf("join: %v", err)
		}
		c.nodes = append(c.nodes, start(t, next))
		c.connect()
		eventually(t, fmt.Sprintf("%d members alive", i), func() error {
			members, err := c.api.Members(t.Context())
			if err != nil {
				return err
			}
			alive := 0
			for _, m := range members {
				if m.GetState() == "alive" && m.GetRole() != "joining" {
					alive++
				}
			}
			if alive != i {
				return fmt.Errorf("members: %v", members)
			}
			return nil
		})
	}
	return c
}

// connect makes the admin's client know every node.
func (c *testCluster) connect() {
	c.t.Helper()
	c.admin.Nodes = nil
	for _, n := range c.nodes {
		c.admin.Nodes = append(c.admin.Nodes, n.cfg.OperatorListen)
	}
	var err error
	if c.api, err = client.New(c.admin, client.Options{}); err != nil {
		c.t.Fatalf("client: %v", err)
	}
	c.t.Cleanup(c.api.Close)
}

func (c *testCluster) token(kind string) string {
	c.t.Helper()
	res, err := c.api.CreateToken(c.t.Context(), &operatorv1.CreateTokenRequest{Kind: kind, Labels: map[string]string{"role": "web"}})
	if err != nil {
		c.t.Fatalf("creating token: %v", err)
	}
	return res.GetToken()
}

// key is the admin's signing key and chain.
func (c *testCluster) key() (crypto.Signer, [][]byte) {
	c.t.Helper()
	pair, err := tls.X509KeyPair([]byte(c.admin.Certificate), []byte(c.admin.Key))
	if err != nil {
		c.t.Fatal(err)
	}
	return pair.PrivateKey.(crypto.Signer), pair.Certificate
}

func (c *testCluster) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(c.admin.CA))
	return pool
}

// tls is of a client at the operators' port; with a certificate when there is a key.
func (c *testCluster) tls(key crypto.Signer, chain [][]byte) *tls.Config {
	conf := &tls.Config{RootCAs: c.roots(), MinVersion: tls.VersionTLS13}
	if key != nil {
		conf.Certificates = []tls.Certificate{{Certificate: chain, PrivateKey: key}}
	}
	return conf
}

// operators are whose grants count.
func (c *testCluster) operators() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(c.admin.Operators))
	return pool
}

// testSensor speaks the sensor's protocol by hand.
type testSensor struct {
	t    *testing.T
	id   string
	key  ed25519.PrivateKey
	cert tls.Certificate
	pool *x509.CertPool
}

func enrolRequest(t *testing.T, tokenText string) (link.Token, ed25519.PrivateKey, *sensorv1.EnrollRequest) {
	t.Helper()
	token, err := link.ParseToken(tokenText)
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	// Names that nobody may ask for: the coordinator must ignore them.
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{link.ServerName}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return token, key, &sensorv1.EnrollRequest{Protocol: frame.ProtocolVersion, Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR,
		TokenId: token.ID, TokenSecret: token.Secret[:], Csr: csr, Facts: &sensorv1.HostFacts{Name: "web-1", Os: "linux"}}
}

// ask sends one enrolment request.
func ask(t *testing.T, addr string, pin [32]byte, request *sensorv1.EnrollRequest) (*sensorv1.EnrollReply, error) {
	t.Helper()
	return askFrom(t, netip.AddrPort{}, addr, pin, request)
}

// askFrom is ask from an address of loopback.
func askFrom(t *testing.T, local netip.AddrPort, addr string, pin [32]byte, request *sensorv1.EnrollRequest) (*sensorv1.EnrollReply, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := link.Dial(ctx, addr, link.ALPNEnroll, link.DialConfig{PinnedCA: pin, LocalAddr: local})
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.CloseWithReason(0, "") }()
	stream, err := conn.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	_ = stream.SetDeadline(time.Now().Add(patience))
	if err := frame.Write(stream, request); err != nil {
		return nil, err
	}
	reply := &sensorv1.EnrollReply{}
	return reply, frame.Read(stream, reply)
}

func (c *testCluster) enrol(at int) *testSensor {
	c.t.Helper()
	token, key, request := enrolRequest(c.t, c.token("sensor"))
	reply, err := ask(c.t, c.nodes[at].cfg.Advertise, token.CA, request)
	if err != nil {
		c.t.Fatalf("enrolling: %v", err)
	}
	if r := reply.GetRefusal(); r != nil {
		c.t.Fatalf("refused: %s", r)
	}
	e := reply.GetEnrolled()
	return &testSensor{t: c.t, id: e.GetId(), key: key, cert: tls.Certificate{Certificate: e.GetChain(), PrivateKey: key}, pool: c.roots()}
}

// testSession is a sensor's open session.
type testSession struct {
	t      *testing.T
	conn   *link.Conn
	stream net.Conn
}

func (s *testSensor) dial(addr string) (*testSession, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	conn, err := link.Dial(ctx, addr, link.ALPNSensor, link.DialConfig{Credentials: link.Credentials{
		Certificate: func() (*tls.Certificate, error) { return &s.cert, nil }, Roots: func() *x509.CertPool { return s.pool }}})
	if err != nil {
		return nil, err
	}
	s.t.Cleanup(func() { _ = conn.CloseWithReason(0, "") })
	stream, err := conn.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	_ = stream.SetDeadline(time.Now().Add(patience))
	return &testSession{t: s.t, conn: conn, stream: stream}, nil
}

// open dials, says hello and wants a welcome.
func (s *testSensor) open(addr string, boot []byte) (*testSession, *sensorv1.Welcome) {
	s.t.Helper()
	session, err := s.dial(addr)
	if err != nil {
		s.t.Fatalf("dialling: %v", err)
	}
	session.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{
		Protocol: frame.ProtocolVersion, SensorVersion: "test", Boot: boot, Facts: &sensorv1.HostFacts{Name: "web-1"}}}})
	m := session.read()
	if m.GetWelcome() == nil {
		s.t.Fatalf("want a welcome, got %v", m)
	}
	return session, m.GetWelcome()
}

func (s *testSession) hangUp() { _ = s.conn.CloseWithReason(0, "") }

func (s *testSession) send(m *sensorv1.SensorMessage) {
	s.t.Helper()
	if err := frame.Write(s.stream, m); err != nil {
		s.t.Fatalf("sending: %v", err)
	}
}

func (s *testSession) batch(boot []byte, prev uint64, records ...*sensorv1.Record) {
	s.t.Helper()
	s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Batch{Batch: &sensorv1.Batch{Boot: boot, Prev: prev, Records: records}}})
}

func (s *testSession) read() *sensorv1.CoordinatorMessage {
	s.t.Helper()
	m := &sensorv1.CoordinatorMessage{}
	if err := frame.Read(s.stream, m); err != nil {
		s.t.Fatalf("reading: %v", err)
	}
	return m
}

// next reads until a message that want picks; node lists come at any time.
func (s *testSession) next(want func(*sensorv1.CoordinatorMessage) bool) *sensorv1.CoordinatorMessage {
	s.t.Helper()
	for {
		if m := s.read(); want(m) {
			return m
		}
	}
}

func (s *testSession) wantAck(sequence uint64) {
	s.t.Helper()
	m := s.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetNodes() == nil && m.GetGrant() == nil })
	if m.GetAck() == nil || m.GetAck().GetSequence() != sequence {
		s.t.Fatalf("want ack of %d, got %v", sequence, m)
	}
}

// eventually polls until check succeeds.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	eventuallyFor(t, patience, what, check)
}

func eventuallyFor(t *testing.T, patience time.Duration, what string, check func() error) {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	err := errors.New("not tried")
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-ticker.C {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("waiting for %s: %v", what, err)
}
