package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/scripts/internal/world"
)

const (
	bootSize = 16
	// What follows is a real sensor's (sensor/internal/uplink): how long a dial and a
	// welcome may take, and a message to leave; how long a session must have lasted to
	// count as one that worked; and the pause after a round over all nodes, at random up
	// to firstBackoff and then longer.
	dialTimeout    = 3 * time.Second
	welcomeTimeout = 12 * time.Second
	writeTimeout   = 10 * time.Second
	goodbyeTime    = 2 * time.Second
	settled        = 5 * time.Second
	firstBackoff   = 250 * time.Millisecond
	maxBackoff     = 30 * time.Second
	maxBatch       = 512
	// maxSpool bounds what a sensor without a session keeps; what is above it is dropped
	// and counted.
	maxSpool = 4096
	// nowhere is the node of a sensor without a session.
	nowhere = -1
)

// What a real sensor says of an isolation that is in force, in length at least: an
// answer must not be cheaper to store than a true one.
const (
	detail   = "left open: loopback, ARP and neighbour discovery, DHCP, this sensor to 3 coordinator addresses. Not cut: what another operating system on this hardware sends"
	selfTest = "coordinator reachable over UDP; a probe to 192.0.2.1 did not leave; 2 devices filtered in both directions"
)

// kept is a record that is not acknowledged.
type kept struct {
	record *sensorv1.Record
	made   time.Time
}

// sensor is one of them.
type sensor struct {
	fleet *Fleet
	n     int
	kind  world.Kind
	// online is closed with the first welcome.
	online   chan struct{}
	verifier grant.Verifier // its own, as each host has one

	writing sync.Mutex // one message at a time

	mu               sync.Mutex // guards what follows
	id               string     // empty: not enrolled
	cert             tls.Certificate
	boot             []byte
	leaving          context.CancelFunc // ends run; nil: it does not run
	left             chan struct{}      // is closed when it has
	going, enrolling bool               // it says goodbye; it is born

	conn     *link.Conn
	stream   net.Conn
	at       int       // the node of the session
	packets  uint64    // had come when it was heard last,
	heard    time.Time // which was then
	asked    time.Time // the first thing sent since
	dropping string    // why we end the session ourselves; empty: we do not
	offended bool      // it has broken the protocol in this session

	sequence uint64 // of the last record made
	unacked  []kept // oldest first
	sent     uint64 // of the last record sent in this session
	underWay bool   // a batch is, and the next waits for its answer
	epoch    uint64 // of the newest order that was honoured
	answered uint64 // the sequence of the answer to it
}

func (s *sensor) enrolled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id != ""
}

func (s *sensor) runs() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving != nil
}

func (s *sensor) isGoing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.going
}

// run keeps a session until ctx ends, with the back-off of a real sensor.
func (s *sensor) run(ctx context.Context) {
	nodes := make([]int, len(s.fleet.cfg.Nodes))
	for i := range nodes {
		nodes[i] = (s.n + i) % len(nodes)
	}
	backoff := firstBackoff
	for ctx.Err() == nil {
		worked := false
		var wait time.Duration
		for _, node := range nodes {
			began := time.Now()
			welcomed, err := s.session(ctx, node)
			if ctx.Err() != nil || s.isGoing() {
				return
			}
			s.fleet.ended(s, node, welcomed, err)
			if refused, ok := errors.AsType[*refusedError](err); ok {
				wait = max(wait, refused.after)
			}
			if time.Since(began) >= settled {
				worked, nodes = true, lastly(nodes, node)
				break
			}
		}
		if worked {
			backoff = firstBackoff
			continue
		}
		pause(ctx, min(max(rand.N(backoff), wait), maxBackoff))
		backoff = min(2*backoff, maxBackoff)
	}
}

// lastly is the nodes in a random order, the one that was lost last.
func lastly(nodes []int, lost int) []int {
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	if i := slices.Index(nodes, lost); i >= 0 {
		nodes = append(slices.Delete(nodes, i, i+1), lost)
	}
	return nodes
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// refusedError is a node's refusal of a session.
type refusedError struct {
	code, message string
	after         time.Duration
}

func (e *refusedError) Error() string { return fmt.Sprintf("refused (%s): %s", e.code, e.message) }

// open dials a node and says hello.
func (s *sensor) open(ctx context.Context, node int) (*link.Conn, error) {
	if s.fleet.rush != nil {
		select {
		case s.fleet.rush <- struct{}{}:
			defer func() { <-s.fleet.rush }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return s.fleet.dialer(s).Dial(ctx, s.fleet.cfg.Nodes[node], link.ALPNSensor, link.DialConfig{Credentials: link.Credentials{
		Certificate: func() (*tls.Certificate, error) { return &s.cert, nil },
		Roots:       func() *x509.CertPool { return s.fleet.roots },
	}})
}

func (s *sensor) session(ctx context.Context, node int) (welcomed bool, err error) {
	conn, err := s.open(ctx, node)
	if err != nil {
		return false, err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.CloseWithReason(link.CodeStopped, "the sensor stops") })()
	defer func() { _ = conn.CloseWithReason(link.CodeOK, "") }()
	stream, welcome, err := s.greet(ctx, conn)
	if err != nil {
		return false, err
	}
	s.began(conn, stream, node, welcome.GetAcked())
	defer s.over()
	if err := s.flush(); err != nil {
		return true, err
	}
	return true, s.receive(ctx, conn, stream)
}

// greet says hello on a stream of its own and answers the welcome.
func (s *sensor) greet(ctx context.Context, conn *link.Conn) (net.Conn, *sensorv1.Welcome, error) {
	stream, err := conn.OpenStream(ctx)
	if err != nil {
		return nil, nil, err
	}
	_ = stream.SetReadDeadline(time.Now().Add(welcomeTimeout))
	if err := s.send(stream, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{Protocol: frame.ProtocolVersion,
		SensorVersion: "simulated", Facts: s.fleet.facts(s.n), Boot: s.boot, Instance: s.boot, KeepAliveMs: uint32(link.DefaultKeepAlive.Milliseconds()),
		Questions: hunt.Version}}}); err != nil {
		return nil, nil, err
	}
	var first sensorv1.CoordinatorMessage
	if err := frame.Read(stream, &first); err != nil {
		return nil, nil, fmt.Errorf("waiting for welcome: %w", err)
	}
	if r := first.GetRefusal(); r != nil {
		return nil, nil, &refusedError{r.GetCode(), r.GetMessage(), time.Duration(r.GetRetryAfterSeconds()) * time.Second}
	}
	if first.GetWelcome() == nil {
		return nil, nil, errors.New("the node's first message is no welcome")
	}
	_ = stream.SetReadDeadline(time.Time{})
	return stream, first.GetWelcome(), nil
}

// began is called with the welcome.
func (s *sensor) began(conn *link.Conn, stream net.Conn, node int, acked uint64) {
	s.mu.Lock()
	s.conn, s.stream, s.at = conn, stream, node
	s.packets, s.heard, s.asked = conn.PacketsReceived(), time.Now(), time.Time{}
	s.dropping, s.offended = "", false
	s.sent, s.underWay = acked, false
	select {
	case <-s.online:
	default:
		close(s.online)
	}
	s.mu.Unlock()
	s.acked(acked)
	s.fleet.counts.welcomed.Add(1)
	s.fleet.counts.open.Add(1)
}

func (s *sensor) over() {
	s.mu.Lock()
	s.conn, s.stream, s.at = nil, nil, nowhere
	s.mu.Unlock()
	s.fleet.counts.open.Add(-1)
}

func (s *sensor) receive(ctx context.Context, conn *link.Conn, stream net.Conn) error {
	for {
		switch s.kind {
		case world.SlowReader:
			pause(ctx, slowRead)
		case world.NoReader:
			<-conn.Context().Done()
			return conn.Err()
		}
		var m sensorv1.CoordinatorMessage
		if err := frame.Read(stream, &m); err != nil {
			if cause := conn.Err(); cause != nil && !errors.Is(err, io.EOF) {
				return cause
			}
			return err
		}
		var err error
		switch body := m.GetBody().(type) {
		case *sensorv1.CoordinatorMessage_Ack:
			s.acked(body.Ack.GetSequence())
			s.taken()
			err = s.answer(body.Ack.GetSequence())
		case *sensorv1.CoordinatorMessage_Resume:
			s.acked(body.Resume.GetSequence())
			s.resumed()
			err = s.answer(body.Resume.GetSequence())
		case *sensorv1.CoordinatorMessage_Grant:
			err = s.honour(body.Grant)
		case *sensorv1.CoordinatorMessage_Question:
			err = s.question(stream, body.Question)
		}
		if err != nil {
			return err
		}
	}
}

// answer to the batch that was under way: the next goes from where the node is.
func (s *sensor) answer(sequence uint64) error {
	s.mu.Lock()
	s.underWay, s.sent = false, sequence
	s.mu.Unlock()
	return s.flush()
}

// honour verifies a grant as a sensor does, and answers it.
func (s *sensor) honour(signed *sensorv1.SignedGrant) error {
	s.fleet.verifying <- struct{}{}
	now := time.Now()
	g, signers, err := s.verifier.Verify(signed, s.fleet.signers, s.fleet.cluster, now)
	if err == nil {
		err = grant.Names(g, signed.GetProof(), s.id)
	}
	<-s.fleet.verifying
	switch {
	case err == nil && g.GetEpoch() == s.epoch:
		return nil // it came again, with a new session
	case err == nil && g.GetEpoch() < s.epoch:
		err = fmt.Errorf("an order of epoch %d came after one of epoch %d", g.GetEpoch(), s.epoch)
	case err == nil && len(signers) == 0:
		err = errors.New("no operator signed the grant")
	}
	if err != nil {
		s.fleet.refused(fmt.Errorf("sensor %s: %w", s.id, err))
		return nil
	}
	status := &sensorv1.IsolationStatus{Operation: g.GetOperation(), Nonce: g.GetNonce(), Action: sensorv1.Action_ACTION_ISOLATE, Level: g.GetLevel(),
		State: sensorv1.IsolationState_ISOLATION_STATE_APPLIED, Detail: detail, SelfTest: selfTest,
		AppliedAt: now.UnixNano(), LeaseExpires: now.Add(time.Duration(g.GetLeaseSeconds()) * time.Second).UnixNano()} //nolint:gosec // a day at most
	if g.GetAction() == sensorv1.Action_ACTION_RELEASE {
		status.Action, status.State, status.Detail, status.SelfTest, status.LeaseExpires = g.GetAction(), sensorv1.IsolationState_ISOLATION_STATE_RELEASED, "", "", 0
	}
	if r := s.fleet.round.Load(); r != nil {
		r.verified(s.n, g.GetAction())
	}
	s.epoch = g.GetEpoch() // only the reader's goroutine honours
	answer := s.record(&sensorv1.Record{Time: now.UnixNano(), Body: &sensorv1.Record_Isolation{Isolation: status}})
	s.mu.Lock()
	s.answered = answer
	s.mu.Unlock()
	if err := s.flush(); err != nil {
		return err
	}
	s.mu.Lock()
	stream := s.stream
	s.mu.Unlock()
	if stream == nil {
		return nil
	}
	return s.send(stream, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_GrantResult{GrantResult: &sensorv1.GrantResult{Nonce: g.GetNonce(), Status: status}}})
}

// record keeps records until they are acknowledged, and returns the last one's sequence.
func (s *sensor) record(records ...*sensorv1.Record) uint64 {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		s.sequence++
		r.Sequence = s.sequence
		if len(s.unacked) >= maxSpool {
			s.unacked = s.unacked[1:]
			s.fleet.counts.spoolLost.Add(1)
		}
		s.unacked = append(s.unacked, kept{r, now})
	}
	if s.kind == world.Honest {
		s.fleet.counts.made.Add(int64(len(records)))
	}
	return s.sequence
}

// flush sends what was not sent, unless a batch is under way: its answer comes here again.
func (s *sensor) flush() error {
	s.mu.Lock()
	stream := s.stream
	from, _ := slices.BinarySearchFunc(s.unacked, s.sent+1, func(k kept, sequence uint64) int {
		return int(int64(k.record.GetSequence()) - int64(sequence)) //nolint:gosec // sequences of one fleet
	})
	fresh := s.unacked[from:min(len(s.unacked), from+maxBatch)]
	if stream == nil || s.underWay && s.kind != world.NoReader || len(fresh) == 0 {
		s.mu.Unlock()
		return nil
	}
	batch := &sensorv1.Batch{Boot: s.boot, Prev: s.sent, Records: make([]*sensorv1.Record, len(fresh))}
	for i, k := range fresh {
		batch.Records[i] = k.record
	}
	s.sent, s.underWay = fresh[len(fresh)-1].record.GetSequence(), true
	if s.asked.IsZero() {
		s.asked = time.Now()
	}
	s.mu.Unlock()
	return s.send(stream, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Batch{Batch: batch}})
}

// acked forgets what the cluster has.
func (s *sensor) acked(sequence uint64) {
	now := time.Now()
	s.mu.Lock()
	n := 0
	for n < len(s.unacked) && s.unacked[n].record.GetSequence() <= sequence {
		if s.kind == world.Honest {
			s.fleet.counts.acked(now.Sub(s.unacked[n].made))
		}
		n++
	}
	if s.unacked = s.unacked[n:]; len(s.unacked) == 0 {
		s.unacked = nil // so that the array goes
	}
	answered := s.answered
	s.mu.Unlock()
	if r := s.fleet.round.Load(); r != nil && answered > 0 && sequence >= answered {
		r.acknowledged(s.n)
	}
	if r := s.fleet.recall.Load(); r != nil {
		r.acknowledged(s.n, sequence)
	}
}

func (s *sensor) send(stream net.Conn, m *sensorv1.SensorMessage) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_ = stream.SetWriteDeadline(time.Now().Add(writeTimeout))
	return frame.Write(stream, m)
}
