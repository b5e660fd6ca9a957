package link

import (
	"net"
	"net/netip"
	"sync"
)

// places bounds what is open at once, of all and of each address: nobody alone takes
// what there is. Who comes from behind one address shares its part.
type places struct {
	most, each int

	mu   sync.Mutex
	all  int
	from map[netip.Prefix]int
}

func newPlaces(most, each int) *places {
	return &places{most: most, each: each, from: make(map[netip.Prefix]int)}
}

// enter takes a place, which leave gives back, once; nil when there is none.
func (p *places) enter(addr net.Addr) (leave func()) {
	from := Network(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= p.most || p.from[from] >= p.each {
		return nil
	}
	p.all++
	p.from[from]++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.all--
		if p.from[from]--; p.from[from] == 0 {
			delete(p.from, from)
		}
	})
}

// Network is what an address is counted under when nobody may take all of something: of
// IPv6 the /64, which one machine has whole.
func Network(addr net.Addr) netip.Prefix {
	from, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip := from.Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}
