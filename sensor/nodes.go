package sensor

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	resolveEvery    = time.Minute
	resolvePatience = 5 * time.Second
)

// nodeBook knows the coordinators' endpoints as addresses. It resolves names
// beside everything else: the event path and an isolation, whose host can ask no
// name server, only read what it knows.
type nodeBook struct {
	nodes      func() []string          // host:port, as configured and as the cluster names them
	remembered func(node string) string // the address that a name had when it last worked
	lookup     func(ctx context.Context, host string) ([]netip.Addr, error)
	log        *slog.Logger

	mu    sync.Mutex
	named map[string][]netip.AddrPort
	said  map[string]bool // names whose failure was logged
}

func newNodeBook(nodes func() []string, remembered func(string) string, log *slog.Logger) *nodeBook {
	lookup := func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	return &nodeBook{
		nodes: nodes, remembered: remembered, lookup: lookup, log: log,
		named: map[string][]netip.AddrPort{}, said: map[string]bool{},
	}
}

// addresses are all that is known now, without waiting for anybody.
func (b *nodeBook) addresses() []netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []netip.AddrPort
	add := func(endpoints ...netip.AddrPort) {
		for _, e := range endpoints {
			if e = netip.AddrPortFrom(e.Addr().Unmap(), e.Port()); !slices.Contains(all, e) {
				all = append(all, e)
			}
		}
	}
	for _, node := range b.nodes() {
		if literal, err := netip.ParseAddrPort(node); err == nil {
			add(literal)
			continue
		}
		add(b.named[node]...)
		if worked, err := netip.ParseAddrPort(b.remembered(node)); err == nil {
			add(worked)
		}
	}
	return all
}

// resolve looks every name up once; what cannot be resolved keeps what it had.
func (b *nodeBook) resolve(ctx context.Context) {
	for _, node := range b.nodes() {
		host, port, err := net.SplitHostPort(node)
		if _, literal := netip.ParseAddr(host); err != nil || literal == nil {
			continue
		}
		number, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
		if err != nil {
			continue
		}
		patience, cancel := context.WithTimeout(ctx, resolvePatience)
		found, err := b.lookup(patience, host)
		cancel()
		b.mu.Lock()
		if err != nil {
			if ctx.Err() == nil && !b.said[node] {
				b.log.Warn("resolving a coordinator's name; its last address stays in use", "node", node, "error", err)
			}
			b.said[node] = true
			b.mu.Unlock()
			continue
		}
		delete(b.said, node)
		endpoints := make([]netip.AddrPort, len(found))
		for i, address := range found {
			endpoints[i] = netip.AddrPortFrom(address, uint16(number)) //nolint:gosec // LookupPort gives 0..65535
		}
		b.named[node] = endpoints
		b.mu.Unlock()
	}
}

// run keeps the book until ctx ends.
func (b *nodeBook) run(ctx context.Context) error {
	tick := time.NewTicker(resolveEvery)
	defer tick.Stop()
	for {
		b.resolve(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
