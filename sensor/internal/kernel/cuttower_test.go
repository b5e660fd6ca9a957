package kernel

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
)

// tower builds a bridge with a port of the peer's, and a macvlan above it.
func (l *cutLab) tower(t *testing.T) {
	t.Helper()
	handle := l.host.Handle(t)
	attrs := vnl.NewLinkAttrs()
	attrs.Name = "bridge9"
	bridge := &vnl.Bridge{LinkAttrs: attrs}
	if err := handle.LinkAdd(bridge); err != nil {
		t.Skipf("SKIP: needs bridges: %v", err)
	}
	above := vnl.NewLinkAttrs()
	above.Name, above.ParentIndex = "above9", l.host.Index(t, "bridge9")
	if err := handle.LinkAdd(&vnl.Macvlan{LinkAttrs: above, Mode: vnl.MACVLAN_MODE_BRIDGE}); err != nil {
		t.Skipf("SKIP: needs macvlan: %v", err)
	}
	vx := vnl.NewLinkAttrs()
	vx.Name = "vxlan9"
	if err := handle.LinkAdd(&vnl.Vxlan{LinkAttrs: vx, VxlanId: 7, Group: net.ParseIP(netnstest.PeerIP4), Port: 4789, VtepDevIndex: l.index}); err != nil {
		t.Skipf("SKIP: needs vxlan: %v", err)
	}
	// The last to come is the lowest.
	l.port(t, "port0", "far0")
	l.host.Up(t, "bridge9")
	l.host.Up(t, "above9")
	l.host.Up(t, "vxlan9")
}

func (l *cutLab) port(t *testing.T, name, far string) {
	t.Helper()
	netnstest.Wire(t, l.host, name, l.peer, far)
	handle := l.host.Handle(t)
	port, err := handle.LinkByName(name)
	if err == nil {
		err = handle.LinkSetMasterByIndex(port, l.host.Index(t, "bridge9"))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Ensure devices that stand on others are covered with them, whatever came first; that
// one which comes below is covered; and that all are handed over and released.
func TestCutSniffersOnTowers(t *testing.T) {
	l := newCutLab(t)
	l.tower(t)
	raw := netnstest.NewRaw(t, l.peer, false)
	sockets := append(l.sniffers(t, "above9"), l.sniffers(t, "bridge9")...)
	sockets = append(sockets, l.sniffers(t, "port0")...)
	await(t, "what comes in to reach the top of the tower", func() bool {
		l.knock(t, raw, l.peer.Index(t, "far0"), "<armed>")
		return sockets[0].Count(t, []byte("<armed>")) > 0 && sockets[3].Count(t, []byte("<armed>")) > 0
	})
	l.cut.Set(CutAll)
	off := l.foreignXDP(t, "bridge9")
	if err := errors.Join(l.cut.Keep(), l.cut.Reconcile()); err != nil {
		t.Fatal(err)
	}
	l.wantXDP(t, "another's in the middle", "kept", "above9", "vxlan9", netnstest.HostDevice)
	l.wantXDP(t, "another's in the middle", "", "port0")
	if !l.told("packet sockets on device port0 see what comes in: somebody else's XDP program is on a device above it") || !l.told("packet sockets on device bridge9 see") {
		t.Errorf("not told: %q", l.cut.NotCut())
	}
	// Whose it is must take off first what is above it.
	above := &vnl.Dummy{LinkAttrs: vnl.LinkAttrs{Index: l.host.Index(t, "above9")}}
	l.host.Must(t, "taking ours off", func() error { return vnl.LinkSetXdpFdWithFlags(above, -1, unix.XDP_FLAGS_SKB_MODE) })
	off()
	if err := l.cut.Reconcile(); err != nil {
		t.Fatal(err)
	}
	tower := []string{"port0", "bridge9", "above9", "vxlan9", netnstest.HostDevice}
	l.wantXDP(t, "cut", "kept", tower...)
	sockets.count(t, "")
	stop := l.flooding(t, raw, "<cut>", "far0")
	l.port(t, "port1", "far1")
	bare := l.watching(t, "port0", "vxlan9", netnstest.HostDevice)
	if err := l.cut.Reconcile(); err != nil {
		t.Error(err)
	}
	tower = append(tower, "port1")
	if were := bare(); len(were) > 0 {
		t.Errorf("a port came: %q, which are not above it, had no program for a moment", were)
	}
	l.wantXDP(t, "a port came", "kept", tower...)
	if l.told("packet sockets on device") {
		t.Errorf("told: %q", l.cut.NotCut())
	}
	stop()
	stop = l.flooding(t, raw, "<cut>", "far0", "far1")
	if err := l.cut.Close(); err != nil {
		t.Fatal(err)
	}
	next := openCut(t, l.host)
	next.Set(CutAll)
	bare = l.watching(t, "port0", "port1", "tohost", netnstest.HostDevice)
	if err := next.Keep(); err != nil {
		t.Error(err)
	}
	if were := bare(); len(were) > 0 {
		t.Errorf("handed over: %q, which the others stand on, had no program for a moment", were)
	}
	stop()
	if n := sockets.count(t, "<cut>"); n != 0 {
		t.Errorf("packet sockets saw %d packets", n)
	}
	l.wantXDP(t, "the next sensor", "kept", tower...)
	if gaps := next.NotCut(); slices.ContainsFunc(gaps, func(s string) bool { return strings.Contains(s, "packet sockets on device") }) {
		t.Errorf("told: %q", gaps)
	}
	// Another's on the top holds those below where they are; they are idle.
	next.Set(CutNone)
	top := l.host.Index(t, "above9")
	other := returns(t, ebpf.XDP, xdpPasses)
	l.host.Must(t, "putting another's in our place", func() error {
		return errors.Join(vnl.LinkSetXdpFdWithFlags(&vnl.Dummy{LinkAttrs: vnl.LinkAttrs{Index: top}}, other.FD(), unix.XDP_FLAGS_SKB_MODE))
	})
	if err := next.Unkeep(); err != nil {
		t.Errorf("a release that another's program holds up: %v", err)
	}
	l.wantXDP(t, "another's above", "foreign", "above9")
	l.wantXDP(t, "another's above", "kept", "bridge9")
	await(t, "what comes in to pass idle programs", func() bool {
		l.knock(t, raw, l.peer.Index(t, "far0"), "<idle>")
		return sockets[3].Count(t, []byte("<idle>")) > 0
	})
	l.host.Must(t, "taking it off", func() error { return setXDP(top, nil, other) })
	if err := next.Reconcile(); err != nil {
		t.Fatal(err)
	}
	l.wantXDP(t, "released", "", tower...)
}

// Ensure devices of a kind whose place is not known are covered, handed over and released
// as well.
func TestCutSniffersOnUnknownTowers(t *testing.T) {
	l := newCutLab(t)
	l.tower(t)
	all := []string{"port0", "bridge9", "above9", "vxlan9", netnstest.HostDevice}
	// unknown calls f with the devices as if nothing were known of who stands on whom.
	unknown := func(c *Cut, f func(*xdpTower)) {
		t.Helper()
		links, err := l.host.Handle(t).LinkList()
		if err != nil {
			t.Fatal(err)
		}
		l.host.Must(t, "looking", func() error {
			tower, err := newXDPTower(links, c.ownSniff(), pinFolder)
			if err != nil {
				return err
			}
			slices.Reverse(tower.devices)
			for i, d := range tower.devices {
				d.place, d.uppers, d.lowers = i, nil, nil
			}
			f(tower)
			return tower.close()
		})
	}
	l.cut.Set(CutAll)
	l.cut.unsniffed = map[string]string{}
	unknown(l.cut, l.cut.sniff)
	l.wantXDP(t, "cut", "kept", all...)
	if err := l.cut.Close(); err != nil {
		t.Fatal(err)
	}
	next := openCut(t, l.host)
	next.Set(CutAll)
	next.unsniffed = map[string]string{}
	unknown(next, next.sniff)
	if len(next.unsniffed) > 0 {
		t.Errorf("told: %q", next.unsniffed)
	}
	unknown(next, func(tower *xdpTower) {
		for _, d := range tower.devices {
			if tower.own[d.id] == nil {
				t.Errorf("device %s was not handed over", d.Name)
			}
		}
	})
	unknown(next, func(tower *xdpTower) {
		for d, err := range tower.remove(func(d *xdpDevice) bool { return tower.own[d.id] != nil }, nil) {
			t.Errorf("device %s: %v", d.Name, err)
		}
	})
	l.wantXDP(t, "released", "", all...)
}
