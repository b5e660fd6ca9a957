package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
)

// keptName is what all programs are called that outlive their sensor: what bpftool shows,
// and what the next one knows them by.
const keptName = "vedette_kept"

// cutPairs are the programs that hang on devices.
var cutPairs = []string{
	bpf.CutProgCutOut, bpf.CutProgCutIn, bpf.CutProgCutOutBare, bpf.CutProgCutInBare,
	bpf.CutProgCutOutClosed, bpf.CutProgCutInClosed,
}

// Keep makes the cut outlive this process, from when a lease is on disk and the
// isolation's table stands: what the table does not see, such as a redirect between two
// devices, is then cut when the sensor is killed as well. Links go with their process, so
// copies of the programs, which share the word and all maps, are attached without any. The
// devices themselves hold them: they need no file system, and go with the device and the
// namespace. The next sensor's Keep or Follow takes them out, Unkeep does, and RemoveKept
// where no sensor runs. It can be called again and again. Filters (before 6.6) stay by
// themselves.
func (c *Cut) Keep() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrCutClosed
	}
	if c.Level() == CutNone {
		return errors.New("keeping the cut: the host is not cut: call Set first")
	}
	if c.kept == nil {
		c.kept = c.copies
	}
	// In a namespace that is not the process's own, which is a test's as a rule, only where
	// there is no other way: nobody may be left to remove the names.
	if c.cfg.NetNS == "" || !c.recognises {
		programs, maps := c.pinned()
		err := c.names.keep(c.netns, programs, maps)
		switch {
		case err != nil && !c.recognises && !c.named:
			c.cfg.Logger.Warn("the cut goes with its process, and packet sockets see what comes in", slog.Any("error", err))
			c.kept = nil
			return errors.Join(c.names.drop(c.netns, nil), c.takeOver()) // and keeps nothing: NotCut says so
		case err != nil:
			c.cfg.Logger.Warn("only a sensor with CAP_SYS_ADMIN can take all of this one's cut over", slog.Any("error", err))
		}
		c.named = true
	}
	var errs []error
	if c.tcx {
		errs = append(errs, c.inside(func() error {
			for _, d := range c.devices {
				if err := c.keepOn(d); err != nil && !isGone(err) {
					return err
				}
			}
			return nil
		}))
	}
	c.sniffs = true
	return errors.Join(append(errs, c.lookSniff(), c.takeOver())...)
}

// probeRecognition finds out whether this process may look programs up by their number.
// Who may not, and cannot give them names either, keeps nothing: the next sensor, which
// may do no more, could neither take it over nor take it out, and a cut without an end is
// worse than one that ends with its process.
func (c *Cut) probeRecognition() error {
	id, ok := programID(c.collection.Programs[bpf.CutProgCutSelf])
	if !ok {
		return errors.New("the kernel does not tell a program's number")
	}
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, unix.EPERM) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking a program up: %w", err)
	}
	c.recognises = true
	return p.Close()
}

// Unkeep takes out what Keep attached, and what an earlier sensor left. It is idempotent.
func (c *Cut) Unkeep() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrCutClosed
	}
	c.sniffs = false
	err := errors.Join(c.lookSniff(), c.takeOver())
	if c.kept == nil {
		return errors.Join(err, c.names.drop(c.netns, nil))
	}
	err = errors.Join(err, c.inside(func() error {
		var errs []error
		for _, d := range c.devices {
			for i, way := range ways {
				errs = append(errs, detachKept(d.index, way.attach, c.kept[d.programs[i]]))
			}
		}
		return errors.Join(errs...)
	}))
	c.kept, c.named = nil, false
	return errors.Join(err, c.names.drop(c.netns, nil))
}

// copyPrograms loads what Keep attaches.
func (c *Cut) copyPrograms() error {
	spec, err := bpf.LoadCut()
	if err != nil {
		return fmt.Errorf("reading the embedded programs: %w", err)
	}
	var others []string
	for name, p := range spec.Programs {
		if slices.Contains(cutPairs, name) {
			p.Name = keptName
		} else {
			others = append(others, name)
		}
	}
	dropPrograms(spec, others)
	copies, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: c.collection.Maps})
	if err != nil {
		return fmt.Errorf("loading the programs that outlive the sensor: %w", err)
	}
	defer copies.Close()
	c.copies = map[string]*ebpf.Program{}
	for _, name := range cutPairs {
		c.copies[name] = copies.DetachProgram(name)
	}
	return nil
}

// keepOn attaches the copies to a device, inside the namespace.
func (c *Cut) keepOn(d *cutDevice) error {
	for i, way := range ways {
		p := c.kept[d.programs[i]]
		if p == nil {
			continue
		}
		id, _ := programID(p)
		there, err := link.QueryPrograms(link.QueryOptions{Target: d.index, Attach: way.attach})
		if err == nil && slices.ContainsFunc(there.Programs, func(a link.AttachedProgram) bool { return a.ID == id }) {
			continue
		}
		if err := link.RawAttachProgram(link.RawAttachProgramOptions{
			Target: d.index, Program: p, Attach: way.attach, Anchor: link.Head(),
		}); err != nil {
			return fmt.Errorf("attaching a copy of %s to %s: %w", d.programs[i], d.name, err)
		}
	}
	return nil
}

func detachKept(index int, attach ebpf.AttachType, p *ebpf.Program) error {
	err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: index, Program: p, Attach: attach})
	if err != nil && !isGone(err) {
		return fmt.Errorf("taking a program that outlived its sensor off device %d: %w", index, err)
	}
	return nil
}

// takeOver takes out what an earlier sensor left, whose word nobody holds any more and
// who would keep this sensor from its coordinator.
func (c *Cut) takeOver() error {
	if c.tookOver {
		return nil
	}
	handle, err := c.routes()
	if err != nil {
		return err
	}
	defer handle.Close()
	own := map[ebpf.ProgramID]bool{}
	for id := range c.ownSniff() {
		own[id] = true
	}
	for _, p := range c.kept {
		if id, ok := programID(p); ok {
			own[id] = true
		}
	}
	err = c.inside(func() error { return removeKept(handle, own, c.names) })
	if err == nil {
		var keep map[string]bool
		if c.named {
			keep = c.pinnedNames()
		}
		err = c.names.drop(c.netns, keep)
	}
	c.tookOver = err == nil
	return err
}

// removeKept takes programs that outlived their sensor off all devices of the namespace
// that it runs in.
func removeKept(handle *vnl.Handle, own map[ebpf.ProgramID]bool, names pins) error {
	devices, err := listed(handle.LinkList)
	if err != nil {
		return fmt.Errorf("listing devices: %w", err)
	}
	var errs []error
	for _, device := range devices {
		for _, way := range ways {
			all, err := link.QueryPrograms(link.QueryOptions{Target: device.Attrs().Index, Attach: way.attach})
			if err != nil {
				continue // the device went, or takes none
			}
			for _, at := range all.Programs {
				if !own[at.ID] {
					errs = append(errs, removeIfKept(device.Attrs().Index, way.attach, at.ID, names))
				}
			}
		}
	}
	return errors.Join(append(errs, removeKeptXDP(devices, own, names))...)
}

func removeIfKept(index int, attach ebpf.AttachType, id ebpf.ProgramID, names pins) error {
	p, err := names.program(id)
	// Who may not look it up, and finds no name of it, did not leave it.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EPERM) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at program %d on device %d: %w", id, index, err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || info.Name != keptName {
		return err
	}
	// The same programs may hang on a device that was moved out of this namespace: what
	// is there goes idle.
	return errors.Join(detachKept(index, attach, p), clearWord(info, names))
}

// clearWord sets the word of a program's cut to none.
func clearWord(info *ebpf.ProgramInfo, names pins) error {
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := names.table(id)
		if err != nil {
			continue // it went with its program, or is none that anybody named
		}
		// The page with the word is the only array of these programs that is not read-only.
		if m.Type() == ebpf.Array && m.Flags()&unix.BPF_F_RDONLY_PROG == 0 {
			var value []byte
			if value, err = m.LookupBytes(uint32(0)); err == nil && len(value) >= sensorOffset {
				clear(value[:sensorOffset])
				err = m.Update(uint32(0), value, ebpf.UpdateExist)
			}
		}
		if err = errors.Join(err, m.Close()); err != nil {
			return fmt.Errorf("letting what an earlier sensor left go idle: %w", err)
		}
	}
	return nil
}

// RemoveKept takes out what a sensor left that is gone: where none runs or none may cut.
// netns is as in CutConfig. A namespace that is gone took all with it.
func RemoveKept(netns string) error {
	c := &Cut{}
	if netns != "" {
		ns, err := os.Open(netns)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("opening network namespace: %w", err)
		}
		defer ns.Close()
		c.ns = ns
	}
	handle, err := c.routes()
	if err != nil {
		return err
	}
	defer handle.Close()
	err = c.inside(func() error { return removeKept(handle, nil, pinFolder) })
	if cookie, unknown := c.cookie(); err == nil && unknown == nil {
		err = pinFolder.drop(cookie, nil)
	}
	if !versionAtLeast(6, 6) {
		err = errors.Join(err, removeFilters(handle))
	}
	return err
}

// removeFilters takes out the filters of a killed sensor, before 6.6.
func removeFilters(handle *vnl.Handle) error {
	devices, err := listed(handle.LinkList)
	if err != nil {
		return fmt.Errorf("listing devices: %w", err)
	}
	var errs []error
	for _, device := range devices {
		if device.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		d := &cutDevice{index: device.Attrs().Index, name: device.Attrs().Name}
		found, left := false, 0
		for i, way := range ways {
			filters, err := handle.FilterList(d.clsactLink(), way.parent)
			if err != nil {
				continue // it has no clsact
			}
			for _, f := range filters {
				ours, ok := f.(*vnl.BpfFilter)
				if !ok || ours.Handle != filterHandle || ours.Name != filterName {
					left++
					continue
				}
				found = true
				d.priority[i] = ours.Priority
				if err := handle.FilterDel(d.filter(i)); err != nil && !isGone(err) && !errors.Is(err, unix.EINVAL) {
					errs = append(errs, fmt.Errorf("removing filter of %s: %w", d.name, err))
				}
			}
		}
		if found && left == 0 {
			if err := handle.QdiscDel(d.clsact()); err != nil && !isGone(err) && !errors.Is(err, unix.EINVAL) {
				errs = append(errs, fmt.Errorf("removing clsact of %s: %w", d.name, err))
			}
		}
	}
	return errors.Join(errs...)
}
