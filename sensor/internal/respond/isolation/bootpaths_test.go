package isolation

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
)

// The paths of a host that really boots. Both sides make the same list, because a marker
// is a path's number in it: what leaves first, then what comes in.

// bootHostMAC is the adapter's, which the emulator is told.
var bootHostMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// synPort is where connections are begun to: nothing else goes there.
const synPort = 7

const (
	// pathOther is whatever the host's kernel says by itself beside what is open.
	pathOther = "whatever else the kernel sends by itself"
	// pathSensor is the sensor's own, to each coordinator: the keeper sends on it.
	pathSensor = "sensor to coordinator %d"
)

// bootLab is a lab without namespaces: the host is whoever calls.
func bootLab() *lab {
	return &lab{host: &netnstest.Namespace{}, hostMAC: bootHostMAC, peerMAC: farMAC}
}

// outward are the ways out that must be cut, and those that are open while isolated.
func (l *lab) outward() (flows []*flow) {
	for _, p := range l.cutPaths() {
		if p.name == pathMulticast6 { // by number: it has no name before it is there
			p.send = udpTo("", fmt.Sprintf("[ff02::fb%%%d]:5353", adapterIndex))
		}
		if p.from == l.host && p.name != establishedTCP {
			flows = append(flows, &flow{path: p})
		}
	}
	syn4 := &unix.SockaddrInet4{Port: synPort, Addr: peer4.As4()}
	syn6 := &unix.SockaddrInet6{Port: synPort, Addr: peer6.As16()}
	flows = append(flows,
		&flow{path: path{"TCP, connecting over IPv4", l.host, beginTCP(unix.AF_INET, syn4)}, sealed: isSYN(unix.ETH_P_IP, 14+20)},
		&flow{path: path{"TCP, connecting over IPv6", l.host, beginTCP(unix.AF_INET6, syn6)}, sealed: isSYN(unix.ETH_P_IPV6, 14+40)})
	for _, p := range l.openPaths() {
		if strings.HasPrefix(p.name, "coordinator") { // both layers know the sensor's own sockets
			p.name += ", not by the sensor"
		}
		flows = append(flows, &flow{path: p})
	}
	for i := range testSpec().Nodes {
		flows = append(flows, &flow{path: path{name: fmt.Sprintf(pathSensor, i)}})
	}
	return append(flows, &flow{path: path{name: pathOther}, sealed: func(frame []byte) bool { return !isOpen(frame) }})
}

// opens says whether a path is one that an isolation leaves open.
func opens(name string) bool {
	return name == "DHCPv4 discover" || name == "DHCPv6 solicit" || isSensors(name)
}

func isSensors(name string) bool {
	var node int
	n, _ := fmt.Sscanf(name, pathSensor, &node)
	return n == 1
}

// beginTCP sends what begins a connection, and gives it up.
func beginTCP(family int, to unix.Sockaddr) func([]byte) error {
	return func([]byte) error {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.Connect(fd, to); !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		return nil
	}
}

func isSYN(ethertype uint16, transport int) func([]byte) bool {
	return func(frame []byte) bool {
		return len(frame) >= transport+14 && binary.BigEndian.Uint16(frame[12:]) == ethertype &&
			binary.BigEndian.Uint16(frame[transport+2:]) == synPort && frame[transport+13]&netnstest.SYN != 0
	}
}

// isOpen is what an isolated host's kernel may say by itself: short ARP, and neighbour
// discovery that cannot leave the link. It is written anew here, not taken from the rules.
func isOpen(frame []byte) bool {
	switch ethertype := binary.BigEndian.Uint16(frame[12:]); {
	case ethertype == unix.ETH_P_ARP:
		return len(frame) <= 60
	case ethertype == unix.ETH_P_IPV6 && len(frame) >= 14+40+8:
		const first, last = 133, 136 // router solicitation to neighbour advertisement
		return frame[14+6] == unix.IPPROTO_ICMPV6 && frame[14+7] == 255 && frame[14+40] >= first && frame[14+40] <= last && len(frame) <= 14+40+80
	}
	return false
}

// inwardFrame is a way in, as the frame that the world sends.
type inwardFrame struct {
	name  string
	frame func(payload []byte) []byte
}

const inwardPort = 5001

func inwardFrames() []inwardFrame {
	ip4 := func(protocol byte, wrap func([]byte) []byte) func([]byte) []byte {
		return func(p []byte) []byte {
			return netnstest.Ether(bootHostMAC, farMAC, unix.ETH_P_IP, netnstest.IP4(protocol, peer4, host4, wrap(p), netnstest.Options{}))
		}
	}
	ip6 := func(next byte, sum int, wrap func([]byte) []byte) func([]byte) []byte {
		return func(p []byte) []byte {
			message := wrap(p)
			binary.BigEndian.PutUint16(message[sum:], netnstest.Checksum6(next, peer6, host6, message))
			return netnstest.Ether(bootHostMAC, farMAC, unix.ETH_P_IPV6, netnstest.IP6(next, 64, peer6, host6, message))
		}
	}
	udp := func(p []byte) []byte { return netnstest.UDP(4444, inwardPort, p) }
	echo := func(kind byte) func([]byte) []byte { // an answer that nobody asked for
		return func(p []byte) []byte { return append([]byte{kind, 0, 0, 0, 0, 1, 0, 1}, p...) }
	}
	return []inwardFrame{
		{"in: UDP over IPv4", ip4(unix.IPPROTO_UDP, udp)},
		{"in: UDP over IPv6", ip6(unix.IPPROTO_UDP, 6, udp)},
		{"in: ICMP", ip4(unix.IPPROTO_ICMP, func(p []byte) []byte {
			message := echo(0)(p)
			binary.BigEndian.PutUint16(message[2:], netnstest.Checksum(message))
			return message
		})},
		{"in: ICMPv6", ip6(unix.IPPROTO_ICMPV6, 2, echo(129))},
		{"in: IP protocol 253", ip4(253, func(p []byte) []byte { return p })},
		{inSniffed, func(p []byte) []byte {
			return netnstest.Ether(bootHostMAC, farMAC, sniffedType, append(bytes.Clone(p), make([]byte, 46)...))
		}},
	}
}

// sniffedType is what only a packet socket gets.
const sniffedType = 0x88b5

// bootFlood numbers all of them.
func bootFlood(l *lab) (f *flood, inward []inwardFrame) {
	f, inward = newEmptyFlood(), inwardFrames()
	f.paths = l.outward()
	for _, in := range inward {
		f.paths = append(f.paths, &flow{path: path{name: in.name}})
	}
	return f, inward
}

// answer is what the world says to a frame that asks where it is.
func answer(frame []byte) []byte {
	if len(frame) < 14+28 {
		return nil
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_ARP:
		asked, _ := netip.AddrFromSlice(frame[14+24 : 14+28])
		if frame[14+7] != 1 || asked != peer4 {
			return nil
		}
		reply := append([]byte{0, 1, 8, 0, 6, 4, 0, 2}, farMAC...)
		reply = append(append(reply, peer4.AsSlice()...), frame[14+8:14+18]...)
		return netnstest.Ether(bootHostMAC, farMAC, unix.ETH_P_ARP, append(reply, make([]byte, 18)...))
	case unix.ETH_P_IPV6:
		if len(frame) < 14+64 || frame[14+6] != unix.IPPROTO_ICMPV6 || frame[14+40] != icmp6NeighborSolicitation {
			return nil
		}
		from, _ := netip.AddrFromSlice(frame[14+8 : 14+24])
		asked, _ := netip.AddrFromSlice(frame[14+48 : 14+64])
		if asked != peer6 || from.IsUnspecified() {
			return nil
		}
		message := netnstest.NeighborAdvertisement(peer6, from, farMAC)
		return netnstest.Ether(bootHostMAC, farMAC, unix.ETH_P_IPV6, netnstest.IP6(unix.IPPROTO_ICMPV6, 255, peer6, from, message))
	}
	return nil
}
