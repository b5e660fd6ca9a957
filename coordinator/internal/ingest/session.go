package ingest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// sendQueue bounds the messages that wait for a sensor to read. Grants and node
	// lists are rare; a sensor that lets so many pile up is not reading at all.
	sendQueue = 64
	// writeTimeout is how long one message may take to leave.
	writeTimeout = 10 * time.Second
	// renewPause keeps one sensor from making the node sign without end.
	renewPause = 10 * time.Second
	bootLength = 16
	maxFacts   = 32 << 10
	maxVersion = 128
)

// session is one sensor's, from Welcome to its end.
type session struct {
	server *Server
	conn   *link.Conn
	host   string
	// number is the session's, once it is on its way to the log, and 0 before. at is the entry that began it
	// as far as this node knows, elsewhere that another node has the host's session since. owes are the ends of those
	// whose place it took, to be told unless it begins. Server.mu guards them; number is written by the session alone.
	number    uint64
	at        uint64
	elsewhere bool
	owes      []*raftv1.SessionEnd
	// machine is the hash of its machine's id.
	machine string

	keepAlive time.Duration // its pings are so far apart
	renewed   time.Time     // its certificate; the reader's
	trust     atomic.Uint64 // epoch of the list of trusted authorities that it holds
	rules     rulesOf
	conduct   *conduct
	learns    *learns
	answers   uint32 // the newest form of question that it answers; 0: none

	writer  sync.WaitGroup      // the goroutine that writes what is queued, while there is any
	mu      sync.Mutex          // guards what follows
	stream  net.Conn            // set when the sensor was welcomed: nothing may leave before
	out     []outgoing          // waits to be written
	writing bool                // a writer runs
	over    bool                // nothing is written any more
	granted [][sha256.Size]byte // payloads of the grants already sent in this session
	// packets had come when it was heard last.
	packets uint64
	heard   time.Time
	// how and detail say why it ends.
	how, detail string
	asked       *questions // nil before the first
}

// outgoing is a message on its way to a sensor.
type outgoing struct {
	message *sensorv1.CoordinatorMessage
	wrote   chan<- struct{} // is told when the message has left; it has room, or is nil
}

// codeStaleSession is the log's answer to a session number that is not the highest.
const codeStaleSession = state.RejectStaleSession

// ServeSensor is the handler of vedette-sensor/1. A node holds ten thousand of its
// goroutines, nearly all of them waiting in read: what opening and ending need is in
// functions of its own and leaves them their small stacks, see workers.
func (s *Server) ServeSensor(ctx context.Context, conn *link.Conn) {
	n, stream, err := s.accept(ctx, conn)
	if err == nil {
		err = s.read(ctx, n, stream)
	}
	s.finish(ctx, n, conn, stream, err)
}

//go:noinline
func (s *Server) finish(ctx context.Context, n *session, conn *link.Conn, stream net.Conn, err error) {
	if stream != nil {
		s.close(n, conn, stream, err)
	}
	if ctx.Err() == nil && !errors.Is(err, io.EOF) && !errors.Is(err, errGoodbye) && !errors.Is(err, errRefused) {
		s.cfg.Logger.Debug("session ended", "host", conn.Peer().ID, "address", conn.RemoteAddr().String(), "error", err)
	}
}

// errRefused: the sensor was told why there is no session.
var errRefused = errors.New("session refused")

// errProtocol: a well-formed message that has no place where it came.
var errProtocol = errors.New("protocol violation")

// errRemoved: the host's identity counts no more, or this node cannot say.
var errRemoved = errors.New("the host is not, or no longer, in this cluster")

// malformed says whether what ended a session is what the sensor sent.
func malformed(err error) bool {
	return errors.Is(err, frame.ErrTooLarge) || errors.Is(err, frame.ErrTruncated) || errors.Is(err, frame.ErrMalformed) || errors.Is(err, errProtocol)
}

// accept makes a session of a connection. What it has begun is for close, whatever the error.
func (s *Server) accept(ctx context.Context, conn *link.Conn) (*session, net.Conn, error) {
	helloCtx, cancel := context.WithTimeout(ctx, s.cfg.HelloTimeout)
	defer cancel()
	stream, err := conn.AcceptStream(helloCtx)
	if err != nil {
		return nil, nil, fmt.Errorf("waiting for a stream: %w", err)
	}
	_ = stream.SetReadDeadline(time.Now().Add(s.cfg.HelloTimeout))
	var first sensorv1.SensorMessage
	if err := frame.Read(stream, &first); err != nil {
		return nil, stream, fmt.Errorf("reading hello: %w", err)
	}
	_ = stream.SetReadDeadline(time.Time{})
	hello := first.GetHello()
	n := s.greeted(conn, conn.Peer().ID, hello)
	var welcome *sensorv1.Welcome
	refused, registered := s.check(ctx, hello, n.host), false
	if refused == nil {
		refused = s.register(n)
		if registered = refused == nil; registered {
			n.conduct = s.conducts.enter(n.host)
			if err := s.admits(ctx, n); err != nil {
				return n, stream, err
			}
		}
	}
	if refused == nil {
		welcome, refused = s.connect(ctx, n, hello)
	}
	if refused != nil {
		s.countRefusal(refused.code)
		s.cfg.Logger.Warn("session refused", "host", n.host, "address", conn.RemoteAddr().String(), "code", refused.code, "reason", refused.message)
		err = write(stream, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Refusal{Refusal: refused.proto()}})
		if err == nil {
			err = errRefused
		}
		if !registered {
			n = nil
		}
		return n, stream, err
	}
	// Before anything else is written: grants may wait already, and none may come before it.
	if err := write(stream, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Welcome{Welcome: welcome}}); err != nil {
		return n, stream, err
	}
	n.welcomed(stream)
	if hello.GetCarries() {
		s.places.add(n.host, hello.GetFacts().GetAddresses())
	}
	s.holds(n, hello.GetTrusted())
	n.rules.instance = hello.GetInstance()
	s.usesRules(ctx, n, hello.GetRules())
	s.resendGrants(ctx, n)
	s.tellLearning(n)
	return n, stream, nil
}

// greeted is the session that a Hello asks for.
func (s *Server) greeted(conn *link.Conn, host string, hello *sensorv1.Hello) *session {
	return &session{server: s, conn: conn, host: host, machine: hello.GetFacts().GetMachineIdHash(),
		keepAlive: keepAliveOf(hello), heard: s.cfg.Now(), answers: hello.GetQuestions(), learns: learnsOf(hello)}
}

// begins is what the log is told of a session.
func (n *session) begins(hello *sensorv1.Hello, address string, key []byte) *raftv1.HostSession {
	return &raftv1.HostSession{Host: n.host, Node: n.server.cfg.NodeID, Connected: true,
		Address: address, Facts: hello.GetFacts(), SensorVersion: hello.GetSensorVersion(), Session: n.number,
		KernelBoot: hello.GetKernelBoot(), Instance: hello.GetInstance(), KeySha256: key}
}

// close ends what accept began; n is nil when there was no session.
func (s *Server) close(n *session, conn *link.Conn, stream net.Conn, err error) {
	if n != nil {
		n.silence()
		n.endQuestions()
		n.writer.Wait()
		s.conducts.leave(n.host, s.cfg.Now())
		s.ended(n)
		if s.session(n.host) == nil {
			s.places.remove(n.host)
		}
	}
	// The stream's orderly end would overtake the reason, and the sensor read no more than that.
	if malformed(err) {
		s.counts.malformed.Add(1)
		s.cfg.Logger.Warn("session closed because of what the sensor sent", "host", conn.Peer().ID, "address", conn.RemoteAddr().String(), "error", err)
		s.misconduct(conn.Peer().ID, err)
		_ = conn.Abort(err)
	}
	_ = stream.Close()
}

// check judges a Hello before anything is written down.
func (s *Server) check(ctx context.Context, hello *sensorv1.Hello, host string) *refusal {
	switch {
	case hello == nil:
		return &refusal{code: "hello-expected", message: "the first message of a session must be a hello"}
	case hello.GetProtocol() != frame.ProtocolVersion:
		return &refusal{code: "unknown-protocol", message: fmt.Sprintf(
			"the sensor speaks protocol version %d, this coordinator speaks version %d: install a sensor and a coordinator of the same release (this coordinator is %s)",
			hello.GetProtocol(), frame.ProtocolVersion, s.cfg.Version), retry: 300}
	case len(hello.GetBoot()) != bootLength:
		return &refusal{code: "bad-hello", message: fmt.Sprintf("the boot id has %d bytes instead of %d", len(hello.GetBoot()), bootLength)}
	case len(hello.GetKernelBoot()) > bootLength || len(hello.GetInstance()) > bootLength:
		return &refusal{code: "bad-hello", message: fmt.Sprintf("the ids of kernel boot and process have more than %d bytes", bootLength)}
	case len(hello.GetSensorVersion()) > maxVersion:
		return &refusal{code: "bad-hello", message: fmt.Sprintf("the sensor's version has more than %d bytes", maxVersion)}
	case proto.Size(hello.GetFacts()) > maxFacts:
		return &refusal{code: "bad-hello", message: fmt.Sprintf("the host's facts have %d bytes, the limit is %d: does it have very many addresses or labels?", proto.Size(hello.GetFacts()), maxFacts)}
	case !identity.IsHostID(host):
		return &refusal{code: "bad-certificate", message: "the certificate names no host id: enrol again with a new join token"}
	}
	if s.known(ctx, host) {
		return nil
	}
	// A host that enrolled at another node a moment ago may not have come here yet.
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
	defer cancel()
	if err := s.cfg.Log.ReadBarrier(ctx); err != nil {
		return &refusal{code: "no-leader", message: "the cluster has no leader that this node can reach: try another node", retry: 1}
	}
	if !s.known(ctx, host) {
		return &refusal{code: "unknown-host", message: fmt.Sprintf("host %s is not, or no longer, in this cluster: enrol again with a new join token", host), retry: 300}
	}
	return nil
}

func (s *Server) known(ctx context.Context, host string) bool {
	_, _, err := s.cfg.Store.Session(ctx, host)
	return err == nil
}

// connect notes the session in the log and makes the Welcome.
func (s *Server) connect(ctx context.Context, n *session, hello *sensorv1.Hello) (*sensorv1.Welcome, *refusal) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
	defer cancel()
	host, _, err := net.SplitHostPort(n.conn.RemoteAddr().String())
	if err != nil {
		host = n.conn.RemoteAddr().String()
	}
	select {
	case <-s.begun:
	case <-ctx.Done():
		return nil, &refusal{code: "no-leader", message: "the cluster has no leader that this node can reach: try another node", retry: 1}
	}
	for {
		// Above every earlier session that this node knows of; when it knows too
		// little, the log says so and the barrier lets it catch up.
		newest, _, err := s.cfg.Store.Session(ctx, n.host)
		if err != nil {
			return nil, &refusal{code: "internal", message: "this node cannot read its state: try another node and look at this one's log", retry: 5}
		}
		if !s.draw(n, newest) {
			return nil, &refusal{code: codeStaleSession, message: "a newer session of this host has taken over", retry: 60}
		}
		b := s.opener.begin(ctx, n.begins(hello, host, keySum(n.conn.Peer().Certificate)))
		err = b.err
		if err == nil {
			// At this entry this node's store holds all that was acknowledged before the sensor
			// came: that is what a barrier would answer too, for another entry of the log.
			err = s.cfg.Store.WaitApplied(ctx, b.index)
		}
		if errors.Is(b.err, errLeft) {
			s.undraw(n)
		}
		if err != nil {
			if ctx.Err() == nil { // else it is the sensor that has gone
				n.because(endNode, "the node had no leader")
			}
			return nil, &refusal{code: "no-leader", message: "the cluster has no leader that this node can reach: try another node", retry: 1}
		}
		if b.rejected == "" {
			s.began(n, b.index)
			break
		}
		if b.rejected != codeStaleSession || ctx.Err() != nil {
			return nil, &refusal{code: b.rejected, message: b.message, retry: 60}
		}
	}
	acked, err := s.cfg.Store.Position(ctx, n.host, hello.GetBoot())
	if err != nil {
		return nil, &refusal{code: "internal", message: "this node cannot read its state: try another node and look at this one's log", retry: 5}
	}
	nodes, err := s.nodeList(ctx)
	if err != nil {
		return nil, &refusal{code: "internal", message: "this node cannot read its state: try another node and look at this one's log", retry: 5}
	}
	known, err := s.cfg.Store.Host(ctx, n.host)
	if err != nil {
		return nil, &refusal{code: "internal", message: "this node cannot read its state: try another node and look at this one's log", retry: 5}
	}
	// It may have begun there before this node knew that it had here; what comes from now on closes it.
	if node := known.GetNode(); node != s.cfg.NodeID {
		s.supersede(n, node)
		return nil, &refusal{code: codeStaleSession, message: fmt.Sprintf("this host has a newer session with node %s", node), retry: 1}
	}
	intent, err := s.cfg.Orders.Intent(ctx, 0)
	if err != nil {
		return nil, &refusal{code: "internal", message: "this node cannot read its state: try another node and look at this one's log", retry: 5}
	}
	n.learns.begin(known)
	welcome := &sensorv1.Welcome{Protocol: frame.ProtocolVersion, HostId: n.host, NodeId: s.cfg.NodeID, CoordinatorVersion: s.cfg.Version,
		Acked: acked, Nodes: nodes, Time: s.cfg.Now().UnixNano(),
		Intent: intent, Labels: known.GetLabels()}
	s.cfg.Logger.Info("session opened", "host", n.host, "name", hello.GetFacts().GetName(), "address", host, "acked", acked)
	return welcome, nil
}

// resendGrants sends what the host has not answered: it may have been away.
func (s *Server) resendGrants(ctx context.Context, n *session) {
	operations, grants, err := s.cfg.Orders.PendingGrants(ctx, n.host)
	if err != nil {
		s.cfg.Logger.Warn("pending grants not read", "host", n.host, "error", err)
		return
	}
	now := s.cfg.Now().UnixNano()
	for i, signed := range grants {
		g, err := grant.Decode(signed.GetPayload())
		if err != nil || g.GetNotAfter() <= now {
			continue
		}
		set, err := s.hostSets.of(ctx, operations[i])
		if err != nil {
			s.cfg.Logger.Warn("pending grant not sent", "host", n.host, "operation", operations[i], "error", err)
			continue
		}
		n.grant(signed, set, nil)
	}
}

// read takes the sensor's messages one after another until the session ends. What one
// needs is done by a worker, see there.
func (s *Server) read(ctx context.Context, n *session, stream net.Conn) error {
	for {
		size, err := frame.Await(stream)
		if err != nil {
			return err
		}
		s.holdBack(ctx, n)
		if err := s.workers.wait(func() error { return s.take(ctx, n, stream, size) }); err != nil {
			return err
		}
	}
}

// take reads a message of so many bytes and does what it asks.
func (s *Server) take(ctx context.Context, n *session, stream net.Conn, size uint32) error {
	var m sensorv1.SensorMessage
	if err := frame.ReadBody(stream, size, &m); err != nil {
		return err
	}
	s.charge(n, &m, size)
	switch body := m.GetBody().(type) {
	case *sensorv1.SensorMessage_Batch:
		return s.batch(ctx, n, stream, body.Batch, proto.Size(body.Batch))
	case *sensorv1.SensorMessage_Renew:
		return s.renew(ctx, n, body.Renew)
	case *sensorv1.SensorMessage_Goodbye:
		return s.goodbye(n, body.Goodbye)
	case *sensorv1.SensorMessage_GrantResult:
		s.answered(n, body.GrantResult)
		return nil
	case *sensorv1.SensorMessage_Trusted:
		s.holds(n, body.Trusted)
		return nil
	case *sensorv1.SensorMessage_Unlearnt:
		return s.unlearnt(ctx, n, body.Unlearnt)
	case *sensorv1.SensorMessage_Answer:
		return s.answer(n, body.Answer)
	case *sensorv1.SensorMessage_Rules:
		s.usesRules(ctx, n, body.Rules)
		return nil
	default:
		return fmt.Errorf("%w: unexpected message %T", errProtocol, body)
	}
}

func (s *Server) renew(ctx context.Context, n *session, request *sensorv1.Renew) error {
	now := s.cfg.Now()
	if now.Sub(n.renewed) < renewPause {
		return fmt.Errorf("%w: certificate renewals less than %s apart", errProtocol, renewPause)
	}
	n.renewed = now
	if !s.known(ctx, n.host) {
		s.hostRemoved(n.host)
		return fmt.Errorf("renewing a certificate: %w", errRemoved)
	}
	sign := s.cfg.Authority.SignHost
	if n.trust.Load() >= s.cfg.TrustEpoch() {
		sign = s.cfg.Authority.RenewHost
	}
	chain, err := sign(request.GetCsr(), n.host)
	if err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	s.counts.renewals.Add(1)
	n.send(&sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Certificate{Certificate: &sensorv1.Certificate{
		Chain: chain, Roots: chain[len(chain)-1:]}}})
	return nil
}

func (s *Server) answered(n *session, result *sensorv1.GrantResult) {
	s.cfg.Logger.Debug("grant answered", "host", n.host, "state", result.GetStatus().GetState().String())
}

// batch answers by itself: nothing more is read before, and a message in the queue would
// only be another goroutine to wake for every batch of every host.
func (s *Server) batch(ctx context.Context, n *session, stream net.Conn, batch *sensorv1.Batch, size int) error {
	received := time.Now()
	err := state.CheckBatch(batch)
	if err == nil {
		err = bounded(batch)
	}
	if err != nil {
		s.cfg.Meter.Refused(meter.Malformed)
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	if len(batch.GetRecords()) == 0 {
		s.cfg.Meter.Refused(meter.Malformed)
		return fmt.Errorf("%w: an empty batch", errProtocol)
	}
	if size > maxEntry {
		s.cfg.Meter.Refused(meter.Malformed)
		return fmt.Errorf("%w: a batch of %d bytes, the limit is %d", errProtocol, size, maxEntry)
	}
	if forged := unforge(batch); forged != "" {
		s.suspects.add(&raftv1.SuspectSensor{Host: n.host, Conduct: state.SuspectForged, Detail: forged})
	}
	if flood := n.conduct.admit(batch, size, s.cfg.Now()); flood != "" {
		s.suspects.add(&raftv1.SuspectSensor{Host: n.host, Conduct: state.SuspectFlood, Detail: flood})
	}
	ack, err := s.batcher.submit(ctx, &raftv1.HostBatch{Host: n.host, Batch: batch})
	if err != nil {
		s.cfg.Meter.Refused(meter.NotCommitted)
		if ctx.Err() == nil && !errors.Is(err, errStopping) {
			s.cfg.Logger.Warn("batch not committed; the sensor will try another node", "host", n.host, "error", err)
			n.because(endNode, "a batch was not committed")
			n.end(link.CodeInternal, "this node cannot reach a quorum: try another one")
		}
		return fmt.Errorf("committing a batch: %w", err)
	}
	s.cfg.Meter.AckSeconds.Observe(time.Since(received).Seconds())
	s.conducted(n, batch, ack.GetGap())
	if ack.GetGap() {
		s.cfg.Meter.Refused(meter.Gap)
		s.counts.resumes.Add(1)
		return write(stream, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Resume{Resume: &sensorv1.Resume{Boot: ack.GetBoot(), Sequence: ack.GetSequence()}}})
	}
	s.counts.batches.Add(1)
	s.counts.records.Add(uint64(len(batch.GetRecords())))
	s.taken(batch, size)
	return write(stream, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Ack{Ack: &sensorv1.Ack{Boot: ack.GetBoot(), Sequence: ack.GetSequence()}}})
}
