package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/cilium/ebpf"
	vnl "github.com/vishvananda/netlink"
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

// bindTaken gives the programs what must be known when they are removed, by whomever.
func (c *Cut) bindTaken() error {
	for _, name := range sniffPrograms {
		if err := c.collection.Programs[name].BindMap(c.collection.Maps[bpf.CutMapCutTaken]); err != nil {
			return fmt.Errorf("binding %s to %s: %w", bpf.CutMapCutTaken, name, err)
		}
	}
	return nil
}

// ownSniff are this cut's programs, by their numbers.
func (c *Cut) ownSniff() map[ebpf.ProgramID]*ebpf.Program {
	own := map[ebpf.ProgramID]*ebpf.Program{}
	for _, name := range sniffPrograms {
		if id, ok := programID(c.collection.Programs[name]); ok {
			own[id] = c.collection.Programs[name]
		}
	}
	return own
}

// followSniff hangs the programs on all devices while Keep asked for it and what comes in
// is cut, and takes them off else. It runs inside the namespace; mu is held.
func (c *Cut) followSniff(devices []vnl.Link) error {
	tower, err := newXDPTower(devices, c.ownSniff(), c.names)
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
	// Once this sensor has taken over, who has another's program put there is alive.
	mine := func(d *xdpDevice) bool {
		return !d.foreign() && (d.program == nil || tower.own[d.id] != nil || !c.tookOver)
	}
	c.remember(tower)
	blocked := c.coverSniff(tower.devices, mine)
	if len(blocked) > 0 && c.stuck != tower.state() {
		blocked = c.unblock(tower, blocked, mine)
		c.stuck = tower.state()
	}
	for _, d := range blocked {
		c.unsniffed[d.Name] = "somebody else's XDP program is on a device above it"
	}
	for _, d := range tower.devices {
		if d.program != nil && !mine(d) {
			c.unsniffed[d.Name] = "it has another sensor's program"
		}
	}
	// Those that were replaced may hang on a device that left this namespace, too.
	for _, p := range tower.programs {
		if p == nil || c.tookOver {
			continue
		}
		info, err := p.Info()
		if err == nil {
			err = clearWord(info, c.names)
		}
		if err != nil {
			c.cfg.Logger.Warn("an earlier sensor's programs stay in force", slog.Any("error", err))
		}
	}
}

// unblock is for a device that another stands on without our knowing it: all that could
// give way do, and are covered again after those that were blocked. It is tried once for
// what hangs where, since it may be somebody else's program that is in the way.
func (c *Cut) unblock(tower *xdpTower, blocked []*xdpDevice, mine func(*xdpDevice) bool) []*xdpDevice {
	order := tower.devices
	for range tower.devices {
		for _, d := range slices.Backward(order) {
			if d.program != nil && mine(d) && d.virtual {
				_ = d.set(nil) // it stays, and what it blocks is told
			}
		}
		order = slices.DeleteFunc(slices.Clone(order), func(d *xdpDevice) bool { return slices.Contains(blocked, d) })
		order = slices.Concat(blocked, order)
		before := blocked
		if blocked = c.coverSniff(order, mine); len(blocked) == 0 || slices.Equal(blocked, before) {
			break
		}
	}
	return blocked
}

// coverSniff puts the programs on the devices that are ours to cover, and returns those
// that one above them keeps from it.
func (c *Cut) coverSniff(devices []*xdpDevice, mine func(*xdpDevice) bool) (blocked []*xdpDevice) {
	for _, d := range devices {
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
			delete(c.unsniffed, d.Name)
		case errors.Is(err, unix.EEXIST):
			blocked = append(blocked, d)
		default:
			c.unsniffed[d.Name] = err.Error()
		}
	}
	return blocked
}

// unsniff takes the programs off and gives the devices back what they took. What fails
// is told and holds up no release: a program that stays is idle, and the next look tries
// again.
func (c *Cut) unsniff(tower *xdpTower) {
	taken := c.collection.Maps[bpf.CutMapCutTaken]
	own := func(d *xdpDevice) bool { return tower.own[d.id] != nil }
	back := map[uint32]uint32{}
	if err := readTaken(taken, back); err != nil {
		c.cfg.Logger.Error("reading what devices are to get back", slog.Any("error", err))
	}
	stays := map[uint32]bool{}
	for d, err := range tower.remove(own, back) {
		c.unsniffed[d.Name] = err.Error()
		stays[uint32(d.Index)] = own(d) //nolint:gosec // a device's
	}
	for index := range back {
		if !stays[index] {
			_ = taken.Delete(index) // it is there
		}
	}
}

// removeKeptXDP takes programs that outlived their sensor off all devices of the
// namespace that it runs in.
func removeKeptXDP(devices []vnl.Link, own map[ebpf.ProgramID]bool, names pins) error {
	tower, err := newXDPTower(devices, nil, names)
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
			err = tower.takenOf(info, back)
		}
		errs = append(errs, err)
	}
	if len(left) > 0 {
		for d, err := range tower.remove(func(d *xdpDevice) bool { return d.program != nil && !own[d.id] }, back) {
			errs = append(errs, fmt.Errorf("the XDP program on device %s: %w", d.Name, err))
		}
	}
	for _, info := range left {
		errs = append(errs, clearWord(info, names))
	}
	return errors.Join(append(errs, tower.close())...)
}
