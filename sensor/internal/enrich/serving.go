package enrich

import (
	"net/netip"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Serving is the living process that was forked to serve an accepted connection, the root of
// its session, and the connection. A server that serves many by one process is none.
func (e *Enricher) Serving(proto uint8, local, remote netip.AddrPort) (p *event.Process, flow *event.Flow) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.tree.byPID {
		o := n.proc.Origin
		if n.ended != 0 || o == nil || n.proc.Anchor != n.proc.Key || o.Proto != proto {
			continue
		}
		if samePlace(o.Local, local) && samePlace(o.Remote, remote) {
			return n.proc, o
		}
	}
	return nil, nil
}

func samePlace(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && a.Addr().Unmap().WithZone("") == b.Addr().Unmap()
}
