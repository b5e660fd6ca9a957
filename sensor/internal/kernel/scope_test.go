package kernel

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// activity does one of everything.
func activity(t testing.TB, cmd *exec.Cmd, host string) {
	run(t, cmd)
	exchangeAt(t, host)
	resolve(t, "udp4", host+":53", "leak.example.")
}

func exchangeAt(t testing.TB, host string) {
	listener, err := net.Listen("tcp4", host+":0")
	if err != nil {
		t.Error(err)
		return
	}
	defer listener.Close()
	exchangeOn(t, listener, 10, 10)
}

// outside lists the events that are not of the network namespace.
func outside(events []event.Event, netns uint32) (out []string) {
	for _, e := range events {
		if e.Head().NetNS != netns {
			out = append(out, fmt.Sprintf("%T %+v", e, e))
		}
	}
	return out
}

// Ensure that two sensors of two network namespaces each see all of their own and
// nothing of the other's.
func TestNetNSScope(t *testing.T) {
	a, b := newNetNS(t), newNetNS(t)
	wa := open(t, Config{Scope: Scope{Kind: ScopeNetNS, Path: a.path}})
	wb := open(t, Config{Scope: Scope{Kind: ScopeNetNS, Path: b.path}})
	a.do(func() { activity(t, exec.Command("/bin/true", "in-a"), "127.0.0.1") })
	b.do(func() { activity(t, exec.Command("/bin/true", "in-b"), "127.0.0.1") })
	run(t, exec.Command("/bin/true", "in-host"))
	exchange(t, "tcp4", 10, 10)

	for name, side := range map[string]struct {
		w  *watch
		ns *netNS
	}{"in-a": {wa, a}, "in-b": {wb, b}} {
		got := side.w.await("one of everything in "+name, func(events []event.Event) bool {
			return len(filter(events, func(e *event.Exec) bool { return string(e.Argv[1]) == name })) == 1 &&
				len(filter(events, func(e *event.FlowClose) bool { return e.Proto == 6 })) == 2 &&
				len(filter(events, func(e *event.DNS) bool { return true })) == 4 &&
				len(filter(events, func(e *event.Exit) bool { return string(bytes.TrimRight(e.Comm[:], "\x00")) == "true" })) == 1
		})
		var st unix.Stat_t
		if err := unix.Stat(side.ns.path, &st); err != nil {
			t.Fatal(err)
		}
		for _, leak := range outside(got, uint32(st.Ino)) {
			t.Errorf("sensor %s was told %s", name, leak)
		}
		if n := len(filter(got, func(e *event.Exec) bool { return true })); n != 1 {
			t.Errorf("sensor %s was told %d execs, want 1", name, n)
		}
	}
}

// Ensure the same of two cgroup subtrees, and that a subtree's children belong to it.
func TestCgroupScope(t *testing.T) {
	needKernel(t)
	a, b := newCgroup(t, "a"), newCgroup(t, "b")
	wa := open(t, Config{Scope: Scope{Kind: ScopeCgroup, Path: a.path}})
	wb := open(t, Config{Scope: Scope{Kind: ScopeCgroup, Path: b.path}})
	in := func(g cgroup, name string) uint32 {
		cmd := exec.Command("/proc/self/exe", name)
		cmd.Env = []string{"VEDETTE_TEST_ROLE=activity"}
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: g.fd(t), Cloneflags: unix.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("child: %v: %s", err, out)
		}
		return uint32(cmd.Process.Pid)
	}
	below := newCgroupAt(t, a.path+"/below")
	pids := map[*watch]uint32{wa: in(below, "in-a"), wb: in(b, "in-b")}
	exchange(t, "tcp4", 10, 10)
	for w, pid := range pids {
		got := w.await("one of everything", func(events []event.Event) bool {
			return len(filter(events, func(e *event.FlowClose) bool { return e.Proto == 6 })) == 2 &&
				len(filter(events, func(e *event.DNS) bool { return true })) == 4 &&
				len(filter(events, func(e *event.Exit) bool { return e.Process.PID == pid })) == 1
		})
		for _, e := range got {
			if fork, ok := e.(*event.Fork); ok {
				if fork.Child.PID != pid {
					t.Errorf("told of a fork of %d", fork.Child.PID)
				}
				continue
			}
			if e.Head().Process.PID != pid {
				t.Errorf("sensor of %d was told %T %+v", pid, e, e)
			}
		}
		tasks, err := w.Tasks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			if task.InScope {
				t.Errorf("task %+v in an empty cgroup", task)
			}
		}
	}
}

type cgroup struct{ path, dir string }

func newCgroup(t testing.TB, name string) cgroup {
	t.Helper()
	return newCgroupAt(t, fmt.Sprintf("/vedette-test-%d-%s", os.Getpid(), name))
}

func newCgroupAt(t testing.TB, path string) cgroup {
	t.Helper()
	mount, err := cgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	if mount == "" {
		t.Skip("SKIP: needs a cgroup v2 hierarchy")
	}
	dir := filepath.Join(mount, path)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return cgroup{path: path, dir: dir}
}

func (g cgroup) fd(t testing.TB) int {
	t.Helper()
	f, err := os.Open(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

func TestParseCgroupMount(t *testing.T) {
	for line, want := range map[string]string{
		"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw":       "/sys/fs/cgroup/unified",
		`41 31 0:38 / /mnt/a\040b rw shared:9 master:1 - cgroup2 none rw,nsdelegate`: "/mnt/a b",
		"41 31 0:38 /sub /sys/fs/cgroup rw - cgroup2 cgroup2 rw":                     "",
		"32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu":         "",
		"":             "",
		" - ":          "",
		"- cgroup2 ":   "",
		" - cgroup2 x": "",
	} {
		if got, _ := parseCgroupMount(line); got != want {
			t.Errorf("parseCgroupMount(%q) = %q, want %q", line, got, want)
		}
	}
}

func TestScopeErrors(t *testing.T) {
	mount, err := cgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	for _, scope := range []Scope{
		{Kind: ScopeNetNS, Path: "/run/netns/no-such"},
		{Kind: ScopeNetNS, Path: "/etc/passwd"},
		{Kind: ScopeNetNS, Path: "/proc/self/ns/mnt"},
		{Kind: ScopeCgroup, Path: "/no/such/cgroup"},
		{Kind: ScopeCgroup, Path: "/../../../../etc"},
	} {
		if knobs, err := resolveScope(scope, mount); err == nil {
			t.Errorf("resolveScope(%+v) = %+v, want an error", scope, knobs)
		}
	}
	if _, err := resolveScope(Scope{Kind: ScopeCgroup, Path: "/"}, ""); err == nil {
		t.Error("a cgroup scope without cgroup v2 resolves")
	}
}
