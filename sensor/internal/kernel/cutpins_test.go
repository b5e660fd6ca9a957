package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
)

// packaged does something in the host as the packaged unit's sensor may: without
// CAP_SYS_ADMIN.
func (l *cutLab) packaged(t *testing.T, do func() error) {
	t.Helper()
	err := l.host.Do(func() (err error) {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var all [2]unix.CapUserData
		if err := unix.Capget(&header, &all[0]); err != nil {
			return err
		}
		without := all
		without[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
		if err := unix.Capset(&header, &without[0]); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unix.Capset(&header, &all[0])) }()
		return do()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func tellsOfRights(c *Cut) bool {
	return slices.ContainsFunc(c.NotCut(), func(s string) bool { return strings.Contains(s, "CAP_SYS_ADMIN") })
}

// Ensure a sensor that may not look programs up by their number, and cannot give them
// names, keeps nothing that nobody could take out, says so, and ends its cut.
func TestCutKeepsNothingUnrecognised(t *testing.T) {
	needTCX(t)
	l := newCutLab(t)
	nowhere := pins(t.TempDir()) // no BPF file system
	var c *Cut
	l.packaged(t, func() (err error) {
		if c, err = openCutWith(CutConfig{Nodes: cutNodes()}, func(c *Cut) { c.names = nowhere }); err != nil {
			return err
		}
		c.Set(CutAll)
		return errors.Join(c.Keep(), c.Reconcile(), c.settle())
	})
	if n := l.kept(t, netnstest.HostDevice); n != 0 {
		t.Errorf("%d programs are kept", n)
	}
	l.wantXDP(t, "unrecognised", "", netnstest.HostDevice)
	if !tellsOfRights(c) {
		t.Errorf("not told: %q", c.NotCut())
	}
	c.Set(CutNone)
	l.packaged(t, func() error { return errors.Join(c.Unkeep(), c.Close()) })
}

// Ensure a sensor with the packaged unit's rights leaves what the next one with no more
// takes over, or takes out, and that no name stays.
func TestCutTakenOverByName(t *testing.T) {
	needTCX(t)
	folder := pins(fmt.Sprintf("/sys/fs/bpf/vedette-test-%d", os.Getpid()))
	if err := os.Mkdir(string(folder), 0o700); err != nil {
		t.Skipf("SKIP: needs a BPF file system at /sys/fs/bpf: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(string(folder)) })
	var fs unix.Statfs_t
	if err := unix.Statfs(string(folder), &fs); err != nil || fs.Type != unix.BPF_FS_MAGIC {
		t.Skipf("SKIP: needs a BPF file system at /sys/fs/bpf: %v", err)
	}
	l := newCutLab(t)
	if err := l.cut.Close(); err != nil {
		t.Fatal(err)
	}
	arm := func() (c *Cut) {
		t.Helper()
		l.packaged(t, func() (err error) {
			c, err = openCutWith(CutConfig{Nodes: cutNodes()}, func(c *Cut) { c.names = folder })
			return err
		})
		return c
	}
	keep := func(c *Cut) {
		t.Helper()
		c.Set(CutAll)
		l.packaged(t, c.Keep)
		if n := l.kept(t, netnstest.HostDevice); n != len(ways) {
			t.Errorf("%d programs are kept, want %d", n, len(ways))
		}
		l.wantXDP(t, "kept", "kept", netnstest.HostDevice)
		if tellsOfRights(c) {
			t.Errorf("told of rights that it needs not: %q", c.NotCut())
		}
	}
	names := func() int {
		all, err := filepath.Glob(string(folder) + "/*")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	first := arm()
	keep(first)
	put := names()
	l.packaged(t, first.Close) // killed, to the kernel
	next := arm()
	keep(next)
	if got := names(); got != put || put == 0 {
		t.Errorf("%d names after the takeover, %d before: want as many", got, put)
	}
	// Its own alone: who is gone leaves none.
	for name := range next.pinnedNames() {
		if _, err := os.Stat(filepath.Join(string(folder), name)); err != nil {
			t.Error(err)
		}
	}
	l.packaged(t, next.Close)
	third := arm() // of a host that is not isolated any more
	l.packaged(t, third.look)
	if n := l.kept(t, netnstest.HostDevice); n != 0 {
		t.Errorf("%d programs are left", n)
	}
	l.wantXDP(t, "taken out", "", netnstest.HostDevice)
	if got := names(); got != 0 {
		t.Errorf("%d names are left", got)
	}
	keep(third)
	third.Set(CutNone)
	l.packaged(t, func() error { return errors.Join(third.Unkeep(), third.Close()) })
	if n := l.kept(t, netnstest.HostDevice); n != 0 {
		t.Errorf("%d programs are left after the release", n)
	}
	if got := names(); got != 0 {
		t.Errorf("%d names are left after the release", got)
	}
}
