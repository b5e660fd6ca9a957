package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// findingEvery so many records is a finding; the others are summaries that count one.
	findingEvery = 8
	// ballast makes a record large enough for the log's files to fill.
	ballast = 2 << 10
	// answerIn is how long a sensor waits for an answer.
	answerIn = 6 * time.Second
)

// errLost: a node does not have what was acknowledged.
var errLost = errors.New("acknowledged records are lost")

// counted is the key of the behaviour that every summary counts once.
var counted = []byte("counted-by-torture")

// sensor is an enrolled identity that numbers its records and remembers what was
// acknowledged. One goroutine pushes; the rest may be asked by others.
type sensor struct {
	id    string
	nodes []string
	link.Credentials
	boot []byte
	last *sensorv1.Batch // acknowledged; sent again at each new session
	conn *link.Conn
	strm net.Conn

	mu          sync.Mutex // guards what follows
	sent, acked uint64
	spans       []span
}

type span struct{ began, ended time.Time }

// enrol makes an identity with a join token, at one node.
func enrol(ctx context.Context, node string, token link.Token) (*sensor, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	conn, err := link.Dial(ctx, node, link.ALPNEnroll, link.DialConfig{PinnedCA: token.CA})
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.CloseWithReason(link.CodeOK, "") }()
	stream, err := conn.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = stream.SetDeadline(deadline)
	}
	reply := &sensorv1.EnrollReply{}
	if err := errors.Join(frame.Write(stream, &sensorv1.EnrollRequest{Protocol: frame.ProtocolVersion, Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR,
		TokenId: token.ID, TokenSecret: token.Secret[:], Csr: csr, Facts: &sensorv1.HostFacts{Name: "torture"}}), frame.Read(stream, reply)); err != nil {
		return nil, err
	}
	if refusal := reply.GetRefusal(); refusal != nil {
		return nil, &refused{refusal.GetCode(), refusal.GetMessage()}
	}
	roots := x509.NewCertPool()
	for _, der := range reply.GetEnrolled().GetRoots() {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		roots.AddCert(root)
	}
	cert := &tls.Certificate{Certificate: reply.GetEnrolled().GetChain(), PrivateKey: key}
	s := &sensor{id: reply.GetEnrolled().GetId(), boot: make([]byte, 16),
		Credentials: link.Credentials{Certificate: func() (*tls.Certificate, error) { return cert, nil }, Roots: func() *x509.CertPool { return roots }}}
	_, err = rand.Read(s.boot)
	return s, err
}

// refused is a node's no.
type refused struct{ code, message string }

func (r *refused) Error() string { return r.code + ": " + r.message }

// token makes a join token.
func (r *rig) token(ctx context.Context) (link.Token, error) {
	leader, err := r.leader(ctx)
	if err != nil {
		return link.Token{}, err
	}
	return r.tokenAt(ctx, leader)
}

func (r *rig) tokenAt(ctx context.Context, node int) (link.Token, error) {
	made, err := r.at[node].CreateToken(ctx, &operatorv1.CreateTokenRequest{Kind: "sensor", TtlSeconds: 3000})
	if err != nil {
		return link.Token{}, err
	}
	return link.ParseToken(made.GetToken())
}

// sensors enrols n, each beginning at another node.
func (r *rig) sensors(ctx context.Context, n int) ([]*sensor, error) {
	var all []*sensor
	for i := range n {
		token, err := r.token(ctx)
		if err != nil {
			return nil, err
		}
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		s, err := enrol(one, r.Addresses()[0], token)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("enrolling: %w", err)
		}
		s.nodes = slices.Concat(r.Addresses()[i%nodes:], r.Addresses()[:i%nodes])
		all = append(all, s)
	}
	return all, nil
}

// run pushes in this rhythm until ctx ends, and settles what it has sent by then.
func (s *sensor) run(ctx context.Context, every time.Duration) error {
	defer s.close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		began := time.Now()
		one, done := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		err := s.push(one)
		done()
		if err != nil {
			return fmt.Errorf("host %s: %w", s.id, err)
		}
		s.mu.Lock()
		s.spans = append(s.spans, span{began, time.Now()})
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// resumed is how long after at the first record that was made after it was acknowledged;
// 0 when none is yet.
func (s *sensor) resumed(at time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.spans) - 1; i >= 0; i-- {
		if !s.spans[i].began.After(at) {
			if i == len(s.spans)-1 {
				return 0
			}
			return s.spans[i+1].ended.Sub(at)
		}
	}
	return 0
}

// longestSince is the longest that a record waited that was made after at.
func (s *sensor) longestSince(at time.Time) (longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, span := range s.spans {
		if span.began.After(at) {
			longest = max(longest, span.ended.Sub(span.began))
		}
	}
	return longest
}

// position is what was sent and what of it was acknowledged.
func (s *sensor) position() (sent, acked uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent, s.acked
}

func (s *sensor) record(sequence uint64) *sensorv1.Record {
	now := time.Now().UnixNano()
	r := &sensorv1.Record{Sequence: sequence, Time: now}
	if sequence%findingEvery == 0 {
		r.Body = &sensorv1.Record_Finding{Finding: &sensorv1.Finding{Id: s.finding(sequence), Time: now, Kind: "rule", Title: "torture", Severity: "informational", Storyline: "s-" + s.id}}
		return r
	}
	r.Body = &sensorv1.Record_Summary{Summary: &sensorv1.Summary{WindowEnd: now, Health: &sensorv1.Health{CoverageGaps: []string{strings.Repeat("x", ballast)}},
		Deltas: []*sensorv1.BehaviourDelta{{Key: counted, Count: 1, LastSeen: now}}}}
	return r
}

func (s *sensor) finding(sequence uint64) string { return fmt.Sprintf("f-%x-%d", s.boot, sequence) }

// push gets one record acknowledged, by whichever node will.
func (s *sensor) push(ctx context.Context) error {
	_, acked := s.position()
	want := acked + 1
	s.mu.Lock()
	s.sent = want
	s.mu.Unlock()
	record := s.record(want)
	for turn := 0; ; turn++ {
		err := s.once(ctx, s.nodes[turn%len(s.nodes)], record)
		if err == nil || errors.Is(err, errLost) {
			return err
		}
		s.close()
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the last try: %w", ctx.Err(), err)
		case <-time.After(poll):
		}
	}
}

func (s *sensor) once(ctx context.Context, node string, record *sensorv1.Record) error {
	if s.conn == nil {
		if err := s.open(ctx, node); err != nil {
			return err
		}
	}
	if _, acked := s.position(); acked >= record.GetSequence() {
		return nil // stored, its answer was lost with the node
	}
	batch := &sensorv1.Batch{Boot: s.boot, Prev: record.GetSequence() - 1, Records: []*sensorv1.Record{record}}
	if err := s.send(batch, record.GetSequence()); err != nil {
		return err
	}
	s.last = batch
	return nil
}

func (s *sensor) open(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var err error
	if s.conn, err = link.Dial(ctx, node, link.ALPNSensor, link.DialConfig{Credentials: s.Credentials, MaxIdle: 1500 * time.Millisecond, KeepAlive: 400 * time.Millisecond}); err != nil {
		return err
	}
	if s.strm, err = s.conn.OpenStream(ctx); err != nil {
		return err
	}
	_ = s.strm.SetDeadline(time.Now().Add(answerIn))
	var m sensorv1.CoordinatorMessage
	err = errors.Join(frame.Write(s.strm, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{
		Protocol: frame.ProtocolVersion, SensorVersion: "torture", Boot: s.boot, Facts: &sensorv1.HostFacts{Name: "torture-" + s.id}}}}), frame.Read(s.strm, &m))
	if err == nil && m.GetWelcome() == nil {
		err = fmt.Errorf("not welcomed: %s", m.GetRefusal().GetMessage())
	}
	if err != nil {
		return err
	}
	if err := s.told(m.GetWelcome().GetAcked(), node); err != nil || s.last == nil {
		return err
	}
	// What is stored already comes once more: it must count once.
	return s.send(s.last, s.last.GetPrev()+1)
}

// told takes what a node says it holds.
func (s *sensor) told(acked uint64, node string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if acked < s.acked {
		return fmt.Errorf("%w: %d were, and %s has %d", errLost, s.acked, node, acked)
	}
	s.acked = acked
	return nil
}

func (s *sensor) send(batch *sensorv1.Batch, want uint64) error {
	_ = s.strm.SetDeadline(time.Now().Add(answerIn))
	if err := frame.Write(s.strm, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Batch{Batch: batch}}); err != nil {
		return err
	}
	for {
		var m sensorv1.CoordinatorMessage
		if err := frame.Read(s.strm, &m); err != nil {
			return err
		}
		switch {
		case m.GetAck() != nil:
			if m.GetAck().GetSequence() < want {
				return fmt.Errorf("%w: %d were sent and %d are stored", errLost, want, m.GetAck().GetSequence())
			}
			return s.told(m.GetAck().GetSequence(), "the node")
		case m.GetResume() != nil:
			return fmt.Errorf("%w: the node has %d and is told from %d on", errLost, m.GetResume().GetSequence(), want)
		}
	}
}

func (s *sensor) close() {
	if s.conn != nil {
		_ = s.conn.CloseWithReason(link.CodeOK, "")
	}
	s.conn, s.strm = nil, nil
}
