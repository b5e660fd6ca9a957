package link_test

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
	hellos := linktest.FirstFlights(t, spoofedHellos)
	for name, datagram := range map[string]func(i int) [][]byte{
		"first packets":    func(i int) [][]byte { return hellos[i%len(hellos)] },
		"unknown versions": func(int) [][]byte { return [][]byte{linktest.LongHeader(0x1a2a3a4a, 1200)} },
		"resets provoked":  func(int) [][]byte { return [][]byte{linktest.ShortHeader(43)} },
		"noise":            func(int) [][]byte { return [][]byte{linktest.Noise(1200)} },
	} {
		t.Run(name, func(t *testing.T) {
			node := newFloodNode(t)
			crowd := linktest.NewCrowd(t, spoofedAddresses, node.Addr().(*net.UDPAddr))
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
						crowd.Send(i, datagram(i))
						i++
					}
					most.Store(max(most.Load(), int64(node.Stats().Handshaking)))
				}
			})
			until(t, "the flood", func() bool { return crowd.Datagrams.Load() > floodRate/4 })
			var slowest time.Duration
			for i := range honestTries {
				began := time.Now()
				if err := honest(t, node); err != nil {
					t.Fatalf("honest sensor %d: %v (%d datagrams sent, %+v)", i, err, crowd.Datagrams.Load(), node.Stats())
				}
				slowest = max(slowest, time.Since(began))
			}
			close(stop)
			flooding.Wait()
			grown := heap() - before
			crowd.Close()
			sent, received := crowd.Sent.Load(), crowd.Received.Load()
			t.Logf("slowest honest sensor %s; %d datagrams, %d bytes sent, %d received (%.2f times), heap grown by %d KiB, %d handshakes at once, %+v",
				slowest, crowd.Datagrams.Load(), sent, received, float64(received)/float64(sent), grown>>10, most.Load(), node.Stats())
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
	listener := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", "")}, handlers{link.ALPNSensor: echo, link.ALPNEnroll: echo})
	return &floodNode{Listener: listener, ca: ca}
}

// floodNode is a node and who issues its sensors' certificates.
type floodNode struct {
	*link.Listener
	ca   *linktest.CA
	came atomic.Int64
}

// honest is a sensor that comes, is served, and goes; each another host's, as the flood may
// swallow that it went.
func honest(t *testing.T, node *floodNode) error {
	t.Helper()
	c, err := dial(t, node.Addr(), link.ALPNSensor, link.DialConfig{Credentials: node.ca.Issue(link.KindHost, fmt.Sprintf("h-%d", node.came.Add(1)), "")})
	if err != nil {
		return err
	}
	defer func() { _ = c.CloseWithReason(link.CodeOK, "") }()
	_, err = ask(t, c, "x")
	return err
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
