package isolation

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSpec(t *testing.T) {
	address := netip.MustParseAddrPort
	many := make([]netip.AddrPort, MaxNodes+1)
	for i := range many {
		many[i] = netip.AddrPortFrom(peer4, uint16(i+1))
	}
	for _, tt := range []struct {
		name  string
		nodes []netip.AddrPort
		want  string
	}{
		{"order and repetition", []netip.AddrPort{address("10.0.0.2:2"), address("10.0.0.1:1"), address("[::ffff:10.0.0.1]:1")}, "[10.0.0.1:1 10.0.0.2:2]"},
		{"loopback needs none", []netip.AddrPort{address("127.0.0.1:1"), address("[::1]:1")}, "[]"},
		{"zone", []netip.AddrPort{address("[fe80::1%eth0]:1")}, "[[fe80::1]:1]"},
		{"no port", []netip.AddrPort{address("10.0.0.1:0")}, "error"},
		{"everything", []netip.AddrPort{address("0.0.0.0:1")}, "error"},
		{"multicast", []netip.AddrPort{address("[ff02::1]:1")}, "error"},
		{"nothing", []netip.AddrPort{{}}, "error"},
		{"too many", many, "error"},
	} {
		normal, err := Spec{Nodes: tt.nodes}.normal()
		got := fmt.Sprint(normal.Nodes)
		if err != nil {
			got = "error"
		}
		if got != tt.want {
			t.Errorf("%s: got %s (%v), want %s", tt.name, got, err, tt.want)
		}
	}
	if got := (Spec{Nodes: []netip.AddrPort{address("10.0.0.1:7700")}}).LeftOpen(); !strings.Contains(strings.Join(got, "\n"), "10.0.0.1:7700") {
		t.Errorf("what is left open does not name the coordinator: %q", got)
	}
}

func TestOpeningsOfASpec(t *testing.T) {
	tcp := func(prefix string, port uint16) Opening {
		return Opening{Prefix: netip.MustParsePrefix(prefix), Protocol: unix.IPPROTO_TCP, Port: port}
	}
	many := make([]Opening, MaxOpenings+1)
	for i := range many {
		many[i] = tcp("192.0.2.0/24", uint16(i+1))
	}
	for _, tt := range []struct {
		name     string
		level    Level
		openings []Opening
		want     string // of an error; empty: none
	}{
		{"none", Jump, nil, ""},
		{"both versions", Jump, []Opening{tcp("192.0.2.0/24", 22), tcp("2001:db8::/32", 22)}, ""},
		{"as many as may be", Jump, many[1:], ""},
		{"one too many", Jump, many, "65 openings: at most 64"},
		{"repeated", Jump, append(slices.Clone(many[1:]), many[1]), ""},
		{"at another level", Full, many[:1], "only level jump has any"},
		{"at another level", EgressOnly, many[:1], "only level jump has any"},
		{"no level", 3, nil, "want full, egress-only or jump"},
		{"everywhere", Jump, []Opening{tcp("0.0.0.0/0", 22)}, "want /8 or longer"},
		{"wide", Jump, []Opening{tcp("2000::/3", 22)}, "want /32 or longer"},
		{"widest", Jump, []Opening{tcp("10.0.0.0/8", 22)}, ""},
		{"no port", Jump, []Opening{tcp("192.0.2.0/24", 0)}, "want a port"},
		{"no prefix", Jump, []Opening{{Protocol: unix.IPPROTO_UDP, Port: 1}}, "want an IPv4 or IPv6 prefix"},
		{"mapped", Jump, []Opening{tcp("::ffff:192.0.2.0/120", 1)}, "want an IPv4 or IPv6 prefix"},
		{"no network", Jump, []Opening{tcp("192.0.2.1/24", 1)}, "is 192.0.2.1/32 or 192.0.2.0/24 meant?"},
		{"multicast", Jump, []Opening{tcp("224.0.0.0/8", 1)}, "want unicast"},
		{"loopback", Jump, []Opening{tcp("127.0.0.0/8", 1)}, "want unicast"},
		{"broadcast", Jump, []Opening{tcp("255.255.255.255/32", 1)}, "want unicast"},
		{"protocol", Jump, []Opening{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Protocol: 1, Port: 1}}, "want 6 (TCP) or 17 (UDP)"},
	} {
		err := Spec{Level: tt.level, Openings: tt.openings}.Validate()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	open := Spec{Level: Jump, Openings: []Opening{
		tcp("192.0.2.0/24", 22),
		{Prefix: netip.MustParsePrefix("2001:db8::/32"), Protocol: unix.IPPROTO_UDP, Port: 53, Inbound: true},
	}}.LeftOpen()
	for _, want := range []string{
		"TCP to port 22 of 192.0.2.0/24, and the answers, unfragmented",
		"UDP from 2001:db8::/32 to port 53 of this host, and the answers, unfragmented",
	} {
		if !slices.Contains(open, want) {
			t.Errorf("what is left open does not say %q: %q", want, open)
		}
	}
	if open := (Spec{Level: EgressOnly}).LeftOpen(); !strings.Contains(strings.Join(open, "\n"), "everything that comes in") {
		t.Errorf("what is left open does not say that all comes in: %q", open)
	}
}

// Ensure that specs which mean the same are equal, and others are not: an equal one
// is not applied again.
func TestSpecEqual(t *testing.T) {
	tcp := Opening{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Protocol: unix.IPPROTO_TCP, Port: 22}
	inbound := tcp
	inbound.Inbound = true
	base := Spec{Level: Jump, Openings: []Opening{tcp, inbound}}
	for i, tt := range []struct {
		spec Spec
		want bool
	}{
		{Spec{Level: Jump, Openings: []Opening{inbound, tcp, tcp}}, true},
		{Spec{Level: Jump, Openings: []Opening{tcp}}, false},
		{Spec{Level: Jump}, false},
		{Spec{}, false},
		{Spec{Level: Jump, Openings: base.Openings, Nodes: testSpec().Nodes}, false},
	} {
		a, errA := base.normal()
		b, errB := tt.spec.normal()
		if got := a.equal(b); errA != nil || errB != nil || got != tt.want {
			t.Errorf("%d: got %t (%v, %v), want %t", i, got, errA, errB, tt.want)
		}
	}
}
