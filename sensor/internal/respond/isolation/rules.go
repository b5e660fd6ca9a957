package isolation

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

type direction bool

const (
	ingress direction = false
	egress  direction = true
)

// String is the name of the direction's entry chain.
func (d direction) String() string {
	if d == egress {
		return "egress"
	}
	return "ingress"
}

// The netdev family's hooks (linux/netfilter.h).
func (d direction) hook() uint32 {
	if d == egress {
		return unix.NF_NETDEV_EGRESS
	}
	return unix.NF_NETDEV_INGRESS
}

// directions are those that a level cuts. What is not cut has no chain.
func (l Level) directions() []direction {
	if l == EgressOnly {
		return []direction{egress}
	}
	return []direction{ingress, egress}
}

func (d direction) deviceType() expr.MetaKey {
	if d == egress {
		return expr.MetaKeyOIFTYPE
	}
	return expr.MetaKeyIIFTYPE
}

func (d direction) deviceIndex() expr.MetaKey {
	if d == egress {
		return expr.MetaKeyOIF
	}
	return expr.MetaKeyIIF
}

func (d direction) counter() string {
	if d == egress {
		return counterEgress
	}
	return counterIngress
}

// Named counters: the rules that use them stay the same bytes while they count,
// so that a fingerprint of the rules is stable.
const (
	counterIngress = "dropped_ingress"
	counterEgress  = "dropped_egress"
	counterProbe   = "probe"
)

// loopbackIndex is the number of lo in every namespace (LOOPBACK_IFINDEX).
const loopbackIndex = 1

const (
	arpMaxBytes       = 64 // Ethernet minimum without checksum is 60; more is not ARP but a tunnel in it
	ndMaxPayloadBytes = 160

	icmp6RouterSolicitation    = 133
	icmp6RouterAdvertisement   = 134
	icmp6NeighborSolicitation  = 135
	icmp6NeighborAdvertisement = 136
)

// headerless are the device types whose frames start with the IP header; the
// link-layer type of all others must be Ethernet or nothing is accepted there.
var headerless = []uint16{
	unix.ARPHRD_NONE, unix.ARPHRD_RAWIP, unix.ARPHRD_PPP, unix.ARPHRD_TUNNEL,
	unix.ARPHRD_TUNNEL6, unix.ARPHRD_SIT, unix.ARPHRD_IPGRE, unix.ARPHRD_IP6GRE,
}

var (
	linkLocal          = netip.MustParsePrefix("fe80::/10")
	linkScopeMulticast = netip.MustParsePrefix("ff02::/16")
	broadcast          = netip.MustParseAddr("255.255.255.255")
	allDHCPv6          = netip.MustParseAddr("ff02::1:2")
)

type rule = []expr.Any

type chain struct {
	name  string
	rules []rule
}

type filter struct {
	nodes    []netip.AddrPort
	openings []Opening
	onLink   []netip.Prefix
	nonce    [probeNonceBytes]byte
}

func newFilter(a *applied) filter {
	return filter{nodes: a.spec.Nodes, openings: a.spec.Openings, onLink: a.surround.onLink, nonce: a.nonce}
}

// chains are the direction's chains, the entry chain last so that it can jump.
func (f filter) chains(d direction) []chain {
	ip4 := chain{d.String() + "_ip4", f.ip4(d)}
	ip6 := chain{d.String() + "_ip6", f.ip6(d)}
	return []chain{ip4, ip6, {d.String(), f.entry(d, ip4.name, ip6.name)}}
}

// entry sorts frames by what they are. The ethertype is compared twice: once as
// the kernel believes it (a sender on AF_PACKET may claim any) and once as it is
// on the wire, where a VLAN tag shows as well. Only when both agree is the frame
// what it says; otherwise a whole IP packet could leave claimed to be ARP.
func (f filter) entry(d direction, ip4, ip6 string) []rule {
	ethernet := func(ethertype uint16) rule {
		return join(
			metaIs(d.deviceType(), native16(unix.ARPHRD_ETHER)),
			metaIs(expr.MetaKeyPROTOCOL, big16(ethertype)),
			fieldIs(link, 12, big16(ethertype)),
		)
	}
	rules := []rule{
		// A tun device may call itself loopback, but has not its number.
		join(metaIs(d.deviceType(), native16(unix.ARPHRD_LOOPBACK)),
			metaIs(d.deviceIndex(), native32(loopbackIndex)), verdict(expr.VerdictAccept)),
		join(ethernet(unix.ETH_P_IP), jump(ip4)),
		join(ethernet(unix.ETH_P_IPV6), jump(ip6)),
		// Ethernet and IPv4 only, 6 and 4 byte addresses, request and reply.
		join(ethernet(unix.ETH_P_ARP), arp(1), verdict(expr.VerdictAccept)),
		join(ethernet(unix.ETH_P_ARP), arp(2), verdict(expr.VerdictAccept)),
	}
	for _, kind := range headerless {
		rules = append(rules,
			join(metaIs(d.deviceType(), native16(kind)), metaIs(expr.MetaKeyPROTOCOL, big16(unix.ETH_P_IP)), jump(ip4)),
			join(metaIs(d.deviceType(), native16(kind)), metaIs(expr.MetaKeyPROTOCOL, big16(unix.ETH_P_IPV6)), jump(ip6)),
		)
	}
	if d == egress {
		for _, probe := range probes(f.nonce) {
			rules = append(rules, join(
				metaIs(expr.MetaKeyPROTOCOL, big16(probe.ethertype)),
				fieldIs(network, probe.payloadOffset, f.nonce[:]),
				count(counterProbe),
			))
		}
	}
	return append(rules, join(count(d.counter()), verdict(expr.VerdictDrop)))
}

func arp(operation uint16) rule {
	return join(
		fieldIs(network, 0, []byte{0, 1, 8, 0, 6, 4}),
		fieldIs(network, 6, big16(operation)),
		&expr.Meta{Key: expr.MetaKeyLEN, Register: register},
		// Comparing for order is comparing bytes, so the number goes big-endian first.
		&expr.Byteorder{SourceRegister: register, DestRegister: register, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLte, Register: register, Data: binary.BigEndian.AppendUint32(nil, arpMaxBytes)},
	)
}

// ip4 accepts no options (source routes) and no fragment, first or later: QUIC
// sets DF and DHCP fits every link.
func (f filter) ip4(d direction) []rule {
	rules := []rule{
		join(fieldIsNot(network, 0, []byte{0x45}), verdict(expr.VerdictReturn)),
		join(masked(network, 6, []byte{0x3f, 0xff}), differs([]byte{0, 0}), verdict(expr.VerdictReturn)),
	}
	rules = append(rules, f.opened(d, true)...)
	rules = append(rules, join(fieldIsNot(network, 9, []byte{unix.IPPROTO_UDP}), verdict(expr.VerdictReturn)))
	if d == egress {
		// Broadcast only: a unicast renewal looks the same as a tunnel to any host, and
		// a client that gets no answer to it rebinds by broadcast before its lease ends.
		rules = append(rules, join(address(d, broadcast), ports(68, 67), verdict(expr.VerdictAccept)))
	} else {
		rules = append(rules, join(ports(67, 68), verdict(expr.VerdictAccept)))
	}
	return append(rules, f.coordinators(d, netip.Addr.Is4)...)
}

// ip6 looks at the first header only: with any extension header before it (a
// fragment, a routing header) a packet is not accepted.
func (f filter) ip6(d direction) []rule {
	var rules []rule
	types := []byte{icmp6RouterAdvertisement, icmp6NeighborSolicitation, icmp6NeighborAdvertisement}
	near := []netip.Prefix{{}}
	if d == egress {
		types[0] = icmp6RouterSolicitation
		// A neighbour message to an address off the link would be routed there.
		near = append([]netip.Prefix{linkLocal, linkScopeMulticast}, f.onLink...)
	}
	for _, kind := range types {
		for _, prefix := range near {
			message := join(
				fieldIs(network, 6, []byte{unix.IPPROTO_ICMPV6, 255}),
				fieldIs(transport, 0, []byte{kind, 0}),
			)
			if prefix.IsValid() {
				message = join(message, within(d, prefix))
			}
			if kind != icmp6RouterAdvertisement {
				message = join(message,
					&expr.Payload{Base: network, Offset: 4, Len: 2, DestRegister: register},
					&expr.Cmp{Op: expr.CmpOpLte, Register: register, Data: big16(ndMaxPayloadBytes)})
			}
			rules = append(rules, join(message, verdict(expr.VerdictAccept)))
		}
	}
	rules = append(rules, f.opened(d, false)...)
	rules = append(rules, join(fieldIsNot(network, 6, []byte{unix.IPPROTO_UDP}), verdict(expr.VerdictReturn)))
	if d == egress {
		rules = append(rules, join(source(linkLocal), address(d, allDHCPv6), ports(546, 547), verdict(expr.VerdictAccept)))
	} else {
		rules = append(rules, join(source(linkLocal), destination(linkLocal), ports(547, 546), verdict(expr.VerdictAccept)))
	}
	return append(rules, f.coordinators(d, netip.Addr.Is6)...)
}

func (f filter) coordinators(d direction, family func(netip.Addr) bool) []rule {
	var rules []rule
	for _, node := range f.nodes {
		if !family(node.Addr()) {
			continue
		}
		offset := uint32(0) // source port
		if d == egress {
			offset = 2
		}
		rules = append(rules, join(address(d, node.Addr()), fieldIs(transport, offset, big16(node.Port())), verdict(expr.VerdictAccept)))
	}
	return rules
}

const (
	tcpFlags = 13 // offset in the header
	tcpRST   = 0x04
	tcpACK   = 0x10
)

// opened are the rules of the openings of one IP version. Whoever answers may not
// ask: without ACK or RST no segment comes from the serving side, so that none can
// begin a connection in the other direction. UDP does not tell the two apart.
func (f filter) opened(d direction, is4 bool) []rule {
	var rules []rule
	for _, opening := range f.openings {
		if opening.Prefix.Addr().Is4() != is4 {
			continue
		}
		protocol := uint32(6) // next header
		if is4 {
			protocol = 9
		}
		// The service's side is the source when it answers: what we serve going out,
		// what they serve coming in.
		answer := opening.Inbound == (d == egress)
		port := uint32(2)
		if answer {
			port = 0
		}
		r := join(
			fieldIs(network, protocol, []byte{opening.Protocol}),
			within(d, opening.Prefix),
			fieldIs(transport, port, big16(opening.Port)),
		)
		if answer && opening.Protocol == unix.IPPROTO_TCP {
			r = join(r, masked(transport, tcpFlags, []byte{tcpACK | tcpRST}), differs([]byte{0}))
		}
		rules = append(rules, join(r, verdict(expr.VerdictAccept)))
	}
	return rules
}

// The expressions. All use one register.
const (
	register  = unix.NFT_REG_1
	link      = expr.PayloadBaseLLHeader
	network   = expr.PayloadBaseNetworkHeader
	transport = expr.PayloadBaseTransportHeader
)

// join flattens expressions and rules into one rule.
func join(parts ...any) rule {
	var out rule
	for _, part := range parts {
		switch part := part.(type) {
		case rule:
			out = append(out, part...)
		case expr.Any:
			out = append(out, part)
		default:
			panic("isolation: a rule has a part that is no expression")
		}
	}
	return out
}

func big16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

func native16(v uint16) []byte { return binary.NativeEndian.AppendUint16(nil, v) }

func native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func verdict(kind expr.VerdictKind) rule { return rule{&expr.Verdict{Kind: kind}} }

func jump(to string) rule { return rule{&expr.Verdict{Kind: expr.VerdictJump, Chain: to}} }

func count(counter string) rule {
	return rule{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter}}
}

func metaIs(key expr.MetaKey, want []byte) rule {
	return rule{&expr.Meta{Key: key, Register: register}, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: want}}
}

func fieldIs(base expr.PayloadBase, offset uint32, want []byte) rule {
	return rule{
		&expr.Payload{Base: base, Offset: offset, Len: uint32(len(want)), DestRegister: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: want},
	}
}

func fieldIsNot(base expr.PayloadBase, offset uint32, unwanted []byte) rule {
	return rule{
		&expr.Payload{Base: base, Offset: offset, Len: uint32(len(unwanted)), DestRegister: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: unwanted},
	}
}

func masked(base expr.PayloadBase, offset uint32, mask []byte) rule {
	size := uint32(len(mask))
	return rule{
		&expr.Payload{Base: base, Offset: offset, Len: size, DestRegister: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: size, Mask: mask, Xor: make([]byte, size)},
	}
}

func differs(from []byte) rule {
	return rule{&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: from}}
}

func ports(from, to uint16) rule { return fieldIs(transport, 0, append(big16(from), big16(to)...)) }

// address is the remote end: the destination going out, the source coming in.
func address(d direction, remote netip.Addr) rule {
	return fieldIs(network, remoteOffset(d, remote.Is4()), remote.AsSlice())
}

func remoteOffset(d direction, is4 bool) uint32 {
	switch {
	case d == egress && is4:
		return 16
	case d == egress:
		return 24
	case is4:
		return 12
	}
	return 8
}

func source(prefix netip.Prefix) rule { return inPrefix(8, prefix) }

func destination(prefix netip.Prefix) rule { return inPrefix(24, prefix) }

func within(d direction, prefix netip.Prefix) rule {
	return inPrefix(remoteOffset(d, prefix.Addr().Is4()), prefix)
}

func inPrefix(offset uint32, prefix netip.Prefix) rule {
	want := prefix.Masked().Addr().AsSlice()
	mask := make([]byte, len(want))
	for bit := range prefix.Bits() {
		mask[bit/8] |= 0x80 >> (bit % 8)
	}
	return join(masked(network, offset, mask), &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: want})
}
