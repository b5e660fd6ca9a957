package uplink_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// store is what the nodes of a test cluster share: like the real one, it takes a
// batch only at its position.
type store struct {
	mu       sync.Mutex
	position map[string]uint64
	names    []string
	gaps     int
}

func (s *store) take(b *sensorv1.Batch) (seq uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	boot := string(b.GetBoot())
	if b.GetPrev() > s.position[boot] {
		s.gaps++
		return s.position[boot], false
	}
	for _, r := range b.GetRecords() {
		if r.GetSequence() > s.position[boot] {
			s.position[boot] = r.GetSequence()
			s.names = append(s.names, r.GetFlowNote().GetStoryline())
		}
	}
	return s.position[boot], true
}

func (s *store) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.names...)
}

// node is a coordinator node as a sensor sees it, on the real link.
type node struct {
	id       string
	ca       *linktest.CA
	listener *link.Listener
	store    *store

	mu        sync.Mutex
	refuse    *sensorv1.Refusal
	mute      bool // takes batches and never answers
	swallowed int  // that many
	nodes     *sensorv1.NodeList
	ahead     time.Duration // its clock
	validity  time.Duration
	// takesBack: hosts with expired certificates; asked counts them.
	takesBack bool
	notBack   *sensorv1.Refusal
	asked     int
	away      int      // so many who enrol are sent away first
	roots     [][]byte // that enrolment gives
	operators [][]byte
	results   chan *sensorv1.GrantResult
	hellos    chan *sensorv1.Hello
	trusted   chan *sensorv1.Trusted
	sessions  map[*link.Conn]func(*sensorv1.CoordinatorMessage) error
	tokens    map[string][]byte
	goodbyes  []string
	unlearnt  []*sensorv1.Unlearnt
	answers   []*sensorv1.Answer
	stop      func()
}

func (n *node) set(change func(*node)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}

func startNode(t *testing.T, ca *linktest.CA, id, addr string, st *store) *node {
	t.Helper()
	l, err := link.Listen(addr, link.ListenConfig{Credentials: ca.Issue(link.KindNode, id, "")})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{
		id: id, ca: ca, listener: l, store: st, validity: 24 * time.Hour,
		results: make(chan *sensorv1.GrantResult, 8), hellos: make(chan *sensorv1.Hello, 64), trusted: make(chan *sensorv1.Trusted, 8),
		sessions: make(map[*link.Conn]func(*sensorv1.CoordinatorMessage) error), tokens: make(map[string][]byte),
		roots: [][]byte{ca.Certificate.Raw}, operators: [][]byte{ca.Certificate.Raw},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- l.Serve(ctx, map[string]func(context.Context, *link.Conn){link.ALPNSensor: n.serve, link.ALPNEnroll: n.enroll})
	}()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, l.Close()); err != nil {
			t.Errorf("node %s: %v", id, err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

func (n *node) addr() string { return n.listener.Addr().String() }

func (n *node) serve(ctx context.Context, c *link.Conn) {
	stream, err := c.AcceptStream(ctx)
	if err != nil {
		return
	}
	defer stream.Close()
	m := new(sensorv1.SensorMessage)
	if err := frame.Read(stream, m); err != nil {
		return
	}
	var writing sync.Mutex
	send := func(m *sensorv1.CoordinatorMessage) error {
		writing.Lock()
		defer writing.Unlock()
		return frame.Write(stream, m)
	}
	n.mu.Lock()
	refuse, nodes, ahead := n.refuse, n.nodes, n.ahead
	n.mu.Unlock()
	n.hellos <- m.GetHello()
	if refuse != nil {
		_ = send(&sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Refusal{Refusal: refuse}})
		return
	}
	n.store.mu.Lock()
	acked := n.store.position[string(m.GetHello().GetBoot())]
	n.store.mu.Unlock()
	if err := send(&sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Welcome{Welcome: &sensorv1.Welcome{
		Protocol: frame.ProtocolVersion, HostId: c.Peer().ID, NodeId: n.id, Acked: acked, Nodes: nodes, Time: time.Now().Add(ahead).UnixNano(),
	}}}); err != nil {
		return
	}
	n.set(func(n *node) { n.sessions[c] = send })
	defer n.set(func(n *node) { delete(n.sessions, c) })
	for {
		m := new(sensorv1.SensorMessage)
		if err := frame.Read(stream, m); err != nil {
			return
		}
		if err := n.answer(c, m, send); err != nil {
			return
		}
	}
}

func (n *node) answer(c *link.Conn, m *sensorv1.SensorMessage, send func(*sensorv1.CoordinatorMessage) error) error {
	switch body := m.GetBody().(type) {
	case *sensorv1.SensorMessage_Batch:
		n.mu.Lock()
		mute := n.mute
		if mute {
			n.swallowed++
		}
		n.mu.Unlock()
		if mute {
			return nil
		}
		boot := body.Batch.GetBoot()
		if seq, ok := n.store.take(body.Batch); ok {
			return send(&sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Ack{Ack: &sensorv1.Ack{Boot: boot, Sequence: seq}}})
		} else {
			return send(&sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Resume{Resume: &sensorv1.Resume{Boot: boot, Sequence: seq}}})
		}
	case *sensorv1.SensorMessage_Renew:
		now := time.Now()
		n.mu.Lock()
		ca := n.ca
		n.mu.Unlock()
		chain := ca.SignCSR(body.Renew.GetCsr(), link.KindHost, c.Peer().ID, now.Add(-time.Minute), now.Add(n.validity))
		return send(&sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Certificate{Certificate: &sensorv1.Certificate{Chain: chain, Roots: [][]byte{ca.Certificate.Raw}}}})
	case *sensorv1.SensorMessage_Trusted:
		n.trusted <- body.Trusted
		return nil
	case *sensorv1.SensorMessage_Goodbye:
		n.set(func(n *node) { n.goodbyes = append(n.goodbyes, body.Goodbye.GetFailure()) })
		return c.CloseWithReason(link.CodeOK, "noted")
	case *sensorv1.SensorMessage_Unlearnt:
		n.set(func(n *node) { n.unlearnt = append(n.unlearnt, body.Unlearnt) })
		return nil
	case *sensorv1.SensorMessage_GrantResult:
		n.results <- body.GrantResult
		return nil
	case *sensorv1.SensorMessage_Answer:
		n.set(func(n *node) { n.answers = append(n.answers, body.Answer) })
		return nil
	}
	return fmt.Errorf("unexpected %T", m.GetBody())
}

func (n *node) enroll(ctx context.Context, c *link.Conn) {
	stream, err := c.AcceptStream(ctx)
	if err != nil {
		return
	}
	defer stream.Close()
	request := new(sensorv1.EnrollRequest)
	if err := frame.Read(stream, request); err != nil {
		_ = c.Abort(err)
		return
	}
	n.mu.Lock()
	if n.away > 0 {
		n.away--
		n.mu.Unlock()
		_ = frame.Write(stream, &sensorv1.EnrollReply{Outcome: &sensorv1.EnrollReply_Refusal{Refusal: &sensorv1.Refusal{Code: "busy", Message: "too many", RetryAfterSeconds: 1}}})
		return
	}
	secret, ok := n.tokens[request.GetTokenId()]
	delete(n.tokens, request.GetTokenId())
	roots, operators := n.roots, n.operators
	if len(request.GetExpired()) > 0 {
		n.asked++
		ok = n.takesBack
	}
	notBack := n.notBack
	n.mu.Unlock()
	if len(request.GetExpired()) > 0 && notBack != nil {
		_ = frame.Write(stream, &sensorv1.EnrollReply{Outcome: &sensorv1.EnrollReply_Refusal{Refusal: notBack}})
		return
	}
	if !ok || string(secret) != string(request.GetTokenSecret()) {
		_ = frame.Write(stream, &sensorv1.EnrollReply{Outcome: &sensorv1.EnrollReply_Refusal{Refusal: &sensorv1.Refusal{Code: "bad-token", Message: "make a new one"}}})
		return
	}
	now := time.Now()
	_ = frame.Write(stream, &sensorv1.EnrollReply{Outcome: &sensorv1.EnrollReply_Enrolled{Enrolled: &sensorv1.Enrolled{
		Id: "h-test", ClusterId: n.ca.Cluster, Roots: roots, OperatorRoots: operators,
		Chain: n.ca.SignCSR(request.GetCsr(), link.KindHost, "h-test", now.Add(-time.Minute), now.Add(n.validity)),
		Nodes: []*sensorv1.Node{{Id: n.id, Address: n.addr()}},
	}}})
}

// push sends a message on every open session.
func (n *node) push(t *testing.T, m *sensorv1.CoordinatorMessage) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, send := range n.sessions {
		if err := send(m); err != nil {
			t.Errorf("pushing: %v", err)
		}
	}
}

func (n *node) token() link.Token {
	token := link.NewToken(n.ca.Pin(), n.ca.Pin())
	n.set(func(n *node) { n.tokens[token.ID] = token.Secret[:] })
	return token
}
