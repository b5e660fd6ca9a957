package uplink_test

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

// Ensure the signed list of nodes is handed on, with the session and when it changes, and
// that while addresses are pinned nothing else is dialled, whatever the cluster names.
func TestPinned(t *testing.T) {
	ca, st := linktest.NewCA(t), newStore()
	n1, n2 := startNode(t, ca, "n1", "127.0.0.1:0", st), startNode(t, ca, "n2", "127.0.0.1:0", st)
	id, dir := enrollAt(t, n1)
	signed := func(text string) *sensorv1.NodeList {
		return &sensorv1.NodeList{Nodes: []*sensorv1.Node{{Id: "n1", Address: n1.addr()}}, Signed: &sensorv1.SignedNodes{Payload: []byte(text)}}
	}
	n1.set(func(n *node) { n.nodes = signed("first") })
	told := make(chan string, 8)
	var pinned atomic.Pointer[[]netip.AddrPort]
	pinned.Store(new([]netip.AddrPort))
	h := startHost(t, id, dir, func(c *uplink.Config) {
		c.OnSignedNodes = func(s *sensorv1.SignedNodes) { told <- string(s.GetPayload()) }
		c.Pinned = func() []netip.AddrPort { return *pinned.Load() }
	})
	if got := <-told; got != "first" {
		t.Errorf("with the session: %q", got)
	}
	until(t, "a session", func() bool { n1.mu.Lock(); defer n1.mu.Unlock(); return len(n1.sessions) == 1 })
	n1.push(t, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Nodes{Nodes: signed("second")}})
	if got := <-told; got != "second" {
		t.Errorf("when it changes: %q", got)
	}
	pinned.Store(&[]netip.AddrPort{netip.MustParseAddrPort(n2.addr())})
	if got := h.uplink.Nodes(); !slices.Equal(got, []string{n2.addr()}) {
		t.Errorf("%v are dialled", got)
	}
	if got := h.uplink.Known(); !slices.Equal(got, []string{n1.addr()}) {
		t.Errorf("%v are known", got)
	}
	n1.stop()
	h.put(t, counted(0, 10)...)
	until(t, "what was put, at the node that is pinned", func() bool { return len(st.taken()) == 10 && len(n2.hellos) > 0 })
}
