package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/quic-go/quic-go"
)

// Dialer dials from one socket that all its connections share, as whom each likes: for
// one process that is many sensors. A sensor of its own host takes Dial.
type Dialer struct {
	socket    *net.UDPConn
	transport *quic.Transport
	closing   sync.Once
}

// NewDialer opens an IPv4 socket at an address; the port may be 0.
func NewDialer(local netip.AddrPort) (*Dialer, error) {
	socket, err := openSocket("udp4", local.String())
	if err != nil {
		return nil, err
	}
	return &Dialer{socket: socket, transport: &quic.Transport{Conn: socket, ConnectionIDLength: 8}}, nil
}

// Dial is like the package's; of cfg it ignores LocalAddr. addr must have an IPv4 address.
func (d *Dialer) Dial(ctx context.Context, addr, alpn string, cfg DialConfig) (*Conn, error) {
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
		if !target.Addr().Is4() {
			failures = append(failures, fmt.Errorf("dialling %s: %w: the shared socket is IPv4's", target, ErrUnreachable))
			continue
		}
		conn, err := dial(ctx, d.transport, addr, target, alpn, cfg)
		if err == nil {
			return conn, nil
		}
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}

// Close ends every connection and the socket.
func (d *Dialer) Close() error {
	var err error
	d.closing.Do(func() { err = errors.Join(d.transport.Close(), d.socket.Close()) })
	return err
}
