package kernel

import (
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that IPv4 by way of an IPv6 socket is told as the IPv4 that is on the wire, over
// TCP and UDP, connected and not.
func TestMappedFlows(t *testing.T) {
	w := open(t, Config{})
	mapped := netip.MustParseAddr("::ffff:127.0.0.1").As16()
	six := func(kind int) (fd int, port int) {
		t.Helper()
		fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Skipf("SKIP: needs IPv6: %v", err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrInet6{}); err != nil {
			t.Fatal(err)
		}
		name, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		return fd, name.(*unix.SockaddrInet6).Port
	}
	for _, tt := range []struct {
		name      string
		kind      int
		protocol  uint8
		connected bool
	}{
		{"tcp", unix.SOCK_STREAM, 6, true},
		{"udp, connected", unix.SOCK_DGRAM, 17, true},
		{"udp, not connected", unix.SOCK_DGRAM, 17, false},
	} {
		server, port := six(tt.kind)
		if tt.kind == unix.SOCK_STREAM {
			if err := unix.Listen(server, 1); err != nil {
				t.Fatal(err)
			}
		}
		client, from := six(tt.kind)
		to := &unix.SockaddrInet6{Port: port, Addr: mapped}
		var err error
		if tt.connected {
			if err = unix.Connect(client, to); err == nil {
				_, err = unix.Write(client, []byte("x"))
			}
		} else {
			err = unix.Sendto(client, []byte("x"), 0, to)
		}
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		loopback := netip.MustParseAddr("127.0.0.1")
		a, b := netip.AddrPortFrom(loopback, uint16(from)), netip.AddrPortFrom(loopback, uint16(port))
		for dir, ends := range map[event.Direction][2]netip.AddrPort{event.Outbound: {a, b}, event.Inbound: {b, a}} {
			got := first(w, tt.name, func(e *event.FlowOpen) bool {
				return e.Proto == tt.protocol && e.Local == ends[0] && e.Remote == ends[1]
			})
			if got.Dir != dir || got.Process.PID != uint32(os.Getpid()) {
				t.Errorf("%s: told as %+v", tt.name, got)
			}
		}
	}
}
