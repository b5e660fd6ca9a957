package correlate

import (
	"net/netip"
	"time"
)

// Bounds of what is looked for where the two ends of a connection see different numbers.
const (
	// maxNear is how many connections of one address are looked at. A busier one says nothing
	// about who is behind it.
	maxNear = 64
	// natSkew is how far apart two hosts' clocks may see one translated connection. Hosts that
	// keep time are within a fraction of it.
	natSkew = 3 * time.Second
	// maxRelay is how long a session of which no end is known is taken to last.
	maxRelay = 12 * time.Hour
	// alikePermille is how far apart the bytes at both ends of one connection may be: retransmissions
	// and what was under way when it was counted.
	alikePermille = 50
)

// ref is one end of a flow.
type ref struct {
	flow tuple
	key  storyKey
}

// near finds flows by one of their ends alone.
type near struct {
	outTo, inAt     map[netip.AddrPort]map[ref]bool // by server
	outBy, inBy     map[netip.AddrPort]map[ref]bool // by client
	outHost, inFrom map[netip.Addr]map[ref]bool     // out by the server's address, in by the client's
}

func newNear() near {
	ports := func() map[netip.AddrPort]map[ref]bool { return make(map[netip.AddrPort]map[ref]bool) }
	hosts := func() map[netip.Addr]map[ref]bool { return make(map[netip.Addr]map[ref]bool) }
	return near{ports(), ports(), ports(), ports(), hosts(), hosts()}
}

func (n *near) add(t tuple, key storyKey, inbound bool) {
	r := ref{t, key}
	if inbound {
		link(n.inAt, t.server, r)
		link(n.inBy, t.client, r)
		link(n.inFrom, t.client.Addr(), r)
		return
	}
	link(n.outTo, t.server, r)
	link(n.outBy, t.client, r)
	link(n.outHost, t.server.Addr(), r)
}

func (n *near) remove(t tuple, key storyKey, inbound bool) {
	r := ref{t, key}
	if inbound {
		drop(n.inAt, t.server, r)
		drop(n.inBy, t.client, r)
		drop(n.inFrom, t.client.Addr(), r)
		return
	}
	drop(n.outTo, t.server, r)
	drop(n.outBy, t.client, r)
	drop(n.outHost, t.server.Addr(), r)
}

func link[K comparable](all map[K]map[ref]bool, of K, r ref) {
	if all[of] == nil {
		all[of] = make(map[ref]bool)
	}
	all[of][r] = true
}

func drop[K comparable](all map[K]map[ref]bool, of K, r ref) {
	delete(all[of], r)
	if len(all[of]) == 0 {
		delete(all, of)
	}
}

// translated are the ways in which an outbound flow may be another host's inbound one although
// the numbers differ, with how many others it might as well be.
type translated struct {
	kind    string // nat, relay
	out, in ref
	rivals  int
	same    bool // nat: the client's address and port are the same at both ends
	bytes   bool // nat: as many bytes at both ends
	port    bool // nat: the client's port is the same
}

// behind are those of a storyline, as the one that connects or the one that accepts.
func (w *window) behind(s *story) (found []translated) {
	for t := range s.out {
		if len(w.inbound[t]) > 0 {
			continue // both ends see the same numbers
		}
		out := ref{t, s.key}
		for _, refs := range []map[ref]bool{w.near.inAt[t.server], w.near.inBy[t.client], w.near.inFrom[t.server.Addr()]} {
			for in := range bounded(refs) {
				found = w.tryPair(found, out, in)
			}
		}
	}
	for t := range s.in {
		if len(w.outbound[t]) > 0 {
			continue
		}
		in := ref{t, s.key}
		for _, refs := range []map[ref]bool{w.near.outTo[t.server], w.near.outBy[t.client], w.near.outHost[t.client.Addr()]} {
			for out := range bounded(refs) {
				found = w.tryPair(found, out, in)
			}
		}
	}
	return found
}

func bounded(refs map[ref]bool) map[ref]bool {
	if len(refs) > maxNear {
		return nil
	}
	return refs
}

func (w *window) tryPair(found []translated, out, in ref) []translated {
	if p, ok := w.pairOf(out, in); ok {
		return append(found, p)
	}
	return found
}

func (w *window) pairOf(out, in ref) (p translated, ok bool) {
	a, b := w.stories[out.key], w.stories[in.key]
	if a == nil || b == nil || out.key.host == in.key.host || out.flow.protocol != in.flow.protocol ||
		len(w.outbound[in.flow]) > 0 || len(w.inbound[out.flow]) > 0 {
		return p, false
	}
	from, to := a.out[out.flow], b.in[in.flow]
	p = translated{out: out, in: in}
	apart := time.Duration(to.opened - from.opened)
	switch {
	case from.opened == 0 || to.opened == 0:
		return p, false
	case out.flow.client == in.flow.client && apart.Abs() <= maxSkew:
		p.kind, p.same, p.port = "nat", true, true
	case out.flow.server == in.flow.server && apart.Abs() <= natSkew:
		p.kind, p.port = "nat", out.flow.client.Port() == in.flow.client.Port()
		p.rivals = w.rivals(w.near.inAt[in.flow.server], in, true, to.opened) + w.rivals(w.near.outTo[out.flow.server], out, false, from.opened)
	case out.flow.server.Addr() == in.flow.client.Addr() && apart >= -natSkew && w.lasts(from, to.opened):
		p.kind = "relay"
		p.rivals = w.sessions(out, to.opened)
	default:
		return p, false
	}
	p.bytes = p.kind == "nat" && from.closed != 0 && to.closed != 0 && nearly(from.sent, to.got) && nearly(from.got, to.sent)
	return p, true
}

// lasts says whether a connection was there at a time.
func (w *window) lasts(e endpoint, at int64) bool {
	if e.closed != 0 {
		return at <= e.closed+int64(natSkew)
	}
	return at-e.opened <= int64(maxRelay)
}

func nearly(a, b uint64) bool {
	return max(a, b)-min(a, b) <= max(a, b)*alikePermille/1000
}

// rivals are the other ends that came at about the same time.
func (w *window) rivals(refs map[ref]bool, of ref, inbound bool, at int64) (n int) {
	for r := range bounded(refs) {
		e := w.stories[r.key].out[r.flow]
		if inbound {
			e = w.stories[r.key].in[r.flow]
		}
		if r != of && time.Duration(e.opened-at).Abs() <= natSkew {
			n++
		}
	}
	return n
}

// sessions are the other hosts that had a connection to the same address at a time.
func (w *window) sessions(of ref, at int64) int {
	hosts := make(map[string]bool)
	for r := range bounded(w.near.outHost[of.flow.server.Addr()]) {
		e := w.stories[r.key].out[r.flow]
		if r.key.host != of.key.host && e.opened <= at+int64(natSkew) && w.lasts(e, at) {
			hosts[r.key.host] = true
		}
	}
	return len(hosts)
}
