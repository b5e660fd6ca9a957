package kernel

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

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
