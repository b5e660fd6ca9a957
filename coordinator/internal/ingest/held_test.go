package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// patience is how long something may take that a busy machine does slowly. The comparison that a
// node makes now and then would heal most of what is broken here, and comes later.
const patience = revokedEvery * 2 / 3

// overtaking is how long an end has to come before what must be before it: several times what
// the node waits before it tells one.
const overtaking = 10 * endsDelay

// heldLog applies to a real store and tells who subscribed, as a node does. Begins can be held.
type heldLog struct {
	stateLog
	applying sync.Mutex // one entry at a time
	told     func(uint64, *raftv1.Command, *raftv1.Result)
	deaf     bool // what is applied is told to nobody
	ends     int  // of sessions, that were told
	behind   *raftv1.Command

	holding sync.Mutex
	begins  func(ctx context.Context) error // asked before a begin is applied; nil: all are
}

func (l *heldLog) Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error) {
	l.holding.Lock()
	begins := l.begins
	l.holding.Unlock()
	if begins != nil && (cmd.GetHostSession() != nil || cmd.GetBeginSessions() != nil) {
		if err := begins(ctx); err != nil {
			return nil, err
		}
	}
	return l.apply(cmd)
}

func (l *heldLog) apply(cmd *raftv1.Command) (*raftv1.Result, error) {
	l.applying.Lock()
	defer l.applying.Unlock()
	res, err := l.stateLog.Propose(context.Background(), cmd)
	if err == nil {
		l.ends += len(cmd.GetSessionsEnded().GetSessions())
		res.Index = l.db.AppliedIndex()
		if l.told != nil && !l.deaf {
			l.told(res.GetIndex(), proto.CloneOf(cmd), res)
		}
	}
	if l.behind != nil {
		_, _ = l.stateLog.Propose(context.Background(), l.behind)
		l.behind = nil
	}
	return res, err
}

// next is applied behind the next entry, before anybody hears of that.
func (l *heldLog) next(cmd *raftv1.Command) {
	l.applying.Lock()
	defer l.applying.Unlock()
	l.behind = cmd
}

func (l *heldLog) Subscribe(fn func(uint64, *raftv1.Command, *raftv1.Result)) func() {
	l.applying.Lock()
	defer l.applying.Unlock()
	l.told = fn
	return func() {
		l.applying.Lock()
		defer l.applying.Unlock()
		l.told = nil
	}
}

// hold has each begin ask first.
func (l *heldLog) hold(begins func(ctx context.Context) error) {
	l.holding.Lock()
	defer l.holding.Unlock()
	l.begins = begins
}

// stall has the begins wait until release is closed, and says on asked that one does.
func (l *heldLog) stall() (asked <-chan struct{}, release chan<- struct{}) {
	came, goes := make(chan struct{}, 1), make(chan struct{})
	l.hold(func(context.Context) error {
		came <- struct{}{}
		<-goes
		return nil
	})
	return came, goes
}

// hears says whether the node is told of what is applied from now on.
func (l *heldLog) hears(does bool) {
	l.applying.Lock()
	defer l.applying.Unlock()
	l.deaf = !does
}

// node is a server that sensors dial, on a log of its own with one host.
type node struct {
	t    *testing.T
	s    *Server
	log  *heldLog
	addr string
	ca   *linktest.CA
	host string
}

func startNode(t *testing.T) *node {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	n := &node{t: t, log: &heldLog{stateLog: stateLog{t: t, db: db}}, ca: linktest.NewCA(t), host: identity.NewHostID()}
	authority, err := identity.NewAuthority(linktest.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	n.log.must(&raftv1.Command{Time: 1, Body: &raftv1.Command_EnrollHost{EnrollHost: &raftv1.EnrollHost{Host: n.host}}})
	logger := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	n.s, err = New(Config{NodeID: "n1", Version: "test", Authority: authority, Operators: authority.Certificate, Log: n.log, Store: db, Presence: db, Orders: db,
		Members: db, Tokens: db, Trust: db, Rules: db, Logger: logger, CommitTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.Listen("127.0.0.1:0", link.ListenConfig{Credentials: n.ca.Issue(link.KindNode, "n1", "")})
	if err != nil {
		t.Fatal(err)
	}
	n.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = n.s.Run(ctx) })
	running.Go(func() {
		_ = l.Serve(ctx, map[string]func(context.Context, *link.Conn){link.ALPNSensor: n.s.ServeSensor})
	})
	t.Cleanup(func() {
		n.log.hold(nil)
		cancel()
		running.Wait()
		_ = l.Close()
	})
	<-n.s.begun
	return n
}

// dial says hello and does not wait for the answer.
func (n *node) dial() (*link.Conn, net.Conn) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	conn, err := link.Dial(ctx, n.addr, link.ALPNSensor, link.DialConfig{Credentials: n.ca.Issue(link.KindHost, n.host, "")})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.CloseWithReason(0, "") })
	stream, err := conn.OpenStream(ctx)
	if err == nil {
		err = frame.Write(stream, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{
			Protocol: frame.ProtocolVersion, Boot: make([]byte, bootLength), Facts: &sensorv1.HostFacts{Name: "web-1"}}}})
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return conn, stream
}

// open dials and wants a welcome.
func (n *node) open() (*link.Conn, net.Conn) {
	n.t.Helper()
	conn, stream := n.dial()
	_ = stream.SetReadDeadline(time.Now().Add(patience))
	m := &sensorv1.CoordinatorMessage{}
	if err := frame.Read(stream, m); err != nil || m.GetWelcome() == nil {
		n.t.Fatalf("want a welcome, got %v, %v", m, err)
	}
	return conn, stream
}

// closedWith waits for the end of a connection and wants it to be by the node, with that code.
func (n *node) closedWith(conn *link.Conn, code uint64) {
	n.t.Helper()
	select {
	case <-conn.Context().Done():
	case <-time.After(patience):
		n.t.Fatal("the session goes on")
	}
	var closed *link.ClosedError
	if err := conn.Err(); !errors.As(err, &closed) || closed.Code != code {
		n.t.Fatalf("closed with %v, want code %d", err, code)
	}
}

// eventually waits until the host is as the test wants it in the state.
func (n *node) eventually(what string, is func(number uint64, connected bool) bool) {
	n.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		number, connected, err := n.log.db.Session(n.t.Context(), n.host)
		if err != nil {
			n.t.Fatal(err)
		}
		if is(number, connected) {
			return
		}
		if time.Now().After(end) {
			n.t.Fatalf("%s: session %d, connected %v", what, number, connected)
		}
	}
}

func offline(_ uint64, connected bool) bool { return !connected }

// elsewhere is the entry of another node that begins a session of the host.
func (n *node) elsewhere(number uint64) *raftv1.Command {
	return &raftv1.Command{Time: time.Now().UnixNano(), Actor: "node:n2", Body: &raftv1.Command_BeginSessions{BeginSessions: &raftv1.BeginSessions{
		Sessions: []*raftv1.HostSession{{Host: n.host, Node: "n2", Connected: true, Session: number}}}}}
}

func (n *node) apply(cmd *raftv1.Command) {
	n.t.Helper()
	if res, err := n.log.apply(cmd); err != nil || res.GetRejected() != "" {
		n.t.Fatalf("%v: %v, %v", cmd, res, err)
	}
}

// Ensure the end of a session that a sensor leaves while its begin is on its way comes after that:
// before it the log would know no such session, and the host be online for ever.
func TestEndComesAfterItsBegin(t *testing.T) {
	n := startNode(t)
	asked, release := n.log.stall()
	conn, _ := n.dial()
	<-asked
	_ = conn.CloseWithReason(0, "")
	<-time.After(overtaking)
	close(release)
	n.eventually("its begin is in the log", func(number uint64, _ bool) bool { return number == 1 })
	n.eventually("its end is in the log", offline)
}

// Ensure the end is told again when a begin whose outcome nobody knew comes to the log behind it.
func TestBeginThatComesLate(t *testing.T) {
	n := startNode(t)
	n.log.hold(func(ctx context.Context) error {
		<-ctx.Done()
		return fmt.Errorf("%w: %w", consensus.ErrUncertain, ctx.Err())
	})
	conn, stream := n.dial()
	m := &sensorv1.CoordinatorMessage{}
	if err := frame.Read(stream, m); err != nil || m.GetRefusal().GetCode() != "no-leader" {
		t.Fatalf("got %v, %v", m, err)
	}
	_ = conn.CloseWithReason(0, "")
	n.log.hold(nil)
	<-time.After(overtaking)
	n.apply(&raftv1.Command{Time: time.Now().UnixNano(), Actor: "node:n1", Body: &raftv1.Command_HostSession{
		HostSession: &raftv1.HostSession{Host: n.host, Node: "n1", Connected: true, Session: 1}}})
	n.eventually("its end is in the log", offline)
	// The sensor did nothing: it has the time of those whose node went, before it is called silent.
	if all, err := n.log.db.Unheard(t.Context(), 10); err != nil || len(all) != 1 || all[0].How != endNode {
		t.Errorf("unheard are %+v, %v; want one by %q", all, err, endNode)
	}
}

// Ensure a session has not the number of one before it that the state knows nothing of: the end of
// that one, told late or twice, would be its.
func TestNumbersAreGivenOnce(t *testing.T) {
	n := startNode(t)
	n.log.hold(func(context.Context) error { return consensus.ErrClosed })
	for range 2 {
		conn, stream := n.dial()
		if err := frame.Read(stream, &sensorv1.CoordinatorMessage{}); err != nil {
			t.Fatal(err)
		}
		_ = conn.CloseWithReason(0, "")
	}
	n.log.hold(nil)
	n.open()
	n.eventually("the third one", func(number uint64, connected bool) bool { return number == 3 && connected })
	remembered := func() uint64 {
		n.s.mu.Lock()
		defer n.s.mu.Unlock()
		return max(n.s.drawn[n.host], n.s.drawnBefore[n.host])
	}
	now := time.Now()
	for i, want := range []uint64{3, 3, 0} {
		n.s.forgetDrawn(now.Add(time.Duration(i) * drawnFor))
		if got := remembered(); got != want {
			t.Errorf("after %d times %s: %d is remembered, want %d", i, drawnFor, got, want)
		}
	}
}

// Ensure a session that took another's place and came to nothing leaves none of them in the state.
func TestSuccessorThatNeverBegan(t *testing.T) {
	n := startNode(t)
	first, _ := n.open()
	asked := make(chan struct{}, 1)
	n.log.hold(func(ctx context.Context) error {
		asked <- struct{}{}
		<-ctx.Done()
		return fmt.Errorf("%w: %w", consensus.ErrNoLeader, ctx.Err())
	})
	second, _ := n.dial()
	n.closedWith(first, link.CodeSuperseded)
	select {
	case <-asked:
	case <-time.After(patience):
		t.Fatal("no begin was proposed")
	}
	_ = second.CloseWithReason(0, "")
	n.eventually("the first one's end is in the log", offline)
}

// Ensure a session is closed when another node has the host's, whichever number that has, that the
// other's is not ended by it, and that one that begins here later takes over from there.
func TestSessionElsewhereTakesOver(t *testing.T) {
	for name, higher := range map[string]uint64{"a higher number": 1, "the same number": 0} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t)
			n.apply(n.elsewhere(4))
			conn, _ := n.open()
			n.eventually("it is here", func(number uint64, connected bool) bool { return number == 5 && connected })
			select {
			case <-conn.Context().Done():
				t.Fatalf("an older one elsewhere closed it: %v", conn.Err())
			case <-time.After(overtaking):
			}
			n.apply(n.elsewhere(5 + higher))
			n.closedWith(conn, link.CodeSuperseded)
			<-time.After(overtaking)
			if number, connected, err := n.log.db.Session(t.Context(), n.host); err != nil || number != 5+higher || !connected {
				t.Errorf("session %d, connected %v, %v", number, connected, err)
			}
			n.open()
			n.eventually("it is here again", func(number uint64, connected bool) bool { return number == 6+higher && connected })
			n.log.applying.Lock()
			defer n.log.applying.Unlock()
			if n.log.ends != 0 {
				t.Errorf("%d ends were told of a session that another ended", n.log.ends)
			}
		})
	}
}

// Ensure a session that another node's comes before in the log takes over from that, also with the
// same number: it is the newer one.
func TestSessionElsewhereThatCameBefore(t *testing.T) {
	n := startNode(t)
	asked, release := n.log.stall()
	conn, stream := n.dial()
	<-asked
	n.apply(n.elsewhere(1))
	close(release)
	m := &sensorv1.CoordinatorMessage{}
	if err := frame.Read(stream, m); err != nil || m.GetWelcome() == nil {
		t.Fatalf("want a welcome, got %v, %v", m, err)
	}
	select {
	case <-conn.Context().Done():
		t.Errorf("closed: %v", conn.Err())
	case <-time.After(overtaking):
	}
	if host, err := n.log.db.Host(t.Context(), n.host); err != nil || host.GetNode() != "n1" {
		t.Errorf("got %v, %v", host, err)
	}
}

// Ensure a session that is another node's before its sensor was welcomed is refused, also where the
// entry that says so was missed.
func TestSessionElsewhereBeforeTheWelcome(t *testing.T) {
	n := startNode(t)
	n.log.hears(false)
	n.log.hold(func(context.Context) error {
		n.log.hold(nil)
		n.log.next(n.elsewhere(1))
		return nil
	})
	conn, _ := n.dial()
	n.closedWith(conn, link.CodeSuperseded)
}

// Ensure a node that missed entries ends what it has and the state has not here, and the reverse.
func TestMissedEntriesAboutSessions(t *testing.T) {
	n := startNode(t)
	conn, _ := n.open()
	n.log.hears(false)
	n.apply(n.elsewhere(2))
	n.log.hears(true)
	n.s.committed(n.log.db.AppliedIndex(), nil, nil)
	n.closedWith(conn, link.CodeSuperseded)

	n.log.hears(false)
	cmd := n.elsewhere(3)
	cmd.GetBeginSessions().GetSessions()[0].Node = "n1"
	n.apply(cmd)
	n.log.hears(true)
	n.s.committed(n.log.db.AppliedIndex(), nil, nil)
	n.eventually("the end of what is not here", offline)

	kept, _ := n.open()
	n.s.committed(n.log.db.AppliedIndex(), nil, nil)
	select {
	case <-kept.Context().Done():
		t.Errorf("what is here was closed: %v", kept.Err())
	case <-time.After(overtaking):
	}
	n.log.hears(false)
	n.apply(&raftv1.Command{Time: time.Now().UnixNano(), Body: &raftv1.Command_SessionsEnded{SessionsEnded: &raftv1.SessionsEnded{Node: "n1", All: true}}})
	n.log.hears(true)
	n.s.committed(n.log.db.AppliedIndex(), nil, nil)
	n.closedWith(kept, link.CodeInternal)
}
