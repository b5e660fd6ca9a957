package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// hostConns is how many connections one host may have: a sensor needs one, and another
	// while the node has not noticed that the last is dead. Four let it try again.
	hostConns = 4
	// nodeConns are kept for other nodes above all that is meant for sensors: those of a
	// cluster dial each other once, and again after a failure.
	nodeConns = 64
	// peerHandshakes are kept for nodes above all that others may have under way, and maxPeers
	// are remembered: a cluster has nine at most, at a few addresses each.
	peerHandshakes = 16
	maxPeers       = 64
)

var errFull = errors.New("this node has all connections that it may have")

// share is what one host has of a node's connections.
type share struct {
	conns int16
	told  bool // that it wants more
}

// admit makes a Conn of an accepted connection, or says why not.
func (l *Listener) admit(qc *quic.Conn, handlers map[string]func(context.Context, *Conn)) (conn *Conn, code uint64, cause, reason string) {
	state := qc.ConnectionState().TLS
	alpn := state.NegotiatedProtocol
	conn = &Conn{quic: qc, alpn: alpn, count: l.counters.refuse}
	if handlers[alpn] == nil {
		return nil, CodeNotServed, "not-served", "this node does not serve " + alpn
	}
	if alpn == ALPNEnroll {
		leave := l.strangers.enter(qc.RemoteAddr())
		if leave == nil {
			return nil, CodeBusy, "too-many-strangers", "this node has enough to do with others that enrol: try again in a few seconds"
		}
		context.AfterFunc(qc.Context(), leave)
		return conn, CodeOK, "", ""
	}
	want := KindHost
	if alpn == ALPNRaft {
		want = KindNode
	}
	if len(state.PeerCertificates) == 0 {
		return nil, CodeWrongKind, "no-certificate", alpn + " needs a client certificate"
	}
	peer, err := PeerOf(state.PeerCertificates[0])
	if err != nil {
		return nil, CodeWrongKind, "bad-identity", err.Error()
	}
	_, self, err := l.cfg.own(alpn, time.Now())
	if err != nil {
		l.cfg.Logger.Error("admitting a connection", "error", err)
		return nil, CodeInternal, "own-certificate", "this node's own certificate is not usable; its log says why"
	}
	switch {
	case peer.Kind != want:
		return nil, CodeWrongKind, "wrong-kind", fmt.Sprintf("%s is for %s certificates, this is %s %q's", alpn, want, peer.Kind, peer.ID)
	case peer.Cluster != self.Cluster:
		return nil, CodeForeignCluster, "foreign-cluster", fmt.Sprintf("the certificate is for cluster %q, this is %q", peer.Cluster, self.Cluster)
	case l.cfg.revoked(peer.Certificate):
		return nil, CodeRevoked, "revoked", fmt.Sprintf("the certificate of %s %q was revoked; enrol again with a new token", peer.Kind, peer.ID)
	}
	conn.peer = peer
	return conn, CodeOK, "", ""
}

// notePeer remembers the address of a node. It dials from where it listens, so this is where
// its own handshakes come from.
func (l *Listener) notePeer(addr netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.peers[addr]; known {
		return
	}
	for len(l.peers) >= maxPeers { // nodes come and go over the years
		for old := range l.peers {
			delete(l.peers, old)
			break
		}
	}
	l.peers[addr] = struct{}{}
}

// isPeer says whether that is a node's address. Above RetryAbove it is proved, too.
func (l *Listener) isPeer(addr net.Addr) bool {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return false
	}
	from := udp.AddrPort()
	l.mu.Lock()
	defer l.mu.Unlock()
	_, is := l.peers[netip.AddrPortFrom(from.Addr().Unmap(), from.Port())]
	return is
}

// full says whether there is no room but for nodes.
func (l *Listener) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.others >= l.cfg.MaxConns
}

// track counts a connection among the open ones, or says why not.
func (l *Listener) track(c *Conn) (code uint64, cause, reason string) {
	code, cause, reason, first := l.enter(c)
	if first {
		l.cfg.Logger.Warn("a host opens more connections than a sensor needs: its key may be in other hands", "host", c.peer.ID, "address", c.RemoteAddr().String(), "limit", hostConns)
	}
	return code, cause, reason
}

// enter is track; first says that this is the first one too many of its host's.
func (l *Listener) enter(c *Conn) (code uint64, cause, reason string, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		return CodeShutdown, "", stopping, false
	}
	if c.alpn != ALPNRaft && l.others >= l.cfg.MaxConns {
		return CodeBusy, "connection-limit", errFull.Error() + ": try another one, or again", false
	}
	if c.alpn == ALPNSensor {
		has := l.hosts[c.peer.ID]
		if has.conns >= hostConns {
			first, has.told = !has.told, true
			l.hosts[c.peer.ID] = has
			return CodeBusy, "too-many-of-host", fmt.Sprintf("host %q has %d connections to this node already: try again in a few seconds, and see whether its key is on another machine too", c.peer.ID, hostConns), first
		}
		has.conns++
		l.hosts[c.peer.ID] = has
	}
	if c.alpn == ALPNEnroll {
		l.unknown[c] = struct{}{}
	}
	if c.alpn != ALPNRaft {
		l.others++
	}
	l.conns[c] = struct{}{}
	l.counters.with(func(s *Stats) { s.Open++ })
	return CodeOK, "", "", false
}

// untrack ends what track began, once.
func (l *Listener) untrack(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	delete(l.unknown, c)
	if c.alpn != ALPNRaft {
		l.others--
	}
	if c.alpn == ALPNSensor {
		has := l.hosts[c.peer.ID]
		if has.conns--; has.conns > 0 {
			l.hosts[c.peer.ID] = has
		} else {
			delete(l.hosts, c.peer.ID)
		}
	}
	l.counters.with(func(s *Stats) { s.Open-- })
}
