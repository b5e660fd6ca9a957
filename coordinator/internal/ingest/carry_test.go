package ingest

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// Ensure addresses lead to the hosts that claim them, and to nobody who has left.
func TestPlaces(t *testing.T) {
	p := places{hosts: make(map[netip.Addr][]string), of: make(map[string][]netip.Addr)}
	p.add("a", []string{"10.0.0.1/24", "127.0.0.1/8", "fe80::1/64", "2001:db8::1", "nonsense", "10.0.0.1"})
	p.add("b", []string{"10.0.0.1", "::ffff:10.0.0.2"})
	for text, want := range map[string][]string{"10.0.0.1": {"a", "b"}, "10.0.0.2": {"b"}, "2001:db8::1": {"a"}, "127.0.0.1": nil, "fe80::1": nil} {
		if got := p.at(netip.MustParseAddr(text)); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
	p.add("a", []string{"10.0.0.9"}) // a new session with another address
	p.remove("b")
	if len(p.at(netip.MustParseAddr("10.0.0.1"))) != 0 || len(p.hosts) != 1 || len(p.of) != 1 {
		t.Errorf("left: %v, %v", p.hosts, p.of)
	}
	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprintf("10.1.%d.%d", i/250, i%250))
	}
	if p.add("c", many); len(p.of["c"]) != maxPlaces {
		t.Errorf("a host has %d addresses", len(p.of["c"]))
	}
}

// Ensure one host, and what is told to one, is limited by the minute, and the others are not by it.
func TestCarriedAllow(t *testing.T) {
	var c carried
	now := time.Unix(1_800_000_000, 0).Truncate(time.Minute)
	count := func(n int, from, to func(int) string, at time.Time) (told int) {
		for i := range n {
			if c.allow(from(i), to(i), at) {
				told++
			}
		}
		return told
	}
	one := func(name string) func(int) string { return func(int) string { return name } }
	each := func(name string) func(int) string { return func(i int) string { return fmt.Sprint(name, i) } }
	if got := count(1000, one("a"), each("b"), now); got != carriedFrom {
		t.Errorf("one host's word was passed on %d times", got)
	}
	if got := count(1000, each("x"), one("c"), now); got != carriedTo {
		t.Errorf("one host was told %d times", got)
	}
	if !c.allow("y", "z", now) || c.allow("a", "z", now) || !c.allow("a", "c", now.Add(time.Minute)) {
		t.Error("others are limited, or the minute does not end")
	}
	if count(10*maxCarriedHosts, each("m"), each("n"), now.Add(2*time.Minute)); len(c.from)+len(c.to) > 2*maxCarriedHosts {
		t.Errorf("%d hosts are counted", len(c.from)+len(c.to))
	}
}
