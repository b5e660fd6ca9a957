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

// knock sends frames of two ethertypes to a device of the host from the peer's end of it.
func (l *cutLab) knock(t testing.TB, raw *netnstest.Raw, device, marker string) {
	t.Helper()
	index := l.peer.Index(t, device)
	ip := netnstest.IP4(unix.IPPROTO_UDP, peer4, host4, netnstest.UDP(53, 4444, []byte(marker)), netnstest.Options{})
	for ethertype, payload := range map[uint16][]byte{unix.ETH_P_IP: ip, foreignType: []byte(marker)} {
		for range perCutPath {
			if err := raw.Send(index, ethertype, netnstest.Ether(everybody, l.peerMAC, ethertype, payload)); err != nil && !errors.Is(err, unix.ENOBUFS) {
				t.Fatalf("sending to the host: %v", err)
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
	tower, err := newXDPTower([]vnl.Link{link})
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
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			for _, device := range devices {
				l.knock(t, raw, device, marker)
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
				l.knock(t, raw, netnstest.PeerDevice, marker)
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

// tower builds a bridge with a port of the peer's, and a macvlan above it.
func (l *cutLab) tower(t *testing.T) {
	t.Helper()
	handle := l.host.Handle(t)
	attrs := vnl.NewLinkAttrs()
	attrs.Name = "bridge9"
	bridge := &vnl.Bridge{LinkAttrs: attrs}
	if err := handle.LinkAdd(bridge); err != nil {
		t.Skipf("SKIP: needs bridges: %v", err)
	}
	above := vnl.NewLinkAttrs()
	above.Name, above.ParentIndex = "above9", l.host.Index(t, "bridge9")
	if err := handle.LinkAdd(&vnl.Macvlan{LinkAttrs: above, Mode: vnl.MACVLAN_MODE_BRIDGE}); err != nil {
		t.Skipf("SKIP: needs macvlan: %v", err)
	}
	vx := vnl.NewLinkAttrs()
	vx.Name = "vxlan9"
	if err := handle.LinkAdd(&vnl.Vxlan{LinkAttrs: vx, VxlanId: 7, Group: net.ParseIP(netnstest.PeerIP4), Port: 4789, VtepDevIndex: l.index}); err != nil {
		t.Skipf("SKIP: needs vxlan: %v", err)
	}
	// The last to come is the lowest.
	l.port(t, "port0", "far0")
	l.host.Up(t, "bridge9")
	l.host.Up(t, "above9")
	l.host.Up(t, "vxlan9")
}

func (l *cutLab) port(t *testing.T, name, far string) {
	t.Helper()
	netnstest.Wire(t, l.host, name, l.peer, far)
	handle := l.host.Handle(t)
	port, err := handle.LinkByName(name)
	if err == nil {
		err = handle.LinkSetMasterByIndex(port, l.host.Index(t, "bridge9"))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Ensure devices that stand on others are covered with them, whatever came first; that
// one which comes below is covered; and that all are handed over and released.
func TestCutSniffersOnTowers(t *testing.T) {
	l := newCutLab(t)
	l.tower(t)
	raw := netnstest.NewRaw(t, l.peer, false)
	sockets := append(l.sniffers(t, "above9"), l.sniffers(t, "bridge9")...)
	sockets = append(sockets, l.sniffers(t, "port0")...)
	await(t, "what comes in to reach the top of the tower", func() bool {
		l.knock(t, raw, "far0", "<armed>")
		return sockets[0].Count(t, []byte("<armed>")) > 0 && sockets[3].Count(t, []byte("<armed>")) > 0
	})
	l.cut.Set(CutAll)
	off := l.foreignXDP(t, "bridge9")
	if err := errors.Join(l.cut.Keep(), l.cut.Reconcile()); err != nil {
		t.Fatal(err)
	}
	l.wantXDP(t, "another's in the middle", "kept", "above9", "vxlan9", netnstest.HostDevice)
	l.wantXDP(t, "another's in the middle", "", "port0")
	if !l.told("packet sockets on device port0 see what comes in: somebody else's XDP program is on a device above it") || !l.told("packet sockets on device bridge9 see") {
		t.Errorf("not told: %q", l.cut.NotCut())
	}
	// Whose it is must take off first what is above it.
	above := &vnl.Dummy{LinkAttrs: vnl.LinkAttrs{Index: l.host.Index(t, "above9")}}
	l.host.Must(t, "taking ours off", func() error { return vnl.LinkSetXdpFdWithFlags(above, -1, unix.XDP_FLAGS_SKB_MODE) })
	off()
	if err := l.cut.Reconcile(); err != nil {
		t.Fatal(err)
	}
	tower := []string{"port0", "bridge9", "above9", "vxlan9", netnstest.HostDevice}
	l.wantXDP(t, "cut", "kept", tower...)
	sockets.count(t, "")
	stop := l.flooding(t, raw, "<cut>", "far0")
	l.port(t, "port1", "far1")
	bare := l.watching(t, "port0", "vxlan9", netnstest.HostDevice)
	if err := l.cut.Reconcile(); err != nil {
		t.Error(err)
	}
	tower = append(tower, "port1")
	if were := bare(); len(were) > 0 {
		t.Errorf("a port came: %q, which are not above it, had no program for a moment", were)
	}
	l.wantXDP(t, "a port came", "kept", tower...)
	if l.told("packet sockets on device") {
		t.Errorf("told: %q", l.cut.NotCut())
	}
	stop()
	stop = l.flooding(t, raw, "<cut>", "far0", "far1")
	if err := l.cut.Close(); err != nil {
		t.Fatal(err)
	}
	next := openCut(t, l.host)
	next.Set(CutAll)
	bare = l.watching(t, "port0", "port1", "tohost", netnstest.HostDevice)
	if err := next.Keep(); err != nil {
		t.Error(err)
	}
	if were := bare(); len(were) > 0 {
		t.Errorf("handed over: %q, which the others stand on, had no program for a moment", were)
	}
	stop()
	if n := sockets.count(t, "<cut>"); n != 0 {
		t.Errorf("packet sockets saw %d packets", n)
	}
	l.wantXDP(t, "the next sensor", "kept", tower...)
	if gaps := next.NotCut(); slices.ContainsFunc(gaps, func(s string) bool { return strings.Contains(s, "packet sockets on device") }) {
		t.Errorf("told: %q", gaps)
	}
	// Another's on the top holds those below where they are; they are idle.
	next.Set(CutNone)
	top := l.host.Index(t, "above9")
	other := returns(t, ebpf.XDP, xdpPasses)
	l.host.Must(t, "putting another's in our place", func() error {
		return errors.Join(vnl.LinkSetXdpFdWithFlags(&vnl.Dummy{LinkAttrs: vnl.LinkAttrs{Index: top}}, other.FD(), unix.XDP_FLAGS_SKB_MODE))
	})
	if err := next.Unkeep(); err != nil {
		t.Errorf("a release that another's program holds up: %v", err)
	}
	l.wantXDP(t, "another's above", "foreign", "above9")
	l.wantXDP(t, "another's above", "kept", "bridge9")
	await(t, "what comes in to pass idle programs", func() bool {
		l.knock(t, raw, "far0", "<idle>")
		return sockets[3].Count(t, []byte("<idle>")) > 0
	})
	l.host.Must(t, "taking it off", func() error { return setXDP(top, nil, other) })
	if err := next.Reconcile(); err != nil {
		t.Fatal(err)
	}
	l.wantXDP(t, "released", "", tower...)
}

// Ensure devices of a kind whose place is not known are covered, handed over and released
// as well.
func TestCutSniffersOnUnknownTowers(t *testing.T) {
	l := newCutLab(t)
	l.tower(t)
	all := []string{"port0", "bridge9", "above9", "vxlan9", netnstest.HostDevice}
	// unknown calls f with the devices as if nothing were known of who stands on whom.
	unknown := func(f func(*xdpTower)) {
		t.Helper()
		links, err := l.host.Handle(t).LinkList()
		if err != nil {
			t.Fatal(err)
		}
		l.host.Must(t, "looking", func() error {
			tower, err := newXDPTower(links)
			if err != nil {
				return err
			}
			slices.Reverse(tower.devices)
			for i, d := range tower.devices {
				d.place, d.uppers, d.lowers = i, nil, nil
			}
			f(tower)
			return tower.close()
		})
	}
	l.cut.Set(CutAll)
	l.cut.unsniffed = map[string]string{}
	unknown(l.cut.sniff)
	l.wantXDP(t, "cut", "kept", all...)
	if err := l.cut.Close(); err != nil {
		t.Fatal(err)
	}
	next := openCut(t, l.host)
	next.Set(CutAll)
	next.unsniffed = map[string]string{}
	unknown(next.sniff)
	if len(next.unsniffed) > 0 {
		t.Errorf("told: %q", next.unsniffed)
	}
	own := next.ownSniff()
	unknown(func(tower *xdpTower) {
		for _, d := range tower.devices {
			if !own[d.id] {
				t.Errorf("device %s was not handed over", d.Name)
			}
		}
	})
	unknown(func(tower *xdpTower) {
		for d, err := range tower.remove(func(d *xdpDevice) bool { return own[d.id] }, nil) {
			t.Errorf("device %s: %v", d.Name, err)
		}
	})
	l.wantXDP(t, "released", "", all...)
}
