package enrich

import (
	"net/netip"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure who serves a connection is found by exactly its addresses and ports, as the root of
// its session, and never a server that serves many.
func TestServing(t *testing.T) {
	m := newMachine(t)
	sshd := key(10)
	m.exec(sshd, event.ProcessKey{}, "/usr/sbin/sshd")
	m.accept(sshd, "10.0.0.5:1111", 0)
	m.accept(sshd, "10.0.0.6:2222", 0)
	m.fork(sshd, key(11))
	m.fork(sshd, key(12))
	m.fork(key(12), key(14))
	m.exec(key(14), key(12), "/bin/bash")
	m.exec(key(20), event.ProcessKey{}, "/usr/sbin/nginx")
	m.accept(key(20), "10.0.0.7:3333", 0)

	origin := m.Process(key(12)).Origin
	p, flow := m.Serving(origin.Proto, origin.Local, netip.MustParseAddrPort("10.0.0.6:2222"))
	if p == nil || p.Key != key(12) || flow != origin {
		t.Fatalf("got %v by %v", p, flow)
	}
	mapped := netip.AddrPortFrom(netip.AddrFrom16(netip.MustParseAddr("10.0.0.6").As16()), 2222)
	if p, _ := m.Serving(origin.Proto, origin.Local, mapped); p == nil {
		t.Error("the same address in its IPv6 form is another")
	}
	for name, at := range map[string][2]string{
		"another port":   {origin.Local.String(), "10.0.0.6:2223"},
		"another client": {origin.Local.String(), "10.0.0.9:2222"},
		"another server": {netip.AddrPortFrom(origin.Local.Addr(), 23).String(), "10.0.0.6:2222"},
		"nginx":          {origin.Local.String(), "10.0.0.7:3333"},
	} {
		if p, _ := m.Serving(origin.Proto, netip.MustParseAddrPort(at[0]), netip.MustParseAddrPort(at[1])); p != nil {
			t.Errorf("%s: found %s", name, p.Image)
		}
	}
	if p, _ := m.Serving(17, origin.Local, origin.Remote); p != nil {
		t.Error("another protocol is found")
	}
	m.exit(key(12))
	if p, _ := m.Serving(origin.Proto, origin.Local, origin.Remote); p != nil {
		t.Error("an ended process is found")
	}
}
