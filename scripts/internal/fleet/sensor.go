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
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	bootSize = 16
	// welcomeTimeout and writeTimeout are a real sensor's.
	welcomeTimeout = 12 * time.Second
	writeTimeout   = 10 * time.Second
	// So long waits a sensor that has lost its session, at first and at most; up to that,
	// at random.
	firstBackoff = 250 * time.Millisecond
	maxBackoff   = 30 * time.Second
)

// What a real sensor says of an isolation that is in force, in length at least: an
// answer must not be cheaper to store than a true one.
const (
	detail   = "left open: loopback, ARP and neighbour discovery, DHCP, this sensor to 3 coordinator addresses. Not cut: what another operating system on this hardware sends"
	selfTest = "coordinator reachable over UDP; a probe to 192.0.2.1 did not leave; 2 devices filtered in both directions"
)

// sensor is one of them. What it remembers belongs to its goroutine.
type sensor struct {
	fleet *Fleet
	n     int
	id    string
	facts *sensorv1.HostFacts
	cert  tls.Certificate
	boot  []byte
	// online is closed with the first welcome.
	online chan struct{}

	verifier grant.Verifier // its own, as each host has one
	stream   net.Conn
	sequence uint64             // of the last record made
	unacked  []*sensorv1.Record // oldest first
	epoch    uint64             // of the newest order that was honoured
	answered uint64             // the sequence of the answer to it
}

// run keeps a session until ctx ends.
func (s *sensor) run(ctx context.Context) {
	backoff := firstBackoff
	for node := s.n; ; node++ {
		began := time.Now()
		err := s.session(ctx, s.fleet.cfg.Nodes[node%len(s.fleet.cfg.Nodes)])
		if ctx.Err() != nil {
			return
		}
		s.fleet.lost.Add(1)
		text := fmt.Sprint(err)
		s.fleet.lastLost.Store(&text)
		if time.Since(began) > maxBackoff {
			backoff = firstBackoff
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rand.N(backoff)):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (s *sensor) session(ctx context.Context, node string) error {
	conn, welcome, err := s.open(ctx, node)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.CloseWithReason(link.CodeStopped, "the sensor stops") })()
	defer func() { _ = conn.CloseWithReason(link.CodeOK, "") }()
	select {
	case <-s.online:
	default:
		close(s.online)
	}
	s.acked(welcome.GetAcked())
	if err := s.report(); err != nil {
		return err
	}
	return s.receive()
}

// open makes a session up to its welcome.
func (s *sensor) open(ctx context.Context, node string) (conn *link.Conn, welcome *sensorv1.Welcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, welcomeTimeout)
	defer cancel()
	conn, err = link.Dial(ctx, node, link.ALPNSensor, link.DialConfig{Credentials: link.Credentials{
		Certificate: func() (*tls.Certificate, error) { return &s.cert, nil },
		Roots:       func() *x509.CertPool { return s.fleet.roots },
	}})
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.CloseWithReason(link.CodeOK, "")
		}
	}()
	defer context.AfterFunc(ctx, func() { _ = conn.CloseWithReason(link.CodeStopped, "the sensor stops") })()
	if s.stream, err = conn.OpenStream(ctx); err != nil {
		return nil, nil, err
	}
	_ = s.stream.SetReadDeadline(time.Now().Add(welcomeTimeout))
	if err := s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{Protocol: frame.ProtocolVersion,
		SensorVersion: "simulated", Facts: s.facts, Boot: s.boot, Instance: s.boot, KeepAliveMs: uint32(link.DefaultKeepAlive.Milliseconds())}}}); err != nil {
		return nil, nil, err
	}
	var first sensorv1.CoordinatorMessage
	if err := frame.Read(s.stream, &first); err != nil {
		return nil, nil, fmt.Errorf("waiting for welcome: %w", err)
	}
	if first.GetWelcome() == nil {
		return nil, nil, fmt.Errorf("not welcomed: %s %s", first.GetRefusal().GetCode(), first.GetRefusal().GetMessage())
	}
	_ = s.stream.SetReadDeadline(time.Time{})
	return conn, first.GetWelcome(), nil
}

func (s *sensor) receive() error {
	for {
		var m sensorv1.CoordinatorMessage
		if err := frame.Read(s.stream, &m); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the node ended the session")
			}
			return err
		}
		var err error
		switch body := m.GetBody().(type) {
		case *sensorv1.CoordinatorMessage_Ack:
			s.acked(body.Ack.GetSequence())
		case *sensorv1.CoordinatorMessage_Resume:
			s.acked(body.Resume.GetSequence())
			err = s.report()
		case *sensorv1.CoordinatorMessage_Grant:
			err = s.honour(body.Grant)
		}
		if err != nil {
			return err
		}
	}
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
	s.epoch = g.GetEpoch()
	s.sequence++
	s.answered = s.sequence
	s.unacked = append(s.unacked, &sensorv1.Record{Sequence: s.sequence, Time: now.UnixNano(), Body: &sensorv1.Record_Isolation{Isolation: status}})
	if err := s.report(); err != nil {
		return err
	}
	return s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_GrantResult{GrantResult: &sensorv1.GrantResult{Nonce: g.GetNonce(), Status: status}}})
}

// report sends what is not acknowledged.
func (s *sensor) report() error {
	if len(s.unacked) == 0 {
		return nil
	}
	return s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Batch{Batch: &sensorv1.Batch{
		Boot: s.boot, Prev: s.unacked[0].GetSequence() - 1, Records: s.unacked}}})
}

func (s *sensor) acked(sequence uint64) {
	for len(s.unacked) > 0 && s.unacked[0].GetSequence() <= sequence {
		s.unacked = s.unacked[1:]
	}
	if r := s.fleet.round.Load(); r != nil && s.answered > 0 && sequence >= s.answered {
		r.acknowledged(s.n)
	}
}

func (s *sensor) send(m *sensorv1.SensorMessage) error {
	_ = s.stream.SetWriteDeadline(time.Now().Add(writeTimeout))
	return frame.Write(s.stream, m)
}
