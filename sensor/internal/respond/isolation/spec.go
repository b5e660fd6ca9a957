package isolation

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// MaxNodes bounds the coordinator addresses that stay open: a list longer than
	// any cluster is an error or an attempt to widen the opening.
	MaxNodes = 32
	// MaxOpenings bounds what a jump host keeps open.
	MaxOpenings = 64
	// The widest prefixes that an opening may have. A wider one is no opening but
	// most of the Internet.
	widestOpening4, widestOpening6 = 8, 32
)

// Level is how much is cut.
type Level uint8

// Levels.
const (
	// Full cuts both directions. It is the zero value.
	Full Level = iota
	// EgressOnly lets everything in and nothing out but what Full lets out. A
	// container is on the other side of one of the host's devices, so that nothing
	// reaches it either.
	EgressOnly
	// Jump is Full with Spec.Openings.
	Jump
)

// String is the level's name in orders and reports.
func (l Level) String() string {
	switch l {
	case Full:
		return "full"
	case EgressOnly:
		return "egress-only"
	case Jump:
		return "jump"
	}
	return fmt.Sprintf("level %d", uint8(l))
}

// Opening is one service that stays reachable at level Jump, in both directions
// and without a memory of connections: that a table is replaced ends none.
type Opening struct {
	// Prefix is who may be at the other end. No bit is set behind its length.
	Prefix netip.Prefix
	// Protocol is 6 (TCP) or 17 (UDP).
	Protocol uint8
	// Port is that of the service: of Prefix, or of this host if Inbound.
	Port uint16
	// Inbound: Prefix connects to us. Else we connect to it.
	Inbound bool
}

// String is one opening for people.
func (o Opening) String() string {
	protocol := "UDP"
	if o.Protocol == unix.IPPROTO_TCP {
		protocol = "TCP"
	}
	if o.Inbound {
		return fmt.Sprintf("%s from %s to port %d of this host, and the answers", protocol, o.Prefix, o.Port)
	}
	return fmt.Sprintf("%s to port %d of %s, and the answers", protocol, o.Port, o.Prefix)
}

func (o Opening) validate() error {
	address, widest := o.Prefix.Addr(), widestOpening6
	if address.Is4() {
		widest = widestOpening4
	}
	switch {
	case o.Protocol != unix.IPPROTO_TCP && o.Protocol != unix.IPPROTO_UDP:
		return fmt.Errorf("opening for protocol %d: want 6 (TCP) or 17 (UDP)", o.Protocol)
	case o.Port == 0:
		return fmt.Errorf("opening for %s: want a port", o.Prefix)
	case !o.Prefix.IsValid() || address.Is4In6():
		return fmt.Errorf("opening for %s: want an IPv4 or IPv6 prefix such as 192.0.2.0/24", o.Prefix)
	case o.Prefix != o.Prefix.Masked():
		return fmt.Errorf("opening for %s: bits are set behind the prefix; is %s or %s meant?",
			o.Prefix, netip.PrefixFrom(address, address.BitLen()), o.Prefix.Masked())
	case o.Prefix.Bits() < widest:
		return fmt.Errorf("opening for %s: want /%d or longer, a wider one is no isolation", o.Prefix, widest)
	case address.IsUnspecified() || address.IsMulticast() || address.IsLoopback() || address == broadcast:
		return fmt.Errorf("opening for %s: want unicast addresses of other hosts", o.Prefix)
	}
	return nil
}

func (o Opening) compare(p Opening) int {
	inbound := func(o Opening) int {
		if o.Inbound {
			return 1
		}
		return 0
	}
	return cmp.Or(o.Prefix.Compare(p.Prefix), cmp.Compare(o.Protocol, p.Protocol),
		cmp.Compare(o.Port, p.Port), cmp.Compare(inbound(o), inbound(p)))
}

// Spec is what stays open besides loopback, address resolution and DHCP.
type Spec struct {
	// Nodes are the coordinator nodes' UDP endpoints, at most MaxNodes. Loopback
	// ones need no opening.
	Nodes []netip.AddrPort
	// Level is how much is cut.
	Level Level
	// Openings are for level Jump alone, at most MaxOpenings.
	Openings []Opening
}

// Validate says what is wrong with a spec before it is applied.
func (s Spec) Validate() error {
	_, err := s.normal()
	return err
}

func (s Spec) equal(o Spec) bool {
	return s.Level == o.Level && slices.Equal(s.Nodes, o.Nodes) && slices.Equal(s.Openings, o.Openings)
}

// normal is the spec as the kernel sees it: unmapped, without zones, loopback or
// repetitions, in one order.
func (s Spec) normal() (Spec, error) {
	var nodes []netip.AddrPort
	for _, node := range s.Nodes {
		address := node.Addr().Unmap().WithZone("")
		switch {
		case !address.IsValid() || address.IsUnspecified() || address.IsMulticast() || node.Port() == 0:
			return Spec{}, fmt.Errorf("coordinator address %s: want one unicast address and a port", node)
		case address.IsLoopback():
			continue
		}
		nodes = append(nodes, netip.AddrPortFrom(address, node.Port()))
	}
	slices.SortFunc(nodes, netip.AddrPort.Compare)
	nodes = slices.Compact(nodes)
	if len(nodes) > MaxNodes {
		return Spec{}, fmt.Errorf("%d coordinator addresses: at most %d can stay open", len(nodes), MaxNodes)
	}
	switch {
	case s.Level > Jump:
		return Spec{}, fmt.Errorf("isolation %s: want %s, %s or %s", s.Level, Full, EgressOnly, Jump)
	case s.Level != Jump && len(s.Openings) > 0:
		return Spec{}, fmt.Errorf("%d openings at level %s: only level %s has any", len(s.Openings), s.Level, Jump)
	}
	for _, opening := range s.Openings {
		if err := opening.validate(); err != nil {
			return Spec{}, err
		}
	}
	openings := slices.Clone(s.Openings)
	slices.SortFunc(openings, Opening.compare)
	openings = slices.Compact(openings)
	if len(openings) > MaxOpenings {
		return Spec{}, fmt.Errorf("%d openings: at most %d can stay open", len(openings), MaxOpenings)
	}
	return Spec{Nodes: nodes, Level: s.Level, Openings: openings}, nil
}

// LeftOpen says, for people, all that passes an isolation of this spec.
func (s Spec) LeftOpen() []string {
	open := []string{
		"loopback",
		"ARP requests and replies",
		"IPv6 neighbour discovery with hop limit 255: solicitations and advertisements on the link, router solicitation out, router advertisement in",
		"DHCPv4 client: UDP 68 to 255.255.255.255:67 out, UDP 67 to 68 in",
		"DHCPv6 client: link-local UDP 546 to ff02::1:2 port 547 out, link-local UDP 547 to 546 in",
	}
	normal, err := s.normal()
	if err != nil {
		return open
	}
	if normal.Level == EgressOnly {
		open = append(open, "everything that comes in, but not to containers")
	}
	for _, node := range normal.Nodes {
		open = append(open, fmt.Sprintf("coordinator %s: UDP to it and from it, unfragmented", node))
	}
	for _, opening := range normal.Openings {
		open = append(open, opening.String()+", unfragmented")
	}
	return open
}

// NotCut says, for people, what this package is known not to cut. Each is
// measured by the leak matrix, or cannot be on one machine. With beside, the sensor's other
// layer is in force, which cuts all of them that it does not name itself.
func NotCut(beside bool) []string {
	// Each has its own chain; see readers for why. From Linux 6.16 on chains wait for the
	// names that the kernel gives to adapters, from 6.17 on for strangers' of any kind.
	always := []string{"a device that comes while the sensor does not run, until it does: not so network adapters from Linux 6.16 on, and from 6.17 on only a device whose name begins as those of many others that were there"}
	if beside {
		return always
	}
	return append(always,
		// __dev_direct_xmit and the drivers' zero-copy paths have no netfilter hook.
		"AF_XDP sockets (they need CAP_NET_RAW)",
		// tc runs before the ingress hook, and a redirect from there skips the egress
		// hook (nf_skip_egress).
		"packets that a traffic-control or XDP program on one device redirects to another (some container networks do)",
		"a device that is moved to another network namespace while isolated",
		// ptype_all is served before the ingress hook.
		"what comes in, from AF_PACKET sockets of this host (they need CAP_NET_RAW)",
	)
}
