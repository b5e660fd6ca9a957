package uplink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/pulse"
)

const (
	maxBatchRecords = 512
	// window is how many batches may wait for their acknowledgement: one to be
	// committed, the others on their way.
	window = 4
	// welcomeTimeout covers a node that first has to find its leader.
	welcomeTimeout = 12 * time.Second
	writeTimeout   = 10 * time.Second
	// ackTimeout is for a node that lives and never commits; another may.
	ackTimeout = 30 * time.Second
	watchEvery = 500 * time.Millisecond
	// renewRetry separates two tries to renew; a node signs one in 10 s.
	renewRetry = time.Minute
	// skewNoticed is more than a round trip and less than what confuses people.
	skewNoticed = 5 * time.Second
)

// session is one conversation with one node.
type session struct {
	u      *Uplink
	conn   *link.Conn
	stream net.Conn

	writing sync.Mutex // guards torn
	torn    bool       // a message was not written whole

	mu       sync.Mutex
	sentAt   time.Time // the first thing sent since the node was last heard,
	heardAt  uint64    // which is when it had sent that many packets
	inflight []batchEnd
	draining bool          // after a Resume, until the batches on the way are answered
	position batchEnd      // what that Resume said
	room     chan struct{} // the window may have opened
	retrust  chan struct{} // another list of trusted authorities came
	ruled    bool          // the node sent rules: it knows the message
	renewal  *renewal
	pack     pack.Joiner // the reader's
	lessons  lessons

	questions *questions
}

// batchEnd is a batch that was sent and not answered.
type batchEnd struct {
	boot string
	last uint64
	sent time.Time
}

var (
	errSilent   = errors.New("the node has fallen silent")
	errNoAck    = errors.New("the node does not acknowledge")
	errProtocol = errors.New("the node broke the protocol")
)

// session runs until it fails, which is always: the error says why it ended.
func (u *Uplink) session(ctx context.Context, node string) error {
	if u.id.expired(time.Now()) != nil {
		if err := u.comeBack(ctx, node); err != nil {
			return err
		}
	}
	conn, err := u.dial(ctx, node)
	if err != nil {
		return err
	}
	s := &session{u: u, conn: conn, room: make(chan struct{}, 1), retrust: make(chan struct{}, 1), questions: newQuestions(), lessons: newLessons()}
	err = s.run(ctx, node)
	code, reason := link.CodeOK, ""
	switch {
	case errors.Is(err, errSilent), errors.Is(err, errNoAck):
		code, reason = link.CodeSilent, err.Error()
	case errors.Is(err, errProtocol), errors.Is(err, frame.ErrTooLarge), errors.Is(err, frame.ErrTruncated), errors.Is(err, frame.ErrMalformed):
		_ = conn.Abort(err)
		return err
	}
	if ctx.Err() != nil {
		code, reason = stopped(ctx)
	}
	closedBy := conn.Err() // before we close it ourselves
	_ = conn.CloseWithReason(code, reason)
	if closedBy != nil && code != link.CodeSilent {
		var refused *RefusedError
		if !errors.As(err, &refused) {
			return fmt.Errorf("session with %s: %w", node, closedBy)
		}
	}
	return err
}

func (s *session) run(ctx context.Context, node string) error {
	var err error
	if s.stream, err = s.conn.OpenStream(ctx); err != nil {
		return err
	}
	defer func() { _ = s.stream.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.CloseWithReason(stopped(ctx)) })
	welcome, err := s.hello()
	if !stop() || err != nil {
		return cmp.Or(err, context.Cause(ctx))
	}
	s.u.established(node, welcome)
	s.nodes(welcome.GetNodes())
	s.intent(welcome.GetIntent(), welcome.GetLabels())

	s.u.mu.Lock()
	s.u.current = s
	s.u.mu.Unlock()
	defer func() {
		s.u.mu.Lock()
		s.u.current = nil
		s.u.mu.Unlock()
	}()
	running := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, part := range []func(context.Context) error{s.sendBatches, s.watch, s.renew, s.answer, s.refuse, s.learn} {
		wg.Go(func() {
			if err := part(ctx); err != nil {
				cancel(err)
				// The reader waits on the stream, not on ctx.
				_ = s.stream.SetReadDeadline(time.Now())
			}
		})
	}
	err = s.receive(ctx)
	cancel(err)
	_ = s.stream.SetDeadline(time.Now()) // a writer may be blocked
	wg.Wait()
	if running.Err() != nil {
		s.goodbye(running)
	}
	return context.Cause(ctx)
}

// goodbyeTime bounds how long a stopping sensor waits for the node to have noted it.
const goodbyeTime = 2 * time.Second

// goodbye tells the node that the sensor ends, and waits until it hangs up: only what
// the log has is known to every node. Behind half a message nothing can be said.
func (s *session) goodbye(ctx context.Context) {
	s.writing.Lock()
	torn := s.torn
	s.writing.Unlock()
	if torn || s.conn.Err() != nil || s.stream.SetReadDeadline(time.Now().Add(goodbyeTime)) != nil {
		return
	}
	if s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Goodbye{Goodbye: &sensorv1.Goodbye{Failure: failure(ctx)}}}) != nil {
		return
	}
	timer := time.NewTimer(goodbyeTime)
	defer timer.Stop()
	select {
	case <-s.conn.Context().Done():
	case <-timer.C:
	}
}

// stopped is what the connection is closed with when the sensor ends: it says the same
// as a goodbye, to a node that has read none, but may be lost on its way.
func stopped(ctx context.Context) (code uint64, reason string) {
	if failure(ctx) != "" {
		return link.CodeInternal, "the sensor failed"
	}
	return link.CodeStopped, "the sensor stops"
}

// failure is what the sensor ends with when nobody told it to stop; "" when somebody did.
func failure(ctx context.Context) string {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return text(cause.Error())
	}
	return ""
}

func (s *session) hello() (*sensorv1.Welcome, error) {
	boot := s.u.spool.Restart()
	began := time.Now()
	if err := s.stream.SetReadDeadline(began.Add(welcomeTimeout)); err != nil {
		return nil, err
	}
	role, fleet := s.packsHeld()
	if err := s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{
		Protocol: frame.ProtocolVersion, SensorVersion: s.u.cfg.Version, Facts: s.u.cfg.Facts(), Boot: boot,
		KernelBoot: s.u.cfg.KernelBoot, Instance: s.u.instance, KeepAliveMs: uint32(s.u.cfg.KeepAlive.Milliseconds()),
		Trusted: s.u.id.holds(), Pack: role, FleetPack: fleet, Questions: s.u.answers(), Carries: s.u.cfg.OnTaint != nil, Rules: s.u.rulesHeld(),
	}}}); err != nil {
		return nil, err
	}
	m := new(sensorv1.CoordinatorMessage)
	if err := frame.Read(s.stream, m); err != nil {
		return nil, fmt.Errorf("waiting for welcome: %w", err)
	}
	if r := m.GetRefusal(); r != nil {
		return nil, refusal(r)
	}
	w := m.GetWelcome()
	switch {
	case w == nil:
		return nil, fmt.Errorf("%w: its first message is %T", errProtocol, m.GetBody())
	case w.GetProtocol() != frame.ProtocolVersion:
		return nil, &RefusedError{Code: "unknown-protocol", RetryAfter: maxBackoff, Message: fmt.Sprintf(
			"the coordinator speaks protocol version %d, this sensor %d; install the same release on both", w.GetProtocol(), frame.ProtocolVersion)}
	case w.GetHostId() != s.u.id.HostID:
		return nil, fmt.Errorf("%w: it takes this host for %q", errProtocol, text(w.GetHostId()))
	}
	if err := s.stream.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	s.noteSkew(w, began, time.Now())
	s.acknowledge(boot, w.GetAcked())
	s.u.spool.Rewind(boot, w.GetAcked())
	return w, nil
}

func (s *session) noteSkew(w *sensorv1.Welcome, sent, received time.Time) {
	if w.GetTime() == 0 {
		return
	}
	middle := sent.Add(received.Sub(sent) / 2)
	skew := time.Unix(0, w.GetTime()).Sub(middle)
	s.u.mu.Lock()
	before := s.u.skew
	s.u.skew = skew
	s.u.mu.Unlock()
	// A slow answer says little about the clock.
	noticed := skewNoticed + received.Sub(sent)
	if skew.Abs() > noticed && before.Abs() <= skewNoticed {
		s.u.cfg.Logger.Warn("this machine's clock differs from the coordinator's; times in findings are by this one",
			"coordinator_ahead", skew.Round(time.Millisecond).String(), "remedy", "run a time service (chrony or systemd-timesyncd) on both")
	}
}

// send writes one message; any goroutine may.
func (s *session) send(m *sensorv1.SensorMessage) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.stream.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	heard := s.conn.PacketsReceived()
	s.mu.Lock()
	if s.sentAt.IsZero() || heard != s.heardAt {
		s.sentAt, s.heardAt = time.Now(), heard
	}
	s.mu.Unlock()
	err := frame.Write(s.stream, m)
	s.torn = s.torn || err != nil
	return err
}

// sendBatches sends batches as long as the window allows.
func (s *session) sendBatches(ctx context.Context) error {
	for {
		if err := s.awaitRoom(ctx); err != nil {
			return err
		}
		boot, prev, recs, err := s.u.spool.Next(ctx, maxBatchRecords)
		if err != nil {
			return fmt.Errorf("reading spool: %w", err)
		}
		s.mu.Lock()
		if s.draining {
			// A Resume came while Next waited: these records come again.
			again := prev
			if s.position.boot == string(boot) {
				again = s.position.last
			}
			s.mu.Unlock()
			s.u.spool.Rewind(boot, again)
			continue
		}
		s.inflight = append(s.inflight, batchEnd{boot: string(boot), last: recs[len(recs)-1].GetSequence(), sent: time.Now()})
		s.mu.Unlock()
		if err := s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Batch{Batch: &sensorv1.Batch{Boot: boot, Prev: prev, Records: recs}}}); err != nil {
			return err
		}
	}
}

func (s *session) awaitRoom(ctx context.Context) error {
	for {
		s.mu.Lock()
		open := !s.draining && len(s.inflight) < window
		s.mu.Unlock()
		if open {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.room:
		}
	}
}

func (s *session) receive(ctx context.Context) error {
	for {
		m := new(sensorv1.CoordinatorMessage)
		if err := frame.Read(s.stream, m); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("reading from the node: %w", err)
		}
		if err := s.handle(ctx, m); err != nil {
			return err
		}
	}
}

func (s *session) handle(ctx context.Context, m *sensorv1.CoordinatorMessage) error {
	switch body := m.GetBody().(type) {
	case *sensorv1.CoordinatorMessage_Ack:
		s.ack(body.Ack)
	case *sensorv1.CoordinatorMessage_Resume:
		s.resume(body.Resume)
	case *sensorv1.CoordinatorMessage_Grant:
		select {
		case s.u.grants <- body.Grant:
		default:
			s.u.cfg.Logger.Warn("too many grants wait; one is dropped, the coordinator sends it again with the next session")
		}
	case *sensorv1.CoordinatorMessage_Nodes:
		s.nodes(body.Nodes)
	case *sensorv1.CoordinatorMessage_Intent:
		s.intent(body.Intent, nil)
	case *sensorv1.CoordinatorMessage_Taint:
		if s.u.cfg.OnTaint != nil {
			s.u.cfg.OnTaint(body.Taint)
		}
	case *sensorv1.CoordinatorMessage_Rules:
		s.rules(body.Rules)
	case *sensorv1.CoordinatorMessage_Certificate:
		s.certificate(body.Certificate)
	case *sensorv1.CoordinatorMessage_Pack:
		return s.packPart(body.Pack)
	case *sensorv1.CoordinatorMessage_Learning:
		s.learning(body.Learning)
	case *sensorv1.CoordinatorMessage_Question:
		return s.question(ctx, body.Question)
	case *sensorv1.CoordinatorMessage_Refusal:
		return refusal(body.Refusal)
	default:
		return fmt.Errorf("%w: unexpected message %T", errProtocol, body)
	}
	return nil
}

func (s *session) intent(signed *sensorv1.SignedIntent, labels map[string]string) {
	if s.u.cfg.OnIntent != nil && (signed != nil || labels != nil) {
		s.u.cfg.OnIntent(signed, labels)
	}
}

// ack answers all batches of the stream up to a sequence.
func (s *session) ack(a *sensorv1.Ack) {
	s.mu.Lock()
	for len(s.inflight) > 0 && s.inflight[0].boot == string(a.GetBoot()) && s.inflight[0].last <= a.GetSequence() {
		s.inflight = s.inflight[1:]
	}
	s.opened()
	s.mu.Unlock()
	s.acknowledge(a.GetBoot(), a.GetSequence())
}

func (s *session) acknowledge(boot []byte, sequence uint64) {
	if err := s.u.spool.Acknowledge(boot, sequence); err != nil {
		s.u.cfg.Logger.Warn("forgetting acknowledged records", "err", err)
	}
}

// resume answers the oldest batch: it did not fit the coordinator's position.
// Those on the way behind it will not fit either.
func (s *session) resume(r *sensorv1.Resume) {
	s.mu.Lock()
	if len(s.inflight) > 0 {
		s.inflight = s.inflight[1:]
	}
	s.draining, s.position = true, batchEnd{boot: string(r.GetBoot()), last: r.GetSequence()}
	s.mu.Unlock()
	s.acknowledge(r.GetBoot(), r.GetSequence())
	s.u.spool.Rewind(r.GetBoot(), r.GetSequence())
	s.mu.Lock()
	s.opened()
	s.mu.Unlock()
}

// opened needs mu.
func (s *session) opened() {
	if len(s.inflight) == 0 {
		s.draining = false
	}
	select {
	case s.room <- struct{}{}:
	default:
	}
}

func (s *session) nodes(list *sensorv1.NodeList) {
	if revoked := list.GetRevocations(); revoked != nil && s.u.cfg.OnRevocations != nil {
		s.u.cfg.OnRevocations(revoked)
	}
	s.trust(list.GetTrust())
	changed, err := s.u.id.setNodes(addresses(list.GetNodes()))
	if err != nil {
		s.u.cfg.Logger.Warn("remembering the node list", "err", err)
	}
	if changed && s.u.cfg.OnNodes != nil {
		s.u.cfg.OnNodes(list.GetNodes())
	}
	if signed := list.GetSigned(); signed != nil && s.u.cfg.OnSignedNodes != nil {
		s.u.cfg.OnSignedNodes(signed)
	}
}

// watch ends the session when the node is dead, as the transport sees it: data
// that it received is acknowledged there within milliseconds, whatever the
// cluster is doing.
func (s *session) watch(ctx context.Context) error {
	var packets uint64
	heard := time.Now()
	for now := range pulse.Ticks(ctx, min(watchEvery, s.u.cfg.Silence/4)) {
		if n := s.conn.PacketsReceived(); n != packets {
			packets, heard = n, now
		}
		s.mu.Lock()
		sent, waiting := s.sentAt, s.heardAt == packets
		var oldest time.Time
		if len(s.inflight) > 0 {
			oldest = s.inflight[0].sent
		}
		s.mu.Unlock()
		// Unasked, it speaks only to answer our keep-alive.
		limit := heard.Add(s.u.cfg.KeepAlive + s.u.cfg.Silence)
		if waiting {
			limit = sent.Add(s.u.cfg.Silence)
		}
		if now.After(limit) {
			return fmt.Errorf("%w for %s", errSilent, now.Sub(heard).Round(time.Millisecond))
		}
		if !oldest.IsZero() && now.Sub(oldest) > ackTimeout {
			return fmt.Errorf("%w for %s", errNoAck, ackTimeout)
		}
	}
	return context.Cause(ctx)
}
