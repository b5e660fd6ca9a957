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

// Crowd is many addresses that send and never answer.
type Crowd struct {
	// Sent and Received are bytes, Datagrams those that were sent.
	Sent, Received, Datagrams atomic.Int64

	sockets []*net.UDPConn
	readers sync.WaitGroup
}

// NewCrowd is so many addresses of the loopback network, from 127.0.77.1 on.
func NewCrowd(t testing.TB, size int, node *net.UDPAddr) *Crowd {
	t.Helper()
	c := &Crowd{}
	for i := range size {
		socket, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 77, byte(i+1))}, node)
		if err != nil {
			t.Skipf("SKIP: no loopback address of its own to be had: %v", err)
		}
		c.sockets = append(c.sockets, socket)
		c.readers.Go(func() {
			buf := make([]byte, 2048)
			for {
				n, err := socket.Read(buf)
				if err != nil {
					return
				}
				c.Received.Add(int64(n))
			}
		})
	}
	t.Cleanup(c.Close)
	return c
}

// Send sends a flight from the i-th address.
func (c *Crowd) Send(i int, datagrams [][]byte) {
	for _, d := range datagrams {
		if n, err := c.sockets[i%len(c.sockets)].Write(d); err == nil {
			c.Sent.Add(int64(n))
			c.Datagrams.Add(1)
		}
	}
}

// Close ends it. What waits unread then is not counted.
func (c *Crowd) Close() {
	for _, s := range c.sockets {
		_ = s.Close()
	}
	c.readers.Wait()
}

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
