package kernel

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

const (
	floodFrames     = 64
	floodFrameBytes = 2048
)

// xdpSender is an AF_XDP socket in copy mode that can send for ever.
type xdpSender struct {
	fd                  int
	memory              []byte
	tx, done            []byte // rings
	produced, completed *uint32
	finished            *uint32
	descs               []unix.XDPDesc
}

func xdpOption(fd, option int, value unsafe.Pointer, size uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value), size, 0); errno != 0 {
		return errno
	}
	return nil
}

// openXDP sets a socket up in the caller's namespace; device 0: without binding it.
func openXDP(device int, bind bool) (x *xdpSender, err error) {
	x = &xdpSender{}
	if x.fd, err = unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	x.memory, err = unix.Mmap(-1, 0, floodFrames*floodFrameBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("mapping memory: %w", err)
	}
	region := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&x.memory[0]))), Len: uint64(len(x.memory)), Size: floodFrameBytes}
	if err := xdpOption(x.fd, unix.XDP_UMEM_REG, unsafe.Pointer(&region), unsafe.Sizeof(region)); err != nil {
		return x, fmt.Errorf("registering memory: %w", err)
	}
	for _, ring := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_TX_RING} {
		size := uint32(floodFrames)
		if err := xdpOption(x.fd, ring, unsafe.Pointer(&size), unsafe.Sizeof(size)); err != nil {
			return x, fmt.Errorf("sizing ring %d: %w", ring, err)
		}
	}
	var offsets unix.XDPMmapOffsets
	size := uint32(unsafe.Sizeof(offsets))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(x.fd), unix.SOL_XDP, unix.XDP_MMAP_OFFSETS,
		uintptr(unsafe.Pointer(&offsets)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
		return x, fmt.Errorf("reading offsets: %w", errno)
	}
	const protection, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if x.tx, err = unix.Mmap(x.fd, unix.XDP_PGOFF_TX_RING, int(offsets.Tx.Desc)+floodFrames*int(unsafe.Sizeof(unix.XDPDesc{})), protection, flags); err != nil {
		return x, fmt.Errorf("mapping ring: %w", err)
	}
	if x.done, err = unix.Mmap(x.fd, unix.XDP_UMEM_PGOFF_COMPLETION_RING, int(offsets.Cr.Desc)+floodFrames*8, protection, flags); err != nil {
		return x, fmt.Errorf("mapping completions: %w", err)
	}
	x.produced = (*uint32)(unsafe.Pointer(&x.tx[offsets.Tx.Producer]))
	x.descs = unsafe.Slice((*unix.XDPDesc)(unsafe.Pointer(&x.tx[offsets.Tx.Desc])), floodFrames)
	x.completed = (*uint32)(unsafe.Pointer(&x.done[offsets.Cr.Producer]))
	x.finished = (*uint32)(unsafe.Pointer(&x.done[offsets.Cr.Consumer]))
	if bind {
		err = unix.Bind(x.fd, &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(device)})
	}
	return x, err
}

func (x *xdpSender) close() {
	_ = unix.Close(x.fd)
	for _, m := range [][]byte{x.tx, x.done, x.memory} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
}

func (x *xdpSender) send(frame []byte) error {
	at := atomic.LoadUint32(x.produced)
	offset := at % floodFrames * floodFrameBytes
	copy(x.memory[offset:], frame)
	x.descs[at%floodFrames] = unix.XDPDesc{Addr: uint64(offset), Len: uint32(len(frame))}
	atomic.StoreUint32(x.produced, at+1)
	err := unix.Sendto(x.fd, nil, unix.MSG_DONTWAIT, nil)
	atomic.StoreUint32(x.finished, atomic.LoadUint32(x.completed))
	return err
}

// xdpFlood is a role. Its socket is in the files of a thread of its own, which /proc/PID/fd
// does not show.
func xdpFlood() int {
	frame, err := hex.DecodeString(os.Getenv("VEDETTE_TEST_FRAME"))
	device, atoiErr := strconv.Atoi(os.Getenv("VEDETTE_TEST_DEVICE"))
	if err = errors.Join(err, atoiErr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FILES); err != nil {
			failed <- err
			return
		}
		x, err := openXDP(device, true)
		if err != nil {
			failed <- err
			return
		}
		fmt.Println("sends")
		for {
			_ = x.send(frame)
		}
	}()
	fmt.Fprintln(os.Stderr, <-failed)
	return 1
}

// startFlood starts a child of the host that sends frames with a marker.
func (l *cutLab) startFlood(t *testing.T, marker string) *exec.Cmd {
	t.Helper()
	packet := netnstest.IP4(unix.IPPROTO_UDP, host4, world4, netnstest.UDP(4444, 53, []byte(marker)), netnstest.Options{})
	// The device's own count is compared with none: the kernel must not ask for routers.
	l.host.Must(t, "silencing the kernel", func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/"+netnstest.HostDevice+"/disable_ipv6", []byte("1"), 0o644)
	})
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), "VEDETTE_TEST_ROLE=xdp-flood", "VEDETTE_TEST_DEVICE="+itoa(l.index),
		"VEDETTE_TEST_FRAME="+hex.EncodeToString(netnstest.Ether(l.peerMAC, l.hostMAC, unix.ETH_P_IP, packet)))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	l.host.Must(t, "starting a sender", child.Start)
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Skipf("SKIP: needs AF_XDP: %v", err)
	}
	return child
}

// received is what the peer's device counted.
func (l *cutLab) received(t testing.TB) uint64 {
	t.Helper()
	link, err := l.peer.Handle(t).LinkByName(netnstest.PeerDevice)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().Statistics.RxPackets
}

// arrives says whether more than a few packets come within a while.
func (l *cutLab) arrives(t testing.TB, within time.Duration) uint64 {
	t.Helper()
	before := l.received(t)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for deadline := time.Now().Add(within); ; <-tick.C {
		if n := l.received(t) - before; n > 100 || time.Now().After(deadline) {
			return n
		}
	}
}

func needXDP(t *testing.T) {
	t.Helper()
	needKernel(t)
	if !hasXDPSockets() {
		t.Skip("SKIP: needs a kernel with AF_XDP (CONFIG_XDP_SOCKETS)")
	}
}

// Ensure an AF_XDP sender, which the word does not stop, stands still when it is cut, also
// when somebody lets it go on, and goes on when it is released.
func TestCutXDP(t *testing.T) {
	needXDP(t)
	l := newCutLab(t)
	if _, err := l.cut.CutXDP(); err == nil {
		t.Error("AF_XDP was cut while the host was not")
	}
	child := l.startFlood(t, "xdp")
	l.cut.Set(CutAll)
	if n := l.arrives(t, slow.Deadline(5*time.Second)); n <= 100 {
		t.Fatalf("%d packets passed by the word: this sender proves nothing", n)
	}
	report, err := l.cut.CutXDP()
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Sockets) != 1 || len(report.Frozen()) != 1 || report.Frozen()[0].PID != uint32(child.Process.Pid) || report.Unknown {
		t.Fatalf("report %+v, want the one socket of process %d", report, child.Process.Pid)
	}
	if s := report.Sockets[0]; s.Why != "" || s.Device != uint32(l.index) || s.ZeroCopy || s.Inode == 0 {
		t.Errorf("socket %+v", s)
	}
	if n := l.arrives(t, 50*time.Millisecond); n != 0 {
		t.Errorf("%d packets leaked", n)
	}
	// Somebody lets it go on: the next look stops it again.
	if err := child.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if n := l.arrives(t, slow.Deadline(5*time.Second)); n <= 100 {
		t.Errorf("%d packets: it did not go on", n)
	}
	if err := l.cut.look(); err != nil {
		t.Fatal(err)
	}
	if n := l.arrives(t, 50*time.Millisecond); n != 0 {
		t.Errorf("%d packets leaked after it was let go on", n)
	}
	if err := errors.Join(l.cut.ReleaseXDP(), l.cut.ReleaseXDP()); err != nil {
		t.Fatal(err)
	}
	if n := l.arrives(t, slow.Deadline(5*time.Second)); n <= 100 {
		t.Errorf("%d packets: it does not go on after the release", n)
	}
	if err := l.cut.look(); err != nil {
		t.Fatal(err)
	}
	if n := l.arrives(t, slow.Deadline(5*time.Second)); n <= 100 {
		t.Errorf("%d packets: what was released was stopped again", n)
	}
	// As after a restart: by name alone.
	if report, err = l.cut.CutXDP(); err != nil || len(report.Frozen()) != 1 {
		t.Fatalf("report %+v, %v", report, err)
	}
	other := report.Frozen()[0]
	other.Start += uint64(time.Minute)
	if err := ThawXDP([]FrozenProcess{other}); err != nil {
		t.Fatal(err)
	}
	if n := l.arrives(t, 50*time.Millisecond); n != 0 {
		t.Errorf("%d packets: a process was let go on by the name of another", n)
	}
	if err := ThawXDP(report.Frozen()); err != nil {
		t.Fatal(err)
	}
	if n := l.arrives(t, slow.Deadline(5*time.Second)); n <= 100 {
		t.Errorf("%d packets: it does not go on after a restart's release", n)
	}
}

// Ensure a process that stood still before is not let go on by the release.
// TestLookRests wants a look at a cut namespace not to ask for the next one, which would
// come at once and without end: once told, Follow looks by its clock.
func TestLookRests(t *testing.T) {
	needXDP(t)
	l := newCutLab(t)
	l.cut.Set(CutAll)
	if _, err := l.cut.CutXDP(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.cut.kick:
	default:
		t.Error("Follow is not told that AF_XDP is cut from here on")
	}
	if err := l.cut.look(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.cut.kick:
		t.Error("a look asks for the next one")
	default:
	}
}

func TestCutXDPLeavesOthersStops(t *testing.T) {
	needXDP(t)
	l := newCutLab(t)
	child := l.startFlood(t, "xdp")
	if err := child.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await(t, "the sender to stand still", func() bool {
		state, err := stateOf(uint32(child.Process.Pid))
		return err == nil && isStopped(state)
	})
	l.cut.Set(CutAll)
	if _, err := l.cut.CutXDP(); err != nil {
		t.Fatal(err)
	}
	if err := l.cut.ReleaseXDP(); err != nil {
		t.Fatal(err)
	}
	if state, err := stateOf(uint32(child.Process.Pid)); err != nil || !isStopped(state) {
		t.Errorf("state %c, %v: it was let go on", state, err)
	}
}

// Ensure a socket that no process can be found for is told of, and one of another
// namespace is nobody's business.
func TestCutXDPTellsWhatItCannotStop(t *testing.T) {
	needXDP(t)
	l := newCutLab(t)
	var ours, elsewhere *xdpSender
	l.host.Must(t, "opening AF_XDP", func() (err error) { ours, err = openXDP(l.index, true); return err })
	defer ours.close()
	peerIndex := l.peer.Index(t, netnstest.PeerDevice)
	l.peer.Must(t, "opening AF_XDP", func() (err error) { elsewhere, err = openXDP(peerIndex, true); return err })
	defer elsewhere.close()
	l.cut.Set(CutAll)
	report, err := l.cut.CutXDP()
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Sockets) != 1 || !strings.Contains(report.Sockets[0].Why, "which is not stopped") || len(report.Unstopped()) != 1 {
		t.Errorf("report %+v, want the sensor's own alone, and said", report)
	}
	// On its way: in the queue of a socket, in nobody's files.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pair[0]); _ = unix.Close(pair[1]) }()
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(ours.fd), nil, 0); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(ours.fd)
	ours.fd = -1
	if report, err = l.cut.CutXDP(); err != nil {
		t.Fatal(err)
	}
	if len(report.Sockets) != 1 || !strings.Contains(report.Sockets[0].Why, "no process holds it") {
		t.Fatalf("report %+v, want a socket that nobody holds", report)
	}
	if !slices.Contains(l.cut.NotCut(), report.Unstopped()[0]) {
		t.Errorf("not told: %q", l.cut.NotCut())
	}
	// Its rings are mapped by this process all the same, as a driver's reader would need.
	mappers, err := l.cut.xdpHolders(bpf.CutProgXdpMappers)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(mappers, func(h xdpHolder) bool {
		return h.PID == uint32(os.Getpid()) && h.Inode == report.Sockets[0].Inode && h.Flags&xdpMapped != 0
	}) {
		t.Errorf("mappers %+v, want this process with socket %d", mappers, report.Sockets[0].Inode)
	}
}

// Ensure that while a host is cut nobody in it gets a socket that passes by the hooks, and
// that everybody else's options are what they were.
func TestCutRefusesSockets(t *testing.T) {
	needXDP(t)
	l := newCutLab(t)
	if l.cut.cgroup == "" {
		t.Skip("SKIP: needs a cgroup v2 hierarchy")
	}
	raw := func(family, protocol int) func() error {
		return func() error {
			fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
			if err == nil {
				_ = unix.Close(fd)
			}
			return err
		}
	}
	option := func(level, name, size int) func() error {
		return func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			value := make([]byte, size)
			value[0] = 1
			return unix.SetsockoptString(fd, level, name, string(value))
		}
	}
	xdp := func() error {
		x, err := openXDP(l.index, false)
		if x != nil {
			x.close()
		}
		return err
	}
	dhcp := func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
	for _, tt := range []struct {
		name    string
		do      func() error
		refused bool
	}{
		{"raw IPv4", raw(unix.AF_INET, unix.IPPROTO_RAW), true},
		{"raw ICMP", raw(unix.AF_INET, unix.IPPROTO_ICMP), true},
		{"raw IPv6", raw(unix.AF_INET6, unix.IPPROTO_RAW), true},
		{"raw ICMPv6, which listens to routers", raw(unix.AF_INET6, unix.IPPROTO_ICMPV6), false},
		{"packet socket, which DHCP needs", dhcp, false},
		{"packet socket past the queueing discipline", option(unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 4), true},
		{"an option that is none's business", option(unix.SOL_SOCKET, unix.SO_RCVBUF, 4), false},
		{"an option of more than a page", option(unix.SOL_SOCKET, unix.SO_RCVBUF, 3*os.Getpagesize()), false},
		{"AF_XDP", xdp, true},
	} {
		try := func(when string, refused bool) {
			t.Helper()
			err := l.host.Do(tt.do)
			if refused != (err != nil) || refused && !errors.Is(err, unix.EPERM) {
				t.Errorf("%s, %s: %v", tt.name, when, err)
			}
		}
		try("before", false)
		l.cut.Set(CutAll)
		if _, err := l.cut.CutXDP(); err != nil {
			t.Fatal(err)
		}
		try("cut", tt.refused)
		if err := l.routed.Do(tt.do); err != nil {
			t.Errorf("%s, in another namespace: %v", tt.name, err)
		}
		l.cut.Set(CutNone)
		try("uncut", false)
		if err := l.cut.ReleaseXDP(); err != nil {
			t.Fatal(err)
		}
		try("after", false)
	}
}

// udpFlood is a role: datagrams as fast as one process can.
func udpFlood() int {
	conn, err := net.Dial("udp", os.Getenv("VEDETTE_TEST_PEER"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := setNiceness(0); err != nil { // whatever who started it has
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("sends")
	for payload := make([]byte, 64); ; {
		_, _ = conn.Write(payload)
	}
}
