package clustertest

import (
	"net"
	"net/netip"
	"sync"
)

// relay forwards datagrams between a node and whoever sends to the node's
// advertised address, as long as open says so.
type relay struct {
	front *net.UDPConn
	// open says whether datagrams between the node and the peer with that real
	// address pass.
	open func(peer netip.AddrPort) bool

	mu     sync.Mutex
	target *net.UDPAddr
	flows  map[netip.AddrPort]*net.UDPConn
	closed bool
	wg     sync.WaitGroup
}

func newRelay(open func(netip.AddrPort) bool) (*relay, error) {
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	_ = front.SetReadBuffer(4 << 20)
	r := &relay{front: front, open: open, flows: make(map[netip.AddrPort]*net.UDPConn)}
	r.wg.Go(r.forward)
	return r, nil
}

func (r *relay) addr() string { return r.front.LocalAddr().String() }

// retarget points the relay at the node's real address, which changes with each start.
func (r *relay) retarget(to net.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = to.(*net.UDPAddr)
	for peer, c := range r.flows {
		_ = c.Close()
		delete(r.flows, peer)
	}
}

func (r *relay) forward() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := r.front.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if back := r.flow(from); back != nil && r.open(from) {
			_, _ = back.Write(buf[:n])
		}
	}
}

// flow is the socket that stands for the peer towards the node.
func (r *relay) flow(peer netip.AddrPort) *net.UDPConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.flows[peer]; c != nil || r.closed || r.target == nil {
		return c
	}
	c, err := net.DialUDP("udp4", nil, r.target)
	if err != nil {
		return nil
	}
	_ = c.SetReadBuffer(4 << 20)
	r.flows[peer] = c
	r.wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			if err != nil {
				// The node's port is closed (ICMP): it may come back.
				if r.gone(peer, c) {
					return
				}
				continue
			}
			if r.open(peer) {
				_, _ = r.front.WriteToUDPAddrPort(buf[:n], peer)
			}
		}
	})
	return c
}

func (r *relay) gone(peer netip.AddrPort, c *net.UDPConn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed || r.flows[peer] != c
}

func (r *relay) close() {
	r.mu.Lock()
	r.closed = true
	_ = r.front.Close()
	for _, c := range r.flows {
		_ = c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}
