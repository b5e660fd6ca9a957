// Package fleet is many sensors without hosts: each is enrolled with a join token of
// its own, has its own key, certificate and socket, keeps a real session at one node,
// and verifies and answers every grant as a sensor does. It isolates nothing: what is
// measured with it is the way of an order, from the operator to all hosts and back.
//
// Invariant: a sensor answers "applied" only to a grant that it has verified, by the
// same code as a real one. What it could not verify fails the round.
package fleet

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// enrolling and connecting bound what is under way at once: a node takes 64
	// enrolments, and a hundred handshakes keep two cores busy.
	enrolling  = 32
	connecting = 64
	// attempts of a sensor whose enrolment a busy node refuses or drops.
	attempts = 8
	// enrolTimeout is as long as a real sensor waits.
	enrolTimeout = 15 * time.Second
	// progressEvery so many sensors are done.
	progressEvery = 1000
)

// Config says where a fleet connects.
type Config struct {
	// Nodes are the nodes' addresses for sensors; the sensors take them in turn.
	Nodes []string
	// Token makes a join token for one sensor. It is called concurrently.
	Token func(context.Context) (string, error)
	// Progress hears how far enrolling and connecting are.
	Progress func(string)
}

// Fleet is the sensors. Grow and Close are called by one goroutine.
type Fleet struct {
	cfg     Config
	sensors []*sensor
	roots   *x509.CertPool // of nodes, after the first enrolment
	signers *x509.CertPool // of operators
	cluster string

	// verifying bounds the grants that are verified at once: hosts have a processor each
	// for it, and here thousands of them would keep the other sensors' pings waiting. One
	// processor is left to those: who waits here is run before what the network woke.
	verifying chan struct{}

	running  sync.WaitGroup
	ctx      context.Context
	stop     context.CancelFunc
	round    atomic.Pointer[Round]
	lost     atomic.Int64 // sessions that ended by themselves
	failing  sync.Mutex   // guards failure
	failure  error        // the first grant that a sensor did not honour
	lastLost atomic.Pointer[string]
}

// New makes a fleet without sensors.
func New(cfg Config) *Fleet {
	f := &Fleet{cfg: cfg, verifying: make(chan struct{}, max(1, runtime.NumCPU()-1))}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// Size is how many sensors there are.
func (f *Fleet) Size() int { return len(f.sensors) }

// Lost is how many sessions ended by themselves since the beginning, and why the last did.
func (f *Fleet) Lost() (n int64, why string) {
	if text := f.lastLost.Load(); text != nil {
		why = *text
	}
	return f.lost.Load(), why
}

// Close ends every session and waits for them.
func (f *Fleet) Close() {
	f.stop()
	f.running.Wait()
}

// Grow enrols sensors until there are so many, and opens their sessions.
func (f *Fleet) Grow(ctx context.Context, size int) error {
	before := len(f.sensors)
	if before >= size {
		return nil
	}
	fresh := make([]*sensor, size-before)
	if before == 0 { // alone: the others are held against the authorities that it was given
		var err error
		if fresh[0], err = f.enrol(ctx, 0); err != nil {
			return fmt.Errorf("enrolling sensor 0: %w", err)
		}
	}
	err := f.each(ctx, "enrolled", enrolling, len(fresh), func(ctx context.Context, i int) (err error) {
		if fresh[i] == nil {
			fresh[i], err = f.enrol(ctx, before+i)
		}
		return err
	})
	if err != nil {
		return err
	}
	f.sensors = append(f.sensors, fresh...)
	return f.each(ctx, "connected", connecting, len(fresh), func(ctx context.Context, i int) error {
		s := fresh[i]
		f.running.Go(func() { s.run(f.ctx) })
		select {
		case <-s.online:
			return nil
		case <-ctx.Done():
			_, why := f.Lost()
			return fmt.Errorf("not welcomed: %w (the last session that failed: %s)", ctx.Err(), why)
		}
	})
}

// each does a thing for so many sensors, some at once, until one fails.
func (f *Fleet) each(ctx context.Context, what string, atOnce, n int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, done atomic.Int64
	var workers sync.WaitGroup
	for range min(atOnce, n) {
		workers.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || ctx.Err() != nil {
					return
				}
				if err := do(ctx, i); err != nil {
					cancel(fmt.Errorf("sensor %d: %w", i, err))
					return
				}
				if count := done.Add(1); count%progressEvery == 0 {
					f.cfg.Progress(fmt.Sprintf("%d of %d sensors %s", count, n, what))
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// enrol makes a sensor's identity over the wire, as `vedette-sensor enroll` does.
func (f *Fleet) enrol(ctx context.Context, n int) (s *sensor, err error) {
	pause := 100 * time.Millisecond
	for range attempts {
		if s, err = f.enrolOnce(ctx, n); err == nil || ctx.Err() != nil {
			return s, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
		pause *= 2
	}
	return nil, err
}

func (f *Fleet) enrolOnce(ctx context.Context, n int) (*sensor, error) {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	text, err := f.cfg.Token(ctx)
	if err != nil {
		return nil, fmt.Errorf("making a token: %w", err)
	}
	token, err := link.ParseToken(text)
	if err != nil {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	facts := &sensorv1.HostFacts{Name: fmt.Sprintf("sim-%05d", n), Os: "linux", Labels: map[string]string{"role": fmt.Sprintf("group-%d", n%7)}}
	reply, err := f.ask(ctx, f.cfg.Nodes[n%len(f.cfg.Nodes)], token, &sensorv1.EnrollRequest{Protocol: frame.ProtocolVersion,
		Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR, TokenId: token.ID, TokenSecret: token.Secret[:], Csr: csr, Facts: facts})
	if err != nil {
		return nil, err
	}
	if f.roots == nil {
		if err := f.trust(reply, token); err != nil {
			return nil, err
		}
	}
	s := &sensor{fleet: f, n: n, id: reply.GetId(), facts: facts, boot: make([]byte, bootSize), online: make(chan struct{}),
		cert: tls.Certificate{Certificate: reply.GetChain(), PrivateKey: key}}
	_, err = rand.Read(s.boot)
	return s, err
}

func (f *Fleet) ask(ctx context.Context, node string, token link.Token, request *sensorv1.EnrollRequest) (*sensorv1.Enrolled, error) {
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
	if err := frame.Write(stream, request); err != nil {
		return nil, err
	}
	var reply sensorv1.EnrollReply
	if err := frame.Read(stream, &reply); err != nil {
		return nil, fmt.Errorf("waiting for the answer: %w", err)
	}
	if refusal := reply.GetRefusal(); refusal != nil {
		return nil, fmt.Errorf("refused (%s): %s", refusal.GetCode(), refusal.GetMessage())
	}
	return reply.GetEnrolled(), nil
}

// trust takes the authorities of nodes and of operators from an enrolment: those that
// the token names.
func (f *Fleet) trust(e *sensorv1.Enrolled, token link.Token) (err error) {
	f.cluster = e.GetClusterId()
	if f.roots, err = pinned(e.GetRoots(), token.CA); err == nil {
		f.signers, err = pinned(e.GetOperatorRoots(), token.Operators)
	}
	return err
}

func pinned(ders [][]byte, pin [32]byte) (*x509.CertPool, error) {
	for _, der := range ders {
		root, err := x509.ParseCertificate(der)
		if err == nil && root.IsCA && link.Pin(root) == pin {
			roots := x509.NewCertPool()
			roots.AddCert(root)
			return roots, nil
		}
	}
	return nil, fmt.Errorf("%w: the answer does not hold the one that the token names", link.ErrForeignCA)
}

// refused notes a grant that a sensor did not honour.
func (f *Fleet) refused(err error) {
	f.failing.Lock()
	if f.failure == nil {
		f.failure = err
	}
	f.failing.Unlock()
	if r := f.round.Load(); r != nil {
		r.fail()
	}
}
