package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"slices"

	"github.com/cilium/ebpf"
	vnl "github.com/vishvananda/netlink"
	vnlnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
)

// sniffPrograms are the programs that come before packet sockets, by what cuts a kind of
// device on the way in. They are called keptName from the start: no link holds them, so
// that they outlive their process without a copy.
var sniffPrograms = map[string]string{
	bpf.CutProgCutIn:       bpf.CutProgCutSniff,
	bpf.CutProgCutInBare:   bpf.CutProgCutSniffBare,
	bpf.CutProgCutInClosed: bpf.CutProgCutSniffClosed,
}

// xdpAttachedSKB is XDP_ATTACHED_SKB of linux/if_link.h: generic XDP.
const xdpAttachedSKB = 2

// bindTaken gives the programs what must be known when they are removed, by whomever.
func (c *Cut) bindTaken() error {
	for _, name := range sniffPrograms {
		if err := c.collection.Programs[name].BindMap(c.collection.Maps[bpf.CutMapCutTaken]); err != nil {
			return fmt.Errorf("binding %s to %s: %w", bpf.CutMapCutTaken, name, err)
		}
	}
	return nil
}

// ownSniff are the numbers of this cut's programs.
func (c *Cut) ownSniff() map[ebpf.ProgramID]bool {
	own := map[ebpf.ProgramID]bool{}
	for _, name := range sniffPrograms {
		if id, ok := programID(c.collection.Programs[name]); ok {
			own[id] = true
		}
	}
	return own
}

// xdpDevice is a device and the XDP program on it.
type xdpDevice struct {
	*vnl.LinkAttrs
	lowers, uppers []*xdpDevice
	place          int // in the order, lowers first
	ordered        bool
	id             ebpf.ProgramID // 0: none
	// program is what hangs there, of this or an earlier sensor; nil with an id: somebody
	// else's.
	program *ebpf.Program
}

func (d *xdpDevice) foreign() bool { return d.id != 0 && d.program == nil }

// xdpTower are the devices of a namespace, lowers before uppers. The kernel lets no
// program be put on a device, changed or taken off it while a device above it has one.
type xdpTower struct {
	devices  []*xdpDevice
	programs map[ebpf.ProgramID]*ebpf.Program // nil: somebody else's
}

// newXDPTower looks at all devices but loopback. It is to be closed.
func newXDPTower(links []vnl.Link) (*xdpTower, error) {
	t := &xdpTower{programs: map[ebpf.ProgramID]*ebpf.Program{}}
	var all []*xdpDevice
	at := map[int]*xdpDevice{}
	for _, link := range links {
		attrs := link.Attrs()
		if attrs.Flags&net.FlagLoopback != 0 {
			continue
		}
		d := &xdpDevice{LinkAttrs: attrs}
		if err := t.look(d); err != nil {
			return nil, errors.Join(err, t.close())
		}
		all = append(all, d)
		at[attrs.Index] = d
	}
	stack := func(lower, upper *xdpDevice) {
		if lower != nil && upper != nil && lower != upper {
			lower.uppers, upper.lowers = append(lower.uppers, upper), append(upper.lowers, lower)
		}
	}
	for i, link := range links {
		d := at[link.Attrs().Index]
		if d == nil {
			continue
		}
		stack(d, at[d.MasterIndex])
		// A pair's link is its other end, which is not below it; a number of another
		// namespace is nobody's here.
		if kind := links[i].Type(); kind != "veth" && kind != "netkit" && d.NetNsID < 0 {
			stack(at[d.ParentIndex], d)
		}
	}
	for _, d := range all {
		t.order(d)
	}
	return t, nil
}

func (t *xdpTower) order(d *xdpDevice) {
	if d.ordered {
		return
	}
	d.ordered = true
	for _, lower := range d.lowers {
		t.order(lower)
	}
	d.place = len(t.devices)
	t.devices = append(t.devices, d)
}

// look finds out whose program is on a device.
func (t *xdpTower) look(d *xdpDevice) error {
	if d.Xdp == nil || !d.Xdp.Attached {
		return nil
	}
	d.id = ebpf.ProgramID(d.Xdp.ProgId)
	if d.Xdp.AttachMode != xdpAttachedSKB {
		d.id = max(d.id, 1) // of several none is told
		return nil
	}
	if p, known := t.programs[d.id]; known {
		d.program = p
		return nil
	}
	p, err := ebpf.NewProgramFromID(d.id)
	if errors.Is(err, fs.ErrNotExist) {
		d.id = 0
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at program %d on device %s: %w", d.id, d.Name, err)
	}
	info, err := p.Info()
	if err != nil || info.Name != keptName {
		_ = p.Close() // a descriptor
		p = nil
	}
	t.programs[d.id], d.program = p, p
	return nil
}

func (t *xdpTower) close() error {
	var errs []error
	for _, p := range t.programs {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// setXDP puts a generic XDP program on a device, inside its namespace: in the place of
// another and of no third one, or where none is. A nil program takes the other off.
func setXDP(index int, program, instead *ebpf.Program) error {
	request := vnlnl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	message := vnlnl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(index) //nolint:gosec // a device's
	request.AddData(message)
	flags, fd := uint32(unix.XDP_FLAGS_SKB_MODE), ^uint32(0)
	if program != nil {
		fd = uint32(program.FD()) //nolint:gosec // a descriptor
	}
	xdp := vnlnl.NewRtAttr(unix.IFLA_XDP|unix.NLA_F_NESTED, nil)
	xdp.AddRtAttr(unix.IFLA_XDP_FD, binary.NativeEndian.AppendUint32(nil, fd))
	if instead != nil {
		flags |= unix.XDP_FLAGS_REPLACE
		xdp.AddRtAttr(unix.IFLA_XDP_EXPECTED_FD, binary.NativeEndian.AppendUint32(nil, uint32(instead.FD()))) //nolint:gosec // a descriptor
	} else {
		flags |= unix.XDP_FLAGS_UPDATE_IF_NOEXIST
	}
	xdp.AddRtAttr(unix.IFLA_XDP_FLAGS, binary.NativeEndian.AppendUint32(nil, flags))
	request.AddData(xdp)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (d *xdpDevice) set(program *ebpf.Program) error {
	if err := setXDP(d.Index, program, d.program); err != nil {
		return err
	}
	d.program, d.id = program, 0
	if program != nil {
		d.id, _ = programID(program)
	}
	return nil
}

// clear takes the programs off all devices above this one. They come later in the order.
func (d *xdpDevice) clear() error {
	var errs []error
	for _, upper := range d.uppers {
		if upper.place <= d.place {
			continue
		}
		errs = append(errs, upper.clear())
		if upper.program != nil {
			if err := upper.set(nil); err != nil && !isGone(err) {
				errs = append(errs, fmt.Errorf("taking the program off device %s for a moment: %w", upper.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// followSniff hangs the programs on all devices while Keep asked for it and what comes in
// is cut, and takes them off else. It runs inside the namespace; mu is held.
func (c *Cut) followSniff(devices []vnl.Link) error {
	tower, err := newXDPTower(devices)
	if err != nil {
		return err
	}
	c.foreign = c.foreign[:0]
	for _, d := range tower.devices {
		if d.foreign() {
			c.foreign = append(c.foreign, d.Name)
		}
	}
	before := c.unsniffed
	c.unsniffed = map[string]string{}
	if level := c.Level(); c.sniffs && level != CutNone && level != CutEgress {
		c.sniff(tower)
	} else {
		c.unsniff(tower)
	}
	for name, why := range c.unsniffed {
		if before[name] != why {
			c.cfg.Logger.Warn("the cut's XDP program is not as it should be", slog.String("device", name), slog.String("why", why))
		}
	}
	return tower.close()
}

// lookSniff is followSniff of the devices that are there now.
func (c *Cut) lookSniff() error {
	handle, err := c.routes()
	if err != nil {
		return err
	}
	defer handle.Close()
	devices, err := listed(handle.LinkList)
	if err != nil {
		return fmt.Errorf("listing devices: %w", err)
	}
	return c.inside(func() error { return c.followSniff(devices) })
}

// sniff covers the devices, lowers first. One that takes no program is told of.
func (c *Cut) sniff(tower *xdpTower) {
	own := c.ownSniff()
	// Once this sensor has taken over, who has another's program put there is alive.
	mine := func(d *xdpDevice) bool { return !d.foreign() && (d.program == nil || own[d.id] || !c.tookOver) }
	c.remember(tower, own)
	for _, d := range tower.devices {
		want := c.collection.Programs[sniffPrograms[cutPrograms(d.LinkAttrs)[1]]]
		if id, ok := programID(want); !mine(d) || ok && d.id == id {
			continue
		}
		err := d.set(want)
		if errors.Is(err, unix.EEXIST) && len(d.uppers) > 0 {
			if err = d.clear(); err == nil {
				err = d.set(want)
			}
		}
		switch {
		case err == nil || isGone(err):
		case errors.Is(err, unix.EEXIST):
			c.unsniffed[d.Name] = "somebody else's XDP program is on a device above it"
		default:
			c.unsniffed[d.Name] = err.Error()
		}
	}
	for _, d := range tower.devices {
		if d.program != nil && !mine(d) {
			c.unsniffed[d.Name] = "it has another sensor's program"
		}
	}
	// Those that were replaced may hang on a device that left this namespace, too.
	for id, p := range tower.programs {
		if p == nil || own[id] || c.tookOver {
			continue
		}
		info, err := p.Info()
		if err == nil {
			err = clearWord(info)
		}
		if err != nil {
			c.cfg.Logger.Warn("an earlier sensor's programs stay in force", slog.Any("error", err))
		}
	}
}

// unsniff takes the programs off and gives the devices back what they took. What fails
// is told and holds up no release: a program that stays is idle, and the next look tries
// again.
func (c *Cut) unsniff(tower *xdpTower) {
	own, taken := c.ownSniff(), c.collection.Maps[bpf.CutMapCutTaken]
	back := map[uint32]uint32{}
	if err := readTaken(taken, back); err != nil {
		c.cfg.Logger.Error("reading what devices are to get back", slog.Any("error", err))
	}
	stays := map[uint32]bool{}
	for d, err := range tower.remove(func(d *xdpDevice) bool { return own[d.id] }, back) {
		c.unsniffed[d.Name] = err.Error()
		stays[uint32(d.Index)] = own[d.id] //nolint:gosec // a device's
	}
	for index := range back {
		if !stays[index] {
			_ = taken.Delete(index) // it is there
		}
	}
}

// remove takes programs off, uppers first, and gives devices back what they had. It
// returns what is not as it was.
func (t *xdpTower) remove(which func(*xdpDevice) bool, back map[uint32]uint32) map[*xdpDevice]error {
	failed := map[*xdpDevice]error{}
	for _, d := range slices.Backward(t.devices) {
		bits, ours := back[uint32(d.Index)], which(d) //nolint:gosec // a device's
		// Before it is removed, so that who dies between leaves it to the next. Those that
		// have none of the programs lost it to a device above them.
		if bits != 0 && (ours || d.program == nil) {
			if err := wantFeatures(d.Index, bits); err != nil && !isGone(err) {
				failed[d] = fmt.Errorf("turning %s on again (ethtool -K does it by hand): %w", featureNames(bits), err)
			}
		}
		if !ours {
			continue
		}
		switch err := d.set(nil); {
		case err == nil || isGone(err):
		case errors.Is(err, unix.EEXIST):
			failed[d] = errors.New("it stays, idle, until somebody else's XDP program is taken off a device above it")
		default:
			failed[d] = fmt.Errorf("taking it off: %w", err)
		}
	}
	return failed
}

// removeKeptXDP takes programs that outlived their sensor off all devices of the
// namespace that it runs in.
func removeKeptXDP(devices []vnl.Link, own map[ebpf.ProgramID]bool) error {
	tower, err := newXDPTower(devices)
	if err != nil {
		return err
	}
	var errs []error
	back := map[uint32]uint32{}
	var left []*ebpf.ProgramInfo
	for id, p := range tower.programs {
		if p == nil || own[id] {
			continue
		}
		info, err := p.Info()
		if err == nil {
			left = append(left, info)
			err = takenOf(info, back)
		}
		errs = append(errs, err)
	}
	if len(left) > 0 {
		for d, err := range tower.remove(func(d *xdpDevice) bool { return d.program != nil && !own[d.id] }, back) {
			errs = append(errs, fmt.Errorf("the XDP program on device %s: %w", d.Name, err))
		}
	}
	for _, info := range left {
		errs = append(errs, clearWord(info))
	}
	return errors.Join(append(errs, tower.close())...)
}
