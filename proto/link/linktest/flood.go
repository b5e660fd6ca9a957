package linktest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/vedette-edr/vedette/proto/link"
)

// FirstFlights are real first flights, each of a connection of its own, as one who
// forges addresses would make them beforehand.
func FirstFlights(t testing.TB, n int) [][][]byte {
	t.Helper()
	flights := make([][][]byte, n)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				flights[i] = clientHello(t.Context())
			}
		})
	}
	workers.Wait()
	return flights
}

func clientHello(ctx context.Context) [][]byte {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &deadEnd{left: cancel, closed: make(chan struct{})}
	transport := &quic.Transport{Conn: out}
	_, _ = transport.Dial(ctx, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}, &tls.Config{
		NextProtos: []string{link.ALPNEnroll}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, //nolint:gosec // nobody answers
		CurvePreferences: []tls.CurveID{tls.X25519}, // small enough for one datagram
	}, nil)
	_ = transport.Close()
	out.mu.Lock()
	defer out.mu.Unlock()
	return out.sent[:1]
}

// deadEnd is a socket that keeps what is sent and hears nothing.
type deadEnd struct {
	left   func()
	once   sync.Once
	closed chan struct{}
	mu     sync.Mutex
	sent   [][]byte
}

func (d *deadEnd) WriteTo(b []byte, _ net.Addr) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sent = append(d.sent, append([]byte(nil), b...))
	d.left()
	return len(b), nil
}

func (d *deadEnd) ReadFrom([]byte) (int, net.Addr, error) {
	<-d.closed
	return 0, nil, net.ErrClosed
}

func (d *deadEnd) Close() error                     { d.once.Do(func() { close(d.closed) }); return nil }
func (d *deadEnd) LocalAddr() net.Addr              { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (d *deadEnd) SetDeadline(time.Time) error      { return nil }
func (d *deadEnd) SetWriteDeadline(time.Time) error { return nil }

func (d *deadEnd) SetReadDeadline(at time.Time) error {
	if !at.IsZero() {
		_ = d.Close()
	}
	return nil
}

// Noise is bytes at random.
func Noise(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.Read(b)
	return b
}

// LongHeader is a first packet of another version of QUIC, with connection ids of 8 bytes.
func LongHeader(version uint32, size int) []byte {
	b := Noise(size)
	b[0] |= 0xc0
	b[1], b[2], b[3], b[4] = byte(version>>24), byte(version>>16), byte(version>>8), byte(version)
	b[5], b[14] = 8, 8
	return b
}

// ShortHeader is a packet of a connection that nobody knows.
func ShortHeader(size int) []byte {
	b := Noise(size)
	b[0] = b[0]&0x3f | 0x40
	return b
}
