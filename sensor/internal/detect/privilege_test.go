package detect

import (
	"slices"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// does makes a privilege observation.
func (h *host) does(p, target *event.Process, ev event.Privilege) *event.Observation {
	ev.Process = p.Key
	if target != nil {
		ev.Target = target.Key
	}
	return &event.Observation{Event: &ev, Time: h.tick(), Process: p, Target: target}
}

const refused = -1 // EPERM

// Ensure that each rule of the privilege family finds what it is for.
func TestBuiltinPrivilege(t *testing.T) {
	h := newHost()
	init := &event.Process{Key: event.ProcessKey{PID: 1}, Image: "/usr/lib/systemd/systemd"}
	evil := func() *event.Process { return h.process(init, "/opt/app/worker") }
	victim := h.process(init, "/usr/sbin/sshd")
	as := func(p *event.Process, uid uint32) *event.Process { p.UID = uid; return p }
	for _, c := range []struct {
		title    string
		severity event.Severity
		o        *event.Observation
	}{
		{"Code or registers of another process changed by ptrace", event.High, h.does(evil(), victim, event.Privilege{Operation: event.OpPtrace, Command: 5})},
		{"Code or registers of another process changed by ptrace", event.High, h.does(evil(), victim, event.Privilege{Operation: event.OpPtrace, Command: 0x4205})},
		{"Process traced by a program that is no debugger", event.Low, h.does(evil(), victim, event.Privilege{Operation: event.OpPtrace, Command: 16, Result: refused})},
		{"Memory of another process written", event.Medium, h.does(evil(), victim, event.Privilege{Operation: event.OpVMWrite, Result: 16})},
		{"Memory of another process opened for writing", event.Medium, h.does(evil(), victim, event.Privilege{Operation: event.OpProcMem, Result: 3})},
		{"Memory file made executable", event.Medium, h.does(evil(), nil, event.Privilege{Operation: event.OpExecAnon, MemoryFile: true, Name: []byte("memfd:x"), Result: 1 << 40})},
		{"Code from memory that is no file's", event.Low, h.does(evil(), nil, event.Privilege{Operation: event.OpExecAnon, Writable: true})},
		{"Kernel module loaded by an unusual program", event.High, h.does(evil(), nil, event.Privilege{Operation: event.OpModule, Call: "finit_module"})},
		{"Kernel module loaded by an unusual program", event.High, h.does(evil(), nil, event.Privilege{Operation: event.OpModule})},
		{"Loading a kernel module was refused", event.Low, h.does(evil(), nil, event.Privilege{Operation: event.OpModule, Call: "init_module", Result: refused})},
		{"Program put into the kernel by an unusual program", event.Medium, h.does(evil(), nil, event.Privilege{Operation: event.OpBPF, Command: 5, Result: 3})},
		{"The sensor's programs or maps changed by another", event.Critical, h.does(evil(), nil, event.Privilege{Operation: event.OpBPF, Command: 34, Ours: true, Result: refused})},
		{"The sensor's programs or maps opened by another", event.Low, h.does(evil(), nil, event.Privilege{Operation: event.OpBPF, Command: 14, Ours: true})},
		{"Hands laid on the sensor's own process", event.Critical, h.does(evil(), victim, event.Privilege{Operation: event.OpPidFDGetFD, Ours: true})},
		{"Hands laid on the sensor's own process", event.Critical, h.does(evil(), victim, event.Privilege{Operation: event.OpCgroupFreeze, Ours: true})},
		{"Signal to the sensor", event.High, h.does(evil(), victim, event.Privilege{Operation: event.OpSignal, Command: 19, Ours: true})},
		{"The sensor moved into another cgroup", event.Medium, h.does(evil(), victim, event.Privilege{Operation: event.OpCgroupMove, Ours: true})},
		{"Root without any way to become it", event.Critical, h.does(as(evil(), 1000), nil, event.Privilege{Operation: event.OpSetUID, Gained: true, Unexplained: true})},
		{"Interpreter or tool that made itself root", event.High, h.does(as(h.process(init, "/usr/bin/python3.11"), 1000), nil, event.Privilege{Operation: event.OpSetUID, Gained: true, UIDBefore: 1000})},
		{"Far-reaching capability raised", event.Low, h.does(as(evil(), 1000), nil, event.Privilege{Header: event.Header{UID: 1000}, Operation: event.OpCapability, Gained: true, Caps: 1 << 21})},
		{"User namespace made by a service account", event.Medium, h.does(as(evil(), 33), nil, event.Privilege{Header: event.Header{UID: 33}, Operation: event.OpUserNS, Arguments: 0x10000000})},
		{"Mount over a sensitive place", event.Medium, h.does(evil(), nil, event.Privilege{Operation: event.OpMount, Call: "mount", HostMounts: true, Name: []byte("/etc/passwd")})},
		{"Mount over a sensitive place", event.Medium, h.does(evil(), nil, event.Privilege{Operation: event.OpMount, Call: "move_mount", HostMounts: true, Name: []byte("/proc/4711")})},
		{"Root of the file systems changed by an unusual program", event.Medium, h.does(evil(), nil, event.Privilege{Operation: event.OpPivotRoot})},
		{"io_uring set up by an unusual program", event.Low, h.does(evil(), nil, event.Privilege{Operation: event.OpURing, Call: "io_uring_setup", Result: 3})},
	} {
		findings, _ := engine(t).Evaluate(c.o, event.Verdict{})
		if !slices.ContainsFunc(findings, func(f *event.Finding) bool { return f.Title == c.title && f.Severity == c.severity }) {
			t.Errorf("%s (%s): got %v", c.title, c.severity, findings)
		}
		for _, f := range findings {
			if f.Reason == "" {
				t.Errorf("%s: no reason", f.Title)
			}
		}
	}
}

// Ensure that one process's first deed against the sensor, however often it was done,
// does not hide the next one of another sort, nor one victim another.
func TestPrivilegeDeeds(t *testing.T) {
	h := newHost()
	init := &event.Process{Key: event.ProcessKey{PID: 1}, Image: "/usr/lib/systemd/systemd"}
	evil := h.process(init, "/opt/app/worker")
	first, second := h.process(init, "/usr/sbin/sshd"), h.process(init, "/usr/sbin/cron")
	e := engine(t)
	told := func(target *event.Process, ev event.Privilege) bool {
		findings, _ := e.Evaluate(h.does(evil, target, ev), event.Verdict{})
		return len(findings) > 0
	}
	for _, c := range []struct {
		name   string
		target *event.Process
		ev     event.Privilege
		want   bool
	}{
		{"a link", nil, event.Privilege{Operation: event.OpBPF, Command: 34, Ours: true}, true},
		{"another link", nil, event.Privilege{Operation: event.OpBPF, Command: 34, Ours: true}, false},
		{"an entry put into a map", nil, event.Privilege{Operation: event.OpBPF, Command: 2, Ours: true}, true},
		{"an entry taken out of it", nil, event.Privilege{Operation: event.OpBPF, Command: 3, Ours: true}, true},
		{"a map frozen", nil, event.Privilege{Operation: event.OpBPF, Command: 22, Ours: true}, true},
		{"a victim", first, event.Privilege{Operation: event.OpPtrace, Command: 5}, true},
		{"another victim", second, event.Privilege{Operation: event.OpPtrace, Command: 5}, true},
		{"the first again", first, event.Privilege{Operation: event.OpPtrace, Command: 5}, false},
	} {
		if got := told(c.target, c.ev); got != c.want {
			t.Errorf("%s: told is %v, want %v", c.name, got, c.want)
		}
	}
}

// Ensure that what ordinary programs do all day raises nothing above low, on a host
// that has not learnt yet.
func TestOrdinaryPrivilege(t *testing.T) {
	h := newHost()
	init := &event.Process{Key: event.ProcessKey{PID: 1}, Image: "/usr/lib/systemd/systemd"}
	user := func(image string) *event.Process {
		p := h.process(init, image)
		p.UID, p.User = 1000, "dev"
		return p
	}
	root := func(image string) *event.Process { return h.process(init, image) }
	other := user("/home/dev/bin/app")
	gdb := user("/usr/bin/gdb")
	child := h.process(gdb, "/home/dev/bin/app")
	tool := user("/home/dev/src/my-debugger")
	its := h.process(tool, "/home/dev/bin/app")
	unprivileged := event.Header{UID: 1000}
	for name, o := range map[string]*event.Observation{
		"sshd drops":                 h.does(root("/usr/sbin/sshd"), nil, event.Privilege{Header: unprivileged, Operation: event.OpSetUID}),
		"sshd becomes root again":    h.does(root("/usr/sbin/sshd"), nil, event.Privilege{Operation: event.OpSetUID, Gained: true, UIDBefore: 1000}),
		"sudo":                       h.does(root("/usr/bin/sudo"), nil, event.Privilege{Operation: event.OpSetUID, Gained: true, UIDBefore: 1000}),
		"su":                         h.does(root("/usr/bin/su"), nil, event.Privilege{Header: unprivileged, Operation: event.OpSetUID}),
		"cron":                       h.does(root("/usr/sbin/cron"), nil, event.Privilege{Operation: event.OpSetUID, Gained: true, UIDBefore: 1000}),
		"ping":                       h.does(user("/usr/bin/ping"), nil, event.Privilege{Header: unprivileged, Operation: event.OpCapability, Gained: true, Caps: 1 << 13}),
		"refused setuid":             h.does(user("/usr/bin/python3"), nil, event.Privilege{Header: unprivileged, Operation: event.OpSetUID, Result: refused}),
		"gdb pokes its child":        h.does(gdb, child, event.Privilege{Operation: event.OpPtrace, Command: 5}),
		"gdb -p":                     h.does(gdb, other, event.Privilege{Operation: event.OpPtrace, Command: 16}),
		"gdb writes by /proc":        h.does(gdb, other, event.Privilege{Operation: event.OpProcMem}),
		"own debugger pokes child":   h.does(tool, its, event.Privilege{Operation: event.OpPtrace, Command: 5}),
		"strace -p":                  h.does(root("/usr/bin/strace"), other, event.Privilege{Operation: event.OpPtrace, Command: 0x4206}),
		"jmap attaches":              h.does(user("/usr/lib/jvm/bin/jmap"), other, event.Privilege{Operation: event.OpPtrace, Command: 16}),
		"browser's sandbox":          h.does(user("/opt/google/chrome/chrome"), nil, event.Privilege{Header: unprivileged, Operation: event.OpUserNS, Arguments: 0x10000000}),
		"browser's code":             h.does(user("/usr/lib/firefox/firefox"), nil, event.Privilege{Operation: event.OpExecAnon, Writable: true}),
		"browser's shared memory":    h.does(user("/usr/lib/firefox/firefox"), nil, event.Privilege{Operation: event.OpMemFD, Name: []byte("memfd:mozilla-ipc")}),
		"java":                       h.does(root("/usr/lib/jvm/java-17/bin/java"), nil, event.Privilege{Operation: event.OpExecAnon, Writable: true}),
		"unknown JIT":                h.does(user("/home/dev/bin/interpreter"), nil, event.Privilege{Operation: event.OpExecAnon}),
		"libffi":                     h.does(user("/usr/bin/meld"), nil, event.Privilege{Operation: event.OpExecAnon, MemoryFile: true, Name: []byte("memfd:libffi")}),
		"runc's re-exec":             h.does(root("/usr/bin/runc"), nil, event.Privilege{Operation: event.OpMemFD, Name: []byte("memfd:runc_cloned:/proc/self/exe")}),
		"runc's namespaces":          h.does(root("/usr/bin/runc"), nil, event.Privilege{Operation: event.OpUnshare, Arguments: 0x7c020000}),
		"runc's root":                h.does(root("/usr/bin/runc"), nil, event.Privilege{Operation: event.OpPivotRoot}),
		"runc's mount of /proc":      h.does(root("/usr/bin/runc"), nil, event.Privilege{Operation: event.OpMount, Call: "mount", Name: []byte("/proc")}),
		"runc's device program":      h.does(root("/usr/bin/runc"), nil, event.Privilege{Operation: event.OpBPF, Command: 5, Result: 3}),
		"docker exec":                h.does(root("/usr/bin/runc"), nil, event.Privilege{Operation: event.OpSetNS}),
		"dockerd's layers":           h.does(root("/usr/bin/dockerd"), nil, event.Privilege{Operation: event.OpMount, Call: "mount", HostMounts: true, Name: []byte("/var/lib/docker/overlay2/1/merged")}),
		"systemd's units":            h.does(init, nil, event.Privilege{Operation: event.OpMount, Call: "mount", HostMounts: true, Name: []byte("/etc/machine-id")}),
		"systemd's firewall":         h.does(init, nil, event.Privilege{Operation: event.OpBPF, Command: 5, Result: 3}),
		"systemd stops the sensor":   h.does(init, other, event.Privilege{Operation: event.OpSignal, Command: 15, Ours: true}),
		"systemd places the sensor":  h.does(init, other, event.Privilege{Operation: event.OpCgroupMove, Ours: true}),
		"kernel ends the sensor":     h.does(other, other, event.Privilege{Operation: event.OpSignal, Command: 9, Ours: true, FromKernel: true}),
		"mount of a stick":           h.does(root("/usr/bin/mount"), nil, event.Privilege{Operation: event.OpMount, Call: "mount", HostMounts: true, Name: []byte("/media/dev/STICK")}),
		"modprobe":                   h.does(root("/usr/bin/kmod"), nil, event.Privilege{Operation: event.OpModule, Call: "finit_module", Name: []byte("veth.ko")}),
		"rmmod":                      h.does(root("/usr/bin/kmod"), nil, event.Privilege{Operation: event.OpModule, Call: "delete_module"}),
		"bpftool lists":              h.does(root("/usr/sbin/bpftool"), nil, event.Privilege{Operation: event.OpBPF, Command: 14, Ours: true}),
		"bpftrace":                   h.does(root("/usr/bin/bpftrace"), nil, event.Privilege{Operation: event.OpBPF, Command: 5, Result: 3}),
		"unshare by a user":          h.does(user("/usr/bin/unshare"), nil, event.Privilege{Header: unprivileged, Operation: event.OpUserNS, Arguments: 0x10000000}),
		"ranks of a parallel job":    h.does(other, user("/home/dev/bin/app"), event.Privilege{Operation: event.OpVMWrite, Result: 16}),
		"fio":                        h.does(user("/usr/bin/fio"), nil, event.Privilege{Operation: event.OpURing, Call: "io_uring_setup", Result: 3}),
		"snap's mounts":              h.does(root("/usr/lib/snapd/snap-confine"), nil, event.Privilege{Operation: event.OpPivotRoot}),
		"a service's namespace":      h.does(root("/usr/lib/systemd/systemd-executor"), nil, event.Privilege{Operation: event.OpUnshare, Arguments: 0x00020000}),
		"thumbnails of the greeter":  h.does(root("/usr/bin/bwrap"), nil, event.Privilege{Header: event.Header{UID: 120}, Operation: event.OpUserNS, Arguments: 0x10000000}),
		"rootless containers":        h.does(user("/usr/bin/podman"), nil, event.Privilege{Header: unprivileged, Operation: event.OpUserNS, Arguments: 0x10000000}),
		"a refused clone":            h.does(user("/usr/bin/unshare"), nil, event.Privilege{Header: unprivileged, Operation: event.OpUnshare, Result: refused}),
		"the same, often, and known": h.does(other, nil, event.Privilege{Operation: event.OpExecAnon}),
	} {
		findings, _ := engine(t).Evaluate(o, event.Verdict{})
		for _, f := range findings {
			if f.Severity != event.Low && f.Severity != event.Informational {
				t.Errorf("%s: %s (%s)", name, f.Title, f.Severity)
			}
		}
	}
}
