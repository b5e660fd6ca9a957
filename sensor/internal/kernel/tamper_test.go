package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
)

// Ensure that the sensor hears who lays hands on it, and not of itself.
func TestTamper(t *testing.T) {
	path := actor(t)
	w := open(t, Config{})
	sensor := exec.Command("/bin/sleep", "600") // stands for it: this process is not to be killed
	if err := sensor.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sensor.Process.Kill(); _ = sensor.Wait() })
	pid := sensor.Process.Pid
	first(w, "its exec", byPID(uint32(pid)))
	w.SetSelf(event.ProcessKey{PID: uint32(pid)})

	t.Run("signal", func(t *testing.T) {
		for _, mode := range []string{"native", "int80"} {
			for _, signal := range []unix.Signal{unix.SIGSTOP, unix.SIGCONT} {
				p := play(t, path, mode, "kill", strconv.Itoa(pid), strconv.Itoa(int(signal)))
				e := first(w, "signal", by(p.pid, event.OpSignal))
				if e.Command != uint32(signal) || int(e.Target.PID) != pid || !e.Ours || e.FromKernel {
					t.Errorf("%s %v: %+v", mode, signal, *e)
				}
			}
		}
	})
	t.Run("pidfd_getfd", func(t *testing.T) {
		for _, mode := range []string{"native", "int80"} {
			p := play(t, path, mode, "pidfd-getfd", strconv.Itoa(pid))
			e := first(w, "pidfd_getfd", by(p.pid, event.OpPidFDGetFD))
			if e.Command != 1 || int(e.Target.PID) != pid || !e.Ours || e.Result < 0 {
				t.Errorf("%s: %+v", mode, *e)
			}
		}
	})
	t.Run("map", func(t *testing.T) {
		id := mapID(t, w.collection.Maps[bpf.VedetteMapListeners])
		for _, mode := range []string{"native", "int80"} {
			p := play(t, path, mode, "bpf-touch", strconv.Itoa(int(id)))
			got := filter(w.ended(p.pid), by(p.pid, event.OpBPF))
			if len(got) != 2 || got[0].Command != 14 || got[0].ClaimedObject || got[1].Command != 2 || !got[1].ClaimedObject {
				t.Fatalf("%s: %+v", mode, got)
			}
			for _, e := range got {
				if !e.Ours || e.Kind != event.ObjectMap || e.Object != uint64(id) {
					t.Errorf("%s: %+v", mode, *e)
				}
			}
		}
	})
	t.Run("map of the cut", func(t *testing.T) {
		cut := openCut(t, netnstest.New(t))
		id := mapID(t, cut.collection.Maps[bpf.CutMapNodes])
		for _, owned := range []bool{false, true} {
			if owned {
				if err := w.Own(cut); err != nil {
					t.Fatal(err)
				}
			}
			p := play(t, path, "native", "bpf-touch", strconv.Itoa(int(id)))
			for _, e := range filter(w.ended(p.pid), by(p.pid, event.OpBPF)) {
				if e.Ours != owned || e.Object != uint64(id) {
					t.Errorf("owned %v: %+v", owned, *e)
				}
			}
		}
	})
	t.Run("link", func(t *testing.T) {
		info, err := w.links[0].link.Info()
		if err != nil {
			t.Fatal(err)
		}
		for _, mode := range []string{"native", "int80"} {
			p := play(t, path, mode, "bpf-link-detach", strconv.Itoa(int(info.ID)))
			got := filter(w.ended(p.pid), by(p.pid, event.OpBPF))
			if len(got) != 2 || got[1].Command != 34 || !got[1].Ours || got[1].Kind != event.ObjectLink || got[1].Object != uint64(info.ID) {
				t.Errorf("%s: %+v", mode, got)
			}
		}
	})
	t.Run("cgroup", func(t *testing.T) {
		mount, err := cgroupMount()
		if err != nil || mount == "" {
			t.Skip("SKIP: needs a cgroup v2 hierarchy")
		}
		dir := filepath.Join(mount, "vedette-test-tamper-"+itoa(os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = sensor.Process.Kill()
			_ = sensor.Wait()
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		for _, write := range []struct {
			file, text string
			op         event.Operation
		}{
			{"cgroup.procs", itoa(pid), event.OpCgroupMove},
			{"cgroup.freeze", "1", event.OpCgroupFreeze},
		} {
			if err := os.WriteFile(filepath.Join(dir, write.file), []byte(write.text), 0o644); err != nil {
				t.Fatal(err)
			}
			e := first(w, string(write.op), by(uint32(os.Getpid()), write.op))
			if int(e.Target.PID) != pid || !strings.HasSuffix(string(e.Name), filepath.Base(dir)) || e.Object == 0 {
				t.Errorf("%+v", *e)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0"), 0o644); err != nil {
			t.Fatal(err)
		}
	})
}

func mapID(t *testing.T, m *ebpf.Map) ebpf.MapID {
	t.Helper()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, ok := info.ID()
	if !ok {
		t.Skip("SKIP: needs a kernel that tells a map's id (4.13)")
	}
	return id
}

// Ensure that what the sensor does itself is not told.
func TestPrivilegeOfSensor(t *testing.T) {
	w := open(t, Config{})
	w.SetSelf(event.ProcessKey{PID: uint32(os.Getpid())})
	fd, err := unix.MemfdCreate("own", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	pid := run(t, exec.Command("/bin/true"))
	if got := filter(w.ended(pid), by(uint32(os.Getpid()), event.OpMemFD)); len(got) != 0 {
		t.Errorf("told %+v", *got[0])
	}
}
