package kernel

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// made is what a test knows of a socket.
type made struct {
	family, kind uint16
	protocol     uint32
	errno        unix.Errno
	asked        bool
}

// sockets waits until at least n sockets of a process were told, and returns them all.
func (w *watch) sockets(pid uint32, n int) (out []made) {
	w.t.Helper()
	w.await("sockets", func(events []event.Event) bool {
		out = nil
		for _, e := range filter(events, func(e *event.Socket) bool { return e.Process.PID == pid }) {
			out = append(out, made{e.Family, e.Type, e.Protocol, unix.Errno(e.Errno), e.Asked})
		}
		return len(out) >= n
	})
	return out
}

// Ensure that sockets that no flow tells of are told when they are made or refused,
// and ordinary ones are not.
func TestSockets(t *testing.T) {
	w := open(t, Config{})
	self := uint32(os.Getpid())
	var want []made
	for _, tt := range []struct {
		family, kind, protocol int
		want                   made
	}{
		{unix.AF_INET, unix.SOCK_STREAM, 0, made{}},
		{unix.AF_INET6, unix.SOCK_DGRAM, 0, made{}},
		{unix.AF_UNIX, unix.SOCK_STREAM, 0, made{}},
		{unix.AF_NETLINK, unix.SOCK_RAW, 0, made{}},
		{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP, made{family: 2, kind: 3, protocol: 1}},
		{unix.AF_INET6, unix.SOCK_RAW | unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6, made{family: 10, kind: 3, protocol: 58}},
		{unix.AF_PACKET, unix.SOCK_RAW, 3 << 8, made{family: 17, kind: 3, protocol: 3}},
		{unix.AF_PACKET, unix.SOCK_DGRAM, 0, made{family: 17, kind: 2}},
		{unix.AF_XDP, unix.SOCK_RAW, 0, made{family: 44, kind: 3}},
		{unix.AF_VSOCK, unix.SOCK_STREAM, 0, made{family: 40, kind: 1}},
		{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP, made{family: 2, kind: 1, protocol: 132}},
		{unix.AF_INET, unix.SOCK_DCCP, unix.IPPROTO_DCCP, made{family: 2, kind: 6, protocol: 33}},
		{unix.AF_INET, unix.SOCK_PACKET, 3 << 8, made{family: 17, kind: 10, protocol: 3}}, // the old name of one
		{unix.AF_INET, unix.SOCK_SEQPACKET, 0, made{family: 2, kind: 5, protocol: 132}},   // SCTP, by its type alone
	} {
		fd, err := unix.Socket(tt.family, tt.kind|unix.SOCK_CLOEXEC, tt.protocol)
		if err != nil { // not built into this kernel: the attempt is told all the same
			tt.want.errno = err.(unix.Errno)
			if tt.protocol == 0 {
				tt.want.protocol = 0
			}
		} else {
			defer unix.Close(fd)
		}
		if tt.want.family != 0 {
			want = append(want, tt.want)
		}
	}
	got := w.sockets(self, len(want))
	if len(got) != len(want) {
		t.Fatalf("told %d, want %d: %+v", len(got), len(want), got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
}

// Ensure that a packet socket by io_uring is told, whoever of the kernel's threads makes it.
func TestUringSockets(t *testing.T) {
	w := open(t, Config{})
	if w.features.UringSubmit == "" {
		t.Skip("SKIP: needs a kernel that tells io_uring's requests (6.0)")
	}
	for n, way := range []struct {
		setup uint32
		flags uint8
	}{{}, {flags: entryAsync}, {setup: setupSQPoll}} {
		u := newUring(t, way.setup, way.flags)
		fd := u.must(uringEntry{opcode: opSocket, fd: unix.AF_PACKET, offset: unix.SOCK_RAW, length: 3 << 8})
		_ = unix.Close(fd)
		if got := w.sockets(uint32(os.Getpid()), n+1); got[n] != (made{family: 17, kind: 3, protocol: 3, asked: true}) {
			t.Errorf("way %d: %+v", n, got)
		}
	}
}

// Ensure that the 32-bit entry hides neither connections nor packet sockets.
func TestInt80(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("SKIP: needs gcc")
	}
	program := filepath.Join(t.TempDir(), "int80")
	if out, err := exec.Command("gcc", "-no-pie", "-static", "-Wno-pointer-to-int-cast", "-o", program, "testdata/int80.c").CombinedOutput(); err != nil {
		t.Skipf("SKIP: needs a static C library: %v: %s", err, out)
	}
	w := open(t, Config{})
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	address := listener.Addr().(*net.TCPAddr).AddrPort()
	cmd := exec.Command(program, netip.AddrPort.String(address)[len("127.0.0.1:"):])
	pid := run(t, cmd)
	if code := cmd.ProcessState.ExitCode(); code < 0 {
		t.Skipf("SKIP: needs 32-bit system calls: %v", cmd.ProcessState)
	} else if code != 0 {
		t.Fatalf("int80 ended with %d", code)
	}
	w.await("connections", func(events []event.Event) bool {
		return len(filter(events, func(e *event.FlowOpen) bool {
			return e.Remote == address && e.Process.PID == pid && e.Dir == event.Outbound
		})) == 2
	})
	got := w.sockets(pid, 2)
	if len(got) != 2 || got[0] != (made{family: 17, kind: 3, protocol: 0x806}) || got[1].family != 17 || got[1].kind != 2 {
		t.Errorf("sockets %+v", got)
	}
}
