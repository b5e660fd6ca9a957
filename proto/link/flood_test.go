package link_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
)

const (
	// spoofed addresses of the loopback network, and what each flood sends in all.
	spoofedAddresses = 32
	spoofedHellos    = 600
	// floodRate is 100 Mbit/s of first packets. Loopback takes any rate, and here the one
	// who floods has the same two processors.
	floodRate = 10_000
	// honestTries are made while it lasts.
	honestTries = 10
	// mostMemory is what a flood may cost a node: its half-open handshakes, of which
	// those from addresses that prove nothing are few, and what the test itself keeps.
	mostMemory = 32 << 20
	// mostAmplified is QUIC's own bound (RFC 9000, section 8.1).
	mostAmplified = 3.0
)

// Ensure that datagrams from forged addresses make a node send at most three times their
// bytes, keep its memory bounded, and hold up no honest sensor.
func TestFloodFromForgedAddresses(t *testing.T) {
	t.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	hellos := clientHellos(t, spoofedHellos)
	for name, datagram := range map[string]func(i int) [][]byte{
		"first packets":    func(i int) [][]byte { return hellos[i%len(hellos)] },
		"unknown versions": func(int) [][]byte { return [][]byte{longHeader(0x1a2a3a4a, 1200)} },
		"resets provoked":  func(int) [][]byte { return [][]byte{shortHeader(43)} },
		"noise":            func(int) [][]byte { return [][]byte{noise(1200)} },
	} {
		t.Run(name, func(t *testing.T) {
			node := newFloodNode(t)
			crowd := newCrowd(t, node.Addr().(*net.UDPAddr))
			before := heap()
			var most atomic.Int64
			stop := make(chan struct{})
			var flooding sync.WaitGroup
			flooding.Go(func() {
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for i := 0; ; {
					select {
					case <-stop:
						return
					case <-tick.C:
					}
					for range floodRate / 100 {
						crowd.send(i, datagram(i))
						i++
					}
					most.Store(max(most.Load(), int64(node.Stats().Handshaking)))
				}
			})
			until(t, "the flood", func() bool { return crowd.datagrams.Load() > floodRate/4 })
			var slowest time.Duration
			for i := range honestTries {
				began := time.Now()
				if err := honest(t, node); err != nil {
					t.Fatalf("honest sensor %d: %v (%d datagrams sent, %+v)", i, err, crowd.datagrams.Load(), node.Stats())
				}
				slowest = max(slowest, time.Since(began))
			}
			close(stop)
			flooding.Wait()
			grown := heap() - before
			crowd.close()
			sent, received := crowd.sent.Load(), crowd.received.Load()
			t.Logf("slowest honest sensor %s; %d datagrams, %d bytes sent, %d received (%.2f times), heap grown by %d KiB, %d handshakes at once, %+v",
				slowest, crowd.datagrams.Load(), sent, received, float64(received)/float64(sent), grown>>10, most.Load(), node.Stats())
			if float64(received) > mostAmplified*float64(sent) {
				t.Errorf("amplified %d bytes to %d", sent, received)
			}
			if grown > mostMemory {
				t.Errorf("heap grew by %d bytes", grown)
			}
			if most.Load() > 128 {
				t.Errorf("%d handshakes of forged addresses at once", most.Load())
			}
		})
	}
}

// Ensure that who was here before need not prove an address anew, at any node of the
// cluster and after its restart, and that no other cluster believes it.
func TestAddressProvedOnce(t *testing.T) {
	ca := linktest.NewCA(t)
	tokens := link.NewTokens()
	host := link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", ""), Tokens: tokens}
	for _, step := range []struct {
		node, secret string
		proves       bool
	}{
		{"n1", "ours", true}, {"n1", "ours", false}, {"n2", "ours", false}, {"n3", "another's", true},
	} {
		node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, step.node, ""), SharedSecret: []byte(step.secret), RetryAbove: -1},
			handlers{link.ALPNSensor: echo})
		c, err := dial(t, node.Addr(), link.ALPNSensor, host)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ask(t, c, "x"); err != nil { // by then its token has come
			t.Fatal(err)
		}
		if got := node.Stats().Retried > 0; got != step.proves {
			t.Errorf("%s, whose secret is %s: had to prove its address: %v, want %v", step.node, step.secret, got, step.proves)
		}
		_ = c.CloseWithReason(link.CodeOK, "")
	}
}

// Ensure that those who show no certificate cannot take what is meant for sensors, nor
// one address all the places for enrolment.
func TestStrangersAreBounded(t *testing.T) {
	ca := linktest.NewCA(t)
	node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", ""), MaxStrangers: 8},
		handlers{link.ALPNSensor: echo, link.ALPNEnroll: echo})
	for i := range 2 {
		c, err := dial(t, node.Addr(), link.ALPNEnroll, link.DialConfig{PinnedCA: ca.Pin()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ask(t, c, "x"); err != nil {
			t.Fatalf("stranger %d: %v", i, err)
		}
	}
	c, err := dial(t, node.Addr(), link.ALPNEnroll, link.DialConfig{PinnedCA: ca.Pin()})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the third from one address to be turned away", func() bool { return c.Err() != nil })
	if err := c.Err(); !errors.Is(err, link.ErrBusy) {
		t.Errorf("the third from one address: got %v, want %v", err, link.ErrBusy)
	}
	if got := node.Stats().Refused["too-many-strangers"]; got != 1 {
		t.Errorf("counted %d times", got)
	}
	sensor, err := dial(t, node.Addr(), link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, sensor, "x"); err != nil {
		t.Fatal(err)
	}
}

func newFloodNode(t *testing.T) *floodNode {
	t.Helper()
	ca := linktest.NewCA(t)
	return &floodNode{serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", "")}, handlers{link.ALPNSensor: echo, link.ALPNEnroll: echo}), ca}
}

// floodNode is a node and who issues its sensors' certificates.
type floodNode struct {
	*link.Listener
	ca *linktest.CA
}

// honest is a sensor that comes, is served, and goes.
func honest(t *testing.T, node *floodNode) error {
	t.Helper()
	c, err := dial(t, node.Addr(), link.ALPNSensor, link.DialConfig{Credentials: node.ca.Issue(link.KindHost, "h-1", "")})
	if err != nil {
		return err
	}
	defer func() { _ = c.CloseWithReason(link.CodeOK, "") }()
	_, err = ask(t, c, "x")
	return err
}

// crowd is many addresses that send and never answer.
type crowd struct {
	sockets                   []*net.UDPConn
	sent, received, datagrams atomic.Int64
	readers                   sync.WaitGroup
}

func newCrowd(t *testing.T, node *net.UDPAddr) *crowd {
	t.Helper()
	c := &crowd{}
	for i := range spoofedAddresses {
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
				c.received.Add(int64(n))
			}
		})
	}
	t.Cleanup(c.close)
	return c
}

func (c *crowd) send(i int, datagrams [][]byte) {
	for _, d := range datagrams {
		if n, err := c.sockets[i%len(c.sockets)].Write(d); err == nil {
			c.sent.Add(int64(n))
			c.datagrams.Add(1)
		}
	}
}

func (c *crowd) close() {
	for _, s := range c.sockets {
		_ = s.Close()
	}
	c.readers.Wait()
}

// clientHellos are real first flights, each of a connection of its own, as one who
// forges addresses would make them beforehand.
func clientHellos(t *testing.T, n int) [][][]byte {
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

func noise(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.Read(b)
	return b
}

// longHeader is a first packet of another version of QUIC, with connection ids of 8 bytes.
func longHeader(version uint32, size int) []byte {
	b := noise(size)
	b[0] |= 0xc0
	b[1], b[2], b[3], b[4] = byte(version>>24), byte(version>>16), byte(version>>8), byte(version)
	b[5], b[14] = 8, 8
	return b
}

// shortHeader is a packet of a connection that nobody knows.
func shortHeader(size int) []byte {
	b := noise(size)
	b[0] = b[0]&0x3f | 0x40
	return b
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
