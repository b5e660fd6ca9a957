package isolation

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

const coordinatorPort = 7700

var (
	host4, peer4 = netip.MustParseAddr(netnstest.HostIP4), netip.MustParseAddr(netnstest.PeerIP4)
	host6, peer6 = netip.MustParseAddr(netnstest.HostIP6), netip.MustParseAddr(netnstest.PeerIP6)
	world4       = netip.MustParseAddr("203.0.113.7")
	world6       = netip.MustParseAddr("2001:db8:77::7")
)

func testSpec() Spec {
	return Spec{Nodes: []netip.AddrPort{netip.AddrPortFrom(peer4, coordinatorPort), netip.AddrPortFrom(peer6, coordinatorPort)}}
}

// lab is a host with all that a sender could use, and the world around it.
type lab struct {
	host, peer, routed, bridged, borrower *netnstest.Namespace
	index                                 int
	hostMAC, peerMAC                      net.HardwareAddr
	captures                              []*netnstest.Capture
	established                           net.Conn
	sender, bypassing                     *netnstest.Raw
	xdp                                   *sender // nil where there is no AF_XDP
}

func newLab(t *testing.T) *lab {
	host, peer := netnstest.Pair(t)
	l := buildLab(t, host, peer)
	l.captures = []*netnstest.Capture{
		netnstest.NewCapture(t, l.peer, netnstest.PeerDevice), netnstest.NewCapture(t, l.peer, "peer1"),
	}
	l.establish(t)
	return l
}

// buildLab makes all but what must be there before an isolation.
func buildLab(t *testing.T, host, peer *netnstest.Namespace) *lab {
	l := &lab{host: host, peer: peer}
	l.index = l.host.Index(t, netnstest.HostDevice)
	l.hostMAC, l.peerMAC = l.host.MAC(t, netnstest.HostDevice), l.peer.MAC(t, netnstest.PeerDevice)
	for _, world := range []struct{ via, dst string }{{netnstest.PeerIP4, "0.0.0.0/0"}, {netnstest.PeerIP6, "::/0"}} {
		_, dst, _ := net.ParseCIDR(world.dst)
		if err := l.host.Handle(t).RouteAdd(&vnl.Route{Dst: dst, Gw: net.ParseIP(world.via), LinkIndex: l.index}); err != nil {
			t.Fatalf("adding route: %v", err)
		}
	}
	l.route(t)
	l.bridge(t)
	l.borrow(t)
	l.sender, l.bypassing = netnstest.NewRaw(t, l.host, false), netnstest.NewRaw(t, l.host, true)
	return l
}

// route makes a container whose packets the host forwards.
func (l *lab) route(t *testing.T) {
	l.routed = netnstest.New(t)
	netnstest.Wire(t, l.host, "tohost", l.routed, "eth0")
	l.host.Address(t, "tohost", "10.99.0.1/24")
	l.routed.Address(t, "eth0", "10.99.0.2/24")
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	if err := l.routed.Handle(t).RouteAdd(&vnl.Route{Dst: all, Gw: net.ParseIP("10.99.0.1")}); err != nil {
		t.Fatalf("adding route: %v", err)
	}
	l.host.Must(t, "forwarding", func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) })
}

// bridge makes a container on a bridge with a second wire of the host.
func (l *lab) bridge(t *testing.T) {
	l.bridged = netnstest.New(t)
	netnstest.Wire(t, l.host, "host1", l.peer, "peer1")
	netnstest.Wire(t, l.host, "port", l.bridged, "eth0")
	attrs := vnl.NewLinkAttrs()
	attrs.Name = "br0"
	handle := l.host.Handle(t)
	if err := handle.LinkAdd(&vnl.Bridge{LinkAttrs: attrs}); err != nil {
		t.Skipf("SKIP: needs the bridge driver: %v", err)
	}
	bridge, err := handle.LinkByName("br0")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"host1", "port"} {
		port, err := handle.LinkByName(name)
		if err == nil {
			err = handle.LinkSetMaster(port, bridge)
		}
		if err != nil {
			t.Fatalf("bridging %s: %v", name, err)
		}
	}
	l.host.Up(t, "br0")
	l.bridged.Address(t, "eth0", "10.78.0.5/24")
	l.peer.Address(t, "peer1", "10.78.0.2/24")
}

// borrow makes a namespace that owns a macvlan on the host's device.
func (l *lab) borrow(t *testing.T) {
	l.borrower = netnstest.New(t)
	attrs := vnl.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "mv0", l.index
	handle := l.host.Handle(t)
	if err := handle.LinkAdd(&vnl.Macvlan{LinkAttrs: attrs, Mode: vnl.MACVLAN_MODE_BRIDGE}); err != nil {
		t.Logf("SKIP path: needs the macvlan driver: %v", err)
		l.borrower = nil
		return
	}
	link, err := handle.LinkByName("mv0")
	if err == nil {
		err = l.borrower.Adopt(handle, link)
	}
	if err != nil {
		t.Fatalf("moving macvlan: %v", err)
	}
	l.borrower.Up(t, "mv0")
	l.borrower.Address(t, "mv0", "10.77.0.9/24")
}

// establish opens a TCP connection before anything is cut.
func (l *lab) establish(t *testing.T) {
	var listener net.Listener
	l.peer.Must(t, "listening", func() (err error) {
		listener, err = net.Listen("tcp", netnstest.PeerIP4+":80")
		return err
	})
	t.Cleanup(func() { _ = listener.Close() })
	accepted := make(chan net.Conn, 1)
	go func() {
		if conn, err := listener.Accept(); err == nil {
			accepted <- conn
		}
		close(accepted)
	}()
	l.host.Must(t, "connecting", func() (err error) {
		l.established, err = net.DialTimeout("tcp", netnstest.PeerIP4+":80", slow.Deadline(5*time.Second))
		return err
	})
	far := <-accepted
	if far == nil {
		t.Fatal("the connection was not accepted")
	}
	t.Cleanup(func() { _ = far.Close(); _ = l.established.Close() })
}

type path struct {
	name string
	from *netnstest.Namespace
	send func(payload []byte) error
}

func (l *lab) raw(claimed uint16, bypass bool, ethertype uint16, packet func([]byte) []byte) func([]byte) error {
	sender := l.sender
	if bypass {
		sender = l.bypassing
	}
	return func(payload []byte) error {
		return sender.Send(l.index, claimed, netnstest.Ether(l.peerMAC, l.hostMAC, ethertype, packet(payload)))
	}
}

func udpTo(local, remote string) func([]byte) error {
	return func(payload []byte) error { return netnstest.SendUDP(local, remote, payload) }
}

func ipSocket(network, remote string, wrap func([]byte) []byte) func([]byte) error {
	return func(payload []byte) error {
		conn, err := net.Dial(network, remote)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		_, err = conn.Write(wrap(payload))
		return err
	}
}

// cutPaths are all the ways out that an isolation must close.
func (l *lab) cutPaths() []path {
	echo4 := func(p []byte) []byte {
		m := append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, p...)
		binary.BigEndian.PutUint16(m[2:], netnstest.Checksum(m))
		return m
	}
	echo6 := func(p []byte) []byte { return append([]byte{128, 0, 0, 0, 0, 1, 0, 1}, p...) }
	bare := func(p []byte) []byte { return p }
	ip4 := func(to netip.Addr, port uint16, o netnstest.Options) func([]byte) []byte {
		return func(p []byte) []byte {
			return netnstest.IP4(unix.IPPROTO_UDP, host4, to, netnstest.UDP(4444, port, p), o)
		}
	}
	ip6 := func(next, hops byte, to netip.Addr, wrap func([]byte) []byte) func([]byte) []byte {
		return func(p []byte) []byte { return netnstest.IP6(next, hops, host6, to, wrap(p)) }
	}
	udp := func(from, to uint16) func([]byte) []byte {
		return func(p []byte) []byte { return netnstest.UDP(from, to, p) }
	}
	coordinatorOver := func(extension ...byte) func([]byte) []byte {
		return func(p []byte) []byte { return append(extension, netnstest.UDP(4444, coordinatorPort, p)...) }
	}
	solicit := func(from, to netip.Addr) func([]byte) []byte {
		return func(p []byte) []byte { return netnstest.NeighborSolicitation(from, to, to, p) }
	}
	paths := []path{
		{"UDP over IPv4", l.host, udpTo("", netnstest.PeerIP4+":9999")},
		{"UDP over IPv6", l.host, udpTo("", "["+netnstest.PeerIP6+"]:9999")},
		{"UDP over IPv4, off the link", l.host, udpTo("", world4.String()+":53")},
		{"UDP over IPv6, off the link", l.host, udpTo("", "["+world6.String()+"]:53")},
		{"UDP to a coordinator's other port", l.host, udpTo("", netnstest.PeerIP4+":53")},
		{"UDP from the coordinator's port number", l.host, udpTo(netnstest.HostIP4+":7700", netnstest.PeerIP4+":9999")},
		{"coordinator's port at another address", l.host, udpTo("", world4.String()+":7700")},
		{"ICMP echo", l.host, ipSocket("ip4:1", netnstest.PeerIP4, echo4)},
		{"ICMPv6 echo", l.host, ipSocket("ip6:58", netnstest.PeerIP6, echo6)},
		{"IP protocol 253 to a coordinator", l.host, ipSocket("ip4:253", netnstest.PeerIP4, bare)},
		{"IPv4 multicast", l.host, udpTo(netnstest.HostIP4+":0", "224.0.0.251:5353")},
		{pathMulticast6, l.host, udpTo("", "[ff02::fb%"+netnstest.HostDevice+"]:5353")},
		{establishedTCP, l.host, func(p []byte) error { _, err := l.established.Write(p); return err }},
		{"DHCP ports, unicast", l.host, l.raw(unix.ETH_P_IP, false, unix.ETH_P_IP, func(p []byte) []byte {
			return netnstest.IP4(unix.IPPROTO_UDP, host4, world4, netnstest.UDP(68, 67, p), netnstest.Options{})
		})},
		{"DHCPv6 ports, unicast", l.host, l.raw(unix.ETH_P_IPV6, false, unix.ETH_P_IPV6, ip6(unix.IPPROTO_UDP, 64, world6, udp(546, 547)))},
		{"DHCP server's ports", l.host, udpTo(netnstest.HostIP4+":67", netnstest.PeerIP4+":68")},
		{"AF_PACKET", l.host, l.raw(unix.ETH_P_IP, false, unix.ETH_P_IP, ip4(world4, 53, netnstest.Options{}))},
		{"AF_PACKET, QDISC_BYPASS", l.host, l.raw(unix.ETH_P_IP, true, unix.ETH_P_IP, ip4(world4, 53, netnstest.Options{}))},
		{"AF_PACKET, IPv6", l.host, l.raw(unix.ETH_P_IPV6, false, unix.ETH_P_IPV6, ip6(unix.IPPROTO_UDP, 64, world6, udp(4444, 53)))},
		{"AF_PACKET, unknown ethertype", l.host, l.raw(0x88b5, false, 0x88b5, bare)},
		{"AF_PACKET, 802.3 length", l.host, l.raw(unix.ETH_P_802_2, false, 60, bare)},
		{"IP claimed to be ARP", l.host, l.raw(unix.ETH_P_ARP, false, unix.ETH_P_IP, ip4(world4, 53, netnstest.Options{}))},
		{"IP claimed to be ARP, QDISC_BYPASS", l.host, l.raw(unix.ETH_P_ARP, true, unix.ETH_P_IP, ip4(world4, 53, netnstest.Options{}))},
		{"IP claimed to be ARP to the wire", l.host, l.raw(unix.ETH_P_IP, false, unix.ETH_P_ARP, ip4(world4, 53, netnstest.Options{}))},
		{"unknown ethertype claimed to be IP", l.host, l.raw(unix.ETH_P_IP, false, 0x88b5, ip4(peer4, coordinatorPort, netnstest.Options{}))},
		{"ARP as a tunnel", l.host, l.raw(unix.ETH_P_ARP, false, unix.ETH_P_ARP, func(p []byte) []byte {
			return append(append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, make([]byte, 40)...), p...)
		})},
		{"VLAN tag, to a coordinator", l.host, l.raw(unix.ETH_P_8021Q, false, unix.ETH_P_8021Q, func(p []byte) []byte {
			return append([]byte{0, 5, 8, 0}, ip4(peer4, coordinatorPort, netnstest.Options{})(p)...)
		})},
		{"first fragment to a coordinator", l.host, l.raw(unix.ETH_P_IP, false, unix.ETH_P_IP, ip4(peer4, coordinatorPort, netnstest.Options{Fragment: 0x2000}))},
		{"later fragment to a coordinator", l.host, l.raw(unix.ETH_P_IP, false, unix.ETH_P_IP, ip4(peer4, coordinatorPort, netnstest.Options{Fragment: 40}))},
		{"IPv4 source route to a coordinator", l.host, l.raw(unix.ETH_P_IP, false, unix.ETH_P_IP,
			ip4(peer4, coordinatorPort, netnstest.Options{Options: []byte{131, 7, 4, 203, 0, 113, 7, 0}}))},
		{"IPv6 routing header to a coordinator", l.host, l.raw(unix.ETH_P_IPV6, false, unix.ETH_P_IPV6,
			ip6(unix.IPPROTO_ROUTING, 64, peer6, coordinatorOver(unix.IPPROTO_UDP, 0, 4, 0, 0, 0, 0, 0)))},
		{"IPv6 fragment to a coordinator", l.host, l.raw(unix.ETH_P_IPV6, false, unix.ETH_P_IPV6,
			ip6(unix.IPPROTO_FRAGMENT, 64, peer6, coordinatorOver(unix.IPPROTO_UDP, 0, 0, 1, 0, 0, 0, 9)))},
		{"neighbour solicitation off the link", l.host, l.raw(unix.ETH_P_IPV6, false, unix.ETH_P_IPV6,
			ip6(unix.IPPROTO_ICMPV6, 255, world6, solicit(host6, world6)))},
		{"neighbour solicitation, hop limit 64", l.host, l.raw(unix.ETH_P_IPV6, false, unix.ETH_P_IPV6,
			ip6(unix.IPPROTO_ICMPV6, 64, peer6, solicit(host6, peer6)))},
		{"neighbour solicitation as a tunnel", l.host, l.raw(unix.ETH_P_IPV6, false, unix.ETH_P_IPV6,
			ip6(unix.IPPROTO_ICMPV6, 255, peer6, func(p []byte) []byte {
				return netnstest.NeighborSolicitation(host6, peer6, peer6, append(p, make([]byte, 200)...))
			}))},
		{"routed container", l.routed, udpTo("", netnstest.PeerIP4+":9999")},
		{"bridged container", l.bridged, udpTo("", "10.78.0.2:9999")},
	}
	if l.borrower != nil {
		paths = append(paths, path{"macvlan in another namespace", l.borrower, udpTo("", netnstest.PeerIP4+":9999")})
	}
	return paths
}

const pathMulticast6 = "IPv6 multicast"

// The ways that NotCut names.
const (
	pathXDP      = "AF_XDP, copy mode"
	pathRedirect = "container, redirected by tc on ingress"
)

// gapPaths are the ways that NotCut names: they are measured so that nobody has
// to believe it, and so that closing one shows.
func (l *lab) gapPaths(t *testing.T) []path {
	var paths []path
	xdp, err := startSender(t, l.host, l.index)
	if err != nil {
		t.Logf("SKIP path: needs AF_XDP: %v", err)
	} else {
		l.xdp = xdp
		paths = append(paths, path{pathXDP, l.host, func(p []byte) error { return xdp.send(l.xdpFrame(p)) }})
	}
	err = l.host.Do(func() error {
		for _, command := range []string{
			"qdisc add dev tohost clsact",
			// Only this destination, so that the routed container's own path stays what it is.
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
	} else {
		paths = append(paths, path{pathRedirect, l.routed, udpTo("", "203.0.113.9:9999")})
	}
	return paths
}

func (l *lab) openPaths() []path {
	return []path{
		{"coordinator over IPv4", l.host, udpTo("", netip.AddrPortFrom(peer4, coordinatorPort).String())},
		{"coordinator over IPv6", l.host, udpTo("", netip.AddrPortFrom(peer6, coordinatorPort).String())},
		{"DHCPv4 discover", l.host, l.raw(unix.ETH_P_IP, false, unix.ETH_P_IP, func(p []byte) []byte {
			return netnstest.IP4(unix.IPPROTO_UDP, netip.IPv4Unspecified(), broadcast, netnstest.UDP(68, 67, p), netnstest.Options{})
		})},
		{"DHCPv6 solicit", l.host, l.raw(unix.ETH_P_IPV6, false, unix.ETH_P_IPV6, func(p []byte) []byte {
			return netnstest.IP6(unix.IPPROTO_UDP, 1, netip.MustParseAddr("fe80::1"), allDHCPv6, netnstest.UDP(546, 547, p))
		})},
	}
}

const perPath = 20

// establishedTCP may have given up by the time the isolation ends.
const establishedTCP = "established TCP"

// run sends on every path and returns how many frames of each reached the peer.
func (l *lab) run(t *testing.T, paths []path, round string) []int {
	t.Helper()
	marker := func(i int) []byte { return fmt.Appendf(nil, "<%s/%d>", round, i) }
	for i, path := range paths {
		err := path.from.Do(func() error {
			for range perPath {
				err := path.send(marker(i))
				// The ways in which the kernel tells a sender of a dropped packet, and what
				// a connection says that gave up.
				dropped := errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EPERM)
				gaveUp := round == "after" && errors.Is(err, unix.ETIMEDOUT)
				if err != nil && !dropped && !gaveUp {
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
	for _, capture := range l.captures {
		for _, frame := range capture.Frames(t) {
			for i := range paths {
				if bytes.Contains(frame, marker(i)) {
					seen[i]++
				}
			}
		}
	}
	return seen
}

// Ensure every way out is cut, that each was a way out before, and that only the
// coordinator and address configuration stay open.
func TestMatrix(t *testing.T) {
	t.Run("a chain for each device", func(t *testing.T) { testMatrix(t, hookByDevice) })
	t.Run("a chain for all devices", func(t *testing.T) { testMatrix(t, hookAnyDevice) })
}

func testMatrix(t *testing.T, how hooking) {
	l := newLab(t)
	barrier := openHooked(t, l.host, how)
	cut, open, gaps := l.cutPaths(), l.openPaths(), l.gapPaths(t)
	before, openBefore, gapsBefore := l.run(t, cut, "before"), l.run(t, open, "open-before"), l.run(t, gaps, "gap-before")
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatalf("applying: %v", err)
	}
	during, openDuring, gapsDuring := l.run(t, cut, "during"), l.run(t, open, "open-during"), l.run(t, gaps, "gap-during")
	if err := barrier.Remove(); err != nil {
		t.Fatalf("removing: %v", err)
	}
	after := l.run(t, cut, "after")

	var out strings.Builder
	row := func(name string, b, d int, a any, verdict string) {
		fmt.Fprintf(&out, "%-42s %8d %9d %8v  %s\n", name, b, d, a, verdict)
	}
	fmt.Fprintf(&out, "%-42s %8s %9s %8s\n", fmt.Sprintf("path (%d packets each, seen at the peer)", perPath), "before", "isolated", "after")
	for i, path := range cut {
		verdict := "cut"
		if during[i] > 0 {
			verdict = "LEAK"
		}
		row(path.name, before[i], during[i], after[i], verdict)
		if before[i] == 0 || after[i] == 0 && path.name != establishedTCP {
			t.Errorf("%s: %d and %d packets passed without isolation: this path proves nothing", path.name, before[i], after[i])
		}
		if during[i] > 0 {
			t.Errorf("%s: %d packets leaked", path.name, during[i])
		}
	}
	for i, path := range open {
		row(path.name, openBefore[i], openDuring[i], "-", "open")
		if openDuring[i] < perPath {
			t.Errorf("%s: %d of %d packets passed the isolation", path.name, openDuring[i], perPath)
		}
	}
	for i, path := range gaps {
		verdict := "cut"
		if gapsDuring[i] > 0 {
			verdict = "LEAK, as NotCut says"
		}
		row(path.name, gapsBefore[i], gapsDuring[i], "-", verdict)
		if gapsBefore[i] == 0 {
			t.Errorf("%s: no packet passed without isolation: this path proves nothing", path.name)
		}
		if gapsDuring[i] == 0 {
			t.Errorf("%s is cut now: take it out of NotCut and into the paths that must be", path.name)
		}
	}
	t.Logf("\n%s", out.String())
}

// openBarrier hooks as the kernel and nft here allow.
func openBarrier(t testing.TB, host *netnstest.Namespace) *Barrier {
	t.Helper()
	return openHooked(t, host, hookAsSupported)
}

func openHooked(t testing.TB, host *netnstest.Namespace, how hooking) *Barrier {
	t.Helper()
	barrier, err := Open(host.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = barrier.Close() })
	barrier.hooking = how
	if err := barrier.Supported(); errors.Is(err, ErrNoEgress) || errors.Is(err, ErrNoPermission) {
		t.Skipf("SKIP: %v", err)
	}
	if how == hookAnyDevice && !barrier.anyDevice() {
		t.Skip("SKIP: needs chains on all devices (Linux 6.17)")
	}
	return barrier
}
