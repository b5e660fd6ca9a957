package consensus

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/vedette-edr/vedette/proto/link"
)

// The first byte of a stream says what it carries.
const (
	tagRaft       = 'R' // raft's RPCs, until either side closes
	tagPropose    = 'P' // a Command; answered by a ForwardReply
	tagMembership = 'M' // a Command PutNode or RemoveNode; answered by a ForwardReply
	tagBarrier    = 'B' // answered by a ForwardReply with the index to wait for
	tagStatus     = 'S' // answered by a ForwardReply with the node's id and applied index
	tagKey        = 'K' // a Command whose actor names an authority's key (hex); answered by a ForwardReply with it, to members
	tagState      = 'X' // a Command; answered by a ForwardReply and a snapshot of the state
)

// maxForwards requests are on their way to other nodes at once; more wait.
const maxForwards = 32

// peers keeps one QUIC connection to each peer that this node talks to.
type peers struct {
	listener *link.Listener
	// closing ends dials that are under way.
	closing context.Context
	// forwards bounds the streams of forwarded requests: a connection carries 64
	// streams (package link), some of which are raft's.
	forwards chan struct{}

	mu     sync.Mutex
	closed bool
	byAddr map[string]*peer
}

// peer is the connection to one address. turn is a lock that can be waited for
// with a context: who holds it may dial.
type peer struct {
	turn chan struct{}
	conn *link.Conn
}

func newPeers(closing context.Context, l *link.Listener) *peers {
	return &peers{listener: l, closing: closing, forwards: make(chan struct{}, maxForwards), byAddr: make(map[string]*peer)}
}

func (p *peers) conn(ctx context.Context, addr string) (*link.Conn, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	one := p.byAddr[addr]
	if one == nil {
		one = &peer{turn: make(chan struct{}, 1)}
		p.byAddr[addr] = one
	}
	p.mu.Unlock()

	select {
	case one.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the connection to %s: %w", addr, ctx.Err())
	}
	defer func() { <-one.turn }()
	p.mu.Lock()
	conn := one.conn
	p.mu.Unlock()
	if conn != nil && conn.Context().Err() == nil {
		return conn, nil
	}
	conn, err := p.listener.Dial(ctx, addr, link.ALPNRaft)
	if err != nil {
		return nil, fmt.Errorf("dialling node at %s: %w", addr, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = conn.CloseWithReason(link.CodeShutdown, "the node is stopping")
		return nil, ErrClosed
	}
	one.conn = conn
	return conn, nil
}

// open opens a stream of the given kind to the node at addr.
func (p *peers) open(ctx context.Context, addr string, tag byte) (net.Conn, error) {
	conn, err := p.conn(ctx, addr)
	if err != nil {
		return nil, err
	}
	stream, err := conn.OpenStream(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening stream to %s: %w", addr, err)
	}
	if _, err := stream.Write([]byte{tag}); err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("opening stream to %s: %w", addr, err)
	}
	return stream, nil
}

func (p *peers) close() {
	p.mu.Lock()
	p.closed = true
	var open []*link.Conn
	for _, one := range p.byAddr {
		if one.conn != nil {
			open = append(open, one.conn)
		}
	}
	p.mu.Unlock()
	for _, conn := range open {
		_ = conn.CloseWithReason(link.CodeShutdown, "the node is stopping")
	}
}

// transport is raft's, whose heartbeats can be ended. They are answered by the goroutine
// of their connection, which raft's Shutdown does not wait for; one with a newer term
// would be written to a log that is closed by then, and raft panics at that.
type transport struct {
	*raft.NetworkTransport
	silent func() bool // see mute.go

	heartbeats sync.RWMutex // held by each
	ended      bool
}

func newTransport(config *raft.NetworkTransportConfig, silent func() bool) *transport {
	return &transport{NetworkTransport: raft.NewNetworkTransportWithConfig(config), silent: silent}
}

// SetHeartbeatHandler implements raft.Transport.
func (t *transport) SetHeartbeatHandler(handle func(raft.RPC)) {
	t.NetworkTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		t.heartbeats.RLock()
		defer t.heartbeats.RUnlock()
		if t.ended {
			rpc.Respond(nil, raft.ErrRaftShutdown)
			return
		}
		handle(rpc)
	})
}

// end waits for the heartbeats that are under way; no more are handled.
func (t *transport) end() {
	t.heartbeats.Lock()
	defer t.heartbeats.Unlock()
	t.ended = true
}

// streamLayer gives raft its connections: streams with tagRaft.
type streamLayer struct {
	peers    *peers
	address  address
	incoming chan net.Conn
	done     chan struct{}
	once     sync.Once
}

// address is a node's address as raft compares it.
type address string

// Network implements net.Addr.
func (address) Network() string { return "udp" }

// String implements net.Addr.
func (a address) String() string { return string(a) }

func newStreamLayer(p *peers, addr string) *streamLayer {
	return &streamLayer{peers: p, address: address(addr), incoming: make(chan net.Conn), done: make(chan struct{})}
}

// Dial implements raft.StreamLayer.
func (s *streamLayer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.peers.closing, timeout)
	defer cancel()
	return s.peers.open(ctx, string(addr), tagRaft)
}

// Accept implements net.Listener.
func (s *streamLayer) Accept() (net.Conn, error) {
	select {
	case c := <-s.incoming:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// deliver hands an incoming stream to raft.
func (s *streamLayer) deliver(ctx context.Context, c net.Conn) {
	select {
	case s.incoming <- c:
	case <-s.done:
		_ = c.Close()
	case <-ctx.Done():
		_ = c.Close()
	}
}

// Close implements net.Listener.
func (s *streamLayer) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

// Addr implements net.Listener.
func (s *streamLayer) Addr() net.Addr { return s.address }
