package ingest

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// A storyline with findings notes its connections. When one goes to a host that has its session
// at this node, that host is told at once: whoever accepted exactly it is to be watched. Every node
// does so for its own sessions when it applies the entry: no leader is asked, and nothing is kept.

// Bounds of what is told on the word of a host, which may be hostile.
const (
	carriedFrom = 60 // a minute, by one host
	carriedTo   = 30 // a minute, to one host: what its sensor takes
	// maxCarriedHosts bounds the hosts that are counted; beyond it nobody is told in that minute.
	maxCarriedHosts = 10_000
	// maxClaims is how many hosts may claim one address before it tells nothing.
	maxClaims = 4
	// maxPlaces is how many addresses of a host count.
	maxPlaces = 64
	// carriedLate is how old a connection may be: a spool brings what is over.
	carriedLate = 10 * time.Minute
)

// places says which hosts with a session here have an address, by their own word.
type places struct {
	mu    sync.Mutex
	hosts map[netip.Addr][]string
	of    map[string][]netip.Addr
}

func (p *places) add(host string, addresses []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(host)
	for _, text := range addresses[:min(len(addresses), maxPlaces)] {
		if a, ok := placeOf(text); ok && !slices.Contains(p.of[host], a) {
			p.of[host] = append(p.of[host], a)
			p.hosts[a] = append(p.hosts[a], host)
		}
	}
}

func (p *places) remove(host string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(host)
}

func (p *places) drop(host string) {
	for _, a := range p.of[host] {
		p.hosts[a] = slices.DeleteFunc(p.hosts[a], func(h string) bool { return h == host })
		if len(p.hosts[a]) == 0 {
			delete(p.hosts, a)
		}
	}
	delete(p.of, host)
}

func (p *places) at(a netip.Addr) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.hosts[a])
}

// placeOf reads an address as a host tells it, with or without its prefix's length.
func placeOf(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return a, false
		}
		a = prefix.Addr()
	}
	a = a.Unmap().WithZone("")
	return a, a.IsGlobalUnicast()
}

// carried counts what was told in this minute.
type carried struct {
	mu       sync.Mutex
	minute   int64
	from, to map[string]int
}

func (c *carried) allow(from, to string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := now.Unix() / 60; m != c.minute || c.from == nil {
		c.minute, c.from, c.to = m, make(map[string]int), make(map[string]int)
	}
	if len(c.from)+len(c.to) >= 2*maxCarriedHosts || c.from[from] >= carriedFrom || c.to[to] >= carriedTo {
		return false
	}
	c.from[from]++
	c.to[to]++
	return true
}

// carry tells hosts of the suspect connections to them that an entry brought.
func (s *Server) carry(in *raftv1.Ingest) {
	for _, b := range in.GetBatches() {
		for _, r := range b.GetBatch().GetRecords() {
			if f := r.GetFlowNote().GetFlow(); f != nil && !f.GetInbound() && f.GetProtocol() == 6 && f.GetClosed() == 0 && !f.GetFailed() {
				s.carryOne(b.GetHost(), r.GetFlowNote())
			}
		}
	}
}

func (s *Server) carryOne(from string, note *sensorv1.FlowNote) {
	f := note.GetFlow()
	server, ok := netip.AddrFromSlice(f.GetRemote())
	if server = server.Unmap(); !ok || note.GetStoryline() == "" {
		return
	}
	hosts := slices.DeleteFunc(s.places.at(server), func(host string) bool { return host == from })
	now := s.cfg.Now()
	if len(hosts) == 0 || len(hosts) > maxClaims || now.Sub(time.Unix(0, f.GetOpened())).Abs() > carriedLate {
		return
	}
	hosts = slices.DeleteFunc(hosts, func(host string) bool { return !s.carried.allow(from, host, now) })
	if len(hosts) == 0 {
		return
	}
	message := &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Taint{Taint: &sensorv1.CarriedTaint{
		Protocol: f.GetProtocol(), Client: f.GetLocal(), ClientPort: f.GetLocalPort(), Server: f.GetRemote(), ServerPort: f.GetRemotePort(),
		Opened: f.GetOpened(), Storyline: from + "/" + note.GetStoryline()}}}
	s.closing.Go(func() {
		if !s.owns(from, f.GetLocal()) {
			return
		}
		for _, host := range hosts {
			if session := s.session(host); session != nil {
				session.send(message)
			}
		}
	})
}

// owns says whether a host has an address by its own word: it may speak of its own connections
// alone. That its sensor is honest is not known.
func (s *Server) owns(host string, raw []byte) bool {
	a, ok := netip.AddrFromSlice(raw)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(s.running, s.cfg.CommitTimeout)
	defer cancel()
	h, err := s.cfg.Store.Host(ctx, host)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(h.GetFacts().GetAddresses(), func(text string) bool {
		have, ok := placeOf(text)
		return ok && have == a.Unmap()
	})
}
