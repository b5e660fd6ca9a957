package kernel

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	vnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

const (
	foreignType = 0x88b5 // for experiments
	xdpPasses   = 2
)

var everybody = net.HardwareAddr{255, 255, 255, 255, 255, 255}

// knock sends frames of two ethertypes to a device of the host from the peer's end of it,
// which has the index.
func (l *cutLab) knock(t testing.TB, raw *netnstest.Raw, index int, marker string) {
	t.Helper()
	ip := netnstest.IP4(unix.IPPROTO_UDP, peer4, host4, netnstest.UDP(53, 4444, []byte(marker)), netnstest.Options{})
	for ethertype, payload := range map[uint16][]byte{unix.ETH_P_IP: ip, foreignType: []byte(marker)} {
		for range perCutPath {
			if err := raw.Send(index, ethertype, netnstest.Ether(everybody, l.peerMAC, ethertype, payload)); err != nil && !errors.Is(err, unix.ENOBUFS) {
				t.Errorf("sending to the host: %v", err)
			}
		}
	}
}

// sniffers are packet sockets of the host, each of another kind.
type sniffers []*netnstest.Capture

func (l *cutLab) sniffers(t testing.TB, device string) sniffers {
	t.Helper()
	return sniffers{
		netnstest.NewCapture(t, l.host, device),
		netnstest.NewCaptureOf(t, l.host, device, unix.ETH_P_IP),
		netnstest.NewCaptureOf(t, l.host, "", foreignType),
	}
}

func (s sniffers) count(t testing.TB, marker string) (all int) {
	t.Helper()
	for _, each := range s {
		all += each.Count(t, []byte(marker))
	}
	return all
}

// inAll is what the sniffers of one device get of a knock at it, nothing cut.
const inAll = (2 + 1 + 1) * perCutPath

// xdpOn says whose program is on a device of the host: "", "kept" or "foreign".
func (l *cutLab) xdpOn(t testing.TB, device string) (whose string) {
	t.Helper()
	link, err := l.host.Handle(t).LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	tower, err := newXDPTower([]vnl.Link{link}, nil, pinFolder)
	if err != nil {
		t.Fatal(err)
	}
	switch d := tower.devices[0]; {
	case d.foreign():
		whose = "foreign"
	case d.id != 0:
		whose = "kept"
	}
	if err := tower.close(); err != nil {
		t.Error(err)
	}
	return whose
}

func (l *cutLab) wantXDP(t testing.TB, when, want string, devices ...string) {
	t.Helper()
	for _, device := range devices {
		if got := l.xdpOn(t, device); got != want {
			t.Errorf("%s: the XDP program on %s is %q, want %q", when, device, got, want)
		}
	}
}

func (l *cutLab) told(part string) bool {
	return slices.ContainsFunc(l.cut.NotCut(), func(s string) bool { return strings.Contains(s, part) })
}

// flooding knocks until what it returns is called.
func (l *cutLab) flooding(t testing.TB, raw *netnstest.Raw, marker string, devices ...string) (stop func()) {
	quit := make(chan struct{})
	var ends []int
	for _, device := range devices {
		ends = append(ends, l.peer.Index(t, device))
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			for _, index := range ends {
				l.knock(t, raw, index, marker)
			}
			select {
			case <-quit:
				return
			case <-tick.C:
			}
		}
	})
	return func() { close(quit); wait.Wait() }
}

// watching notes each time that the kernel tells of one of the devices without a program
// on it. What it returns ends that, and says which were.
func (l *cutLab) watching(t testing.TB, devices ...string) (bare func() []string) {
	t.Helper()
	ns, err := netns.GetFromPath(l.host.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	updates, done := make(chan vnl.LinkUpdate, 1024), make(chan struct{})
	if err := vnl.LinkSubscribeWithOptions(updates, done, vnl.LinkSubscribeOptions{Namespace: &ns}); err != nil {
		t.Fatal(err)
	}
	return func() (bare []string) {
		defer close(done)
		handle := l.host.Handle(t)
		last, err := handle.LinkByName("lo")
		if err == nil {
			err = handle.LinkSetAlias(last, "last")
		}
		if err != nil {
			t.Fatal(err)
		}
		for update := range updates {
			attrs := update.Attrs()
			if attrs.Alias == "last" {
				break
			}
			// A bridge's own word of its ports names no programs.
			if update.Family == unix.AF_UNSPEC && slices.Contains(devices, attrs.Name) && (attrs.Xdp == nil || !attrs.Xdp.Attached) {
				bare = append(bare, attrs.Name)
			}
		}
		if err := handle.LinkSetAlias(last, ""); err != nil {
			t.Error(err)
		}
		return bare
	}
}

// answered sends datagrams from the coordinator's port to the sensor's socket, and counts
// those that come.
func (l *cutLab) answered(t testing.TB) (n int) {
	t.Helper()
	l.peer.Must(t, "answering", func() error {
		for range perCutPath {
			if err := netnstest.SendUDP(cutNodes()[0].String(), l.socket.LocalAddr().String(), []byte("answer")); err != nil {
				return err
			}
		}
		return nil
	})
	buffer := make([]byte, 64)
	for n < perCutPath {
		if err := l.socket.SetReadDeadline(time.Now().Add(slow.Deadline(time.Second))); err != nil {
			t.Fatal(err)
		}
		if _, err := l.socket.Read(buffer); errors.Is(err, unix.ECONNREFUSED) {
			continue
		} else if err != nil {
			return n
		}
		n++
	}
	return n
}

// Ensure packet sockets of a cut host see nothing of what comes in, whatever they are
// bound to and whenever they were made; that this outlives the sensor and is handed to the
// next without a gap; that the coordinator's answers come in; and that nothing is left.
func TestCutSniffers(t *testing.T) {
	for _, kind := range []string{"links", "filters"} {
		t.Run(kind, func(t *testing.T) {
			var change []func(*Cut)
			if kind == "filters" {
				change = append(change, byFilters)
			} else {
				needTCX(t)
			}
			l := newCutLab(t, change...)
			raw := netnstest.NewRaw(t, l.peer, false)
			old := l.sniffers(t, netnstest.HostDevice)
			want := func(when string, each int, all ...sniffers) {
				t.Helper()
				marker := "<" + when + ">"
				l.knock(t, raw, l.peer.Index(t, netnstest.PeerDevice), marker)
				for i, s := range all {
					if n := s.count(t, marker); n != each {
						t.Errorf("%s: packet sockets %d saw %d packets, want %d", when, i, n, each)
					}
				}
			}
			want("armed", inAll, old)
			l.cut.Set(CutAll)
			if err := l.cut.Keep(); err != nil {
				t.Fatal(err)
			}
			before, _, err := l.cut.Dropped()
			if err != nil {
				t.Fatal(err)
			}
			late := l.sniffers(t, netnstest.HostDevice)
			want("cut", 0, old, late)
			if after, _, err := l.cut.Dropped(); err != nil || after-before < 2*perCutPath {
				t.Errorf("%d packets are counted as dropped, want %d (%v)", after-before, 2*perCutPath, err)
			}
			if n := l.answered(t); n != perCutPath {
				t.Errorf("%d answers of the coordinator came, want %d", n, perCutPath)
			}
			netnstest.Wire(t, l.host, "late0", l.peer, "late1")
			if err := l.cut.Reconcile(); err != nil {
				t.Fatal(err)
			}
			l.wantXDP(t, "while cut", "kept", netnstest.HostDevice, "tohost", "late0")
			if l.told("packet sockets on") {
				t.Errorf("told of packet sockets that see nothing: %q", l.cut.NotCut())
			}
			if err := l.cut.Close(); err != nil {
				t.Fatal(err)
			}
			want("without a sensor", 0, old, late)

			next := openCut(t, l.host, change...)
			next.Set(CutAll)
			bare := l.watching(t, netnstest.HostDevice, "tohost", "late0")
			stop := l.flooding(t, raw, "<handed over>", netnstest.PeerDevice)
			for range 2 {
				if err := errors.Join(next.Keep(), next.Reconcile()); err != nil {
					t.Error(err)
				}
			}
			stop()
			if were := bare(); len(were) > 0 {
				t.Errorf("%q had no program for a moment", were)
			}
			if n := old.count(t, "<handed over>"); n != 0 {
				t.Errorf("packet sockets saw %d packets while one sensor followed another", n)
			}
			want("the next sensor", 0, old, late)
			next.Set(CutNone)
			want("idle", inAll, old, late)
			if err := errors.Join(next.Unkeep(), next.Unkeep()); err != nil {
				t.Fatal(err)
			}
			want("released", inAll, old, late)
			l.wantXDP(t, "released", "", netnstest.HostDevice, "tohost", "late0")

			next.Set(CutAll)
			if err := errors.Join(next.Keep(), next.Close()); err != nil {
				t.Fatal(err)
			}
			if err := RemoveKept(l.host.Path()); err != nil {
				t.Fatal(err)
			}
			if kind == "filters" {
				if err := removeFilters(l.host.Handle(t)); err != nil {
					t.Fatal(err)
				}
			}
			want("removed by root", inAll, old, late)
			l.wantXDP(t, "removed by root", "", netnstest.HostDevice, "tohost", "late0")
		})
	}
}

// Ensure a host that lets in what comes has no program for it, also not one from before.
func TestCutSniffersByLevel(t *testing.T) {
	l := newCutLab(t)
	for _, step := range []struct {
		level CutLevel
		want  string
	}{{CutEgress, ""}, {CutAll, "kept"}, {CutEgress, ""}, {CutAll, "kept"}} {
		l.cut.Set(step.level)
		if err := l.cut.Keep(); err != nil {
			t.Fatal(err)
		}
		l.wantXDP(t, fmt.Sprint("level ", step.level), step.want, netnstest.HostDevice, "tohost")
	}
	l.cut.Set(CutNone) // a level that this layer leaves to the table
	if err := l.cut.Reconcile(); err != nil {
		t.Fatal(err)
	}
	l.wantXDP(t, "not cut", "", netnstest.HostDevice, "tohost")
}

// Ensure a sensor that starts where none may cut takes out what is left.
func TestCutSniffersEnd(t *testing.T) {
	l := newCutLab(t)
	l.cut.Set(CutAll)
	if err := errors.Join(l.cut.Keep(), l.cut.Close()); err != nil {
		t.Fatal(err)
	}
	next := openCut(t, l.host)
	l.wantXDP(t, "before it is known what is in force", "kept", netnstest.HostDevice)
	if err := next.look(); err != nil {
		t.Fatal(err)
	}
	l.wantXDP(t, "not isolated", "", netnstest.HostDevice, "tohost")
}

// foreignXDP puts another's program on a device of the host, and returns what takes it off.
func (l *cutLab) foreignXDP(t testing.TB, device string) (off func()) {
	t.Helper()
	index := l.host.Index(t, device)
	p := returns(t, ebpf.XDP, xdpPasses)
	l.host.Must(t, "attaching another's XDP program", func() error { return setXDP(index, p, nil) })
	return func() {
		l.host.Must(t, "taking another's XDP program off", func() error { return setXDP(index, nil, p) })
	}
}

// Ensure another's XDP program stays where it is and is told of, and that the device is
// covered once it is gone.
func TestCutSniffersBesideOthers(t *testing.T) {
	l := newCutLab(t)
	off := l.foreignXDP(t, netnstest.HostDevice)
	l.cut.Set(CutAll)
	if err := errors.Join(l.cut.Keep(), l.cut.Reconcile()); err != nil {
		t.Fatal(err)
	}
	l.wantXDP(t, "another was first", "foreign", netnstest.HostDevice)
	l.wantXDP(t, "another was first", "kept", "tohost")
	if said := "packet sockets on device " + netnstest.HostDevice + " see what comes in: it has an XDP program of somebody else"; !l.told(said) {
		t.Errorf("not told: %q", l.cut.NotCut())
	}
	if l.told("device tohost") {
		t.Errorf("told of its own: %q", l.cut.NotCut())
	}
	off()
	if err := l.cut.Reconcile(); err != nil {
		t.Fatal(err)
	}
	l.wantXDP(t, "the other is gone", "kept", netnstest.HostDevice)
	if l.told("packet sockets on device") {
		t.Errorf("still told: %q", l.cut.NotCut())
	}
	// Root takes ours off.
	link, err := l.host.Handle(t).LinkByName(netnstest.HostDevice)
	if err != nil {
		t.Fatal(err)
	}
	l.host.Must(t, "taking it off", func() error { return vnl.LinkSetXdpFdWithFlags(link, -1, unix.XDP_FLAGS_SKB_MODE) })
	if err := l.cut.Reconcile(); err != nil {
		t.Fatal(err)
	}
	l.wantXDP(t, "taken off", "kept", netnstest.HostDevice)
}
