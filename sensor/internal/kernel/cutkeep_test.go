package kernel

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
)

// kept counts the programs on a device of the host that outlive their sensor.
func (l *cutLab) kept(t *testing.T, device string) (n int) {
	t.Helper()
	index := l.host.Index(t, device)
	l.host.Must(t, "looking at programs", func() error {
		for _, way := range ways {
			all, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: way.attach})
			if err != nil {
				return err
			}
			for _, at := range all.Programs {
				p, err := ebpf.NewProgramFromID(at.ID)
				if err != nil {
					return err
				}
				info, err := p.Info()
				if err == nil && info.Name == keptName {
					n++
				}
				_ = p.Close()
			}
		}
		return nil
	})
	return n
}

// leaks counts what passes of all that must be shut, the redirect between two devices
// among it.
func (l *cutLab) leaks(t *testing.T, paths []cutPath, round string) (n int) {
	t.Helper()
	for _, seen := range l.run(t, paths, round) {
		n += seen
	}
	return n
}

// Ensure a kept cut holds when its sensor is gone, on devices that came after as well,
// that the next sensor takes it over without a gap and reaches its coordinator, and that
// nothing stays when the isolation ends, by that sensor or by root.
func TestCutOutlivesItsSensor(t *testing.T) {
	needTCX(t)
	l := newCutLab(t)
	redirected, ok := l.redirected(t)
	if !ok {
		t.Skip("SKIP: needs tc with u32 and mirred")
	}
	paths := []cutPath{redirected, {"UDP", l.host, udpOf("", "10.77.0.2:9999")}, {"routed container", l.routed, udpOf("", "10.77.0.2:9998")}}
	if n := l.leaks(t, paths, "b"); n != len(paths)*perCutPath {
		t.Fatalf("%d packets passed before the cut, want all of %d", n, len(paths)*perCutPath)
	}
	if err := l.cut.Keep(); err == nil {
		t.Error("a host that is not cut is kept cut")
	}
	l.cut.Set(CutAll)
	if err := l.cut.Keep(); err != nil {
		t.Fatal(err)
	}
	netnstest.Wire(t, l.host, "late0", l.peer, "late1")
	for range 2 { // and again, which changes nothing
		if err := l.cut.Reconcile(); err != nil {
			t.Fatal(err)
		}
		if err := l.cut.Keep(); err != nil {
			t.Fatal(err)
		}
	}
	for _, device := range []string{netnstest.HostDevice, "tohost", "late0"} {
		if n := l.kept(t, device); n != len(ways) {
			t.Errorf("%d programs on %s outlive the sensor, want %d", n, device, len(ways))
		}
	}
	if err := l.cut.Close(); err != nil {
		t.Fatal(err)
	}
	if n := l.leaks(t, paths, "k"); n != 0 {
		t.Errorf("%d packets leaked when the sensor was gone", n)
	}
	next := openCut(t, l.host)
	next.Set(CutAll)
	if n := l.leaks(t, paths, "n"); n != 0 {
		t.Errorf("%d packets leaked past the next sensor", n)
	}
	if err := next.Keep(); err != nil {
		t.Fatal(err)
	}
	if n := l.kept(t, netnstest.HostDevice); n != len(ways) {
		t.Errorf("%d programs are kept when one sensor follows another, want %d", n, len(ways))
	}
	if n := l.leaks(t, []cutPath{{"coordinator", l.host, udpOf("", "10.77.0.2:7700")}}, "c"); n != perCutPath {
		t.Errorf("%d datagrams of the next sensor reached its coordinator, want %d", n, perCutPath)
	}
	next.Set(CutNone)
	if err := next.Unkeep(); err != nil {
		t.Fatal(err)
	}
	if err := next.Unkeep(); err != nil {
		t.Errorf("again: %v", err)
	}
	l.nothingKept(t, paths, "r")

	next.Set(CutAll)
	if err := next.Keep(); err != nil {
		t.Fatal(err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if err := RemoveKept(l.host.Path()); err != nil {
		t.Fatal(err)
	}
	l.nothingKept(t, paths, "u")
	if err := RemoveKept("/proc/self/ns/none"); err != nil {
		t.Errorf("a namespace that is gone: %v", err)
	}
}

func (l *cutLab) nothingKept(t *testing.T, paths []cutPath, round string) {
	t.Helper()
	for _, device := range []string{netnstest.HostDevice, "tohost", "late0"} {
		if n := l.kept(t, device); n != 0 {
			t.Errorf("%d programs on %s are left after the isolation", n, device)
		}
	}
	if n := l.leaks(t, paths, round); n != len(paths)*perCutPath {
		t.Errorf("%d packets passed after the isolation, want %d", n, len(paths)*perCutPath)
	}
}

// Ensure a sensor that starts on a host that is not isolated takes out what an earlier one
// left, as soon as it follows.
func TestCutEndsWhatIsLeft(t *testing.T) {
	needTCX(t)
	l := newCutLab(t)
	l.cut.Set(CutAll)
	if err := l.cut.Keep(); err != nil {
		t.Fatal(err)
	}
	if err := l.cut.Close(); err != nil {
		t.Fatal(err)
	}
	next := openCut(t, l.host)
	if n := l.kept(t, netnstest.HostDevice); n != len(ways) {
		t.Errorf("%d programs are kept before it is known what is in force, want %d", n, len(ways))
	}
	if err := next.look(); err != nil {
		t.Fatal(err)
	}
	if n := l.kept(t, netnstest.HostDevice); n != 0 {
		t.Errorf("%d programs are left", n)
	}
}

// Ensure a sensor that may not look programs up by their number, as the packaged unit has
// it, keeps nothing that nobody could take out, says so, and ends its cut.
func TestCutKeepsNothingUnrecognised(t *testing.T) {
	needTCX(t)
	l := newCutLab(t)
	var c *Cut
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
		if c, err = OpenCut(CutConfig{Nodes: cutNodes()}); err != nil {
			return err
		}
		c.Set(CutAll)
		return errors.Join(c.Keep(), c.Reconcile(), c.settle())
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := l.kept(t, netnstest.HostDevice); n != 0 {
		t.Errorf("%d programs are kept", n)
	}
	l.wantXDP(t, "unrecognised", "", netnstest.HostDevice)
	if !slices.ContainsFunc(c.NotCut(), func(s string) bool { return strings.Contains(s, "CAP_SYS_ADMIN") }) {
		t.Errorf("not told: %q", c.NotCut())
	}
	c.Set(CutNone)
	if err := l.host.Do(func() error { return errors.Join(c.Unkeep(), c.Close()) }); err != nil {
		t.Error(err)
	}
}

// Ensure root can take out the filters of a killed sensor, where there are no links.
func TestRemoveFilters(t *testing.T) {
	l := newCutLab(t, byFilters)
	paths := []cutPath{{"UDP", l.host, udpOf("", "10.77.0.2:9999")}}
	l.cut.Set(CutAll)
	if n := l.leaks(t, paths, "k"); n != 0 {
		t.Fatalf("%d packets leaked", n)
	}
	if err := removeFilters(l.host.Handle(t)); err != nil {
		t.Fatal(err)
	}
	if n := l.leaks(t, paths, "r"); n != perCutPath {
		t.Errorf("%d packets passed when the filters were taken out, want %d", n, perCutPath)
	}
}
