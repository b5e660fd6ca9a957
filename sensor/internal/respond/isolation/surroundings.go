package isolation

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"

	vnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// maxOnLink bounds the prefixes that neighbour discovery may address; a host
// with more has its further neighbours resolved by multicast, which stays open.
const maxOnLink = 64

// shortestOnLink is the widest prefix taken for a link. A wider one on a device
// (somebody added 2000::/3) would open neighbour discovery to everywhere.
const shortestOnLink = 48

// device is one device of the namespace that is not loopback.
type device struct {
	index int
	name  string
	up    bool
	// address is the link-layer address; nil where there is none.
	address net.HardwareAddr
}

func (d device) same(o device) bool { return d.index == o.index && d.name == o.name }

// surroundings are what the rules depend on and other programs change.
type surroundings struct {
	devices []device
	onLink  []netip.Prefix
}

// equal leaves out whether devices are up: the rules do not depend on it.
func (s surroundings) equal(o surroundings) bool {
	return slices.Equal(s.onLink, o.onLink) && slices.EqualFunc(s.devices, o.devices, device.same)
}

func (b *Barrier) fd() int {
	if b.ns == nil {
		return 0
	}
	return int(b.ns.Fd())
}

func (b *Barrier) surroundings() (surroundings, error) {
	handle, err := b.routeHandle()
	if err != nil {
		return surroundings{}, fmt.Errorf("opening rtnetlink: %w", err)
	}
	defer handle.Close()
	links, err := handle.LinkList()
	if err != nil {
		return surroundings{}, fmt.Errorf("listing devices: %w", err)
	}
	var s surroundings
	for _, link := range links {
		attrs := link.Attrs()
		if attrs.Flags&net.FlagLoopback != 0 {
			continue
		}
		s.devices = append(s.devices, device{
			index: attrs.Index, name: attrs.Name, up: attrs.Flags&net.FlagUp != 0, address: attrs.HardwareAddr,
		})
	}
	slices.SortFunc(s.devices, func(a, b device) int { return a.index - b.index })
	addresses, err := handle.AddrList(nil, unix.AF_INET6)
	if err != nil {
		return surroundings{}, fmt.Errorf("listing IPv6 addresses: %w", err)
	}
	for _, address := range addresses {
		ones, _ := address.Mask.Size()
		ip, ok := netip.AddrFromSlice(address.IP)
		if !ok || !ip.Is6() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ones < shortestOnLink {
			continue
		}
		s.onLink = append(s.onLink, netip.PrefixFrom(ip, ones).Masked())
	}
	slices.SortFunc(s.onLink, netip.Prefix.Compare)
	s.onLink = slices.Compact(s.onLink)
	if len(s.onLink) > maxOnLink {
		s.onLink = s.onLink[:maxOnLink]
	}
	return s, nil
}

func (b *Barrier) routeHandle() (*vnl.Handle, error) {
	if b.ns == nil {
		return vnl.NewHandle(unix.NETLINK_ROUTE)
	}
	return vnl.NewHandleAt(netns.NsHandle(b.fd()), unix.NETLINK_ROUTE)
}

// inside runs fn on a thread that is in the namespace. The thread ends with it:
// one whose namespace was changed must not run other goroutines.
func (b *Barrier) inside(fn func() error) error {
	if b.ns == nil {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(b.fd(), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering network namespace: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}
