package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	vnl "github.com/vishvananda/netlink"
	vnlnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// xdpAttachedSKB is XDP_ATTACHED_SKB of linux/if_link.h: generic XDP.
const xdpAttachedSKB = 2

// xdpDevice is a device and the XDP program on it.
type xdpDevice struct {
	*vnl.LinkAttrs
	lowers, uppers []*xdpDevice
	place          int // in the order, lowers first
	virtual        bool
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
	names    pins
	own      map[ebpf.ProgramID]*ebpf.Program // of who looks
	programs map[ebpf.ProgramID]*ebpf.Program // others'; nil: no sensor's
}

// newXDPTower looks at all devices but loopback. It is to be closed; own stay open.
func newXDPTower(links []vnl.Link, own map[ebpf.ProgramID]*ebpf.Program, names pins) (*xdpTower, error) {
	t := &xdpTower{names: names, own: own, programs: map[ebpf.ProgramID]*ebpf.Program{}}
	var all []*xdpDevice
	at := map[int]*xdpDevice{}
	for _, link := range links {
		attrs := link.Attrs()
		if attrs.Flags&net.FlagLoopback != 0 {
			continue
		}
		d := &xdpDevice{LinkAttrs: attrs, virtual: link.Type() != "device" && link.Type() != "veth"}
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
	for _, link := range links {
		d := at[link.Attrs().Index]
		if d == nil {
			continue
		}
		stack(d, at[d.MasterIndex])
		// A pair's link is its other end, which is not below it; a number of another
		// namespace is nobody's here.
		if kind := link.Type(); kind != "veth" && kind != "netkit" && d.NetNsID < 0 {
			stack(at[d.ParentIndex], d)
		}
		if vxlan, ok := link.(*vnl.Vxlan); ok { // its link is not told as others' is
			stack(at[vxlan.VtepDevIndex], d)
		}
	}
	for _, d := range all {
		t.order(d)
	}
	return t, nil
}

// state is what hangs where.
func (t *xdpTower) state() string {
	var state strings.Builder
	for _, d := range t.devices {
		fmt.Fprintf(&state, "%d:%d ", d.Index, d.id)
	}
	return state.String()
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
	if d.program = t.own[d.id]; d.program != nil {
		return nil
	}
	if p, known := t.programs[d.id]; known {
		d.program = p
		return nil
	}
	p, err := t.names.program(d.id)
	if errors.Is(err, fs.ErrNotExist) {
		d.id = 0
		return nil
	}
	if errors.Is(err, unix.EPERM) { // no sensor's that we could know
		t.programs[d.id] = nil
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

// remove takes programs off, uppers first, and gives devices back what they had. It
// returns what is not as it was.
func (t *xdpTower) remove(which func(*xdpDevice) bool, back map[uint32]uint32) map[*xdpDevice]error {
	failed := map[*xdpDevice]error{}
	for _, d := range slices.Backward(t.devices) {
		bits := back[uint32(d.Index)] //nolint:gosec // a device's
		// Before it is removed, so that who dies between leaves it to the next. Those that
		// have none of the programs lost it to a device above them.
		if bits != 0 && (which(d) || d.program == nil) {
			if err := wantFeatures(d.Index, bits); err != nil && !isGone(err) {
				failed[d] = fmt.Errorf("turning %s on again (ethtool -K does it by hand): %w", featureNames(bits), err)
			}
		}
	}
	// Again and again: one may stand on another without our knowing it.
	for blocked := len(t.devices) + 1; ; {
		var left []*xdpDevice
		for _, d := range slices.Backward(t.devices) {
			if !which(d) {
				continue
			}
			switch err := d.set(nil); {
			case err == nil:
			case isGone(err):
				d.program, d.id = nil, 0
			case errors.Is(err, unix.EEXIST):
				left = append(left, d)
			default:
				failed[d] = fmt.Errorf("taking it off: %w", err)
			}
		}
		if len(left) > 0 && len(left) < blocked {
			blocked = len(left)
			continue
		}
		for _, d := range left {
			failed[d] = errors.New("it stays, idle, until somebody else's XDP program is taken off a device above it")
		}
		return failed
	}
}
