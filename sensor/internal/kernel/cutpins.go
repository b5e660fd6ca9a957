package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
)

// pinFolder is where sensors leave names of what outlives them, for the next one: to look
// a program up by its number takes CAP_SYS_ADMIN, to open a name only the file's rights.
// It goes with a reboot, as the programs do. The packaged unit, to which /sys is read-only,
// binds that file system to a place of its own.
var pinFolder = func() pins {
	const unit = "/run/vedette-sensor/bpf"
	var fs unix.Statfs_t
	if err := unix.Statfs(unit, &fs); err == nil && fs.Type == unix.BPF_FS_MAGIC {
		return unit + "/vedette"
	}
	return "/sys/fs/bpf/vedette"
}()

// pins is a folder of a BPF file system. A name is COOKIE_KIND_NUMBER: of the network
// namespace that is cut, prog or map, and the kernel's number.
type pins string

func pinName(cookie uint64, kind string, id uint32) string {
	return fmt.Sprintf("%d_%s_%d", cookie, kind, id)
}

// program looks one up by its number: in the kernel, or among the pinned where that is
// not allowed. EPERM: neither.
func (p pins) program(id ebpf.ProgramID) (*ebpf.Program, error) {
	found, err := ebpf.NewProgramFromID(id)
	if !errors.Is(err, unix.EPERM) {
		return found, err
	}
	return pinned(p, "prog", uint32(id), ebpf.LoadPinnedProgram, func(found *ebpf.Program) bool {
		got, ok := programID(found)
		return ok && got == id
	})
}

// table is program's for maps.
func (p pins) table(id ebpf.MapID) (*ebpf.Map, error) {
	found, err := ebpf.NewMapFromID(id)
	if !errors.Is(err, unix.EPERM) {
		return found, err
	}
	return pinned(p, "map", uint32(id), ebpf.LoadPinnedMap, func(found *ebpf.Map) bool {
		info, err := found.Info()
		if err != nil {
			return false
		}
		got, ok := info.ID()
		return ok && got == id
	})
}

func pinned[T interface{ Close() error }](p pins, kind string, id uint32, open func(string, *ebpf.LoadPinOptions) (T, error), is func(T) bool) (none T, _ error) {
	// Of whatever namespace: the kernel's number tells one from all others.
	names, err := filepath.Glob(filepath.Join(string(p), fmt.Sprintf("*_%s_%d", kind, id)))
	if err != nil {
		return none, fmt.Errorf("looking for a name in %s: %w", p, err)
	}
	for _, name := range names {
		found, err := open(name, nil)
		if err != nil {
			continue // it was removed meanwhile, or is another kind
		}
		if is(found) {
			return found, nil
		}
		_ = found.Close() // a descriptor
	}
	return none, unix.EPERM
}

// keep gives names to what outlives this sensor.
func (p pins) keep(cookie uint64, programs []*ebpf.Program, maps []*ebpf.Map) error {
	if err := os.MkdirAll(string(p), 0o700); err != nil {
		return fmt.Errorf("making a folder for what outlives the sensor: %w", err)
	}
	put := func(kind string, id uint32, ok bool, pin func(string) error) error {
		if !ok {
			return errors.New("the kernel does not tell its number")
		}
		err := pin(filepath.Join(string(p), pinName(cookie, kind, id)))
		if errors.Is(err, fs.ErrExist) { // this number's is this one, or a dead sensor's of the same
			return nil
		}
		return err
	}
	for _, one := range programs {
		id, ok := programID(one)
		if err := put("prog", uint32(id), ok, func(path string) error { return pinCopy(one.Clone, path) }); err != nil {
			return fmt.Errorf("naming a program that outlives the sensor: %w", err)
		}
	}
	for _, one := range maps {
		info, err := one.Info()
		if err != nil {
			return fmt.Errorf("naming a map that outlives the sensor: %w", err)
		}
		id, ok := info.ID()
		if err := put("map", uint32(id), ok, func(path string) error { return pinCopy(one.Clone, path) }); err != nil {
			return fmt.Errorf("naming a map that outlives the sensor: %w", err)
		}
	}
	return nil
}

// pinCopy pins a copy of the handle: the library would move the name when another path is
// pinned, and refuse what is a copy's.
func pinCopy[T interface {
	Pin(path string) error
	Close() error
}](clone func() (T, error), path string) error {
	one, err := clone()
	if err != nil {
		return err
	}
	return errors.Join(one.Pin(path), one.Close())
}

// drop removes the names of a namespace's, but those of the numbers that are kept.
func (p pins) drop(cookie uint64, keep map[string]bool) error {
	entries, err := os.ReadDir(string(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading what outlived a sensor: %w", err)
	}
	var errs []error
	left := 0
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), strconv.FormatUint(cookie, 10)+"_") || keep[entry.Name()] {
			left++
			continue
		}
		if err := os.Remove(filepath.Join(string(p), entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing the name of what outlived a sensor: %w", err))
		}
	}
	if left == 0 {
		_ = os.Remove(string(p)) // another sensor may have put something there meanwhile
	}
	return errors.Join(errs...)
}

// pinned are what the next sensor must find of this one: programs, and the maps with the
// word and with what devices are to get back.
func (c *Cut) pinned() (programs []*ebpf.Program, maps []*ebpf.Map) {
	for _, p := range c.kept {
		programs = append(programs, p)
	}
	for _, p := range c.ownSniff() {
		programs = append(programs, p)
	}
	for _, name := range []string{".bss", bpf.CutMapCutTaken} {
		maps = append(maps, c.collection.Maps[name])
	}
	return programs, maps
}

// pinnedNames are their names.
func (c *Cut) pinnedNames() map[string]bool {
	names := map[string]bool{}
	programs, maps := c.pinned()
	for _, p := range programs {
		if id, ok := programID(p); ok {
			names[pinName(c.netns, "prog", uint32(id))] = true
		}
	}
	for _, m := range maps {
		if info, err := m.Info(); err == nil {
			if id, ok := info.ID(); ok {
				names[pinName(c.netns, "map", uint32(id))] = true
			}
		}
	}
	return names
}
