package kernel

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// privilegeCase is one act and what must be told of it.
type privilegeCase struct {
	act   string
	args  []string
	op    event.Operation
	call  string
	check func(p played, e *event.Privilege) string // what is wrong, "" for nothing
}

func privilegeCases(dir, module string) []privilegeCase {
	wrong := func(ok bool, what string) string {
		if ok {
			return ""
		}
		return what
	}
	refused := func(errno unix.Errno) func(played, *event.Privilege) string {
		return func(_ played, e *event.Privilege) string {
			return wrong(e.Result == -int64(errno), fmt.Sprintf("want errno %d", errno))
		}
	}
	target := func(p played, e *event.Privilege) string {
		return wrong(int64(e.Target.PID) == p.values["target"] && e.Target.Start > e.Process.Start, "target")
	}
	claimed := func(want ...string) func(played, *event.Privilege) string {
		return func(_ played, e *event.Privilege) string {
			got := make([]string, len(e.Claimed))
			for i, c := range e.Claimed {
				got[i] = string(c)
			}
			return wrong(strings.Join(got, "|") == strings.Join(want, "|"), "claimed, want "+strings.Join(want, "|"))
		}
	}
	return []privilegeCase{
		{act: "seteuid-up", op: event.OpSetUID, call: "setresuid", check: func(_ played, e *event.Privilege) string {
			return wrong(e.Result == 0 && e.UID == 0 && e.UIDBefore == 1000 && e.RealUID == 1000 && e.Gained && !e.Unexplained && e.Caps&^e.CapsBefore != 0, "gain")
		}},
		{act: "setuid16", op: event.OpSetUID, call: "setuid", check: func(_ played, e *event.Privilege) string {
			return wrong(e.Result == 0 && e.UID == 1000 && e.UIDBefore == 0 && !e.Gained, "drop")
		}},
		{act: "setgid", op: event.OpSetUID, call: "setgid", check: func(_ played, e *event.Privilege) string {
			return wrong(e.GID == 1000 && e.GIDBefore == 0 && !e.Gained, "group")
		}},
		{act: "setfsuid", op: event.OpSetUID, call: "setfsuid", check: func(_ played, e *event.Privilege) string {
			return wrong(e.Command == 1000 && e.UID == 0, "file system's user")
		}},
		{act: "setuid-refused", op: event.OpSetUID, call: "setuid", check: refused(unix.EPERM)},
		{act: "capset", op: event.OpCapability, call: "capset", check: func(_ played, e *event.Privilege) string {
			return wrong(e.Result == 0 && e.Gained && e.Caps&^e.CapsBefore == 1<<unix.CAP_SYS_ADMIN, "capability")
		}},
		{act: "capset-refused", op: event.OpCapability, call: "capset", check: refused(unix.EPERM)},
		{act: "userns", op: event.OpUserNS, call: "unshare", check: func(_ played, e *event.Privilege) string {
			return wrong(e.Arguments == unix.CLONE_NEWUSER|unix.CLONE_NEWUTS && e.Result == 0, "namespaces")
		}},
		{act: "clone-userns", op: event.OpUserNS, check: func(p played, e *event.Privilege) string {
			return wrong(e.Arguments == unix.CLONE_NEWUSER|unix.CLONE_NEWNET, "namespaces") + target(p, e)
		}},
		{act: "clone-refused", op: event.OpUnshare, call: "clone", check: refused(unix.EPERM)},
		{act: "unshare", op: event.OpUnshare, call: "unshare", check: func(_ played, e *event.Privilege) string {
			return wrong(e.Arguments == unix.CLONE_NEWUTS|unix.CLONE_NEWIPC, "namespaces")
		}},
		{act: "unshare-refused", op: event.OpUnshare, call: "unshare", check: refused(unix.EPERM)},
		{act: "setns", op: event.OpSetNS, call: "setns", check: func(p played, e *event.Privilege) string {
			return wrong(e.Result == 0 && int64(e.Object) == p.values["object"], "namespace")
		}},
		{act: "setns-refused", op: event.OpSetNS, call: "setns", check: refused(unix.EINVAL)},
		{act: "pivot-root", args: []string{dir}, op: event.OpPivotRoot, call: "pivot_root", check: func(_ played, e *event.Privilege) string {
			return wrong(e.Result == 0 && !e.HostMounts, "result or namespace")
		}},
		{act: "pivot-root-refused", op: event.OpPivotRoot, call: "pivot_root", check: claimed("/nowhere", "/nowhere/old")},
		{act: "mount", args: []string{dir}, op: event.OpMount, call: "mount", check: func(p played, e *event.Privilege) string {
			return wrong(string(e.Name) == dir && e.Arguments == 2 && !e.HostMounts, "path, want "+dir) + claimed("from-here", dir, "tmpfs")(p, e)
		}},
		{act: "mount-refused", op: event.OpMount, call: "mount", check: func(p played, e *event.Privilege) string {
			return wrong(e.HostMounts, "namespace") + refused(unix.ENOENT)(p, e) + claimed("from-here", "/nowhere", "tmpfs")(p, e)
		}},
		{act: "fsmount", op: event.OpMount, call: "fsmount", check: func(_ played, e *event.Privilege) string {
			return wrong(e.Result > 0, "result")
		}},
		{act: "move-mount", args: []string{dir}, op: event.OpMount, call: "move_mount", check: func(p played, e *event.Privilege) string {
			return wrong(e.Result == 0 && string(e.Name) == dir, "path, want "+dir) + claimed("", dir)(p, e)
		}},
		{act: "umount", args: []string{dir}, op: event.OpMount, call: "umount2", check: claimed(dir)},
		{act: "ptrace-attach", op: event.OpPtrace, call: "ptrace", check: func(p played, e *event.Privilege) string {
			return wrong(e.Command == unix.PTRACE_ATTACH, "request") + target(p, e)
		}},
		{act: "ptrace-seize", op: event.OpPtrace, call: "ptrace", check: func(p played, e *event.Privilege) string {
			return wrong(e.Command == unix.PTRACE_SEIZE, "request") + target(p, e)
		}},
		{act: "ptrace-poke", op: event.OpPtrace, call: "ptrace", check: target},
		{act: "ptrace-setregs", op: event.OpPtrace, call: "ptrace", check: target},
		{act: "ptrace-refused", op: event.OpPtrace, call: "ptrace", check: func(p played, e *event.Privilege) string {
			return refused(unix.EPERM)(p, e) + target(p, e)
		}},
		{act: "vm-writev", op: event.OpVMWrite, call: "process_vm_writev", check: func(p played, e *event.Privilege) string {
			return wrong(e.Result == 16, "result") + target(p, e)
		}},
		{act: "vm-writev-refused", op: event.OpVMWrite, call: "process_vm_writev", check: func(p played, e *event.Privilege) string {
			return refused(unix.EPERM)(p, e) + target(p, e)
		}},
		{act: "proc-mem", op: event.OpProcMem, call: "openat", check: target},
		{act: "memfd", op: event.OpMemFD, call: "memfd_create", check: func(_ played, e *event.Privilege) string {
			return wrong(string(e.Name) == "memfd:a-name" && e.Command == unix.MFD_CLOEXEC, "name")
		}},
		{act: "memfd-refused", op: event.OpMemFD, call: "memfd_create", check: refused(unix.EINVAL)},
		{act: "memfd-secret", op: event.OpMemFD, call: "memfd_secret"},
		{act: "exec-anon", op: event.OpExecAnon, call: "mmap", check: func(_ played, e *event.Privilege) string {
			return wrong(e.Writable && !e.MemoryFile && !e.Modified, "flags")
		}},
		{act: "exec-mprotect", op: event.OpExecAnon, call: "mprotect", check: func(_ played, e *event.Privilege) string {
			return wrong(!e.Writable && e.Arguments == 5, "flags")
		}},
		{act: "exec-modified", op: event.OpExecAnon, call: "mprotect", check: func(_ played, e *event.Privilege) string {
			return wrong(e.Modified && string(e.Name) == "privilege", "flags or name")
		}},
		{act: "exec-memfd", op: event.OpExecAnon, call: "mmap", check: func(_ played, e *event.Privilege) string {
			return wrong(e.MemoryFile && string(e.Name) == "memfd:code", "flags or name")
		}},
		{act: "exec-personality", op: event.OpExecAnon, call: "mmap"},
		{act: "init-module", op: event.OpModule, call: "init_module", check: func(p played, e *event.Privilege) string {
			return wrong(e.Result < 0 && e.Result == p.values["result"], "result") + claimed("some=parameter")(p, e)
		}},
		{act: "finit-module", args: []string{module}, op: event.OpModule, call: "finit_module", check: func(p played, e *event.Privilege) string {
			return wrong(e.Result < 0 && string(e.Name) == filepath.Base(module), "name") + claimed("some=parameter")(p, e)
		}},
		{act: "delete-module", op: event.OpModule, call: "delete_module", check: claimed("no_such_module")},
		{act: "bpf-map", op: event.OpBPF, call: "bpf", check: func(_ played, e *event.Privilege) string {
			return wrong(e.Command == 0 && e.Kind == event.ObjectMap && e.Object > 0 && !e.Ours && !e.ClaimedObject, "object")
		}},
		{act: "bpf-refused", op: event.OpBPF, call: "bpf", check: refused(unix.EPERM)},
		{act: "io-uring", op: event.OpURing, call: "io_uring_setup", check: func(_ played, e *event.Privilege) string {
			return wrong(e.Result >= 0 && e.Object&2 != 0, "ring's flags")
		}},
		{act: "io-uring-refused", op: event.OpURing, call: "io_uring_setup", check: refused(unix.EINVAL)},
		{act: "io-uring-register", op: event.OpURing, call: "io_uring_register", check: func(_ played, e *event.Privilege) string {
			return wrong(e.Command == 9 && e.Result > 0, "operation")
		}},
	}
}
