package isolation

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// rig is a lab with each kind of device that the kernel has, for a flood.
type rig struct {
	*lab
	flood *flood
	// fresh: built while isolated, so that nothing was established before.
	fresh   bool
	missing map[string]string // path: what the kernel lacks
	late    int               // devices that came later
	notes   map[uint32]string // phase: what the sender of AF_XDP did
}

// perGap is how many packets an AF_XDP sender is given in a phase.
const perGap = 12

// farMAC is who answers on links where nobody has to.
var farMAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}

func newRig(t *testing.T, host, peer *netnstest.Namespace, fresh bool) *rig {
	t.Helper()
	r := &rig{lab: buildLab(t, host, peer), fresh: fresh, missing: map[string]string{}}
	r.flood = newEmptyFlood()
	for _, p := range r.cutPaths() {
		if p.name != establishedTCP {
			r.add(&flow{path: p})
		}
	}
	for _, p := range r.gapPaths(t) {
		f := &flow{path: p}
		if p.name == pathXDP {
			// Nobody may wait for it: it may stand still. The ring's frames are not taken
			// back: 64 for all phases.
			f.send, f.limit = func(payload []byte) error { return r.xdp.tell(r.xdpFrame(payload)) }, perGap
		}
		r.add(f)
	}
	r.tunnels(t)
	r.children(t)
	r.bond(t)
	r.wireGuard(t)
	r.shapes()
	if !fresh {
		r.connections(t)
	}
	r.flood.watch(t, peer, netnstest.PeerDevice)
	r.flood.watch(t, peer, "peer1")
	r.inward(t)
	return r
}

func (r *rig) add(f *flow) { r.flood.paths = append(r.flood.paths, f) }

func (r *rig) udp(name string, from *netnstest.Namespace, to string) {
	r.add(&flow{path: path{name, from, udpTo("", to)}})
}

// device adds one and brings it up with an address, and its neighbour known. An
// error says that the kernel lacks it.
func (r *rig) device(t *testing.T, link vnl.Link, address, neighbour string) error {
	handle := r.host.Handle(t)
	if err := handle.LinkAdd(link); err != nil {
		return err
	}
	return r.use(t, r.host, link.Attrs().Name, address, neighbour)
}

func (r *rig) use(t *testing.T, n *netnstest.Namespace, name, address, neighbour string) error {
	n.Up(t, name)
	n.Address(t, name, address)
	if neighbour == "" {
		return nil
	}
	return n.Handle(t).NeighSet(&vnl.Neigh{
		LinkIndex: n.Index(t, name), State: unix.NUD_PERMANENT, IP: net.ParseIP(neighbour), HardwareAddr: farMAC,
	})
}

func attributes(name string) vnl.LinkAttrs {
	attrs := vnl.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

// tunnels end at the peer's address; that nobody takes them up there is no matter.
func (r *rig) tunnels(t *testing.T) {
	local, remote := net.ParseIP(netnstest.HostIP4), net.ParseIP(netnstest.PeerIP4)
	for i, tunnel := range []struct {
		name string
		link vnl.Link
	}{
		{"tunnel, vxlan", &vnl.Vxlan{LinkAttrs: attributes("vx0"), VxlanId: 7, Group: remote, SrcAddr: local, Port: 4789, VtepDevIndex: r.index}},
		{"tunnel, ipip", &vnl.Iptun{LinkAttrs: attributes("ipip9"), Local: local, Remote: remote}},
		{"tunnel, gre", &vnl.Gretun{LinkAttrs: attributes("gre9"), Local: local, Remote: remote}},
	} {
		neighbour := ""
		if i == 0 {
			neighbour = "10.90.0.2"
		}
		if err := r.device(t, tunnel.link, fmt.Sprintf("10.9%d.0.1/24", i), neighbour); err != nil {
			r.missing[tunnel.name] = err.Error()
			continue
		}
		r.udp(tunnel.name, r.host, fmt.Sprintf("10.9%d.0.2:9999", i))
	}
	vlan := &vnl.Vlan{LinkAttrs: attributes("vlan5"), VlanId: 5}
	vlan.ParentIndex = r.index
	if err := r.device(t, vlan, "10.93.0.1/24", "10.93.0.2"); err != nil {
		r.missing["VLAN device"] = err.Error()
		return
	}
	r.udp("VLAN device", r.host, "10.93.0.2:9999")
}

// children are devices of other namespaces on a device of the host.
func (r *rig) children(t *testing.T) {
	const name = "ipvlan in another namespace"
	netnstest.Wire(t, r.host, "host2", r.peer, "peer2")
	r.flood.watch(t, r.peer, "peer2")
	child := &vnl.IPVlan{LinkAttrs: attributes("iv0"), Mode: vnl.IPVLAN_MODE_L2}
	child.ParentIndex = r.host.Index(t, "host2")
	handle := r.host.Handle(t)
	err := handle.LinkAdd(child)
	borrower := netnstest.New(t)
	if err == nil {
		err = borrower.Adopt(handle, child)
	}
	if err == nil {
		err = r.use(t, borrower, "iv0", "10.79.0.9/24", "10.79.0.2")
	}
	if err != nil {
		r.missing[name] = err.Error()
		return
	}
	r.udp(name, borrower, "10.79.0.2:9999")
}

func (r *rig) bond(t *testing.T) {
	const name = "bonding"
	bond := vnl.NewLinkBond(attributes("bond9"))
	bond.Mode = vnl.BOND_MODE_ACTIVE_BACKUP
	handle := r.host.Handle(t)
	if err := handle.LinkAdd(bond); err != nil {
		r.missing[name] = err.Error()
		return
	}
	netnstest.Wire(t, r.host, "host3", r.peer, "peer3")
	r.flood.watch(t, r.peer, "peer3")
	link, err := handle.LinkByName("host3")
	if err == nil {
		err = handle.LinkSetDown(link)
	}
	if err == nil {
		err = handle.LinkSetMaster(link, bond)
	}
	if err == nil {
		err = r.use(t, r.host, "bond9", "10.95.0.1/24", "10.95.0.2")
	}
	if err != nil {
		t.Fatalf("bonding: %v", err)
	}
	r.udp(name, r.host, "10.95.0.2:9999")
}

// shapes are packets that only look different.
func (r *rig) shapes() {
	quic := append([]byte{0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0}, make([]byte, 20)...)
	r.add(&flow{path: path{"QUIC, long header, UDP 443", r.host, func(p []byte) error {
		return netnstest.SendUDP("", netnstest.PeerIP4+":443", append(append([]byte{}, quic...), p...))
	}}})
	r.add(&flow{path: path{"UDP, fragmented", r.host, func(p []byte) error {
		return netnstest.SendUDP("", netnstest.PeerIP4+":9999", append(append([]byte{}, p...), make([]byte, 4000)...))
	}}})
}

// connections are made before anything is cut.
func (r *rig) connections(t *testing.T) {
	r.establish(t)
	r.add(&flow{path: path{establishedTCP, r.host, func(p []byte) error {
		// A full buffer must not hold up the other paths.
		_ = r.established.SetWriteDeadline(time.Now().Add(time.Millisecond))
		_, err := r.established.Write(p)
		return err
	}}})
	var conn net.Conn
	r.host.Must(t, "connecting", func() (err error) {
		conn, err = net.Dial("udp", netnstest.PeerIP4+":9999")
		return err
	})
	t.Cleanup(func() { _ = conn.Close() })
	r.add(&flow{path: path{"established UDP", r.host, func(p []byte) error { _, err := conn.Write(p); return err }}})
}

// inward are the ways in; what counts is what a program above the hook gets.
func (r *rig) inward(t *testing.T) {
	r.host.Must(t, "joining", func() error {
		for _, listen := range []struct{ network, address string }{
			{"udp4", ":5001"}, {"udp6", ":5001"}, {"ip4:1", "0.0.0.0"}, {"ip6:58", "::"}, {"ip4:253", "0.0.0.0"},
		} {
			err := r.listen(t, listen.network, listen.address)
			// An isolated host refuses raw sockets: what comes in has nobody to come to.
			if err != nil && (!r.fresh || !errors.Is(err, unix.EPERM)) {
				return err
			}
		}
		group, err := net.ListenMulticastUDP("udp4", &net.Interface{Index: r.index, Name: netnstest.HostDevice}, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 77), Port: 5002})
		if err != nil {
			return err
		}
		r.read(t, group)
		return nil
	})
	r.routed.Must(t, "listening", func() error { return r.listen(t, "udp4", ":5001") })
	r.bridged.Must(t, "listening", func() error { return r.listen(t, "udp4", ":5001") })
	if err := r.peer.Handle(t).RouteAdd(&vnl.Route{Dst: &net.IPNet{IP: net.IPv4(10, 99, 0, 0), Mask: net.CIDRMask(24, 32)}, Gw: net.ParseIP(netnstest.HostIP4)}); err != nil {
		t.Fatalf("adding a route: %v", err)
	}
	echo := func(kind byte) func([]byte) []byte {
		return func(p []byte) []byte {
			m := append([]byte{kind, 0, 0, 0, 0, 1, 0, 1}, p...)
			if kind == 0 { // an answer that nobody asked for: no echo of it goes back
				binary.BigEndian.PutUint16(m[2:], netnstest.Checksum(m))
			}
			return m
		}
	}
	bare := func(p []byte) []byte { return p }
	for _, p := range []path{
		{"in: UDP over IPv4", r.peer, udpTo("", netnstest.HostIP4+":5001")},
		{"in: UDP over IPv6", r.peer, udpTo("", "["+netnstest.HostIP6+"]:5001")},
		{"in: ICMP", r.peer, ipSocket("ip4:1", netnstest.HostIP4, echo(0))},
		{"in: ICMPv6", r.peer, ipSocket("ip6:58", netnstest.HostIP6, echo(129))},
		{"in: IP protocol 253", r.peer, ipSocket("ip4:253", netnstest.HostIP4, bare)},
		{"in: fragmented UDP", r.peer, func(p []byte) error {
			return netnstest.SendUDP("", netnstest.HostIP4+":5001", append(append([]byte{}, p...), make([]byte, 4000)...))
		}},
		{"in: multicast", r.peer, udpTo(netnstest.PeerIP4+":0", "224.0.0.77:5002")},
		{"in: to a routed container", r.peer, udpTo("", "10.99.0.2:5001")},
		{"in: to a bridged container", r.peer, udpTo("", "10.78.0.5:5001")},
	} {
		r.add(&flow{path: p})
	}
	// Sniffers get a frame before the ingress hook does; the other layer is before them.
	sniffer := netnstest.NewCapture(t, r.host, netnstest.HostDevice)
	raw, hostMAC, peerMAC := netnstest.NewRaw(t, r.peer, false), r.hostMAC, r.peerMAC
	index := r.peer.Index(t, netnstest.PeerDevice)
	r.add(&flow{limit: 12, path: path{inSniffed, r.peer, func(p []byte) error {
		return raw.Send(index, 0x88b5, netnstest.Ether(hostMAC, peerMAC, 0x88b5, p))
	}}})
	r.flood.counting(func() {
		sniffer.Each(r.flood.quit, func(frame []byte) {
			if binary.BigEndian.Uint16(frame[12:]) == 0x88b5 && bytes.HasPrefix(frame, hostMAC) {
				r.flood.count("a sniffer", frame)
			}
		})
	})
}

const inSniffed = "in: to an AF_PACKET socket of the host"

func (r *rig) listen(t *testing.T, network, address string) error {
	conn, err := net.ListenPacket(network, address)
	if err != nil {
		return err
	}
	r.read(t, conn)
	return nil
}

// read counts what a socket gets.
func (r *rig) read(t *testing.T, conn net.PacketConn) {
	t.Cleanup(func() { _ = conn.Close() })
	r.flood.counting(func() {
		buffer := make([]byte, 8192)
		for {
			_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			size, _, err := conn.ReadFrom(buffer)
			if err == nil {
				r.flood.count("the socket "+conn.LocalAddr().Network()+" "+conn.LocalAddr().String(), buffer[:size])
				continue
			}
			select {
			case <-r.flood.quit:
				return
			default:
			}
		}
	})
}

// arrive makes a device that was not there, with a flood from before it is up. Its name
// is the prefix and a number.
func (r *rig) arrive(t *testing.T, prefix string, phase uint32) (leaked int) {
	r.late++
	near, far := fmt.Sprint(prefix, r.late), fmt.Sprintf("far%d", r.late)
	handle := r.host.Handle(t)
	attrs := attributes(near)
	if err := handle.LinkAdd(&vnl.Veth{LinkAttrs: attrs, PeerName: far}); err != nil {
		t.Fatalf("adding a device: %v", err)
	}
	link, err := handle.LinkByName(far)
	if err == nil {
		err = r.peer.Adopt(handle, link)
	}
	if err != nil {
		t.Fatalf("moving a device: %v", err)
	}
	r.peer.Up(t, far)
	capture := netnstest.NewCapture(t, r.peer, far)
	index, raw := r.host.Index(t, near), r.bypassing // from before the isolation
	frame := netnstest.Ether(farMAC, farMAC, unix.ETH_P_IP, netnstest.IP4(unix.IPPROTO_UDP, host4, world4,
		netnstest.UDP(4444, 53, fmt.Appendf(nil, "<late%d/%d>", r.late, phase)), netnstest.Options{}))
	r.host.Up(t, near)
	for until := time.Now().Add(slow.Deadline(200 * time.Millisecond)); time.Now().Before(until); {
		if err := raw.Send(index, unix.ETH_P_IP, frame); err != nil && !tolerable(err) {
			t.Fatalf("sending on a new device: %v", err)
		}
	}
	return capture.Count(t, fmt.Appendf(nil, "<late%d/%d>", r.late, phase))
}

// arrivedNamespace makes a namespace whose traffic goes through the host.
func (r *rig) arrivedNamespace(t *testing.T, phase uint32) (leaked int) {
	r.late++
	near := fmt.Sprintf("ns%d", r.late)
	n := netnstest.New(t)
	capture := netnstest.NewCapture(t, r.peer, netnstest.PeerDevice)
	netnstest.Wire(t, r.host, near, n, "eth0")
	gateway := netip.AddrFrom4([4]byte{10, 100, byte(r.late), 1})
	r.host.Address(t, near, gateway.String()+"/24")
	n.Address(t, "eth0", gateway.Next().String()+"/24")
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	if err := n.Handle(t).RouteAdd(&vnl.Route{Dst: all, Gw: net.IP(gateway.AsSlice())}); err != nil {
		t.Fatalf("adding route: %v", err)
	}
	marker := fmt.Appendf(nil, "<later namespace/%d>", phase)
	n.Must(t, "sending", func() error {
		for until := time.Now().Add(slow.Deadline(200 * time.Millisecond)); time.Now().Before(until); {
			if err := netnstest.SendUDP("", netnstest.PeerIP4+":9999", marker); err != nil && !tolerable(err) {
				return err
			}
		}
		return nil
	})
	return capture.Count(t, marker)
}
