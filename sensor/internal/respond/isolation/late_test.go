package isolation

import (
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

// Ensure that a device is shut at the kernel's first word of it, before it could be up and
// before the table is looked at, and that the table then covers it as any other, with
// nobody suspected.
func TestLateDeviceAtFirstWord(t *testing.T) {
	host, _ := netnstest.Pair(t)
	barrier := openHooked(t, host, hookByDevice)
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	words, err := barrier.subscribe(unix.NETLINK_ROUTE, []uint32{unix.RTNLGRP_LINK})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = words.Close() })
	if err := words.SetReadDeadline(time.Now().Add(slow.Deadline(5 * time.Second))); err != nil {
		t.Fatal(err)
	}
	handle := host.Handle(t)
	if err := handle.LinkAdd(&vnl.Veth{LinkAttrs: attributes("late9"), PeerName: "far9"}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // both ends
		messages, err := words.Receive()
		if err != nil {
			t.Fatal(err)
		}
		barrier.hasten(messages)
		barrier.hasten(messages) // told again
	}
	host.Up(t, "far9")
	host.Up(t, "late9")
	index, raw := host.Index(t, "late9"), netnstest.NewRaw(t, host, true)
	for range 100 {
		if err := raw.Send(index, unix.ETH_P_IP, netnstest.Ether(farMAC, farMAC, unix.ETH_P_IP, make([]byte, 40))); !errors.Is(err, unix.ENOBUFS) {
			t.Fatalf("sending on a device that just came: got %v, want ENOBUFS", err)
		}
	}
	for _, want := range []Drift{Surroundings, Unchanged} {
		if drift, err := barrier.Reconcile(testSpec()); err != nil || drift != want {
			t.Errorf("reconciling: got %d, %v; want %d", drift, err, want)
		}
	}
	if result, err := barrier.Probe(); err != nil {
		t.Errorf("probing with the device: %v, %v", result, err)
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
