package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

const cutNodePort = 7700

var (
	host4, peer4 = netip.MustParseAddr(netnstest.HostIP4), netip.MustParseAddr(netnstest.PeerIP4)
	host6, peer6 = netip.MustParseAddr(netnstest.HostIP6), netip.MustParseAddr(netnstest.PeerIP6)
	world4       = netip.MustParseAddr("203.0.113.7")
)

// cutLab is a host that can be cut, the world beside it and a container behind it.
type cutLab struct {
	host, peer, routed *netnstest.Namespace
	index              int
	hostMAC, peerMAC   net.HardwareAddr
	sender, bypassing  *netnstest.Raw
	capture            *netnstest.Capture
	socket             *net.UDPConn // to the coordinator, made before the cut was armed
	cut                *Cut
}

func cutNodes() []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(peer4, cutNodePort), netip.AddrPortFrom(peer6, cutNodePort)}
}

// openCut arms a namespace for a test; change may make it another before.
func openCut(t testing.TB, ns *netnstest.Namespace, change ...func(*Cut)) *Cut {
	t.Helper()
	needKernel(t)
	c, err := openCutWith(CutConfig{NetNS: ns.Path(), Nodes: cutNodes()}, change...)
	if err != nil {
		t.Fatalf("opening the cut: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), c.Close()); err != nil {
			t.Errorf("closing the cut: %v", err)
		}
	})
	return c
}

func newCutLab(t testing.TB, change ...func(*Cut)) *cutLab {
	t.Helper()
	l := &cutLab{}
	l.host, l.peer = netnstest.Pair(t)
	l.index = l.host.Index(t, netnstest.HostDevice)
	l.hostMAC, l.peerMAC = l.host.MAC(t, netnstest.HostDevice), l.peer.MAC(t, netnstest.PeerDevice)
	_, all4, _ := net.ParseCIDR("0.0.0.0/0")
	if err := l.host.Handle(t).RouteAdd(&vnl.Route{Dst: all4, Gw: net.ParseIP(netnstest.PeerIP4), LinkIndex: l.index}); err != nil {
		t.Fatalf("adding route: %v", err)
	}
	l.routed = netnstest.New(t)
	netnstest.Wire(t, l.host, "tohost", l.routed, "eth0")
	l.host.Address(t, "tohost", "10.99.0.1/24")
	l.routed.Address(t, "eth0", "10.99.0.2/24")
	if err := l.routed.Handle(t).RouteAdd(&vnl.Route{Dst: all4, Gw: net.ParseIP("10.99.0.1")}); err != nil {
		t.Fatalf("adding route: %v", err)
	}
	l.host.Must(t, "forwarding", func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) })
	l.sender, l.bypassing = netnstest.NewRaw(t, l.host, false), netnstest.NewRaw(t, l.host, true)
	l.capture = netnstest.NewCapture(t, l.peer, netnstest.PeerDevice)
	l.host.Must(t, "making the sensor's socket", func() (err error) {
		l.socket, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(peer4, cutNodePort)))
		return err
	})
	t.Cleanup(func() { _ = l.socket.Close() })
	l.cut = openCut(t, l.host, change...)
	return l
}

// beNobody makes what this process opens from here on no socket of the sensor's.
func (c *Cut) beNobody() { atomic.StoreUint32((*uint32)(unsafe.Pointer(&c.page[sensorOffset])), 0) }

func byFilters(c *Cut) { c.tcx = false }

type cutPath struct {
	name string
	from *netnstest.Namespace
	send func([]byte) error
}

func (l *cutLab) raw(claimed uint16, ethertype uint16, packet func([]byte) []byte) func([]byte) error {
	return func(p []byte) error {
		return l.sender.Send(l.index, claimed, netnstest.Ether(l.peerMAC, l.hostMAC, ethertype, packet(p)))
	}
}

func udpOf(local, remote string) func([]byte) error {
	return func(p []byte) error { return netnstest.SendUDP(local, remote, p) }
}

func datagram4(to netip.Addr, from, port uint16, o netnstest.Options) func([]byte) []byte {
	return func(p []byte) []byte {
		return netnstest.IP4(unix.IPPROTO_UDP, host4, to, netnstest.UDP(from, port, p), o)
	}
}

func solicit(to netip.Addr, hops byte, room int) func([]byte) []byte {
	return func(p []byte) []byte {
		options := append(append([]byte{}, p...), make([]byte, room)...)
		return netnstest.IP6(unix.IPPROTO_ICMPV6, hops, host6, to, netnstest.NeighborSolicitation(host6, to, to, options))
	}
}

// shut are the ways out that the programs must close, those that the isolation's matrix
// has and a first cut can have.
func (l *cutLab) shut() []cutPath {
	none := netnstest.Options{}
	node := func(o netnstest.Options) func([]byte) []byte { return datagram4(peer4, 4444, cutNodePort, o) }
	return []cutPath{
		{"UDP over IPv4", l.host, udpOf("", netnstest.PeerIP4+":9999")},
		{"UDP over IPv6", l.host, udpOf("", "["+netnstest.PeerIP6+"]:9999")},
		{"UDP off the link", l.host, udpOf("", world4.String()+":53")},
		{"coordinator's other port", l.host, udpOf("", netnstest.PeerIP4+":53")},
		{"coordinator's port at another address", l.host, udpOf("", world4.String()+":7700")},
		{"coordinator, by another's socket", l.host, udpOf("", cutNodes()[0].String())},
		{"coordinator over IPv6, by another's socket", l.host, udpOf("", cutNodes()[1].String())},
		{"coordinator, by AF_PACKET", l.host, l.raw(unix.ETH_P_IP, unix.ETH_P_IP, node(none))},
		{"DHCP ports, unicast", l.host, l.raw(unix.ETH_P_IP, unix.ETH_P_IP, datagram4(world4, 68, 67, none))},
		{"AF_PACKET, unknown ethertype", l.host, l.raw(0x88b5, 0x88b5, func(p []byte) []byte { return p })},
		{"IP claimed to be ARP", l.host, l.raw(unix.ETH_P_ARP, unix.ETH_P_IP, datagram4(world4, 4444, 53, none))},
		{"IP claimed to be ARP to the wire", l.host, l.raw(unix.ETH_P_IP, unix.ETH_P_ARP, datagram4(world4, 4444, 53, none))},
		{"DHCP claimed, something else to the wire", l.host, l.raw(unix.ETH_P_IP, 0x88b5, datagram4(broadcast4, 68, 67, none))},
		{"ARP as a tunnel", l.host, l.raw(unix.ETH_P_ARP, unix.ETH_P_ARP, func(p []byte) []byte {
			return append(append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, make([]byte, 40)...), p...)
		})},
		{"VLAN tag, DHCP", l.host, l.raw(unix.ETH_P_8021Q, unix.ETH_P_8021Q, func(p []byte) []byte {
			return append([]byte{0, 5, 8, 0}, datagram4(broadcast4, 68, 67, none)(p)...)
		})},
		{"DHCP in a first fragment", l.host, l.raw(unix.ETH_P_IP, unix.ETH_P_IP, datagram4(broadcast4, 68, 67, netnstest.Options{Fragment: 0x2000}))},
		{"DHCP in a later fragment", l.host, l.raw(unix.ETH_P_IP, unix.ETH_P_IP, datagram4(broadcast4, 68, 67, netnstest.Options{Fragment: 40}))},
		{"DHCP with a source route", l.host, l.raw(unix.ETH_P_IP, unix.ETH_P_IP,
			datagram4(broadcast4, 68, 67, netnstest.Options{Options: []byte{131, 7, 4, 203, 0, 113, 7, 0}}))},
		{"options that look like DHCP's ports", l.host, l.raw(unix.ETH_P_IP, unix.ETH_P_IP,
			datagram4(broadcast4, 4444, 53, netnstest.Options{Options: []byte{0, 68, 0, 67}}))},
		{"neighbour solicitation off the link", l.host, l.raw(unix.ETH_P_IPV6, unix.ETH_P_IPV6, solicit(netip.MustParseAddr("2001:db8:77::7"), 255, 0))},
		{"neighbour solicitation, hop limit 64", l.host, l.raw(unix.ETH_P_IPV6, unix.ETH_P_IPV6, solicit(peer6, 64, 0))},
		{"neighbour solicitation as a tunnel", l.host, l.raw(unix.ETH_P_IPV6, unix.ETH_P_IPV6, solicit(peer6, 255, 200))},
		{"routed container", l.routed, udpOf("", netnstest.PeerIP4+":9999")},
	}
}

var broadcast4 = netip.MustParseAddr("255.255.255.255")

func (l *cutLab) open() []cutPath {
	return []cutPath{
		{"coordinator, by the sensor", l.host, func(p []byte) error {
			_, err := l.socket.Write(p)
			if errors.Is(err, unix.ECONNREFUSED) { // what was sent before, where nobody listens
				_, err = l.socket.Write(p)
			}
			return err
		}},
		{"DHCPv4 discover", l.host, l.raw(unix.ETH_P_IP, unix.ETH_P_IP, datagram4(broadcast4, 68, 67, netnstest.Options{}))},
		{"DHCPv6 solicit", l.host, l.raw(unix.ETH_P_IPV6, unix.ETH_P_IPV6, func(p []byte) []byte {
			return netnstest.IP6(unix.IPPROTO_UDP, 1, netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1:2"), netnstest.UDP(546, 547, p))
		})},
		{"neighbour solicitation on the link", l.host, l.raw(unix.ETH_P_IPV6, unix.ETH_P_IPV6, solicit(peer6, 255, 0))},
		{"ARP request", l.host, l.raw(unix.ETH_P_ARP, unix.ETH_P_ARP, func(p []byte) []byte {
			return append(append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, make([]byte, 8)...), p...)
		})},
	}
}

// redirected is a container whose packets another program on its device sends out by
// itself: the isolation's table does not see them (nf_skip_egress).
func (l *cutLab) redirected(t testing.TB) (cutPath, bool) {
	err := l.host.Do(func() error {
		for _, command := range []string{
			"qdisc replace dev tohost clsact",
			"filter add dev tohost ingress protocol ip u32 match ip dst 203.0.113.9 action mirred egress redirect dev " + netnstest.HostDevice,
		} {
			if out, err := exec.Command("tc", strings.Fields(command)...).CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
		}
		return nil
	})
	if err != nil {
		t.Logf("SKIP path: needs tc with u32 and mirred: %v", err)
		return cutPath{}, false
	}
	return cutPath{"container, redirected by tc on ingress", l.routed, udpOf("", "203.0.113.9:9999")}, true
}

// tagged is what is open on a device of its own and tagged by the one below, beside the
// frame and not in it.
func (l *cutLab) tagged(t testing.TB) (cutPath, bool) {
	attrs := vnl.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "tagged", l.index
	if err := l.host.Handle(t).LinkAdd(&vnl.Vlan{LinkAttrs: attrs, VlanId: 5}); err != nil {
		t.Logf("SKIP path: needs the 8021q driver: %v", err)
		return cutPath{}, false
	}
	l.host.Up(t, "tagged")
	index := l.host.Index(t, "tagged")
	return cutPath{"DHCP, tagged by the device below", l.host, func(p []byte) error {
		frame := netnstest.Ether(l.peerMAC, l.hostMAC, unix.ETH_P_IP, datagram4(broadcast4, 68, 67, netnstest.Options{})(p))
		return l.sender.Send(index, unix.ETH_P_IP, frame)
	}}, true
}

const perCutPath = 10

// run sends on every path and returns how many frames of each reached the peer.
func (l *cutLab) run(t testing.TB, paths []cutPath, round string) []int {
	t.Helper()
	// Short, and of one length: ARP has room for little.
	marker := func(i int) []byte { return fmt.Appendf(nil, "<%s%02d>", round, i) }
	for i, path := range paths {
		err := path.from.Do(func() error {
			for range perCutPath {
				if err := path.send(marker(i)); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EPERM) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: sending on %q: %v", round, path.name, err)
		}
	}
	seen := make([]int, len(paths))
	for _, frame := range l.capture.Frames(t) {
		for i := range paths {
			if strings.Contains(string(frame), string(marker(i))) {
				seen[i]++
			}
		}
	}
	return seen
}

// Ensure the word closes every way out that a first cut can close, that each was one
// before and is one after, and that what an isolation leaves open stays so; by links and
// by the filters of older kernels.
func TestCutMatrix(t *testing.T) {
	for _, kind := range []string{"links", "filters"} {
		t.Run(kind, func(t *testing.T) {
			var change []func(*Cut)
			if kind == "filters" {
				change = append(change, byFilters)
			} else if !versionAtLeast(6, 6) {
				t.Skip("SKIP: needs tcx (6.6)")
			}
			l := newCutLab(t, change...)
			l.cut.beNobody()
			raw, err := l.socket.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := raw.Control(func(fd uintptr) { err = l.cut.Allow(fd) }); err != nil {
				t.Fatal(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			shut, open := l.shut(), l.open()
			for _, add := range []func(testing.TB) (cutPath, bool){l.redirected, l.tagged} {
				if path, ok := add(t); ok {
					shut = append(shut, path)
				}
			}
			if err := l.cut.Reconcile(); err != nil { // sees the clsact that came
				t.Fatal(err)
			}
			before, openBefore := l.run(t, shut, "b"), l.run(t, open, "o")
			l.cut.Set(CutAll)
			during, openDuring := l.run(t, shut, "d"), l.run(t, open, "p")
			_, dropped, err := l.cut.Dropped()
			if err != nil || dropped == 0 {
				t.Errorf("dropped %d, %v", dropped, err)
			}
			l.cut.Set(CutNone)
			after := l.run(t, shut, "a")
			for i, path := range shut {
				if before[i] == 0 || after[i] == 0 {
					t.Errorf("%s: %d packets passed before and %d after: this path proves nothing", path.name, before[i], after[i])
				}
				if during[i] > 0 {
					t.Errorf("%s: %d packets leaked", path.name, during[i])
				}
			}
			for i, path := range open {
				if openBefore[i] < perCutPath || openDuring[i] < perCutPath {
					t.Errorf("%s: %d of %d packets passed before, %d the cut", path.name, openBefore[i], perCutPath, openDuring[i])
				}
			}
		})
	}
}

// heard is how many of n datagrams from the peer arrive at a socket of the host.
func (l *cutLab) heard(t *testing.T, local, remote string) (n int) {
	t.Helper()
	var conn *net.UDPConn
	l.host.Must(t, "listening", func() (err error) {
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(remote)))
		return err
	})
	defer func() { _ = conn.Close() }()
	l.peer.Must(t, "sending", func() error {
		for range perCutPath {
			if err := netnstest.SendUDP(local, remote, []byte("in")); err != nil {
				return err
			}
		}
		return nil
	})
	// Over a wire of veth a datagram has arrived when its send returns, or soon after.
	if err := conn.SetReadDeadline(time.Now().Add(slow.Deadline(100 * time.Millisecond))); err != nil {
		t.Fatal(err)
	}
	for buffer := make([]byte, 16); ; n++ {
		if _, err := conn.Read(buffer); err != nil {
			return n
		}
	}
}

// Ensure nothing comes in but from the coordinator, and all of it where only egress is cut.
func TestCutIngress(t *testing.T) {
	l := newCutLab(t)
	for _, tt := range []struct {
		level         CutLevel
		others, nodes int
	}{{CutNone, perCutPath, perCutPath}, {CutAll, 0, perCutPath}, {CutEgress, perCutPath, perCutPath}, {CutLevel(77), 0, perCutPath}} {
		l.cut.Set(tt.level)
		if l.cut.Level() != tt.level {
			t.Errorf("level %d, want %d", l.cut.Level(), tt.level)
		}
		if got := l.heard(t, netnstest.PeerIP4+":9999", netnstest.HostIP4+":5555"); got != tt.others {
			t.Errorf("level %d: %d datagrams of another came in, want %d", tt.level, got, tt.others)
		}
		if got := l.heard(t, cutNodes()[0].String(), netnstest.HostIP4+":5555"); got != tt.nodes {
			t.Errorf("level %d: %d datagrams of the coordinator came in, want %d", tt.level, got, tt.nodes)
		}
	}
	// The list can be changed while cut.
	l.cut.Set(CutAll)
	if err := l.cut.SetNodes([]netip.AddrPort{netip.AddrPortFrom(peer4, 7701)}); err != nil {
		t.Fatal(err)
	}
	for local, want := range map[string]int{netnstest.PeerIP4 + ":7701": perCutPath, cutNodes()[0].String(): 0} {
		if got := l.heard(t, local, netnstest.HostIP4+":5555"); got != want {
			t.Errorf("after the change %d datagrams from %s came in, want %d", got, local, want)
		}
	}
	for _, bad := range []string{"0.0.0.0:1", "224.0.0.1:7700", "10.0.0.1:0"} {
		if err := l.cut.SetNodes([]netip.AddrPort{netip.MustParseAddrPort(bad)}); err == nil {
			t.Errorf("%s was opened", bad)
		}
	}
}

// Ensure a socket that the sensor makes is its own without a word, and that nobody
// else's is.
func TestCutKnowsTheSensor(t *testing.T) {
	l := newCutLab(t)
	if l.cut.cgroup == "" {
		t.Skip("SKIP: needs a cgroup v2 hierarchy")
	}
	l.cut.Set(CutAll)
	node := []cutPath{{"own", l.host, udpOf("", cutNodes()[0].String())}}
	if got := l.run(t, node, "s"); got[0] != perCutPath {
		t.Errorf("%d of %d packets of the sensor's own passed", got[0], perCutPath)
	}
	l.cut.beNobody()
	if got := l.run(t, node, "n"); got[0] != 0 {
		t.Errorf("%d packets of another process's socket passed", got[0])
	}
}
