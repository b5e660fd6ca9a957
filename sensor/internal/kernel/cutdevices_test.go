package kernel

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

func needTCX(t *testing.T) {
	t.Helper()
	needKernel(t)
	if !versionAtLeast(6, 6) {
		t.Skip("SKIP: needs tcx (6.6)")
	}
}

// returns loads a program of one value, of a kind that hangs on devices.
func returns(t testing.TB, kind ebpf.ProgramType, value int32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "returns", Type: kind, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, value), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

const passesAtOnce = 0 // TCX_PASS: nobody after it is asked

// foreign puts a program before all others at a device's egress.
func (l *cutLab) foreign(t testing.TB, p *ebpf.Program) link.Link {
	t.Helper()
	var foreign link.Link
	l.host.Must(t, "attaching another's program", func() (err error) {
		foreign, err = link.AttachTCX(link.TCXOptions{Interface: l.index, Program: p, Attach: ebpf.AttachTCXEgress, Anchor: link.Head()})
		return err
	})
	t.Cleanup(func() { _ = foreign.Close() })
	return foreign
}

// Ensure the programs come before those that were there, and again when somebody goes
// before them or takes them off.
func TestCutIsFirst(t *testing.T) {
	needTCX(t)
	l := newCutLab(t)
	l.cut.beNobody()
	path := []cutPath{{"UDP", l.host, udpOf("", netnstest.PeerIP4+":9999")}}
	mustCut := func(when string) {
		t.Helper()
		l.cut.Set(CutAll)
		if got := l.run(t, path, "d"); got[0] != 0 {
			t.Errorf("%s: %d packets leaked", when, got[0])
		}
		l.cut.Set(CutNone)
	}
	pass := returns(t, ebpf.SchedCLS, passesAtOnce)
	l.foreign(t, pass)
	l.cut.Set(CutAll)
	if got := l.run(t, path, "f"); got[0] == 0 {
		t.Error("no packet passed by way of the other program: it proves nothing")
	}
	if err := l.cut.Reconcile(); err != nil {
		t.Fatal(err)
	}
	mustCut("before another's program")
	second := openCut(t, l.host) // attached after the other
	second.beNobody()
	second.Set(CutAll)
	if got := l.run(t, path, "s"); got[0] != 0 {
		t.Errorf("opened after another's program: %d packets leaked", got[0])
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.cut.Reconcile(); err != nil {
		t.Fatal(err)
	}
	// Taken off, as root can.
	raw, ok := l.cut.devices[l.index].links[0].(interface{ Detach() error })
	if !ok {
		t.Fatal("a link cannot be detached")
	}
	if err := raw.Detach(); err != nil {
		t.Fatal(err)
	}
	if err := l.cut.Reconcile(); err != nil {
		t.Fatal(err)
	}
	mustCut("after it was taken off")
}

// Ensure devices that come are covered, and the programs go with those that leave.
func TestCutFollows(t *testing.T) {
	for _, kind := range []string{"links", "filters"} {
		t.Run(kind, func(t *testing.T) {
			var change []func(*Cut)
			if kind == "filters" {
				change = append(change, byFilters)
			} else {
				needTCX(t)
			}
			l := newCutLab(t, change...)
			l.cut.beNobody()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- l.cut.Follow(ctx) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Errorf("Follow: %v", err)
				}
			}()
			// Idle, because then it comes by its clock too seldom to be taken for the kernel's word.
			netnstest.Wire(t, l.host, "late0", l.peer, "late1")
			index := l.host.Index(t, "late0")
			covered := func() bool {
				l.cut.mu.Lock()
				defer l.cut.mu.Unlock()
				return l.cut.devices[index] != nil
			}
			await(t, "the new device to be covered", covered)
			l.cut.Set(CutAll)
			capture := netnstest.NewCapture(t, l.peer, "late1")
			frame := netnstest.Ether(l.peer.MAC(t, "late1"), l.host.MAC(t, "late0"), 0x88b5, []byte("late"))
			send := func() int {
				l.host.Must(t, "sending", func() error { _ = l.sender.Send(index, 0x88b5, frame); return nil })
				return capture.Count(t, []byte("late"))
			}
			if n := send(); n != 0 {
				t.Errorf("%d frames leaked through a new device", n)
			}
			l.cut.Set(CutNone)
			if n := send(); n != 1 {
				t.Errorf("%d frames passed without a cut: it proves nothing", n)
			}
			handle := l.host.Handle(t)
			late, err := handle.LinkByName("late0")
			if err == nil {
				err = handle.LinkDel(late)
			}
			if err != nil {
				t.Fatal(err)
			}
			await(t, "the gone device to be forgotten", func() bool { return !covered() })
		})
	}
}

// Ensure a device that is moved to another namespace while the host is cut stays cut
// there, and is let go of when that ends.
func TestCutKeepsWhatIsMoved(t *testing.T) {
	needTCX(t)
	l := newCutLab(t)
	away := netnstest.New(t)
	netnstest.Wire(t, l.host, "moves0", l.peer, "moves1")
	if err := l.cut.Reconcile(); err != nil {
		t.Fatal(err)
	}
	index := l.host.Index(t, "moves0")
	l.cut.Set(CutAll)
	handle := l.host.Handle(t)
	device, err := handle.LinkByName("moves0")
	if err == nil {
		err = away.Adopt(handle, device)
	}
	if err == nil {
		err = l.cut.Reconcile()
	}
	if err != nil {
		t.Fatal(err)
	}
	away.Up(t, "moves0")
	capture := netnstest.NewCapture(t, l.peer, "moves1")
	sender := netnstest.NewRaw(t, away, false)
	frame := netnstest.Ether(l.peer.MAC(t, "moves1"), away.MAC(t, "moves0"), 0x88b5, []byte("away"))
	moved := away.Index(t, "moves0")
	send := func() int {
		away.Must(t, "sending", func() error { _ = sender.Send(moved, 0x88b5, frame); return nil })
		return capture.Count(t, []byte("away"))
	}
	if n := send(); n != 0 {
		t.Errorf("%d frames leaked through a device that was moved away", n)
	}
	l.cut.Set(CutNone)
	if err := l.cut.Reconcile(); err != nil {
		t.Fatal(err)
	}
	if l.cut.devices[index] != nil {
		t.Error("a device that is another namespace's is kept")
	}
	l.cut.Set(CutAll)
	if n := send(); n != 1 {
		t.Errorf("%d frames passed through another namespace's device, want 1", n)
	}
}

// pollEvery is short, because what is waited for mostly takes less than a millisecond.
const pollEvery = 200 * time.Microsecond

// await polls, with a deadline.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for deadline := time.Now().Add(slow.Deadline(5 * time.Second)); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// Ensure a device whose packets have no Ethernet header is cut by what they are, and that
// what a device of an unknown kind sends is cut altogether.
func TestCutBareDevice(t *testing.T) {
	l := newCutLab(t)
	node := netip.MustParseAddrPort("10.50.0.2:7700")
	if err := l.cut.SetNodes([]netip.AddrPort{node}); err != nil {
		t.Fatal(err)
	}
	tun := &vnl.Tuntap{LinkAttrs: vnl.NewLinkAttrs(), Mode: vnl.TUNTAP_MODE_TUN, Flags: vnl.TUNTAP_NO_PI, NonPersist: true, Queues: 1}
	tun.Name = "tun0"
	if err := l.host.Do(func() error { return vnl.LinkAdd(tun) }); err != nil {
		t.Skipf("SKIP: needs the tun driver: %v", err)
	}
	t.Cleanup(func() { _ = tun.Fds[0].Close() })
	if err := unix.SetNonblock(int(tun.Fds[0].Fd()), true); err != nil {
		t.Fatal(err)
	}
	l.host.Up(t, "tun0")
	l.host.Address(t, "tun0", "10.50.0.1/24")
	if err := l.cut.Reconcile(); err != nil {
		t.Fatal(err)
	}
	if got := l.cut.devices[l.host.Index(t, "tun0")].programs[0]; got != "cut_out_bare" {
		t.Errorf("the program of tun0 is %s", got)
	}
	// What the host sends by itself, as the kernel does to find routers, is not counted.
	sent := func(to string) (n int) {
		l.host.Must(t, "sending", func() error { _ = netnstest.SendUDP("", to, []byte("marked")); return nil })
		for buffer := make([]byte, 2048); ; {
			size, err := unix.Read(int(tun.Fds[0].Fd()), buffer)
			if err != nil {
				return n
			}
			if strings.HasSuffix(string(buffer[:size]), "marked") {
				n++
			}
		}
	}
	for _, tt := range []struct {
		level         CutLevel
		nodes, others int
	}{{CutNone, 1, 1}, {CutAll, 1, 0}, {CutEgress, 1, 0}} {
		l.cut.Set(tt.level)
		if n := sent(node.String()); n != tt.nodes && l.cut.cgroup != "" {
			t.Errorf("level %d: %d packets to the coordinator left, want %d", tt.level, n, tt.nodes)
		}
		if n := sent("10.50.0.2:53"); n != tt.others {
			t.Errorf("level %d: %d packets to another left, want %d", tt.level, n, tt.others)
		}
	}
	if got := cutPrograms(&vnl.LinkAttrs{EncapType: "infiniband"}); got != [2]string{"cut_out_closed", "cut_in_closed"} {
		t.Errorf("the programs of a kind that nothing is known of are %v", got)
	}
}

// Ensure what a device's own programs do beside the cut is told.
func TestCutTellsOfOthers(t *testing.T) {
	l := newCutLab(t)
	told := func(part string) bool {
		return slices.ContainsFunc(l.cut.NotCut(), func(s string) bool { return strings.Contains(s, part) })
	}
	if told("XDP program") {
		t.Errorf("told of an XDP program that is not there: %q", l.cut.NotCut())
	}
	handle := l.host.Handle(t)
	device, err := handle.LinkByName(netnstest.HostDevice)
	if err != nil {
		t.Fatal(err)
	}
	const xdpPass = 2
	program := returns(t, ebpf.XDP, xdpPass)
	if err := l.host.Do(func() error { return vnl.LinkSetXdpFdWithFlags(device, program.FD(), unix.XDP_FLAGS_SKB_MODE) }); err != nil {
		t.Skipf("SKIP: needs generic XDP: %v", err)
	}
	if err := l.cut.Reconcile(); err != nil {
		t.Fatal(err)
	}
	if !told("XDP program on device " + netnstest.HostDevice) {
		t.Errorf("not told of an XDP program: %q", l.cut.NotCut())
	}
}

// Ensure a filter that cannot be gone before is told, and that one left by a killed sensor
// is replaced by the next and not removed by the last.
func TestCutFilters(t *testing.T) {
	l := newCutLab(t, byFilters)
	l.cut.Set(CutAll) // and killed, as it were: nobody sets it back
	next := openCut(t, l.host, byFilters)
	next.beNobody()
	path := []cutPath{{"UDP", l.host, udpOf("", netnstest.PeerIP4+":9999")}}
	if got := l.run(t, path, "n"); got[0] != perCutPath {
		t.Errorf("%d of %d packets passed the next one, which is idle", got[0], perCutPath)
	}
	if err := l.cut.Close(); err != nil {
		t.Fatal(err)
	}
	next.Set(CutAll)
	if got := l.run(t, path, "d"); got[0] != 0 {
		t.Errorf("%d packets leaked after the last one was closed", got[0])
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tc", "-V").CombinedOutput()
	if err != nil {
		t.Skipf("SKIP: needs tc: %v: %s", err, out)
	}
	l.host.Must(t, "adding a filter", func() error {
		for _, command := range []string{
			"qdisc replace dev " + netnstest.HostDevice + " clsact",
			"filter add dev " + netnstest.HostDevice + " egress protocol ip prio 1 u32 match ip dst 10.9.9.9 flowid 1:1",
		} {
			if out, err := exec.Command("tc", strings.Fields(command)...).CombinedOutput(); err != nil {
				return os.NewSyscallError(string(out), err)
			}
		}
		return nil
	})
	third := openCut(t, l.host, byFilters)
	third.beNobody()
	third.Set(CutAll)
	if got := l.run(t, path, "t"); got[0] != 0 {
		t.Errorf("%d packets leaked behind another's filter", got[0])
	}
	if !slices.ContainsFunc(third.NotCut(), func(s string) bool { return strings.Contains(s, "being the first on device "+netnstest.HostDevice) }) {
		t.Errorf("not told of a filter that comes first: %q", third.NotCut())
	}
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
	var left []vnl.Filter
	l.host.Must(t, "listing filters", func() (err error) {
		device, err := vnl.LinkByName(netnstest.HostDevice)
		if err == nil {
			left, err = vnl.FilterList(device, vnl.HANDLE_MIN_EGRESS)
		}
		return err
	})
	if len(left) != 1 {
		t.Errorf("%d filters are left, want the other's alone: %v", len(left), left)
	}
}

// Ensure one device that takes no program is told, and keeps no other open.
func TestCutNamesWhatItCannotCover(t *testing.T) {
	l := newCutLab(t, byFilters)
	if err := l.cut.Close(); err != nil {
		t.Fatal(err)
	}
	commands := []string{"qdisc replace dev tohost clsact"}
	for priority := range maxFilterPriority {
		commands = append(commands, "filter add dev tohost egress protocol ip prio "+itoa(priority+1)+" u32 match ip dst 10.9.9.9 flowid 1:1")
	}
	l.host.Must(t, "adding filters", func() error {
		for _, command := range commands {
			if out, err := exec.Command("tc", strings.Fields(command)...).CombinedOutput(); err != nil {
				return os.NewSyscallError(string(out), err)
			}
		}
		return nil
	})
	next := openCut(t, l.host, byFilters)
	if !slices.ContainsFunc(next.NotCut(), func(s string) bool { return strings.HasPrefix(s, "device tohost, which takes no program") }) {
		t.Errorf("not told: %q", next.NotCut())
	}
	next.beNobody()
	next.Set(CutAll)
	if got := l.run(t, []cutPath{{"UDP", l.host, udpOf("", netnstest.PeerIP4+":9999")}}, "d"); got[0] != 0 {
		t.Errorf("%d packets leaked through another device", got[0])
	}
}

// Ensure that the kernel's word of a device is enough to cover it, with no look at all the
// others.
func TestCutCoversWhatIsTold(t *testing.T) {
	needTCX(t)
	l := newCutLab(t)
	conn, err := l.cut.subscribe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	netnstest.Wire(t, l.host, "late0", l.peer, "late1")
	index := l.host.Index(t, "late0")
	if err := conn.SetReadDeadline(time.Now().Add(slow.Deadline(5 * time.Second))); err != nil {
		t.Fatal(err)
	}
	for l.cut.devices[index] == nil {
		messages, err := conn.Receive()
		if err != nil {
			t.Fatalf("waiting for the word of a device: %v", err)
		}
		l.cut.coverNew(messages)
	}
	capture := netnstest.NewCapture(t, l.peer, "late1")
	l.cut.Set(CutAll)
	l.host.Must(t, "sending", func() error { _ = l.sender.Send(index, 0x88b5, []byte("told of, and not one packet")); return nil })
	if n := capture.Count(t, []byte("told of")); n != 0 {
		t.Errorf("%d frames passed", n)
	}
}
