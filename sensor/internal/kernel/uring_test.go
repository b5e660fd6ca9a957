package kernel

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// What io_uring's ABI names (include/uapi/linux/io_uring.h).
const (
	uringEntries   = 4
	setupSQPoll    = 1 << 1
	entryAsync     = 1 << 4
	enterGetEvents = 1 << 0
	enterWakeup    = 1 << 1
	ringNeedWakeup = 1 << 0
	offsetEntries  = 0x10000000
	opSendmsg      = 9
	opConnect      = 16
	opSend         = 26
	opSocket       = 45
)

type uringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	_                                                    [3]uint32
	sq                                                   struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

type uringEntry struct {
	opcode, flags     uint8
	priority          uint16
	fd                int32
	offset, address   uint64
	length, operation uint32
	user              uint64
	_                 [3]uint64
}

// uring is a ring that does one thing at a time.
type uring struct {
	t       testing.TB
	fd      int
	setup   uint32
	flags   uint8
	memory  []byte
	entries []byte
	params  uringParams
}

func newUring(t testing.TB, setup uint32, flags uint8) *uring {
	t.Helper()
	u := &uring{t: t, setup: setup, flags: flags}
	u.params.flags, u.params.idle = setup, 50
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uringEntries, uintptr(unsafe.Pointer(&u.params)), 0)
	if errno != 0 {
		t.Skipf("SKIP: needs io_uring: %v", errno)
	}
	u.fd = int(fd)
	var err error
	size := max(u.params.sq.array+4*u.params.sqEntries, u.params.cq.cqes+16*u.params.cqEntries)
	if u.memory, err = unix.Mmap(u.fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		t.Fatal(err)
	}
	if u.entries, err = unix.Mmap(u.fd, offsetEntries, int(64*u.params.sqEntries), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Munmap(u.memory)
		_ = unix.Munmap(u.entries)
		_ = unix.Close(u.fd)
	})
	return u
}

func (u *uring) word(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.memory[offset])) }

// perform submits one entry and waits for what became of it.
func (u *uring) perform(e uringEntry) (int, error) {
	p := &u.params
	tail := *u.word(p.sq.tail)
	slot := tail & *u.word(p.sq.mask)
	e.flags |= u.flags
	*(*uringEntry)(unsafe.Pointer(&u.entries[64*slot])) = e
	*u.word(p.sq.array + 4*slot) = slot
	atomic.StoreUint32(u.word(p.sq.tail), tail+1)
	submit := uintptr(1)
	for atomic.LoadUint32(u.word(p.cq.tail)) == *u.word(p.cq.head) {
		flags := uintptr(enterGetEvents)
		if u.setup&setupSQPoll != 0 {
			if submit = 0; atomic.LoadUint32(u.word(p.sq.flags))&ringNeedWakeup != 0 {
				flags |= enterWakeup
			}
		}
		n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), submit, 1, flags, 0, 0)
		if errno != 0 && !errors.Is(errno, unix.EINTR) {
			return 0, errno
		}
		if errno == 0 && n > 0 {
			submit = 0
		}
	}
	head := *u.word(p.cq.head)
	result := int32(*u.word(p.cq.cqes + 16*(head&*u.word(p.cq.mask)) + 8))
	atomic.StoreUint32(u.word(p.cq.head), head+1)
	if result < 0 {
		return 0, unix.Errno(-result)
	}
	return int(result), nil
}

func (u *uring) must(e uringEntry) int {
	u.t.Helper()
	n, err := u.perform(e)
	if err != nil {
		u.t.Fatalf("operation %d: %v", e.opcode, err)
	}
	return n
}

// Ensure that who works through io_uring is told by his own name, whichever of the
// kernel's threads does the work.
func TestUringFlows(t *testing.T) {
	w := open(t, Config{})
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for name, way := range map[string]struct {
		setup uint32
		flags uint8
	}{"inline": {}, "worker": {flags: entryAsync}, "polled": {setup: setupSQPoll}} {
		t.Run(name, func(t *testing.T) {
			u := newUring(t, way.setup, way.flags)
			tcpAddress, udpAddress := rawAddress(tcp.Addr()), rawAddress(udp.LocalAddr())
			text := []byte("by io_uring")
			part := unix.Iovec{Base: &text[0], Len: uint64(len(text))}
			message := unix.Msghdr{Name: (*byte)(unsafe.Pointer(udpAddress)), Namelen: unix.SizeofSockaddrInet4, Iov: &part, Iovlen: 1}
			connect := func(fd int, a *unix.RawSockaddrInet4) {
				u.must(uringEntry{opcode: opConnect, fd: int32(fd), address: uint64(uintptr(unsafe.Pointer(a))), offset: unix.SizeofSockaddrInet4})
			}
			for what, act := range map[string]func(fd int){
				"tcp connect":              func(fd int) { connect(fd, tcpAddress) },
				"udp connect, send":        func(fd int) { connect(fd, udpAddress); u.must(send(opSend, fd, &text[0], len(text))) },
				"udp sendmsg, unconnected": func(fd int) { u.must(send(opSendmsg, fd, (*byte)(unsafe.Pointer(&message)), 1)) },
			} {
				kind, protocol := unix.SOCK_DGRAM, uint8(17)
				if strings.HasPrefix(what, "tcp") {
					kind, protocol = unix.SOCK_STREAM, 6
				}
				fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				act(fd)
				local := localPort(t, fd)
				got := first(w, what, func(e *event.FlowOpen) bool {
					return e.Proto == protocol && e.Dir == event.Outbound && e.Local.Port() == local
				})
				comm := unix.ByteSliceToString(got.Comm[:])
				if got.Process.PID != uint32(os.Getpid()) || got.Process.Start == 0 || strings.HasPrefix(comm, "iou-") {
					t.Errorf("%s: told of %v, %q", what, got.Process, comm)
				}
				_ = unix.Close(fd)
			}
			runtime.KeepAlive(&message)
			runtime.KeepAlive(udpAddress)
			runtime.KeepAlive(tcpAddress)
		})
	}
}

func send(op uint8, fd int, what *byte, n int) uringEntry {
	return uringEntry{opcode: op, fd: int32(fd), address: uint64(uintptr(unsafe.Pointer(what))), length: uint32(n)}
}

func rawAddress(a net.Addr) *unix.RawSockaddrInet4 {
	at := netip.MustParseAddrPort(a.String())
	port := at.Port()
	return &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port<<8 | port>>8, Addr: at.Addr().As4()}
}

func localPort(t testing.TB, fd int) uint16 {
	t.Helper()
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(name.(*unix.SockaddrInet4).Port)
}
