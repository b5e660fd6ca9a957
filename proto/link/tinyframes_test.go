package link_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
)

// Ensure that a stranger cannot make a node remember much of little: quic-go keeps every
// frame that waits to be read by itself, some 163 bytes for one byte of a stream.
func TestTinyFramesAreBounded(t *testing.T) {
	for name, attack := range map[string]func(*testing.T, *linktest.Raw, *floodNode){
		"on a stream that nobody reads":    func(t *testing.T, a *linktest.Raw, _ *floodNode) { tinyFrames(t, a, 4, 0, 60_000) },
		"on one, within the window":        func(t *testing.T, a *linktest.Raw, _ *floodNode) { tinyFrames(t, a, 4, 0, 16_000) },
		"after one that never comes":       func(t *testing.T, a *linktest.Raw, _ *floodNode) { tinyFrames(t, a, 0, 2, 60_000) },
		"after one, and within the window": func(t *testing.T, a *linktest.Raw, _ *floodNode) { tinyFrames(t, a, 0, 2, 16_000) },
		// quic-go itself bounds this one.
		"of the handshake's stream": func(t *testing.T, a *linktest.Raw, _ *floodNode) {
			tiny(t, a, 1, 16_000, func(at uint64) []byte {
				return linktest.Frames(0x06, linktest.Shortest(at), linktest.Shortest(1), []byte{'x'})
			})
		},
		// A stream that its sender resets gives back its part of the connection's window;
		// what came on it stays until somebody accepts it.
		"on streams that are reset": func(t *testing.T, a *linktest.Raw, node *floodNode) {
			for id := uint64(4); id <= 4*32 && node.Stats().Refused["too-many-streams"] == 0; id += 4 {
				tinyFrames(t, a, id, 0, 14_000)
				answered := a.Received.Load()
				send(t, a, linktest.Frames(0x04, linktest.Shortest(id), linktest.Shortest(0), linktest.Shortest(14_000)))
				until(t, "an answer to the reset", func() bool {
					send(t, a, []byte{0x01, 0, 0, 0})
					return a.Received.Load() > answered || node.Stats().Open == 0
				})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			node := newFloodNode(t)
			attacker := linktest.NewRaw(t, node.Addr().(*net.UDPAddr))
			// Its one stream is open, and its handler reads.
			send(t, attacker, linktest.Frames(0x0e, linktest.Shortest(0), linktest.Shortest(0), linktest.Shortest(1), []byte{0}))
			before := heap()
			attack(t, attacker, node)
			most := heap() - before
			if err := honest(t, node); err != nil {
				t.Fatalf("honest sensor: %v", err)
			}
			grown := heap() - before
			t.Logf("heap grown by %d KiB, then %d, %v", most>>10, grown>>10, node.Stats().Refused)
			if grown > mostOfOne {
				until(t, "the memory to be given back", func() bool { return heap()-before <= mostOfOne })
			}
		})
	}
}

// Ensure that what a peer can make a node keep before it has shown anything is bounded, and
// given back when it does not go on.
func TestHalfOpenIsBounded(t *testing.T) {
	node := newFloodNode(t)
	before := heap()
	const peers = 8
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range peers {
		h := linktest.NewHalfOpen(t, node.Addr().(*net.UDPAddr))
		var frames []byte
		for at := uint64(1); at < 16<<10; at++ { // the first byte never comes
			if frames = append(frames, linktest.Frames(0x06, linktest.Shortest(at), linktest.Shortest(1), []byte{'x'})...); len(frames) < 1100 {
				continue
			}
			if _, err := h.Socket.Write(h.Packet(frames)); err != nil {
				t.Fatal(err)
			}
			frames = frames[:0]
			<-tick.C
		}
	}
	if got := node.Stats().Handshaking; got != peers {
		t.Fatalf("%d handshakes under way, want %d", got, peers)
	}
	grown := heap() - before
	t.Logf("each costs %d KiB", grown/peers>>10)
	if grown > peers*mostOfOne {
		t.Errorf("the heap grew by %d KiB for each", grown/peers>>10)
	}
	until(t, "the memory to be given back", func() bool { return node.Stats().Handshaking == 0 && heap()-before <= peers*mostOfOne/16 })
	if err := honest(t, node); err != nil {
		t.Errorf("honest sensor: %v", err)
	}
}

// Ensure that a window grows by reading only as far as who sends may be trusted.
func TestWindowsGrowWithTrust(t *testing.T) {
	ca := linktest.NewCA(t)
	const read = 2 << 20
	// A handler takes so much as fast as it can, and then no more.
	reader := func(ctx context.Context, c *link.Conn) {
		if s, err := c.AcceptStream(ctx); err == nil {
			_, _ = io.CopyN(io.Discard, s, read)
		}
		<-ctx.Done()
	}
	node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", "")}, handlers{link.ALPNSensor: reader, link.ALPNRaft: reader, link.ALPNEnroll: reader})
	for _, tt := range []struct {
		alpn string
		cfg  link.DialConfig
		most int
	}{
		{link.ALPNEnroll, link.DialConfig{PinnedCA: ca.Pin()}, 16 << 10},
		{link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")}, 128 << 10},
		{link.ALPNRaft, link.DialConfig{Credentials: ca.Issue(link.KindNode, "n2", "")}, 6 << 20},
	} {
		c, err := dial(t, node.Addr(), tt.alpn, tt.cfg)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(make([]byte, read)); err != nil {
			t.Fatalf("%s: what is read did not arrive: %v", tt.alpn, err)
		}
		if err := s.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		ahead, err := s.Write(make([]byte, 8<<20))
		t.Logf("%s: %d KiB ahead of the reader", tt.alpn, ahead>>10)
		if err == nil || ahead > tt.most {
			t.Errorf("%s: sent %d bytes ahead of the reader (%v), want at most %d", tt.alpn, ahead, err, tt.most)
		}
	}
}

// tinyFrames sends that many bytes of a stream in order, each in a frame of its own.
func tinyFrames(t *testing.T, a *linktest.Raw, id, from uint64, count int) {
	t.Helper()
	tiny(t, a, from, count, func(at uint64) []byte {
		return linktest.Frames(0x0e, linktest.Shortest(id), linktest.Shortest(at), linktest.Shortest(1), []byte{'x'})
	})
}

func tiny(t *testing.T, a *linktest.Raw, from uint64, count int, frame func(at uint64) []byte) {
	t.Helper()
	// Not faster than a node reads its socket, which would drop what this is about.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var frames []byte
	for i := range count {
		frames = append(frames, frame(from+uint64(i))...)
		if len(frames) > 1150 || i == count-1 {
			send(t, a, frames)
			frames = frames[:0]
			<-tick.C
		}
	}
}

// send writes one packet.
func send(t *testing.T, a *linktest.Raw, frames []byte) {
	t.Helper()
	if _, err := a.Socket.Write(a.Packet(frames)); err != nil {
		t.Fatal(err)
	}
}
