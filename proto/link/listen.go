package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// linger is how long a connection whose handler has returned may stay for
	// its peer to take the last answer and close.
	linger = 3 * time.Second
	// sweepEvery bounds how long a revoked or expired certificate's connection
	// lives on (DESIGN: revocation within 60 s).
	sweepEvery = 20 * time.Second

	stopping = "the node is stopping"
)

var errHandshakeLimit = errors.New("too many handshakes at once")

// ListenConfig says how a node listens. Credentials are required.
type ListenConfig struct {
	Credentials
	// ALPNs that are answered; all three when empty.
	ALPNs []string
	// Logger takes refusals at debug level (they are counted, and a peer can
	// cause them at will) and the node's own faults. Default: discards.
	Logger *slog.Logger
	// SharedSecret is the same at all nodes of a cluster: an address that one has proved,
	// the others believe. Default: each node believes itself alone.
	SharedSecret []byte
	// MaxIdle is the idle timeout of accepted connections; the shorter of both
	// sides' holds. Default 30 s.
	MaxIdle time.Duration
	// KeepAlive makes the node ping too. Default 0: those who dial ping.
	KeepAlive time.Duration
	// PeerMaxIdle and PeerKeepAlive are for connections made by Dial, node to
	// node. Default 3 s and 1 s.
	PeerMaxIdle, PeerKeepAlive time.Duration
	// MaxHandshakes at once, half of them from one address; more are refused at once. A hostile
	// one costs a node 1.5 MiB before its peer has shown anything, and as much again before it
	// ends. Default 128 for each processor, which takes a second to do them all, and 1024 at most.
	MaxHandshakes int
	// RetryAbove that many handshakes at once, addresses must be proved by a
	// round trip before they cost anything. Default a quarter of MaxHandshakes, 64 at most.
	RetryAbove int
	// MaxConns bounds the open connections, without those between nodes, which have 64
	// more to themselves. Default 20000.
	MaxConns int
	// MaxStrangers bounds those among them that show no certificate, who enrol; one
	// address may have a quarter of it. A hostile one costs a node 4 MiB: its window's frames
	// and those of its handshake's stream. Default 128.
	MaxStrangers int
}

func (c *ListenConfig) populate() error {
	if c.Certificate == nil || c.Roots == nil {
		return errors.New("listening: Credentials need both Certificate and Roots")
	}
	if len(c.ALPNs) == 0 {
		c.ALPNs = []string{ALPNSensor, ALPNRaft, ALPNEnroll}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for value, fallback := range map[*time.Duration]time.Duration{
		&c.MaxIdle: DefaultMaxIdle, &c.PeerMaxIdle: DefaultRaftMaxIdle, &c.PeerKeepAlive: DefaultRaftKeepAlive,
	} {
		if *value == 0 {
			*value = fallback
		}
	}
	for value, fallback := range map[*int]int{&c.MaxHandshakes: min(128*runtime.GOMAXPROCS(0), 1024), &c.MaxConns: 20000, &c.MaxStrangers: 128} {
		if *value == 0 {
			*value = fallback
		}
	}
	if c.RetryAbove == 0 {
		c.RetryAbove = max(1, min(c.MaxHandshakes/4, 64))
	}
	return nil
}

// Listener is a node's UDP socket: it serves every ALPN and dials other nodes.
type Listener struct {
	cfg       ListenConfig
	socket    *net.UDPConn
	transport *quic.Transport
	quic      *quic.Listener
	counters  *counters

	mu      sync.Mutex
	conns   map[*Conn]struct{}
	unknown map[*Conn]struct{}          // those of conns that show no certificate
	others  int                         // those of conns that are not between nodes
	hosts   map[string]share            // what each host has of conns
	configs map[string]*tls.Config      // the newest, by ALPN
	peers   map[netip.AddrPort]struct{} // the nodes that this one dials
	swept   *x509.CertPool              // the roots of the last sweep

	strangers  *places // who show no certificate
	handshakes *places // under way
	ofPeers    *places // under way beyond those, of nodes

	closing sync.Once
	closed  chan struct{}
}

// Listen opens the socket. Serve must follow for anybody to be answered.
func Listen(addr string, cfg ListenConfig) (*Listener, error) {
	if err := cfg.populate(); err != nil {
		return nil, err
	}
	cert, self, err := cfg.own("", time.Now())
	if err != nil {
		return nil, fmt.Errorf("listening on UDP %s: %w", addr, err)
	}
	if self.Kind != KindNode {
		return nil, fmt.Errorf("listening on UDP %s: %w: a %s certificate cannot serve, only a node's", addr, ErrWrongPeer, self.Kind)
	}
	derived, err := keysOf(cert, cfg.SharedSecret)
	if err != nil {
		return nil, err
	}
	socket, err := openSocket("udp", addr)
	if err != nil {
		return nil, err
	}
	l := &Listener{cfg: cfg, socket: socket, counters: newCounters(), conns: make(map[*Conn]struct{}), unknown: make(map[*Conn]struct{}), hosts: make(map[string]share), swept: cfg.Roots(), configs: make(map[string]*tls.Config),
		strangers: newPlaces(cfg.MaxStrangers, max(1, cfg.MaxStrangers/4)), handshakes: newPlaces(cfg.MaxHandshakes, max(1, cfg.MaxHandshakes/2)),
		ofPeers: newPlaces(peerHandshakes, peerHandshakes), peers: make(map[netip.AddrPort]struct{}), closed: make(chan struct{})}
	l.transport = &quic.Transport{
		Conn:                socket,
		ConnectionIDLength:  8,
		StatelessResetKey:   &derived.reset,
		TokenGeneratorKey:   &derived.token,
		VerifySourceAddress: l.mustProveAddress,
		ConnContext:         l.admitHandshake,
	}
	tlsConfig := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             cfg.ALPNs,
		SessionTicketsDisabled: true,
		GetConfigForClient:     l.configFor,
	}
	l.quic, err = l.transport.Listen(tlsConfig, acceptConfig(cfg.MaxIdle, cfg.KeepAlive))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listening on UDP %s: %w", addr, err), socket.Close())
	}
	warnSmallBuffer(socket, cfg.Logger)
	return l, nil
}

// Addr is the UDP address in use.
func (l *Listener) Addr() net.Addr { return l.socket.LocalAddr() }

// Stats returns the counters so far.
func (l *Listener) Stats() Stats { return l.counters.snapshot() }

func (l *Listener) mustProveAddress(net.Addr) bool {
	retry := false
	l.counters.with(func(s *Stats) {
		if retry = s.Handshaking >= l.cfg.RetryAbove; retry {
			s.Retried++
		}
	})
	return retry
}

type handshakeKey struct{}

// handshake is counted as pending until done is called, once. Its window is the connection's.
type handshake struct {
	done   func()
	window growth
}

func (l *Listener) admitHandshake(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	leave := l.handshakes.enter(info.RemoteAddr)
	if leave == nil && l.isPeer(info.RemoteAddr) {
		leave = l.ofPeers.enter(info.RemoteAddr)
	}
	refused := ""
	l.counters.with(func(s *Stats) {
		switch {
		case leave == nil:
			refused = "handshake-limit"
		case s.Open >= l.cfg.MaxConns+nodeConns:
			refused = "connection-limit"
		default:
			s.Handshaking++
			return
		}
		s.Refused[refused]++
	})
	if refused != "" {
		if leave != nil {
			leave()
		}
		return nil, errHandshakeLimit
	}
	pending := sync.OnceFunc(func() {
		leave()
		l.counters.with(func(s *Stats) { s.Handshaking-- })
	})
	stop := context.AfterFunc(ctx, func() {
		pending()
		l.counters.refuse(cause(context.Cause(ctx)))
		l.cfg.Logger.Debug("handshake failed", "error", context.Cause(ctx))
	})
	return context.WithValue(ctx, handshakeKey{}, &handshake{done: func() { stop(); pending() }}), nil
}

// configFor settles the ALPN before the certificate request: what is asked of
// the peer depends on it, and only that one can then be negotiated.
func (l *Listener) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	for _, alpn := range hello.SupportedProtos {
		if slices.Contains(l.cfg.ALPNs, alpn) {
			if alpn != ALPNRaft && l.full() {
				return nil, errFull
			}
			cfg, err := l.cfg.serverConfig(alpn)
			if err != nil {
				l.cfg.Logger.Error("serving a handshake", "error", err)
				return nil, err
			}
			return l.shared(alpn, cfg), nil
		}
	}
	return nil, nil // crypto/tls then answers no_application_protocol
}

// shared is an earlier configuration that says the same, if there is one: every
// connection keeps its own for as long as it lasts.
func (l *Listener) shared(alpn string, cfg *tls.Config) *tls.Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old := l.configs[alpn]; old != nil && sameCertificate(old, cfg) && old.ClientCAs.Equal(cfg.ClientCAs) {
		return old
	}
	l.configs[alpn] = cfg
	return cfg
}

func sameCertificate(a, b *tls.Config) bool {
	return slices.EqualFunc(a.Certificates[0].Certificate, b.Certificates[0].Certificate, bytes.Equal)
}

// Serve answers until ctx ends or the listener is closed, calling the ALPN's
// handler for each connection. A handler's context ends with its connection.
// When a handler returns, its connection is closed, at latest 3 s after, so
// that the peer can take the last answer. Serve returns when every handler has;
// the listener can then only be closed.
func (l *Listener) Serve(ctx context.Context, handlers map[string]func(context.Context, *Conn)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.quic.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { l.sweep(ctx) })
	wg.Go(func() { l.endSurplus(ctx) })
	var failure error
	for {
		// not ctx: a handshake that completes while we stop must be told, too
		qc, err := l.quic.Accept(context.Background())
		if err != nil {
			if !errors.Is(err, quic.ErrServerClosed) && !errors.Is(err, quic.ErrTransportClosed) {
				failure = fmt.Errorf("accepting connections on UDP %s: %w", l.Addr(), err)
			}
			break
		}
		if h := handshakeOf(qc.Context()); h != nil {
			h.done()
		}
		wg.Go(func() { l.serve(ctx, qc, handlers) })
	}
	cancel()
	l.closeConns(CodeShutdown, stopping)
	wg.Wait()
	return failure
}

// serve is where a connection's goroutine stays while its handler runs, and that is
// small: ten thousand of them wait here at once.
func (l *Listener) serve(serving context.Context, qc *quic.Conn, handlers map[string]func(context.Context, *Conn)) {
	conn := l.begin(qc, handlers)
	if conn == nil {
		return
	}
	ctx, end := during(serving, conn)
	defer l.end(conn, end)
	handlers[conn.alpn](ctx, conn)
	leave(serving, ctx, conn)
}

// during is a context that ends with both.
func during(serving context.Context, conn *Conn) (context.Context, func()) {
	ctx, cancel := context.WithCancel(serving)
	stop := context.AfterFunc(conn.Context(), cancel)
	return ctx, func() { stop(); cancel() }
}

func (l *Listener) end(conn *Conn, ends func()) {
	ends()
	l.untrack(conn)
}

// begin is the connection, counted among the open ones; nil when it was refused.
func (l *Listener) begin(qc *quic.Conn, handlers map[string]func(context.Context, *Conn)) *Conn {
	conn, code, cause, reason := l.admit(qc, handlers)
	if code == CodeOK {
		code, cause, reason = l.track(conn)
	}
	if code != CodeOK {
		if cause != "" {
			l.counters.refuse(cause)
		}
		l.cfg.Logger.Debug("connection refused", "peer", qc.RemoteAddr(), "cause", cause, "reason", reason)
		_ = qc.CloseWithError(quic.ApplicationErrorCode(code), reason)
		return nil
	}
	if h := handshakeOf(qc.Context()); h != nil {
		h.window.admitted(conn.alpn)
	}
	l.counters.with(func(s *Stats) { s.Accepted[conn.alpn]++ })
	return conn
}

// leave gives the peer time to take the last answer and close by itself.
func leave(serving, ctx context.Context, conn *Conn) {
	timer := time.NewTimer(linger)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	if serving.Err() != nil {
		_ = conn.CloseWithReason(CodeShutdown, stopping)
		return
	}
	_ = conn.CloseWithReason(CodeOK, "")
}

func (l *Listener) tracked() []*Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	conns := make([]*Conn, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	return conns
}

// closeConns ends what is open and lets nothing be added after.
func (l *Listener) closeConns(code uint64, reason string) {
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	var wg sync.WaitGroup
	for c := range conns {
		wg.Go(func() { _ = c.CloseWithReason(code, reason) })
	}
	wg.Wait()
}

// sweep closes connections whose certificate was revoked or expired since.
func (l *Listener) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			l.Sweep(time.Now())
		}
	}
}

// Sweep closes the connections whose peer's certificate is revoked, by a CA that is trusted
// no more or, at now, expired. It runs by itself every 20 s; call it to make a revocation
// immediate.
func (l *Listener) Sweep(now time.Time) {
	roots := l.cfg.Roots()
	l.mu.Lock()
	same := l.swept == roots
	l.swept = roots
	l.mu.Unlock()
	for _, c := range l.tracked() {
		cert := c.peer.Certificate
		switch {
		case cert != nil && !same && !c.trusted(roots, now):
			l.counters.refuse("untrusted")
			_ = c.CloseWithReason(CodeExpired, "the authority of the certificate is trusted no more; connect again with a renewed one")
		case cert == nil:
		case l.cfg.revoked(cert):
			l.counters.refuse("revoked")
			_ = c.CloseWithReason(CodeRevoked, "the certificate was revoked; enrol again with a new token")
		case now.After(cert.NotAfter):
			l.counters.refuse("expired")
			_ = c.CloseWithReason(CodeExpired, "the certificate expired; connect again with the renewed one")
		}
	}
}

// Close ends the listener, its connections (those it dialled too) and the socket.
func (l *Listener) Close() error {
	l.closing.Do(func() {
		_ = l.quic.Close()
		l.closeConns(CodeShutdown, stopping)
		_ = l.transport.Close()
		_ = l.socket.Close()
		close(l.closed)
	})
	<-l.closed
	return nil
}
