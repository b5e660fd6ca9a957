package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// maxAddresses of one name are tried.
const maxAddresses = 4

// DialConfig says as whom and whom to dial.
type DialConfig struct {
	Credentials
	// PinnedCA, when not zero, replaces Roots: the node must show a CA with this
	// Pin and a certificate issued by it. It is for enrolment only.
	PinnedCA [32]byte
	// Tokens are kept from earlier connections; may be nil.
	Tokens *Tokens
	// LocalAddr is the address to dial from. Default: any, a free port.
	LocalAddr netip.AddrPort
	// MaxIdle and KeepAlive. Default: 30 s and 5 s.
	MaxIdle, KeepAlive time.Duration
}

// Dial connects to a node from a socket of its own, which lives as long as the
// connection. The node verifies our certificate only after Dial has returned:
// its refusal is what the first read from a stream gives.
func Dial(ctx context.Context, addr, alpn string, cfg DialConfig) (*Conn, error) {
	if cfg.MaxIdle == 0 {
		cfg.MaxIdle = DefaultMaxIdle
	}
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = DefaultKeepAlive
	}
	targets, err := resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, target := range targets {
		conn, err := dialOwnSocket(ctx, addr, target, alpn, cfg)
		if err == nil {
			return conn, nil
		}
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}

func dialOwnSocket(ctx context.Context, addr string, target netip.AddrPort, alpn string, cfg DialConfig) (*Conn, error) {
	network, local := "udp6", "[::]:0"
	if target.Addr().Is4() {
		network, local = "udp4", "0.0.0.0:0"
	}
	if cfg.LocalAddr.IsValid() {
		local = cfg.LocalAddr.String()
	}
	socket, err := openSocket(network, local)
	if err != nil {
		return nil, err
	}
	transport := &quic.Transport{Conn: socket, ConnectionIDLength: 8}
	release := sync.OnceFunc(func() {
		_ = transport.Close()
		_ = socket.Close()
	})
	conn, err := dial(ctx, transport, addr, target, alpn, cfg)
	if err != nil {
		release()
		return nil, err
	}
	conn.release = release
	context.AfterFunc(conn.Context(), release)
	return conn, nil
}

func dial(ctx context.Context, transport *quic.Transport, addr string, target netip.AddrPort, alpn string, cfg DialConfig) (*Conn, error) {
	tlsConfig, err := cfg.clientConfig(alpn, cfg.PinnedCA)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", addr, err)
	}
	qc, err := transport.Dial(ctx, net.UDPAddrFromAddrPort(target), tlsConfig, cfg.Tokens.of(dialConfig(cfg.MaxIdle, cfg.KeepAlive, alpn)))
	if err != nil {
		return nil, dialError(ctx, addr, err)
	}
	peer, err := PeerOf(qc.ConnectionState().TLS.PeerCertificates[0])
	if err != nil {
		return nil, errors.Join(err, qc.CloseWithError(quic.ApplicationErrorCode(CodeProtocol), "bad identity"))
	}
	return &Conn{quic: qc, peer: peer, alpn: alpn, count: func(string) {}}, nil
}

// Dial connects to another node from the listener's own socket.
func (l *Listener) Dial(ctx context.Context, addr, alpn string) (*Conn, error) {
	targets, err := resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	cfg := DialConfig{Credentials: l.cfg.Credentials, MaxIdle: l.cfg.PeerMaxIdle, KeepAlive: l.cfg.PeerKeepAlive}
	var failures []error
	for _, target := range targets {
		l.notePeer(target)
		conn, err := dial(ctx, l.transport, addr, target, alpn, cfg)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		conn.count = l.counters.refuse
		if code, _, reason := l.track(conn); code != CodeOK {
			return nil, errors.Join(fmt.Errorf("dialling %s: %w", addr, net.ErrClosed), conn.CloseWithReason(code, reason))
		}
		context.AfterFunc(conn.Context(), func() { l.untrack(conn) })
		return conn, nil
	}
	return nil, errors.Join(failures...)
}

func resolve(ctx context.Context, addr string) ([]netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dialling %q: %w: give HOST:PORT", addr, err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("dialling %q: %q is no port number", addr, service)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w: resolving: %w", addr, ErrUnreachable, err)
	}
	targets := make([]netip.AddrPort, 0, maxAddresses)
	for _, ip := range ips[:min(len(ips), maxAddresses)] {
		targets = append(targets, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return targets, nil
}
