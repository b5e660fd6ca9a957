package wire

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Ensure every datagram to the port is counted once, with its payload alone, and none
// to another.
func TestTap(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs CAP_NET_RAW (run as root)")
	}
	listen := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	wanted, other, from := listen(), listen(), listen()
	port := func(c *net.UDPConn) uint16 { return c.LocalAddr().(*net.UDPAddr).AddrPort().Port() }
	tap, err := Open(os.Getpid(), port(wanted))
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	for _, size := range []int{0, 10, Small, Small + 1, 1200} {
		for _, to := range []*net.UDPConn{wanted, other} {
			if _, err := from.WriteTo(make([]byte, size), to.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := Sent{Bytes: 10 + Small + Small + 1 + 1200, Datagrams: 5, SmallBytes: 10 + Small, SmallDatagrams: 3}
	var got Sent
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline) && got.Datagrams < want.Datagrams; runtime.Gosched() {
		if got, err = tap.Sent(); err != nil {
			t.Fatal(err)
		}
	}
	if got != want || got.Large() != Small+1+1200 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	_ = from.Close()
	if _, err := tap.Sent(); err == nil {
		t.Error("a process that closed its socket is still counted")
	}
}

// FuzzParse: what passes on lo is anybody's.
func FuzzParse(f *testing.F) {
	f.Add([]byte{0x45, 0, 0, 33, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1, 0x12, 0x34, 0x44, 0x85, 0, 13, 0, 0})
	f.Add([]byte{0x60, 0, 0, 0, 0, 8, 17, 64})
	f.Add([]byte{0x4f})
	f.Fuzz(func(t *testing.T, packet []byte) {
		if _, _, payload, ok := parse(packet); ok && payload < 0 {
			t.Errorf("a payload of %d bytes", payload)
		}
	})
}
