package link

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/vedette-edr/vedette/proto/frame"
)

// maxReason keeps a close reason inside one packet.
const maxReason = 200

// Conn is one authenticated connection. All methods are safe for concurrent use.
type Conn struct {
	quic    *quic.Conn
	peer    Peer
	alpn    string
	count   func(cause string)
	release func() // frees the socket of a dialled connection; idempotent
	streams atomic.Int64

	taking  sync.Mutex
	took    bool           // a handler has asked for a stream
	takers  int            // who wait for one
	waiting []*quic.Stream // taken from QUIC for a handler that has not asked since; see surplus
}

// Peer is who the other side's certificate says it is. Kind is empty for one who enrols.
func (c *Conn) Peer() Peer { return c.peer }

// ALPN is the protocol that was negotiated.
func (c *Conn) ALPN() string { return c.alpn }

// RemoteAddr is the peer's UDP address.
func (c *Conn) RemoteAddr() net.Addr { return c.quic.RemoteAddr() }

// LocalAddr is our UDP address.
func (c *Conn) LocalAddr() net.Addr { return c.quic.LocalAddr() }

// Context ends with the connection.
func (c *Conn) Context() context.Context { return c.quic.Context() }

// Err says why the connection ended, nil while it has not.
func (c *Conn) Err() error {
	if c.quic.Context().Err() == nil {
		return nil
	}
	return explain(context.Cause(c.quic.Context()))
}

// PacketsReceived counts what arrived from the peer, acknowledgements included.
// Data in flight while it stands still means that the path or the peer is dead,
// long before the idle timeout says so.
func (c *Conn) PacketsReceived() uint64 { return c.quic.ConnectionStats().PacketsReceived }

// OpenStream opens a stream. The peer sees it with the first byte written.
func (c *Conn) OpenStream(ctx context.Context) (net.Conn, error) {
	s, err := c.quic.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening stream: %w", explain(err))
	}
	return &stream{Stream: s, conn: c}, nil
}

// AcceptStream waits for the peer's next stream. A peer with more streams than
// its ALPN allows, or with some that a handler does not accept, loses the connection.
func (c *Conn) AcceptStream(ctx context.Context) (net.Conn, error) {
	s, err := c.take(ctx)
	if err != nil {
		return nil, fmt.Errorf("accepting stream: %w", explain(err))
	}
	if limit := streamLimit(c.alpn); c.streams.Add(1) > int64(limit) {
		err := c.tooManyStreams()
		return nil, errors.Join(&ClosedError{Code: CodeTooManyStreams, Reason: "too many streams"}, err)
	}
	return &stream{Stream: s, conn: c, accepted: true}, nil
}

// CloseWithReason ends the connection at once: what was written and not yet
// acknowledged may be lost, so an orderly end is the reader's to make.
func (c *Conn) CloseWithReason(code uint64, reason string) error {
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "")
	}
	err := c.quic.CloseWithError(quic.ApplicationErrorCode(code), reason)
	if c.release != nil {
		c.release()
	}
	return err
}

// Abort ends the connection because of what the peer sent, with a code and a
// reason that the peer can show, and counts it by cause.
func (c *Conn) Abort(err error) error {
	code, cause := CodeProtocol, "bad-message"
	switch {
	case errors.Is(err, frame.ErrTooLarge):
		code, cause = CodeBadFrame, "frame-too-large"
	case errors.Is(err, frame.ErrTruncated):
		code, cause = CodeBadFrame, "frame-truncated"
	case errors.Is(err, frame.ErrMalformed):
		code, cause = CodeBadFrame, "frame-malformed"
	}
	c.count(cause)
	return c.CloseWithReason(code, err.Error())
}

// stream is a QUIC stream as a net.Conn.
type stream struct {
	*quic.Stream
	conn     *Conn
	accepted bool
	writing  sync.Mutex
	once     sync.Once
}

func (s *stream) LocalAddr() net.Addr  { return s.conn.LocalAddr() }
func (s *stream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

func (s *stream) Read(p []byte) (int, error) { return readResult(s.Stream.Read(p)) }

func (s *stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	n, err := s.Stream.Write(p)
	return n, explain(err)
}

// CloseWrite ends our direction only; the peer reads io.EOF after our last byte.
func (s *stream) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return explain(s.Stream.Close())
}

// Close ends both directions. What was written still arrives, unless a Write is
// blocked at this moment: that one is aborted.
func (s *stream) Close() error {
	var err error
	s.once.Do(func() {
		if s.writing.TryLock() { // quic-go forbids Close during Write
			err = explain(s.Stream.Close())
			s.writing.Unlock()
		} else {
			s.CancelWrite(0)
		}
		s.CancelRead(0)
		if s.accepted {
			s.conn.streams.Add(-1)
		}
	})
	return err
}

func (s *stream) SetDeadline(t time.Time) error { return s.Stream.SetDeadline(t) }

// trusted says whether the peer's chain still leads to one of the roots. Its validity is
// another question.
func (c *Conn) trusted(roots *x509.CertPool, now time.Time) bool {
	shown := c.quic.ConnectionState().TLS.PeerCertificates
	if len(shown) == 0 {
		return true
	}
	if end := shown[0].NotAfter; now.After(end) {
		now = end
	}
	intermediates := x509.NewCertPool()
	for _, cert := range shown[1:] {
		intermediates.AddCert(cert)
	}
	_, err := shown[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}
