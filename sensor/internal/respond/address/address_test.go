package address

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type bench struct {
	*Table
	t          *testing.T
	host, peer *netnstest.Namespace
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t}
	b.host, b.peer = netnstest.Pair(t)
	table, err := Open(b.host.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	b.Table = table
	if err := table.Supported(); errors.Is(err, ErrNoEgress) {
		t.Skipf("SKIP: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	return b
}

func prefixes(t *testing.T, texts ...string) []netip.Prefix {
	t.Helper()
	p, err := Parse(texts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// passes counts, at the peer, what an ordinary sender and a packet socket that
// lies about the ethertype sent to an address.
func (b *bench) passes(to string) (ordinary, raw int) {
	b.t.Helper()
	capture := netnstest.NewCapture(b.t, b.peer, netnstest.PeerDevice)
	b.host.Must(b.t, "sending", func() error { return netnstest.SendUDP("", to, []byte("ordinary")) })
	target := netip.MustParseAddrPort(to)
	claim := netnstest.NewRaw(b.t, b.host, true)
	var frame []byte
	ethertype := uint16(unix.ETH_P_IP)
	datagram := netnstest.UDP(4000, target.Port(), []byte("claimed!"))
	if target.Addr().Is4() {
		frame = netnstest.IP4(unix.IPPROTO_UDP, netip.MustParseAddr(netnstest.HostIP4), target.Addr(), datagram, netnstest.Options{})
	} else {
		ethertype = unix.ETH_P_IPV6
		frame = netnstest.IP6(unix.IPPROTO_UDP, 64, netip.MustParseAddr(netnstest.HostIP6), target.Addr(), datagram)
	}
	frame = netnstest.Ether(b.peer.MAC(b.t, netnstest.PeerDevice), b.host.MAC(b.t, netnstest.HostDevice), ethertype, frame)
	_ = claim.Send(b.host.Index(b.t, netnstest.HostDevice), unix.ETH_P_ARP, frame)
	frames := capture.Frames(b.t)
	count := func(marker string) (n int) {
		for _, f := range frames {
			if bytes.Contains(f, []byte(marker)) {
				n++
			}
		}
		return n
	}
	return count("ordinary"), count("claimed!")
}

func (b *bench) expect(what, to string, want int) {
	b.t.Helper()
	if ordinary, raw := b.passes(to); ordinary != want || raw != want {
		b.t.Errorf("%s: %d ordinary and %d raw packets to %s passed, want %d each", what, ordinary, raw, to, want)
	}
}

// Ensure blocked prefixes are cut out and in, others are not, the coordinator
// stays, and the undo leaves nothing.
func TestBlock(t *testing.T) {
	b := newBench(t)
	b.host.Address(t, netnstest.HostDevice, "10.78.0.1/16")
	b.peer.Address(t, netnstest.PeerDevice, "10.78.0.2/16")
	b.peer.Address(t, netnstest.PeerDevice, "10.78.1.2/16")
	before := b.listing()
	node := netip.MustParseAddrPort("10.78.0.2:7700")
	spec := Spec{Prefixes: prefixes(t, "10.78.0.0/24", "10.78.0.7", "fd77::2", "203.0.113.0/25", "203.0.113.128/25"), Nodes: []netip.AddrPort{node}}
	if err := b.Apply(spec); err != nil {
		t.Fatal(err)
	}
	for i, tt := range []struct {
		to   string
		want int
	}{{"10.78.0.2:9999", 0}, {"[fd77::2]:9999", 0}, {"10.78.1.2:9999", 1}, {"10.77.0.2:9999", 1}} {
		b.expect(fmt.Sprint("blocked ", i), tt.to, tt.want)
	}
	if ordinary, _ := b.passes(node.String()); ordinary != 1 {
		t.Errorf("%d packets to the coordinator passed, want 1", ordinary)
	}
	if text, err := b.Probe(spec.Prefixes, nil); err != nil || !strings.Contains(text, "5 dropped") {
		t.Errorf("probe: got %q, %v", text, err)
	}
	// In: the peer sends from a blocked address.
	var listener net.PacketConn
	b.host.Must(t, "listening", func() (err error) { listener, err = net.ListenPacket("udp4", "10.78.0.1:9999"); return err })
	defer listener.Close()
	b.peer.Must(t, "sending", func() error {
		return errors.Join(netnstest.SendUDP("10.78.0.2:5", "10.78.0.1:9999", []byte("inbound")), netnstest.SendUDP("10.78.1.2:5", "10.78.0.1:9999", []byte("inbound")))
	})
	// The one from the blocked address was sent first.
	_ = listener.SetReadDeadline(time.Now().Add(slow.Deadline(5 * time.Second)))
	if _, from, err := listener.ReadFrom(make([]byte, 64)); err != nil || from.String() != "10.78.1.2:5" {
		t.Errorf("received from %v, %v", from, err)
	}
	if err := b.Remove(); err != nil {
		t.Fatal(err)
	}
	b.expect("removed", "10.78.0.2:9999", 1)
	if after := b.listing(); after != before {
		t.Errorf("left behind:\n%s", after)
	}
	if present, err := b.Present(); present || err != nil {
		t.Errorf("present: %v, %v", present, err)
	}
}

// listing is what a person sees; "" without nft.
func (b *bench) listing() string {
	b.t.Helper()
	var out []byte
	if _, err := exec.LookPath("nft"); err != nil {
		return ""
	}
	b.host.Must(b.t, "listing", func() (err error) { out, err = exec.Command("nft", "list", "ruleset").Output(); return err })
	return string(out)
}

// Ensure an established flow ends with the block.
func TestEstablishedFlowEnds(t *testing.T) {
	b := newBench(t)
	capture := netnstest.NewCapture(t, b.peer, netnstest.PeerDevice)
	b.host.Must(t, "flowing", func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9999, Addr: [4]byte{10, 77, 0, 2}}); err != nil {
			return err
		}
		if _, err := unix.Write(fd, []byte("flow")); err != nil {
			return err
		}
		if err := b.Apply(Spec{Prefixes: prefixes(t, "10.77.0.2")}); err != nil {
			return err
		}
		if _, err := unix.Write(fd, []byte("flow")); err == nil {
			t.Error("a write on the flow was not refused")
		}
		return nil
	})
	if got := capture.Count(t, []byte("flow")); got != 1 {
		t.Errorf("%d packets arrived, want the first only", got)
	}
}

// Ensure look-ups of the name and of all below it are dropped, in any case, over
// UDP and TCP, and others are not.
func TestLookups(t *testing.T) {
	b := newBench(t)
	started := time.Now()
	if err := b.Apply(Spec{Names: []string{"evil.example", "b.io"}}); err != nil {
		t.Fatal(err)
	}
	t.Logf("applied in %s", time.Since(started))
	long := strings.Repeat("a23456789.", 23)
	for name, want := range map[string]int{
		"evil.example": 0, "EVIL.eXample": 0, "www.evil.example": 0, "a.b.c.evil.example": 0, long + "evil.example": 0,
		"b.io": 0, "x.b.io": 0, long + "b.io": 0,
		"notevil.example": 1, "evil.example.org": 1, "evil.com": 1, "example": 1, "bb.io": 1, "io": 1,
	} {
		capture := netnstest.NewCapture(t, b.peer, netnstest.PeerDevice)
		question := append([]byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1}, wire(name)...)
		question = append(question, 0, 1, 0, 1, 0, 0, 41, 5, 0, 0, 0, 0, 0, 0, 0)
		b.host.Must(t, "asking", func() error {
			_ = netnstest.SendUDP("", "10.77.0.2:53", question)
			_ = netnstest.SendUDP("", "[fd77::2]:53", question)
			return nil
		})
		b.segment(append([]byte{byte(len(question) >> 8), byte(len(question))}, question...))
		if got := capture.Count(t, wire(name)); got != 3*want {
			t.Errorf("%s: %d of 3 questions passed, want %d", name, got, 3*want)
		}
	}
	if text, err := b.Probe(nil, []string{"evil.example"}); err != nil || !strings.Contains(text, "1 dropped") {
		t.Errorf("probe: got %q, %v", text, err)
	}
	b.expect("what is no question", "10.77.0.2:9999", 1)
}

// segment sends one TCP segment with options to port 53.
func (b *bench) segment(payload []byte) {
	b.t.Helper()
	header := make([]byte, 32)
	header[0], header[1], header[3], header[12], header[13] = 0x90, 0, 53, 8<<4, 0x18
	copy(header[20:], []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0})
	frame := netnstest.IP4(unix.IPPROTO_TCP, netip.MustParseAddr(netnstest.HostIP4), netip.MustParseAddr(netnstest.PeerIP4), append(header, payload...), netnstest.Options{})
	frame = netnstest.Ether(b.peer.MAC(b.t, netnstest.PeerDevice), b.host.MAC(b.t, netnstest.HostDevice), unix.ETH_P_IP, frame)
	_ = netnstest.NewRaw(b.t, b.host, false).Send(b.host.Index(b.t, netnstest.HostDevice), unix.ETH_P_IP, frame)
}

// Ensure who changes the table, and what changes around it, is answered.
func TestReconcile(t *testing.T) {
	b := newBench(t)
	spec := Spec{Prefixes: prefixes(t, "10.77.0.2")}
	for i, want := range []Drift{Surroundings, Unchanged, Unchanged} {
		if got, err := b.Reconcile(spec); got != want || err != nil {
			t.Fatalf("%d: got %v, %v; want %v", i, got, err, want)
		}
	}
	edit := func(fn func(c *nftables.Conn)) {
		t.Helper()
		conn, err := b.conn()
		if err != nil {
			t.Fatal(err)
		}
		fn(conn)
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Reconcile(spec); got != Tampered || err != nil {
			t.Errorf("got %v, %v; want tampered", got, err)
		}
		b.expect("put back", "10.77.0.2:9999", 0)
	}
	edit(func(c *nftables.Conn) { c.DelTable(table()) })
	edit(func(c *nftables.Conn) {
		c.FlushChain(&nftables.Chain{Name: "hit", Table: table()})
	})
	edit(func(c *nftables.Conn) {
		set, err := c.GetSetByName(table(), "blocked4")
		if err != nil {
			t.Fatal(err)
		}
		elements, err := c.GetSetElements(set)
		if err != nil || len(elements) == 0 {
			t.Fatalf("elements: %v, %v", elements, err)
		}
		set.Interval = true
		c.FlushSet(set)
	})
	// Another table is nobody's business here.
	conn, err := b.conn()
	if err != nil {
		t.Fatal(err)
	}
	conn.AddTable(&nftables.Table{Name: "other", Family: nftables.TableFamilyNetdev})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Reconcile(spec); got != Unchanged || err != nil {
		t.Errorf("another table: got %v, %v", got, err)
	}
	third := netnstest.New(t)
	netnstest.Wire(t, b.host, "host1", third, "third0")
	if got, err := b.Reconcile(spec); got != Surroundings || err != nil {
		t.Errorf("a new device: got %v, %v", got, err)
	}
}

// Ensure Watch tells of a change at once.
func TestWatch(t *testing.T) {
	b := newBench(t)
	changed, done := make(chan struct{}, 16), make(chan error, 1)
	ctx, cancel := contextOf(t)
	go func() {
		done <- b.Watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	<-changed
	if err := b.Apply(Spec{Prefixes: prefixes(t, "10.77.0.2")}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(slow.Deadline(5 * time.Second)):
		t.Error("a change was not told")
	}
	cancel()
	<-done
}

func TestRefusals(t *testing.T) {
	b := newBench(t)
	nodes := []netip.AddrPort{netip.MustParseAddrPort("198.51.100.7:7700"), netip.MustParseAddrPort("[2001:db8::7]:7700")}
	for text, want := range map[string]string{
		"0.0.0.0/0": "isolate instead", "10.0.0.0/7": "isolate instead", "::/0": "isolate instead", "2000::/15": "isolate instead",
		"127.0.0.1": "loopback", "::1": "loopback", "169.254.1.1": "link-local", "fe80::1": "link-local", "224.0.0.1": "multicast",
		"255.255.255.255": "multicast", "ff02::1": "multicast", "0.1.2.3": "this network", "::ffff:127.0.0.1": "loopback",
		"198.51.100.0/24": "coordinator node", "2001:db8::/32": "coordinator node", "10.77.0.1": "this host's own", "::ffff:198.51.100.7/128": "coordinator node",
		"10.77.0.0/24": "", "203.0.113.9": "", "2001:db9::/32": "",
	} {
		err := b.Refusal(prefixes(t, text)[0], nodes)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
	for _, text := range []string{"", "x", "1.2.3", "1.2.3.4/33", "fe80::1%eth0", "1.2.3.4/24/5"} {
		if got, err := Parse([]string{text}); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
	for _, text := range []string{"", ".", "com", "a..b", "-", "a b.c", "a\x00.b", strings.Repeat("a", 64) + ".b", strings.Repeat("a.", 128), "ä.de"} {
		if got, err := Name(text); err == nil {
			t.Errorf("name %q: got %q, want an error", text, got)
		}
	}
	if got, err := Name("WWW.Evil.Example."); got != "www.evil.example" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// Ensure a whole set of blocks is bounded and quick enough.
func TestMany(t *testing.T) {
	b := newBench(t)
	var spec Spec
	for i := range MaxPrefixes {
		spec.Prefixes = append(spec.Prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{203, byte(i >> 8), byte(i), 9}), 32))
	}
	started := time.Now()
	if err := b.Apply(spec); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d prefixes in %s", len(spec.Prefixes), time.Since(started))
	for i := range MaxNames + 1 {
		spec.Names = append(spec.Names, fmt.Sprintf("n%d.example", i))
	}
	if err := b.Apply(spec); !errors.Is(err, ErrRefused) {
		t.Errorf("too many names: got %v", err)
	}
	spec.Names = spec.Names[:MaxNames]
	started = time.Now()
	if err := b.Apply(spec); err != nil {
		t.Fatal(err)
	}
	t.Logf("with %d names in %s", len(spec.Names), time.Since(started))
	if got, err := b.Reconcile(spec); got != Unchanged || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

func FuzzPrefixes(f *testing.F) {
	f.Add("203.0.113.0/24", "203.0.113.128/25")
	f.Add("::ffff:1.2.3.4", "1.2.3.0/24")
	f.Fuzz(func(t *testing.T, a, b string) {
		p, err := Parse([]string{a, b})
		if err != nil {
			return
		}
		spec := Spec{Prefixes: p}.normal()
		for _, want := range p {
			held := false
			for _, got := range spec.Prefixes {
				held = held || got.Contains(want.Addr()) && got.Bits() <= want.Bits()
			}
			if !held {
				t.Errorf("%s is lost in %v", want, spec.Prefixes)
			}
		}
		for i := 1; i < len(spec.Prefixes); i++ {
			if spec.Prefixes[i-1].Overlaps(spec.Prefixes[i]) {
				t.Errorf("overlap in %v", spec.Prefixes)
			}
		}
	})
}

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(t.Context())
}
