package enrich

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that the answer to a look-up that was kept back names flows and is nobody's deed.
func TestKnownAnswer(t *testing.T) {
	m := newMachine(t)
	who := key(1)
	o := m.Observe(&event.DNS{
		Header: m.head(who, event.ProcessKey{}), Response: true, Known: true, Name: "known.example",
		TTL: time.Minute, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
	})
	if o != nil || m.Process(who) != nil {
		t.Errorf("observed %+v", o)
	}
	flow := m.Observe(&event.FlowOpen{Header: m.head(who, event.ProcessKey{}), Proto: 6, Remote: netip.MustParseAddrPort("192.0.2.1:443")}).Flow
	if flow.Name != "known.example" {
		t.Errorf("the flow is named %q", flow.Name)
	}
}

// Ensure that a connection that a worker accepted is not the origin of what its parent,
// who listened, forks next.
func TestAcceptedByWorker(t *testing.T) {
	m := newMachine(t)
	server, worker, other, serving := key(1), key(2), key(3), key(4)
	m.exec(server, event.ProcessKey{}, "/usr/sbin/server")
	m.fork(server, worker)
	m.now += 10 * second
	o := m.accept(server, "192.0.2.9:5000", 0)
	again := *o.Event.(*event.FlowOpen)
	again.Header, again.Accepted = m.head(worker, server), true
	m.Observe(&again)
	m.fork(server, other)
	m.fork(worker, serving)
	if p := m.Process(other); p.Origin != nil {
		t.Errorf("the server's next child serves %v", p.Origin.Remote)
	}
	if p := m.Process(serving); p.Origin == nil || p.Origin.Remote.Port() != 5000 {
		t.Errorf("the worker's child serves %+v", p.Origin)
	}
}
