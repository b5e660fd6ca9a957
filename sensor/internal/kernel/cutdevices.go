package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	vnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
)

const (
	// maxCutOnLink is ON_LINK_MAX of bpf/src/cut.bpf.c; a host with more prefixes has its
	// further neighbours resolved by multicast, which stays open.
	maxCutOnLink = 64
	// shortestCutOnLink is the widest prefix that is taken for a link.
	shortestCutOnLink = 48
	// listAttempts bounds what devices that come and go can make us repeat.
	listAttempts = 4
	// filterName and filterHandle are what the filters are known by before 6.6, also
	// those that a killed sensor left.
	filterName   = "vedette_cut"
	filterHandle = 0x76656474
	// maxFilterPriority bounds the search for a place before others' filters.
	maxFilterPriority = 8
)

// bareDevices are the kinds whose packets begin with the IP header, by their link type's
// name; all others but Ethernet are closed altogether, as they are by the isolation.
var bareDevices = []string{
	"none", "ppp", "ipip", "tunnel6", "sit", "gre",
	// Two that the library has no names for.
	fmt.Sprintf("unknown%d", unix.ARPHRD_RAWIP), fmt.Sprintf("unknown%d", unix.ARPHRD_IP6GRE),
}

// cutDevice is one device that the programs hang on.
type cutDevice struct {
	index    int
	name     string
	programs [2]string   // out and in, as ways
	priority [2]uint16   // of its filters, out and in; 0: links
	links    []link.Link // out and in
	made     bool        // its clsact is ours
}

// ways are the two directions of a device.
var ways = []struct {
	name   string
	attach ebpf.AttachType
	parent uint32
}{
	{"egress", ebpf.AttachTCXEgress, vnl.HANDLE_MIN_EGRESS},
	{"ingress", ebpf.AttachTCXIngress, vnl.HANDLE_MIN_INGRESS},
}

// cutPrograms are the programs of a kind of device, in the order of ways.
func cutPrograms(attrs *vnl.LinkAttrs) [2]string {
	switch {
	case attrs.EncapType == "ether":
		return [2]string{bpf.CutProgCutOut, bpf.CutProgCutIn}
	case slices.Contains(bareDevices, attrs.EncapType):
		return [2]string{bpf.CutProgCutOutBare, bpf.CutProgCutInBare}
	}
	return [2]string{bpf.CutProgCutOutClosed, bpf.CutProgCutInClosed}
}

// inside runs f on a thread that is in the namespace. The thread ends with it: one whose
// namespace was changed must not run other goroutines.
func (c *Cut) inside(f func() error) error {
	if c.ns == nil {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(c.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

func (c *Cut) routes() (*vnl.Handle, error) {
	var handle *vnl.Handle
	var err error
	if c.ns == nil {
		handle, err = vnl.NewHandle(unix.NETLINK_ROUTE)
	} else {
		handle, err = vnl.NewHandleAt(netns.NsHandle(c.ns.Fd()), unix.NETLINK_ROUTE)
	}
	if err != nil {
		return nil, fmt.Errorf("opening rtnetlink: %w", err)
	}
	return handle, nil
}

// listed repeats a dump that a change interrupted.
func listed[T any](list func() ([]T, error)) (all []T, err error) {
	for range listAttempts {
		if all, err = list(); !errors.Is(err, vnl.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// Reconcile hangs the programs on the devices that came, and again on those that somebody
// took them from or went before them on; it takes them off devices that left the namespace,
// unless it is cut. Follow calls it. A device that takes no program is no error: NotCut
// names it.
func (c *Cut) Reconcile() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrCutClosed
	}
	handle, err := c.routes()
	if err != nil {
		return err
	}
	defer handle.Close()
	devices, err := listed(handle.LinkList)
	if err != nil {
		return fmt.Errorf("listing devices: %w", err)
	}
	here := map[int]bool{}
	var errs []error
	err = c.inside(func() error {
		for _, device := range devices {
			attrs := device.Attrs()
			if attrs.Flags&net.FlagLoopback != 0 {
				continue
			}
			here[attrs.Index] = true
			err := c.cover(handle, attrs)
			switch {
			case err == nil || isGone(err):
				delete(c.uncovered, attrs.Name)
			// One device that takes no program must not keep the others open.
			case c.uncovered[attrs.Name] == nil:
				c.cfg.Logger.Error("covering a device", slog.String("device", attrs.Name), slog.Any("error", err))
				fallthrough
			default:
				c.uncovered[attrs.Name] = err
			}
		}
		return c.followSniff(devices)
	})
	errs = append(errs, err)
	for index, d := range c.devices {
		// One that was moved away while the host is cut keeps its programs: nothing
		// may leave through it from there either.
		if !here[index] && (c.Level() == CutNone || !d.alive()) {
			errs = append(errs, c.detach(d))
			delete(c.devices, index)
			delete(c.displaced, index)
		}
	}
	return errors.Join(append(errs, c.followOnLink(handle))...)
}

// isGone: the device went while it was looked at.
func isGone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO)
}

// cover makes sure that the programs hang on a device, first of all.
func (c *Cut) cover(handle *vnl.Handle, attrs *vnl.LinkAttrs) error {
	programs := cutPrograms(attrs)
	d := c.devices[attrs.Index]
	if d != nil && d.programs == programs && c.holds(handle, d) {
		switch {
		case c.isFirst(handle, d):
			delete(c.displaced, attrs.Index)
			return c.keepOn(d)
		case c.displaced[attrs.Index]:
			return c.keepOn(d) // it was put first and is not: whoever insists is told of, and not fought
		}
		c.cfg.Logger.Warn("another program was put before the cut's", slog.String("device", attrs.Name))
	}
	if d != nil {
		delete(c.devices, attrs.Index)
		if err := c.detach(d); err != nil {
			return err
		}
	}
	d = &cutDevice{index: attrs.Index, name: attrs.Name, programs: programs}
	attach := c.attachLinks
	if !c.tcx {
		attach = c.attachFilters
	}
	if err := attach(handle, d); err != nil {
		return errors.Join(err, c.detach(d))
	}
	c.devices[attrs.Index] = d
	delete(c.displaced, attrs.Index)
	if !c.isFirst(handle, d) {
		c.displaced[attrs.Index] = true
		c.cfg.Logger.Warn("the cut's program is not the first", slog.String("device", attrs.Name))
	}
	return c.keepOn(d)
}

func (c *Cut) attachLinks(_ *vnl.Handle, d *cutDevice) error {
	for i, way := range ways {
		l, err := link.AttachTCX(link.TCXOptions{
			Interface: d.index, Attach: way.attach, Program: c.collection.Programs[d.programs[i]], Anchor: link.Head(),
		})
		if err != nil {
			return fmt.Errorf("attaching %s: %w", d.programs[i], err)
		}
		d.links = append(d.links, l)
	}
	return nil
}

// alive is false when the device is gone, or somebody took a link's program off it.
func (d *cutDevice) alive() bool {
	for _, l := range d.links {
		info, err := l.Info()
		if err != nil || info.TCX() == nil || info.TCX().Ifindex == 0 {
			return false
		}
	}
	return len(d.links) == len(ways)
}

// holds says whether the programs still hang on the device.
func (c *Cut) holds(handle *vnl.Handle, d *cutDevice) bool {
	if c.tcx {
		return d.alive()
	}
	for i := range ways {
		if id, _ := c.filterAt(handle, d, i); !c.isOwnProgram(id) {
			return false
		}
	}
	return true
}

// isFirst says whether the device's programs come before all others of their hook.
func (c *Cut) isFirst(handle *vnl.Handle, d *cutDevice) bool {
	for i, way := range ways {
		if !c.tcx {
			if id, first := c.filterAt(handle, d, i); !first || !c.isOwnProgram(id) {
				return false
			}
			continue
		}
		all, err := link.QueryPrograms(link.QueryOptions{Target: d.index, Attach: way.attach})
		if err != nil || len(all.Programs) == 0 {
			return false
		}
		// The word's program, or the copy of it that is kept.
		first := false
		for _, p := range []*ebpf.Program{c.collection.Programs[d.programs[i]], c.kept[d.programs[i]]} {
			if p != nil {
				id, ok := programID(p)
				first = first || ok && all.Programs[0].ID == id
			}
		}
		if !first {
			return false
		}
	}
	return true
}

func programID(p *ebpf.Program) (ebpf.ProgramID, bool) {
	info, err := p.Info()
	if err != nil {
		return 0, false
	}
	return info.ID()
}

func (d *cutDevice) filter(i int) *vnl.BpfFilter {
	return &vnl.BpfFilter{
		FilterAttrs: vnl.FilterAttrs{
			LinkIndex: d.index, Parent: ways[i].parent, Handle: filterHandle, Protocol: unix.ETH_P_ALL, Priority: d.priority[i],
		},
		Name: filterName, DirectAction: true,
	}
}

func (d *cutDevice) clsact() *vnl.Clsact {
	return &vnl.Clsact{QdiscAttrs: vnl.QdiscAttrs{LinkIndex: d.index, Handle: vnl.MakeHandle(0xffff, 0), Parent: vnl.HANDLE_CLSACT}}
}

// attachFilters is for kernels before 6.6. A filter of another kind may hold the first
// place and does not give it up; it is told of.
func (c *Cut) attachFilters(handle *vnl.Handle, d *cutDevice) error {
	err := handle.QdiscAdd(d.clsact())
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("adding clsact: %w", err)
	}
	d.made = err == nil
	for i := range ways {
		for d.priority[i] = 1; d.priority[i] <= maxFilterPriority; d.priority[i]++ {
			filter := d.filter(i)
			filter.Fd = c.collection.Programs[d.programs[i]].FD()
			if err = handle.FilterReplace(filter); err == nil || isGone(err) {
				break
			}
		}
		if err != nil {
			d.priority[i] = 0
			return fmt.Errorf("adding filter %s: %w", d.programs[i], err)
		}
	}
	return nil
}

// filterAt is the program of our filter, 0 when it is not there, and whether it is the
// first of all filters.
func (c *Cut) filterAt(handle *vnl.Handle, d *cutDevice, i int) (id int, first bool) {
	filters, err := listed(func() ([]vnl.Filter, error) { return handle.FilterList(d.clsactLink(), ways[i].parent) })
	if err != nil {
		return 0, false
	}
	for at, f := range filters {
		if ours, ok := f.(*vnl.BpfFilter); ok && ours.Handle == filterHandle && ours.Priority == d.priority[i] {
			return ours.Id, at == 0
		}
	}
	return 0, false
}

func (d *cutDevice) clsactLink() vnl.Link {
	return &vnl.Dummy{LinkAttrs: vnl.LinkAttrs{Index: d.index, Name: d.name}}
}

// detach takes off a device what hangs on it. A filter that a newer sensor put in the
// place of ours is left.
func (c *Cut) detach(d *cutDevice) error {
	var errs []error
	for _, l := range d.links {
		errs = append(errs, l.Close())
	}
	d.links = nil
	if d.priority == [2]uint16{} {
		return errors.Join(errs...)
	}
	handle, err := c.routes()
	if err != nil {
		return err
	}
	defer handle.Close()
	left := 0
	for i := range ways {
		if id, _ := c.filterAt(handle, d, i); d.priority[i] != 0 && c.isOwnProgram(id) {
			if err := handle.FilterDel(d.filter(i)); err != nil && !isGone(err) && !errors.Is(err, unix.EINVAL) {
				errs = append(errs, fmt.Errorf("removing filter of %s: %w", d.name, err))
			}
		}
		filters, err := handle.FilterList(d.clsactLink(), ways[i].parent)
		if err != nil {
			left++
		}
		left += len(filters)
	}
	d.priority = [2]uint16{}
	if d.made && left == 0 {
		if err := handle.QdiscDel(d.clsact()); err != nil && !isGone(err) && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("removing clsact of %s: %w", d.name, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Cut) isOwnProgram(id int) bool {
	for _, p := range c.collection.Programs {
		if own, ok := programID(p); ok && int(own) == id {
			return true
		}
	}
	return false
}

// followOnLink keeps the prefixes on this host's links.
func (c *Cut) followOnLink(handle *vnl.Handle) error {
	addresses, err := listed(func() ([]vnl.Addr, error) { return handle.AddrList(nil, unix.AF_INET6) })
	if err != nil {
		return fmt.Errorf("listing IPv6 addresses: %w", err)
	}
	want := map[netip.Prefix]bool{}
	for _, address := range addresses {
		ones, _ := address.Mask.Size()
		ip, ok := netip.AddrFromSlice(address.IP)
		if ok && ip.Is6() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && ones >= shortestCutOnLink && len(want) < maxCutOnLink {
			want[netip.PrefixFrom(ip, ones).Masked()] = true
		}
	}
	table := c.collection.Maps[bpf.CutMapOnLink]
	for prefix := range c.onLink {
		if !want[prefix] {
			if err := table.Delete(prefixKey(prefix)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("closing a link's prefix: %w", err)
			}
			delete(c.onLink, prefix)
		}
	}
	for prefix := range want {
		if !c.onLink[prefix] {
			if err := table.Put(prefixKey(prefix), uint32(1)); err != nil {
				return fmt.Errorf("opening a link's prefix: %w", err)
			}
			c.onLink[prefix] = true
		}
	}
	return nil
}

// prefixKey is struct prefix of bpf/src/cut.bpf.c.
func prefixKey(prefix netip.Prefix) []byte {
	address := prefix.Addr().As16()
	var key [20]byte
	binary.NativeEndian.PutUint32(key[:], uint32(prefix.Bits())) //nolint:gosec // at most 128
	copy(key[4:], address[:])
	return key[:]
}
