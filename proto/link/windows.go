package link

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// What a peer may send ahead of its reader. Flow control counts bytes of streams, and
// quic-go keeps every frame by itself until it is read: 163 bytes of memory for a frame of
// one. So a connection's window times 163 is what its peer can make us hold.
const (
	// newWindow is an accepted connection's, whoever it is: the windows are stated before
	// the protocol is known. An enrolment fits, and reading gives back what is longer.
	newWindow = 16 << 10
	// sensorWindow is what reading lets a sensor's window grow to: 2.6 MiB/s at a round trip of 50 ms.
	sensorWindow = 128 << 10
	// bulkWindow is the same between nodes, for snapshots.
	bulkWindow = 6 << 20
	// streamWindow bounds nothing that the connection's does not; a command that one node
	// forwards to another on a stream of its own does not wait for it to grow.
	streamWindow     = 512 << 10
	bulkStreamWindow = 4 << 20
	// dialledWindow is a sensor's for what its node says, dialledMost what it grows to.
	dialledWindow = 64 << 10
	dialledMost   = 256 << 10
	// mostStreams is raft's limit, which has most: it is stated before the protocol is known, too.
	mostStreams = 64
)

// quicConfig looks for larger packets than any path carries only for a connection in bulk:
// to find 160 bytes more takes some five probes, each with its answer, where a sensor's whole way
// back is fifteen datagrams. Its summaries fit into a few packets as they are.
func quicConfig(maxIdle, keepAlive time.Duration, bulk bool) *quic.Config {
	return &quic.Config{
		DisablePathMTUDiscovery: !bulk,
		HandshakeIdleTimeout:    handshakeIdle,
		MaxIdleTimeout:          maxIdle,
		KeepAlivePeriod:         keepAlive,
		MaxIncomingStreams:      -1,
		MaxIncomingUniStreams:   -1,
	}
}

func acceptConfig(maxIdle, keepAlive time.Duration) *quic.Config {
	cfg := quicConfig(maxIdle, keepAlive, false)
	cfg.MaxIncomingStreams = mostStreams
	cfg.InitialStreamReceiveWindow, cfg.MaxStreamReceiveWindow = streamWindow, bulkStreamWindow
	cfg.InitialConnectionReceiveWindow, cfg.MaxConnectionReceiveWindow = newWindow, bulkWindow
	cfg.AllowConnectionWindowIncrease = mayGrow
	return cfg
}

// dialConfig takes no streams from the node: those who dial open them.
func dialConfig(maxIdle, keepAlive time.Duration, alpn string) *quic.Config {
	bulk := alpn == ALPNRaft
	cfg := quicConfig(maxIdle, keepAlive, bulk)
	cfg.InitialStreamReceiveWindow, cfg.MaxStreamReceiveWindow = dialledWindow, dialledMost
	cfg.InitialConnectionReceiveWindow, cfg.MaxConnectionReceiveWindow = dialledWindow, dialledMost
	if bulk {
		cfg.InitialStreamReceiveWindow, cfg.MaxStreamReceiveWindow = streamWindow, bulkStreamWindow
		cfg.InitialConnectionReceiveWindow, cfg.MaxConnectionReceiveWindow = 768<<10, bulkWindow
	}
	return cfg
}

// growth is what an accepted connection's window may still grow by: nothing until we know
// for whom.
type growth struct{ left atomic.Int64 }

// admitted is told once which protocol it is.
func (g *growth) admitted(alpn string) {
	switch alpn {
	case ALPNSensor:
		g.left.Store(sensorWindow - newWindow)
	case ALPNRaft:
		g.left.Store(math.MaxInt64)
	}
}

func (g *growth) take(delta uint64) bool {
	for {
		left := g.left.Load()
		if delta > uint64(max(0, left)) {
			return false
		}
		if g.left.CompareAndSwap(left, left-int64(delta)) {
			return true
		}
	}
}

// mayGrow is asked by quic-go, in whose locks it is: of the connection it may look at the context alone.
func mayGrow(qc *quic.Conn, delta uint64) bool {
	h := handshakeOf(qc.Context())
	return h != nil && h.window.take(delta)
}

func handshakeOf(ctx context.Context) *handshake {
	h, _ := ctx.Value(handshakeKey{}).(*handshake)
	return h
}
