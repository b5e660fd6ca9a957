package kernel

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/mdlayher/netlink"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
)

// Ensure what the kernel turns off on a device for generic XDP is as it was when the
// programs go: by the sensor that put them there, by the next one, and by root.
func TestCutGivesBack(t *testing.T) {
	const lro, hwGRO = 1, 2
	l := newCutLab(t)
	handle := l.host.Handle(t)
	attrs := vnl.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "above9", l.index
	if err := handle.LinkAdd(&vnl.Macvlan{LinkAttrs: attrs, Mode: vnl.MACVLAN_MODE_BRIDGE}); err != nil {
		t.Skipf("SKIP: needs macvlan, a device that can have LRO: %v", err)
	}
	index := l.host.Index(t, "above9")
	wanted := func() (bits uint32) {
		t.Helper()
		l.host.Must(t, "reading features", func() (err error) { bits, err = wantedFeatures(index); return err })
		return bits
	}
	want := func(when string, bits uint32) {
		t.Helper()
		if got := wanted(); got != bits {
			t.Errorf("%s: features %d are wanted, want %d", when, got, bits)
		}
	}
	taken := func(c *Cut) (n int) {
		t.Helper()
		all := map[uint32]uint32{}
		if err := readTaken(c.collection.Maps["cut_taken"], all); err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	want("made", 0)
	// One that it cannot have is asked for, too: it is no error and changes nothing.
	l.host.Must(t, "turning LRO on", func() error { return wantFeatures(index, lro|hwGRO) })
	if wanted() != lro {
		t.Skip("SKIP: needs a macvlan that can have LRO")
	}
	cut := func(c *Cut) {
		t.Helper()
		c.Set(CutAll)
		for range 2 {
			if err := errors.Join(c.Keep(), c.Reconcile()); err != nil {
				t.Fatal(err)
			}
		}
		want("cut", 0)
	}
	release := func(c *Cut) {
		t.Helper()
		c.Set(CutNone)
		if err := c.Unkeep(); err != nil {
			t.Fatal(err)
		}
		want("released", lro)
		l.wantXDP(t, "released", "", "above9")
		if n := taken(c); n != 0 {
			t.Errorf("%d devices are remembered after the release", n)
		}
	}
	cut(l.cut)
	if n := taken(l.cut); n != 1 {
		t.Errorf("%d devices are remembered, want 1", n)
	}
	release(l.cut)

	cut(l.cut)
	if err := l.cut.Close(); err != nil {
		t.Fatal(err)
	}
	next := openCut(t, l.host)
	cut(next) // handed over
	release(next)

	cut(next)
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	third := openCut(t, l.host)
	if err := third.look(); err != nil { // not isolated
		t.Fatal(err)
	}
	want("ended by the next sensor", lro)

	cut(third)
	if err := errors.Join(third.Close(), RemoveKept(l.host.Path())); err != nil {
		t.Fatal(err)
	}
	want("ended by root", lro)
	l.wantXDP(t, "ended by root", "", "above9")
}

// Ensure the kernel's two ways to write a set of features are read.
func TestDecodeFeatures(t *testing.T) {
	type bit struct {
		name  string
		value bool
	}
	set := func(e *netlink.AttributeEncoder, kind uint16, noMask bool, bits ...bit) {
		e.Nested(kind, func(e *netlink.AttributeEncoder) error {
			e.Flag(unix.ETHTOOL_A_BITSET_NOMASK, noMask)
			e.Uint32(unix.ETHTOOL_A_BITSET_SIZE, 64)
			e.Nested(unix.ETHTOOL_A_BITSET_BITS, func(e *netlink.AttributeEncoder) error {
				for i, b := range bits {
					e.Nested(unix.ETHTOOL_A_BITSET_BITS_BIT, func(e *netlink.AttributeEncoder) error {
						e.Uint32(unix.ETHTOOL_A_BITSET_BIT_INDEX, uint32(i)) //nolint:gosec // few
						e.String(unix.ETHTOOL_A_BITSET_BIT_NAME, b.name)
						e.Flag(unix.ETHTOOL_A_BITSET_BIT_VALUE, b.value)
						return nil
					})
				}
				return nil
			})
			return nil
		})
	}
	for _, test := range []struct {
		name   string
		noMask bool
		hw     []bit
		wanted []bit
		want   uint32
	}{
		{"none", true, nil, nil, 0},
		{"both", true, []bit{{"rx-lro", true}, {"rx-gro-hw", true}}, []bit{{"rx-gro", false}, {"rx-lro", false}, {"rx-gro-hw", false}}, 3},
		{"one is fixed", true, []bit{{"rx-lro", false}, {"rx-gro-hw", true}}, []bit{{"rx-lro", false}, {"rx-gro-hw", false}}, 2},
		{"with a mask", false, []bit{{"rx-lro", true}, {"rx-gro-hw", true}}, []bit{{"rx-lro", true}, {"rx-gro-hw", false}}, 1},
	} {
		e := netlink.NewAttributeEncoder()
		set(e, unix.ETHTOOL_A_FEATURES_HW, false, test.hw...)
		set(e, unix.ETHTOOL_A_FEATURES_WANTED, test.noMask, test.wanted...)
		body, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeFeatures(body); err != nil || got != test.want {
			t.Errorf("%s: %d, %v, want %d", test.name, got, err, test.want)
		}
	}
	if _, err := decodeFeatures([]byte{9, 0, 2}); err == nil {
		t.Error("a cut answer is read")
	}
}

// Ensure what comes before packet sockets judges a frame as the hook after it does: the
// same open ones, and whatever differs from them in a few bytes or in length.
func TestSniffAgrees(t *testing.T) {
	l := newCutLab(t)
	l.cut.Set(CutAll)
	judge := func(program string, frame []byte) int32 {
		t.Helper()
		verdict, err := l.cut.collection.Programs[program].Run(&ebpf.RunOptions{Data: frame})
		if err != nil {
			t.Fatalf("running %s over %x: %v", program, frame, err)
		}
		return int32(verdict) //nolint:gosec // it is one
	}
	const next, pass, drop, header = -1, 2, 1, 14
	none := netnstest.Options{}
	v4 := func(from, to uint16) []byte {
		return netnstest.IP4(unix.IPPROTO_UDP, peer4, host4, netnstest.UDP(from, to, []byte("payload")), none)
	}
	v6 := func(next, hops byte, payload []byte) []byte { return netnstest.IP6(next, hops, peer6, host6, payload) }
	arp := append([]byte{0, 1, 8, 0, 6, 4, 0, 2}, make([]byte, 38)...)
	open := []struct {
		ethertype uint16
		payload   []byte
	}{
		{unix.ETH_P_IP, v4(cutNodePort, 4444)}, {unix.ETH_P_IP, v4(67, 68)},
		{unix.ETH_P_IPV6, v6(unix.IPPROTO_UDP, 64, netnstest.UDP(cutNodePort, 4444, []byte("payload")))},
		{unix.ETH_P_IPV6, v6(unix.IPPROTO_ICMPV6, 255, netnstest.NeighborSolicitation(peer6, host6, host6, nil))},
		{unix.ETH_P_ARP, arp},
	}
	random := rand.New(rand.NewPCG(1, 2))
	passed, dropped := 0, 0
	for _, o := range open {
		frame := netnstest.Ether(l.hostMAC, l.peerMAC, o.ethertype, o.payload)
		if v := judge("cut_sniff", frame); v != pass {
			t.Errorf("what is open is judged %d: %x", v, frame)
		}
		if o.ethertype != unix.ETH_P_ARP && judge("cut_sniff_bare", o.payload) != pass {
			t.Errorf("what is open on a bare device is shut: %x", o.payload)
		}
		if judge("cut_sniff_closed", frame) != drop {
			t.Error("something is open where nothing is known")
		}
		for range 300 {
			changed := append([]byte{}, frame...)
			for range random.IntN(3) {
				changed[12+random.IntN(len(changed)-12)] = byte(random.Uint32())
			}
			changed = append(changed, make([]byte, random.IntN(2)*random.IntN(60))...)
			// The kernel runs nothing over a frame that has no whole network header.
			changed = changed[:max(min(header+40, len(changed)), len(changed)-random.IntN(2)*random.IntN(60))]
			sniffed, after := judge("cut_sniff", changed), judge("cut_in", changed)
			if (sniffed == pass) != (after == next) {
				t.Errorf("before packet sockets %d, at tc %d: %x", sniffed, after, changed)
			}
			if sniffed == pass {
				passed++
			} else {
				dropped++
			}
		}
	}
	if passed < 100 || dropped < 100 {
		t.Errorf("%d passed and %d were dropped: they prove little", passed, dropped)
	}
	for _, level := range []CutLevel{CutNone, CutEgress} {
		l.cut.Set(level)
		if judge("cut_sniff", netnstest.Ether(l.hostMAC, l.peerMAC, foreignType, make([]byte, 40))) != pass {
			t.Errorf("level %d: what comes in is dropped", level)
		}
	}
}
