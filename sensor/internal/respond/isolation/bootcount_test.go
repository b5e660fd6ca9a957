package isolation

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// Ensure the count of a host that really boots counts: each frame by its path and phase,
// those without a marker by what they are, and what is open not at all; and that who asks
// for the world is answered, and is sent to the whole time.
func TestWorldCounts(t *testing.T) {
	near, far := wirePair(t)
	w := &world{}
	w.begin(phaseReboot)
	f := w.account.Load()
	if err := w.serve(far); err != nil {
		t.Fatal(err)
	}
	index := func(name string) int {
		for i, p := range f.paths {
			if p.name == name {
				return i
			}
		}
		t.Fatalf("no path %q", name)
		return 0
	}
	ether := func(ethertype uint16, packet []byte) []byte {
		return netnstest.Ether(farMAC, bootHostMAC, ethertype, packet)
	}
	marked := func(name string, phase uint32) []byte {
		return ether(unix.ETH_P_IP, netnstest.IP4(unix.IPPROTO_UDP, host4, peer4, netnstest.UDP(1, 2, markerOf(phase, index(name))), netnstest.Options{}))
	}
	arp := ether(unix.ETH_P_ARP, append(append(append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, bootHostMAC...), host4.AsSlice()...), append(make([]byte, 6), peer4.AsSlice()...)...))
	solicit := ether(unix.ETH_P_IPV6, netnstest.IP6(unix.IPPROTO_ICMPV6, 255, host6, peer6, netnstest.NeighborSolicitation(host6, peer6, peer6, nil)))
	report := ether(unix.ETH_P_IPV6, netnstest.IP6(unix.IPPROTO_ICMPV6, 1, host6, peer6, append([]byte{143}, make([]byte, 27)...)))
	for _, frame := range [][]byte{
		marked("UDP over IPv4", phaseReboot), marked("UDP over IPv4", phaseReboot), marked("UDP over IPv4", phaseBefore),
		ether(unix.ETH_P_IP, netnstest.IP4(unix.IPPROTO_TCP, host4, peer4, netnstest.TCP(1, synPort, netnstest.SYN, nil), netnstest.Options{})),
		ether(unix.ETH_P_IPV6, netnstest.IP6(unix.IPPROTO_TCP, 64, host6, peer6, netnstest.TCP(1, synPort, netnstest.SYN, nil))),
		arp, solicit, report, append(bytes.Clone(arp), make([]byte, 40)...),
		marked("in: ICMP", phaseReboot), // the kernel's answer to what came in
	} {
		if err := writeFrame(near, frame); err != nil {
			t.Fatal(err)
		}
	}
	answered, came := map[uint16]bool{}, map[int]bool{}
	first := index("in: UDP over IPv4")
	if err := near.SetReadDeadline(time.Now().Add(slow.Deadline(10 * time.Second))); err != nil {
		t.Fatal(err)
	}
	for len(answered) < 2 || len(came) < len(w.inward) || w.frames.Load() < 10 {
		frame, err := readFrame(near)
		if err != nil {
			t.Fatalf("%d answers, %d ways in: %v", len(answered), len(came), err)
		}
		isIn := false
		for i := range w.inward {
			if bytes.Contains(frame, markerOf(phaseReboot, first+i)) {
				came[i], isIn = true, true
			}
		}
		if !isIn {
			answered[binary.BigEndian.Uint16(frame[12:])] = true
		}
	}
	_ = near.Close()
	w.serving.Wait()
	for name, want := range map[string]uint64{
		"UDP over IPv4": 2, "TCP, connecting over IPv4": 1, "TCP, connecting over IPv6": 1, pathOther: 3, "UDP over IPv6": 0,
	} {
		if got := f.paths[index(name)].arrived[phaseReboot].Load(); got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
	if got := f.paths[first].sent[phaseReboot].Load(); got == 0 {
		t.Error("what is sent in is not counted")
	}
}

// wirePair is a wire as the emulator has it.
func wirePair(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, to := range []**net.UnixConn{&near, &far} {
		file := os.NewFile(uintptr(fds[i]), "wire")
		conn, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		*to = conn.(*net.UnixConn)
		t.Cleanup(func() { _ = conn.Close() })
	}
	return near, far
}

// Ensure that a leak in one boot is a row that says so, and one that stays shut, or was
// never open, too.
func TestRebootRows(t *testing.T) {
	isolated := func() (boots []*boot) {
		for range 4 {
			f, _ := bootFlood(bootLab())
			b := &boot{flood: f, host: map[uint32]word{}}
			for _, phase := range []uint32{phaseBefore, phaseApply, phaseReboot, phaseReleased} {
				told := word{Sent: make([]uint64, len(f.paths)), Arrived: make([]uint64, len(f.paths))}
				for i, p := range f.paths {
					told.Sent[i] = 7
					p.sent[phase].Store(7)
					if phase == phaseBefore || phase == phaseReleased {
						p.arrived[phase].Store(5)
						told.Arrived[i] = 5
					} else if opens(p.name) {
						p.arrived[phase].Store(5)
					}
				}
				b.host[phase] = told
			}
			boots = append(boots, b)
		}
		boots[1].way, boots[2].way, boots[3].way = waysDown[0], waysDown[1], waysDown[1]
		return boots
	}
	leaks := func(boots []*boot) (total uint64) {
		for _, row := range rowsOf(boots) {
			if row.Unit == "" && (row.Sent == 0 || row.Before == 0) {
				t.Errorf("%s / %s proves nothing", row.Path, row.Phase)
			}
			if total += row.Leaked; row.Error != "" {
				total++
			}
		}
		return total
	}
	if got := leaks(isolated()); got != 0 {
		t.Errorf("nothing leaked: got %d", got)
	}
	for name, broken := range map[string]func(boots []*boot, f *flood){
		"a frame in the last boot":   func(_ []*boot, f *flood) { f.paths[0].arrived[phaseReboot].Store(1) },
		"the host got something":     func(b []*boot, f *flood) { b[2].host[phaseReboot].Arrived[len(f.paths)-1] = 1 },
		"before the first boot ends": func(b []*boot, _ *flood) { b[0].flood.paths[3].arrived[phaseApply].Store(1) },
		"nothing sent in a boot":     func(b []*boot, _ *flood) { b[2].host[phaseReboot].Sent[0] = 0 },
		"no network in a boot":       func(_ []*boot, f *flood) { f.paths[len(f.paths)-len(inwardFrames())-2].arrived[phaseReboot].Store(0) },
		"a path that stays shut":     func(_ []*boot, f *flood) { f.paths[1].arrived[phaseReleased].Store(0) },
	} {
		boots := isolated()
		broken(boots, boots[3].flood)
		if got := leaks(boots); got != 1 {
			t.Errorf("%s: got %d, want 1", name, got)
		}
	}
}
