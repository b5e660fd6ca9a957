package isolation

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// lateKinds are the kinds of devices that may come while a host is isolated.
func lateKinds(parent int, name string) map[string]vnl.Link {
	child := func() vnl.LinkAttrs {
		attrs := attributes(name)
		attrs.ParentIndex = parent
		return attrs
	}
	return map[string]vnl.Link{
		"veth":    &vnl.Veth{LinkAttrs: attributes(name), PeerName: "far9"},
		"macvlan": &vnl.Macvlan{LinkAttrs: child(), Mode: vnl.MACVLAN_MODE_BRIDGE},
		"ipvlan":  &vnl.IPVlan{LinkAttrs: child(), Mode: vnl.IPVLAN_MODE_L2},
		"vlan":    &vnl.Vlan{LinkAttrs: child(), VlanId: 9},
		"bridge":  &vnl.Bridge{LinkAttrs: attributes(name)},
		"dummy":   &vnl.Dummy{LinkAttrs: attributes(name)},
		"vxlan":   &vnl.Vxlan{LinkAttrs: attributes(name), VxlanId: 9, Group: net.ParseIP(netnstest.PeerIP4), Port: 4789},
		"ipip":    &vnl.Iptun{LinkAttrs: attributes(name), Local: net.ParseIP(netnstest.HostIP4), Remote: net.ParseIP(netnstest.PeerIP4)},
	}
}

// Ensure that devices of each kind are cut as soon as the kernel has told of them,
// and print how long that is and what a sender gets out meanwhile that was waiting
// for the device.
func TestLateDevices(t *testing.T) {
	for kind := range lateKinds(0, "") {
		t.Run(kind, func(t *testing.T) {
			host, _ := netnstest.Pair(t)
			openBarrier(t, host)
			startKeeper(t, host, testSpec())
			gap, passed := late(t, host, kind, "late9")
			t.Logf("%s: cut %v after it was brought up, %d frames passed", kind, gap.Round(10*time.Microsecond), passed)
		})
	}
}

// Ensure that a device which comes is cut at the kernel's word of it, before the table is
// made anew, and that this counts as nobody's tampering.
func TestLateDeviceShut(t *testing.T) {
	host, _ := netnstest.Pair(t)
	barrier := openHooked(t, host, hookByDevice)
	barrier.kernel.anyDevice = false // as before Linux 6.17, when no chain waits for it
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	watching, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- barrier.Watch(ctx, func() {
			select {
			case watching <- struct{}{}:
			default:
			}
		})
	}()
	<-watching
	gap, passed := late(t, host, "veth", "late9")
	t.Logf("cut %v after it was brought up, %d frames passed", gap.Round(10*time.Microsecond), passed)
	for _, want := range []Drift{Surroundings, Unchanged} {
		if drift, err := barrier.Reconcile(testSpec()); err != nil || drift != want {
			t.Errorf("reconciling: got %d, %v; want %d", drift, err, want)
		}
	}
	if list := ruleset(t, host); strings.Contains(list, "came") {
		t.Errorf("the table that followed has them still: %s", list)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Ensure that where the kernel hooks devices in by itself, none is ever open, though
// nobody follows.
func TestLateDevicesInKernel(t *testing.T) {
	for kind := range lateKinds(0, "") {
		t.Run(kind, func(t *testing.T) {
			host, _ := netnstest.Pair(t)
			barrier := openHooked(t, host, hookAnyDevice)
			if err := barrier.Apply(testSpec()); err != nil {
				t.Fatal(err)
			}
			if _, passed := late(t, host, kind, "late9"); passed != 0 {
				t.Errorf("%d frames passed", passed)
			}
		})
	}
}

// Ensure that a network adapter which is plugged in, as the kernel names it, is never open
// though nobody follows, and that the table then covers it as any other.
func TestAdapterPluggedIn(t *testing.T) {
	host, _ := netnstest.Pair(t)
	barrier := openHooked(t, host, hookByDevice)
	needKernel(t, 6, 16, "chains on devices that are not there yet", barrier.expects())
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	if _, passed := late(t, host, "veth", "eth%d"); passed != 0 {
		t.Errorf("%d frames passed", passed)
	}
	for _, want := range []Drift{Surroundings, Unchanged} {
		if drift, err := barrier.Reconcile(testSpec()); err != nil || drift != want {
			t.Errorf("reconciling: got %d, %v; want %d", drift, err, want)
		}
	}
	if list := ruleset(t, host); !strings.Contains(list, `device "eth0"`) || strings.Contains(list, " eth0,") {
		t.Errorf("after it came: %s", list)
	}
}

// Ensure that a device of any other name is never open though nobody follows, nor one that
// gets another name, and that an nft which cannot read the chains still lists the ruleset.
func TestStrangers(t *testing.T) {
	for _, name := range []string{"late9", "host9", "enp0s31f6", "veth0a1b2c3", "br-9f86d081884c"} {
		t.Run(name, func(t *testing.T) {
			host, _ := netnstest.Pair(t)
			barrier := openHooked(t, host, hookByDevice)
			needKernel(t, 6, 17, "chains on devices by how their names begin", barrier.kernel.anyDevice)
			if err := barrier.Apply(testSpec()); err != nil {
				t.Fatal(err)
			}
			if _, passed := late(t, host, "veth", name); passed != 0 {
				t.Errorf("%d frames passed", passed)
			}
			handle := host.Handle(t)
			link, err := handle.LinkByName(name)
			if err == nil {
				err = handle.LinkSetName(link, "renamed0")
			}
			if err != nil {
				t.Fatal(err)
			}
			raw := netnstest.NewRaw(t, host, true)
			frame := netnstest.Ether(farMAC, farMAC, unix.ETH_P_IP, netnstest.IP4(unix.IPPROTO_UDP, host4, world4, netnstest.UDP(4444, 53, []byte("late")), netnstest.Options{}))
			if err := raw.Send(link.Attrs().Index, unix.ETH_P_IP, frame); !errors.Is(err, unix.ENOBUFS) {
				t.Errorf("a frame over what has another name now: got %v, want ENOBUFS", err)
			}
			ruleset(t, host) // ends
			for _, want := range []Drift{Surroundings, Unchanged} {
				if drift, err := barrier.Reconcile(testSpec()); err != nil || drift != want {
					t.Errorf("reconciling: got %d, %v; want %d", drift, err, want)
				}
			}
		})
	}
}

// late makes a device, brings it up and sends on it until a frame is refused.
func late(t *testing.T, host *netnstest.Namespace, kind, name string) (gap time.Duration, passed int) {
	t.Helper()
	handle := host.Handle(t)
	raw := netnstest.NewRaw(t, host, true)
	link := lateKinds(host.Index(t, netnstest.HostDevice), name)[kind]
	if err := handle.LinkAdd(link); err != nil {
		t.Skipf("SKIP: needs the %s driver: %v", kind, err)
	}
	found, err := handle.LinkByName(strings.Replace(name, "%d", "0", 1))
	if err != nil {
		t.Fatal(err)
	}
	if kind == "veth" {
		host.Up(t, "far9")
	}
	if err := handle.LinkSetUp(found); err != nil {
		t.Fatal(err)
	}
	up := time.Now()
	frame := netnstest.Ether(farMAC, farMAC, unix.ETH_P_IP, netnstest.IP4(unix.IPPROTO_UDP, host4, world4, netnstest.UDP(4444, 53, []byte("late")), netnstest.Options{}))
	if kind == "ipip" {
		frame = frame[14:] // its frames begin with the packet
	}
	for limit := slow.Deadline(5 * time.Second); time.Since(up) < limit; {
		switch err := raw.Send(found.Attrs().Index, unix.ETH_P_IP, frame); {
		case err == nil:
			passed++
		case errors.Is(err, unix.ENOBUFS):
			return time.Since(up), passed
		case errors.Is(err, unix.ENETDOWN): // not up yet
		default:
			t.Fatalf("sending: %v", err)
		}
	}
	t.Errorf("the device was not cut; %d frames passed", passed)
	return time.Since(up), passed
}
