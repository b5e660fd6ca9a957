package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/decode"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// actor is testdata/privilege.c, built; where there is no compiler, as in a guest,
// testdata/privilege, which was built beforehand by the same command.
func actor(t testing.TB) string {
	t.Helper()
	needKernel(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "privilege")
	if compiler, err := exec.LookPath("gcc"); err == nil {
		build := exec.Command(compiler, "-O1", "-Wall", "-Werror", "-static", "-no-pie", "-mno-red-zone", "-o", path, "testdata/privilege.c")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building: %v: %s", err, out)
		}
	} else if _, err := os.Stat("testdata/privilege"); err == nil {
		copyFile(t, "testdata/privilege", path)
	} else {
		t.Skip("SKIP: needs gcc")
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// played is what an actor did.
type played struct {
	pid    uint32
	values map[string]int64 // what it printed
}

// play runs the actor to its end.
func play(t testing.TB, path, mode, op string, args ...string) played {
	t.Helper()
	cmd := exec.Command(path, append([]string{mode, op}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%s %s: %v: %s", mode, op, err, exit.Stderr)
		}
		t.Fatalf("%s %s: %v", mode, op, err)
	}
	p := played{pid: uint32(cmd.Process.Pid), values: map[string]int64{}}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if p.values[name], err = strconv.ParseInt(value, 10, 64); err != nil {
			t.Fatalf("%s %s printed %q", mode, op, out)
		}
	}
	return p
}

// by takes an operation of a process.
func by(pid uint32, op event.Operation) func(*event.Privilege) bool {
	return func(e *event.Privilege) bool { return e.Process.PID == pid && e.Operation == op }
}

// ended waits for a process's end: all that it did was told before.
func (w *watch) ended(pid uint32) []event.Event {
	w.t.Helper()
	first(w, fmt.Sprintf("end of %d", pid), func(e *event.Exit) bool { return e.Process.PID == pid })
	return w.all()
}

// Ensure that each operation is told as the kernel carried it out or refused it,
// whichever table of calls it came by.
func TestPrivilege(t *testing.T) {
	path := actor(t)
	w := open(t, Config{})
	module := filepath.Join(t.TempDir(), "none.ko")
	if err := os.WriteFile(module, []byte("no module"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"native", "int80"} {
		for _, c := range privilegeCases(t.TempDir(), module) {
			t.Run(mode+"/"+c.act, func(t *testing.T) {
				p := play(t, path, mode, c.act, c.args...)
				problem := "none"
				for _, e := range filter(w.ended(p.pid), by(p.pid, c.op)) {
					if e.Call != c.call || e.Compat != (mode == "int80" && c.call != "") {
						continue // what led to it
					}
					if problem = ""; c.check != nil {
						problem = c.check(p, e)
					}
					if problem == "" {
						return
					}
					problem += fmt.Sprintf(" in %+v", *e)
				}
				t.Errorf("wrong: %s; answered %v; losses %v", problem, p.values, w.Losses())
			})
		}
	}
	if got := filter(w.all(), func(e *event.Privilege) bool { return e.Unexplained }); len(got) != 0 {
		t.Errorf("no credential here came from nowhere: %+v", *got[0])
	}
	t.Run("int80/exec-old-mmap", func(t *testing.T) {
		p := play(t, path, "int80", "exec-old-mmap")
		if got := filter(w.ended(p.pid), by(p.pid, event.OpExecAnon)); len(got) != 1 || got[0].Call != "mmap" {
			t.Errorf("got %+v", got)
		}
	})
}

// Ensure that a process that is root without any way to become it is told: by the next
// file that it executes, and by the next call of the family. What such an exploit does
// to the kernel's memory is done here to what the programs remember.
func TestUnexplainedRoot(t *testing.T) {
	path := actor(t)
	w := open(t, Config{})
	for _, next := range []string{"exec /bin/true", "exec /bin/sh -c true", "exec " + path + " native setgid"} {
		cmd := exec.Command("/bin/sh", "-c", "read line; "+next)
		gate, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := uint32(cmd.Process.Pid)
		first(w, "exec", byPID(pid))
		forget(t, w.collection.Maps[bpf.VedetteMapProcesses], pid)
		if _, err := gate.Write([]byte("go\n")); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		got := filter(w.ended(pid), by(pid, event.OpSetUID))
		if len(got) == 0 || !got[0].Unexplained || !got[0].Gained || got[0].UIDBefore != 1000 || got[0].UID != 0 {
			t.Errorf("%s: got %+v", next, got)
		}
	}
}

// forget makes the programs remember a process as an ordinary user's.
func forget(t *testing.T, processes *ebpf.Map, pid uint32) {
	t.Helper()
	const uid, flags, realUID, caps, couldGain = 68, 76, 84, 112, 64 // of struct process
	var raw []byte
	if err := processes.Lookup(pid, &raw); err != nil {
		t.Fatal(err)
	}
	binary.NativeEndian.PutUint32(raw[uid:], 1000)
	binary.NativeEndian.PutUint32(raw[realUID:], 1000)
	binary.NativeEndian.PutUint64(raw[caps:], 0)
	binary.NativeEndian.PutUint32(raw[flags:], binary.NativeEndian.Uint32(raw[flags:])&^couldGain)
	if err := processes.Put(pid, raw); err != nil {
		t.Fatal(err)
	}
}

// Ensure that what changes nothing, or is a program's daily work, is not told.
func TestPrivilegeSilence(t *testing.T) {
	path := actor(t)
	w := open(t, Config{})
	for _, c := range []struct {
		act string
		op  event.Operation
	}{
		{"setuid-same", event.OpSetUID}, {"vm-writev-self", event.OpVMWrite},
		{"proc-mem-read", event.OpProcMem}, {"exec-file", event.OpExecAnon},
	} {
		for _, mode := range []string{"native", "int80"} {
			p := play(t, path, mode, c.act)
			if got := filter(w.ended(p.pid), by(p.pid, c.op)); len(got) != 0 {
				t.Errorf("%s %s told %+v", mode, c.act, *got[0])
			}
		}
	}
}

// Ensure that what is known is counted and stays in the kernel, and that another image's
// or a refused act of the same kind is another behaviour.
func TestKnownPrivilege(t *testing.T) {
	path := actor(t)
	w := open(t, Config{KeepKnown: true})
	p := play(t, path, "native", "unshare")
	e := first(w, "unshare", by(p.pid, event.OpUnshare))
	if e.Key == 0 {
		t.Fatalf("no key: %+v", *e)
	}
	if err := w.Know(e.Key); err != nil {
		t.Fatal(err)
	}
	const times = 5
	for range times {
		p = play(t, path, "native", "unshare")
		if got := filter(w.ended(p.pid), by(p.pid, event.OpUnshare)); len(got) != 0 {
			t.Errorf("known and told: %+v", *got[0])
		}
	}
	counts := map[uint64]uint64{}
	if harvested(t, w, counts); counts[e.Key] != times {
		t.Errorf("counted %v; want %d", counts, times)
	}
	p = play(t, path, "native", "unshare-refused")
	first(w, "the refused one", by(p.pid, event.OpUnshare))
	p = play(t, path, "int80", "unshare")
	first(w, "the 32-bit one", by(p.pid, event.OpUnshare))
	p = play(t, copyFile(t, path, path+"-copy"), "native", "unshare")
	first(w, "another file's", by(p.pid, event.OpUnshare))
}

// Ensure that each number has one class, and those of the privilege family names.
func TestCallNumbers(t *testing.T) {
	native, compat := map[uint16]bool{}, map[uint16]bool{}
	for _, c := range callClasses {
		named := slices.ContainsFunc(privilegeCallClasses, func(p callClass) bool { return p.class == c.class })
		for _, n := range c.native {
			if native[n] || named && decode.CallName(uint32(n), false) == "" {
				t.Errorf("native call %d of class %d: twice, or without a name", n, c.class)
			}
			native[n] = true
		}
		for _, n := range c.compat {
			if compat[n] || named && decode.CallName(uint32(n), true) == "" {
				t.Errorf("32-bit call %d of class %d: twice, or without a name", n, c.class)
			}
			compat[n] = true
		}
	}
}

// Ensure that no process can push execs out of the critical ring by changing its
// privileges, and that what it did is told or counted to the last one.
func TestPrivilegeFlood(t *testing.T) {
	path := actor(t)
	const changes, execs = 300_000, 1000
	// Small, so that the flood would fill it.
	w := open(t, Config{CriticalRingBytes: 256 << 10})
	before := w.lost()
	flood := exec.Command(path, "native", "flood", strconv.Itoa(changes))
	if err := flood.Start(); err != nil {
		t.Fatal(err)
	}
	pid := uint32(flood.Process.Pid)
	seen := map[uint32]bool{}
	for range execs {
		seen[run(t, exec.Command("/bin/true", "beside-the-flood"))] = true
	}
	if err := flood.Wait(); err != nil {
		t.Fatal(err)
	}
	w.ended(pid)
	beside := func(e *event.Exec) bool {
		return seen[e.Process.PID] && len(e.Argv) == 2 && string(e.Argv[1]) == "beside-the-flood"
	}
	events := w.await("every exec", func(events []event.Event) bool { return len(filter(events, beside)) >= execs })
	told, got := len(filter(events, by(pid, event.OpSetUID))), len(filter(events, beside))
	after := w.lost()
	lost := after["ring:bulk/privilege beyond its process's share: ring full"] - before["ring:bulk/privilege beyond its process's share: ring full"]
	t.Logf("%d changes: %d told, %d lost and counted; %d of %d execs told", changes, told, lost, got, execs)
	if got != execs || after["ring:critical/exec: ring full"] != 0 {
		t.Errorf("%d of %d execs were told; losses %v", got, execs, w.Losses())
	}
	if n := after["ring:critical/privilege: ring full"]; n != 0 {
		t.Errorf("%d privilege events did not find room in the critical ring", n)
	}
	// One more: the change to an ordinary user that it begins with.
	if skipped := after["program:call_end/kernel skipped it: already running on the CPU"]; told+int(lost)+int(skipped) < changes+1 {
		t.Errorf("told %d + lost %d + skipped %d: want %d", told, lost, skipped, changes+1)
	}
}

func (w *watch) lost() map[string]uint64 {
	out := map[string]uint64{}
	for _, l := range w.Losses() {
		out[l.Where+"/"+l.Cause] = l.Count
	}
	return out
}

// BenchmarkCallEnd prints what the end of a call that nobody looks at costs: a
// getppid, with the program on and off by turns.
func BenchmarkCallEnd(b *testing.B) {
	path := actor(b)
	const calls = 2_000_000
	measure := func() int64 { return play(b, path, "native", "getppid", strconv.Itoa(calls)).values["result"] }
	var with, without []int64
	for range max(b.N, 9) {
		without = append(without, measure())
		s, err := Open(Config{})
		if err != nil {
			b.Fatal(err)
		}
		with = append(with, measure())
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	off, on := least(without), least(with)
	b.ReportMetric(float64(off)/1000, "ns/call-without")
	b.ReportMetric(float64(on)/1000, "ns/call-with")
	b.ReportMetric(float64(on-off)/1000, "ns/call-end")
}

// least, since everything that disturbs a run only adds to it.
func least(values []int64) int64 {
	out := values[0]
	for _, v := range values {
		out = min(out, v)
	}
	return out
}
