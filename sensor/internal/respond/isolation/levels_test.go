package isolation

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// refusedAfter is how long a connection is tried that must not come about.
const refusedAfter = 300 * time.Millisecond

func jumpSpec() Spec {
	spec := testSpec()
	spec.Level = Jump
	for _, version := range []struct{ exact, net string }{
		{netnstest.PeerIP4 + "/32", "10.77.0.0/24"}, {netnstest.PeerIP6 + "/128", "fd77::/64"},
	} {
		exact, net := netip.MustParsePrefix(version.exact), netip.MustParsePrefix(version.net)
		spec.Openings = append(spec.Openings,
			Opening{Prefix: exact, Protocol: unix.IPPROTO_TCP, Port: 443},
			Opening{Prefix: exact, Protocol: unix.IPPROTO_TCP, Port: 8443}, // nobody serves it
			Opening{Prefix: exact, Protocol: unix.IPPROTO_UDP, Port: 53},
			Opening{Prefix: net, Protocol: unix.IPPROTO_TCP, Port: 22, Inbound: true},
			Opening{Prefix: net, Protocol: unix.IPPROTO_TCP, Port: 2222, Inbound: true}, // nor this
			Opening{Prefix: net, Protocol: unix.IPPROTO_UDP, Port: 161, Inbound: true},
		)
	}
	return spec
}

// serve answers TCP connections with what they say until the test ends.
func serve(t *testing.T, n *netnstest.Namespace, port int) {
	t.Helper()
	var listener net.Listener
	n.Must(t, "listening", func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	done := make(chan struct{})
	t.Cleanup(func() { _ = listener.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(slow.Deadline(10 * time.Second)))
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
}

// talk connects from a port, or any when 0, and wants its bytes back.
func talk(n *netnstest.Namespace, from int, to string, within time.Duration) error {
	return n.Do(func() error {
		dialer := net.Dialer{Timeout: within}
		if from != 0 {
			dialer.LocalAddr = &net.TCPAddr{Port: from}
			dialer.Control = func(_, _ string, raw syscall.RawConn) error { return reuse(raw) }
		}
		conn, err := dialer.Dial("tcp", to)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
			return err
		}
		if _, err := conn.Write([]byte("ping")); err != nil {
			return err
		}
		_, err = io.ReadFull(conn, make([]byte, 4))
		return err
	})
}

// Ensure that at level Jump exactly the openings pass, and no connection comes about
// in the other direction.
func TestOpenings(t *testing.T) {
	host, peer := netnstest.Pair(t)
	barrier := openBarrier(t, host)
	for _, port := range []int{22, 23, 5000} {
		serve(t, host, port)
	}
	for _, port := range []int{443, 444, 5000} {
		serve(t, peer, port)
	}
	connections := []struct {
		what string
		from *netnstest.Namespace
		port int // of the source
		to   string
		open bool
	}{
		{"outbound", host, 0, "10.77.0.2:443", true},
		{"outbound, IPv6", host, 0, "[fd77::2]:443", true},
		{"outbound to another port", host, 0, "10.77.0.2:444", false},
		{"outbound to another port, IPv6", host, 0, "[fd77::2]:444", false},
		{"outbound from what is open inbound", host, 2222, "10.77.0.2:5000", false},
		{"outbound from what is open inbound, IPv6", host, 2222, "[fd77::2]:5000", false},
		{"inbound", peer, 0, "10.77.0.1:22", true},
		{"inbound, IPv6", peer, 0, "[fd77::1]:22", true},
		{"inbound to another port", peer, 0, "10.77.0.1:23", false},
		{"inbound from what is open outbound", peer, 8443, "10.77.0.1:5000", false},
		{"inbound from what is open outbound, IPv6", peer, 8443, "[fd77::1]:5000", false},
	}
	for _, c := range connections {
		if err := talk(c.from, c.port, c.to, slow.Deadline(5*time.Second)); err != nil {
			t.Errorf("before: %s: %v", c.what, err)
		}
	}
	if err := barrier.Apply(jumpSpec()); err != nil {
		t.Fatal(err)
	}
	for _, c := range connections {
		within := refusedAfter
		if c.open {
			within = slow.Deadline(5 * time.Second)
		}
		if err := talk(c.from, c.port, c.to, within); (err == nil) != c.open {
			t.Errorf("%s: got %v, want open %t", c.what, err, c.open)
		}
	}
	testOpeningFrames(t, host, peer)
}

// testOpeningFrames is what an ordinary socket does not send.
func testOpeningFrames(t *testing.T, host, peer *netnstest.Namespace) {
	index := host.Index(t, netnstest.HostDevice)
	hostMAC, peerMAC := host.MAC(t, netnstest.HostDevice), peer.MAC(t, netnstest.PeerDevice)
	raw := netnstest.NewRaw(t, host, false)
	capture := netnstest.NewCapture(t, peer, netnstest.PeerDevice)
	tcp := func(from, to uint16, flags byte) func([]byte) []byte {
		return func(p []byte) []byte { return netnstest.TCP(from, to, flags, p) }
	}
	udp := func(from, to uint16) func([]byte) []byte {
		return func(p []byte) []byte { return netnstest.UDP(from, to, p) }
	}
	const none = 0xff // any protocol but the segment's
	for i, tt := range []struct {
		what     string
		protocol byte
		make     func([]byte) []byte
		to4, to6 netip.Addr
		fragment uint16
		open     bool
	}{
		{"the beginning of an outbound connection", unix.IPPROTO_TCP, tcp(4444, 443, netnstest.SYN), peer4, peer6, 0, true},
		{"the same to another host", unix.IPPROTO_TCP, tcp(4444, 443, netnstest.SYN), world4, world6, 0, false},
		{"its source port for its destination port", unix.IPPROTO_TCP, tcp(443, 4444, netnstest.ACK), peer4, peer6, 0, false},
		{"a fragment", unix.IPPROTO_TCP, tcp(4444, 443, netnstest.SYN), peer4, netip.Addr{}, 0x2000, false},
		{"UDP for TCP", unix.IPPROTO_UDP, udp(4444, 443), peer4, peer6, 0, false},
		{"TCP for UDP", unix.IPPROTO_TCP, tcp(4444, 53, netnstest.SYN), peer4, peer6, 0, false},
		{"another protocol", none, tcp(4444, 443, netnstest.SYN), peer4, peer6, 0, false},
		{"UDP to an opening", unix.IPPROTO_UDP, udp(4444, 53), peer4, peer6, 0, true},
		{"an answer over UDP", unix.IPPROTO_UDP, udp(161, 4444), peer4, peer6, 0, true},
		{"an answer over UDP to others", unix.IPPROTO_UDP, udp(161, 4444), world4, world6, 0, false},
		{"an answer to a beginning", unix.IPPROTO_TCP, tcp(22, 4444, netnstest.SYN|netnstest.ACK), peer4, peer6, 0, true},
		{"a refusal", unix.IPPROTO_TCP, tcp(22, 4444, netnstest.RST), peer4, peer6, 0, true},
		{"a beginning in the wrong direction", unix.IPPROTO_TCP, tcp(22, 4444, netnstest.SYN), peer4, peer6, 0, false},
		{"a beginning that looks like an end", unix.IPPROTO_TCP, tcp(22, 4444, netnstest.SYN|netnstest.FIN), peer4, peer6, 0, false},
		{"no flags at all", unix.IPPROTO_TCP, tcp(22, 4444, 0), peer4, peer6, 0, false},
	} {
		marker := fmt.Appendf(nil, "<opening/%d>", i)
		frames := [][]byte{netnstest.Ether(peerMAC, hostMAC, unix.ETH_P_IP,
			netnstest.IP4(tt.protocol, host4, tt.to4, tt.make(marker), netnstest.Options{Fragment: tt.fragment}))}
		ethertypes := []uint16{unix.ETH_P_IP, unix.ETH_P_IPV6}
		if tt.to6.IsValid() {
			frames = append(frames, netnstest.Ether(peerMAC, hostMAC, unix.ETH_P_IPV6,
				netnstest.IP6(tt.protocol, 64, host6, tt.to6, tt.make(marker))))
		}
		for v, frame := range frames {
			if err := raw.Send(index, ethertypes[v], frame); err != nil && !errors.Is(err, unix.ENOBUFS) {
				t.Fatalf("%s: sending: %v", tt.what, err)
			}
		}
		want := 0
		if tt.open {
			want = len(frames)
		}
		if seen := capture.Count(t, marker); seen != want {
			t.Errorf("%s: %d of %d frames left, want %d", tt.what, seen, len(frames), want)
		}
	}
}

// Ensure that at level EgressOnly what comes in is received, and nothing leaves.
func TestEgressOnly(t *testing.T) {
	host, peer := netnstest.Pair(t)
	barrier := openBarrier(t, host)
	spec := testSpec()
	spec.Level = EgressOnly
	serve(t, host, 5000)
	var socket *net.UDPConn
	host.Must(t, "listening", func() (err error) {
		socket, err = net.ListenUDP("udp", &net.UDPAddr{Port: 5000})
		return err
	})
	t.Cleanup(func() { _ = socket.Close() })
	if err := talk(peer, 0, "10.77.0.1:5000", slow.Deadline(5*time.Second)); err != nil {
		t.Fatalf("before: %v", err)
	}
	if err := barrier.Apply(spec); err != nil {
		t.Fatal(err)
	}
	if _, err := barrier.Probe(); err != nil {
		t.Errorf("probing: %v", err)
	}
	capture := netnstest.NewCapture(t, peer, netnstest.PeerDevice)
	for _, to := range []string{"10.77.0.1:5000", "[fd77::1]:5000"} {
		peer.Must(t, "sending", func() error { return netnstest.SendUDP("", to, []byte("in")) })
		if err := socket.SetReadDeadline(time.Now().Add(slow.Deadline(5 * time.Second))); err != nil {
			t.Fatal(err)
		}
		if _, _, err := socket.ReadFromUDP(make([]byte, 10)); err != nil {
			t.Errorf("to %s: %v", to, err)
		}
	}
	if err := talk(peer, 0, "10.77.0.1:5000", refusedAfter); err == nil {
		t.Error("an answer left the host")
	}
	for _, to := range []string{netnstest.PeerIP4 + ":9999", "[" + netnstest.PeerIP6 + "]:9999"} {
		err := host.Do(func() error { return netnstest.SendUDP("", to, []byte("leaked out")) })
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
	}
	if seen := capture.Count(t, []byte("leaked out")); seen != 0 {
		t.Errorf("%d packets left the host", seen)
	}
}

// reuse lets a source port be used again at once.
func reuse(raw syscall.RawConn) (err error) {
	controlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	return errors.Join(controlErr, err)
}
