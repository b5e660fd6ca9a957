package detect

import (
	"path"
	"strconv"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Rules for auditd name the lines that it writes. What one event of the sensor would be
// there is several lines with one serial number; to rules it is one record, whose type has
// all of theirs. Reads of files and system calls that the sensor does not see are no
// records, and values that no record can have are refused when a rule is loaded.

// auditFields are auditd's names for what the sensor sees.
var auditFields = map[string]int{
	"type": fieldAuditType, "SYSCALL": fieldSyscall, "syscall": fieldSyscall,
	"exe": fieldImage, "comm": fieldComm, "proctitle": fieldCommandLine, "cmdline": fieldCommandLine, "cwd": fieldCurrentDirectory,
	"pid": fieldProcessID, "ppid": fieldParentProcessID, "auid": fieldAuditUID, "euid": fieldAuditEUID, "ses": fieldAuditSession,
	"name": fieldAuditName, "nametype": fieldAuditNameType, "key": fieldAuditKey, "success": fieldAuditSuccess,
	"argc": fieldArgc, "vedette.Storyline": fieldStoryline,
}

// maxAuditArgs is how many of an EXECVE line's a0, a1, … have a name.
const maxAuditArgs = 16

func init() {
	for i := range maxAuditArgs {
		auditFields["a"+strconv.Itoa(i)] = fieldA0 + i
	}
	schema = append(schema,
		auditSource("process_creation", map[int][]string{
			fieldAuditType: {"SYSCALL", "EXECVE", "PATH", "CWD", "PROCTITLE"}, fieldSyscall: {"execve"},
			fieldAuditNameType: {"NORMAL"}, fieldAuditKey: {}, fieldAuditSuccess: {"yes"},
		}, fieldCommandLine, fieldImage),
		auditSource("file_event", map[int][]string{
			fieldAuditType: {"SYSCALL", "PATH"}, fieldSyscall: callsOf(event.FileWrite, event.FileUnlink),
			fieldAuditNameType: {"NORMAL", "CREATE", "DELETE"}, fieldAuditKey: {}, fieldArgc: {}, fieldAuditSuccess: {"yes"},
		}, fieldAuditName, fieldImage),
		auditSource("file_delete", map[int][]string{
			fieldAuditType: {"SYSCALL", "PATH"}, fieldSyscall: {"unlink", "unlinkat", "rmdir"},
			fieldAuditNameType: {"DELETE"}, fieldAuditKey: {}, fieldArgc: {}, fieldAuditSuccess: {"yes"},
		}, fieldAuditName, fieldImage),
		auditSource("network_connection", map[int][]string{
			fieldAuditType: {"SYSCALL"}, fieldSyscall: {"connect", "accept"},
			fieldAuditNameType: {}, fieldAuditKey: {keyConnect4}, fieldArgc: {}, fieldAuditName: {}, fieldAuditSuccess: {"yes", "no"},
		}),
		auditSource("privilege", map[int][]string{
			fieldAuditType: {"SYSCALL"}, fieldSyscall: privilegeCalls,
			fieldAuditNameType: {}, fieldAuditKey: {}, fieldArgc: {}, fieldAuditName: {}, fieldAuditSuccess: {"yes", "no"},
		}),
	)
}

// auditSource is one kind of record as auditd's rules see it; only an exec has arguments.
func auditSource(of string, values map[int][]string, text ...int) sigma.Source {
	if of != "process_creation" {
		for i := range maxAuditArgs {
			values[fieldA0+i] = []string{}
		}
	}
	return sigma.Source{Of: of, Service: "auditd", Fields: auditFields, Text: text, Values: values}
}

// keyConnect4 is the key that audit rules in common use give a connect(2) over IPv4.
const keyConnect4 = "network_connect_4"

// privilegeCalls are the system calls that an event of category privilege may name.
var privilegeCalls = []string{
	"open", "mmap", "mprotect", "clone", "creat", "ptrace", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid",
	"setfsuid", "setfsgid", "capset", "pivot_root", "mount", "umount", "umount2", "init_module", "delete_module", "openat", "unshare",
	"setns", "process_vm_writev", "finit_module", "memfd_create", "bpf", "pkey_mprotect", "io_uring_setup", "io_uring_register",
	"move_mount", "fsmount", "openat2", "pidfd_getfd", "memfd_secret",
}

// fileCalls are the calls that do what an event says was done; which of them it was is not told.
var fileCalls = map[event.FileOp][]string{
	event.FileWrite: {"open", "openat"}, event.FileCreate: {"open", "openat", "creat"}, event.FileTruncate: {"truncate", "ftruncate"},
	event.FileRename: {"rename", "renameat", "renameat2"}, event.FileLink: {"link", "linkat"}, event.FileSymlink: {"symlink", "symlinkat"},
	event.FileUnlink: {"unlink", "unlinkat"}, event.FileRmdir: {"rmdir", "unlinkat"}, event.FileMkdir: {"mkdir", "mkdirat"},
	event.FileMknod: {"mknod", "mknodat"}, event.FileChmod: {"chmod", "fchmod", "fchmodat"},
	event.FileChown: {"chown", "fchown", "lchown", "fchownat"}, event.FileUtimes: {"utimensat", "utimes", "utime"},
	event.FileSetxattr: {"setxattr", "fsetxattr", "lsetxattr"}, event.FileRemovexattr: {"removexattr", "fremovexattr", "lremovexattr"},
}

// callsOf are those of all operations from one on, but for deletions.
func callsOf(from, but event.FileOp) (calls []string) {
	for op := from; op < event.FileMapExec; op++ {
		if op != but && op != event.FileRmdir {
			calls = append(calls, fileCalls[op]...)
		}
	}
	return calls
}

// auditValues are the fields that auditd's rules have for themselves.
func auditValues(n int, o *event.Observation, out []string) []string {
	p := o.Process
	switch n {
	case fieldAuditUID:
		return append(out, strconv.FormatUint(uint64(p.LoginUID), 10))
	case fieldAuditEUID:
		return append(out, strconv.FormatUint(uint64(o.Event.Head().UID), 10))
	case fieldAuditSession:
		return append(out, strconv.FormatUint(uint64(p.SessionID), 10))
	case fieldComm:
		return commValues(o, out)
	}
	switch ev := o.Event.(type) {
	case *event.Exec:
		return auditExec(n, p, out)
	case *event.File:
		return auditFile(n, ev, out)
	case *event.FlowOpen:
		switch {
		case n == fieldAuditType:
			return append(out, "SYSCALL")
		case n == fieldSyscall && ev.Dir == event.Outbound:
			return append(out, "connect")
		case n == fieldSyscall:
			return append(out, "accept")
		case n == fieldAuditSuccess:
			return append(out, yesOrNo(!ev.Failed))
		case n == fieldAuditKey && ev.Dir == event.Outbound && !ev.Failed && ev.Remote.Addr().Unmap().Is4():
			return append(out, keyConnect4)
		}
	case *event.Privilege:
		switch {
		case n == fieldAuditType:
			return append(out, "SYSCALL")
		case n == fieldSyscall && ev.Call != "":
			return append(out, ev.Call)
		case n == fieldAuditSuccess:
			return append(out, yesOrNo(ev.ErrorName() == ""))
		}
	}
	return out
}

// commLength is TASK_COMM_LEN without the end.
const commLength = 15

// commValues is what the kernel would call the process. The name that led to the image is
// not in the kernel's key of an exec, but argv[0] is, which mostly is that name.
func commValues(o *event.Observation, out []string) []string {
	cut := func(name string) string { name = path.Base(name); return name[:min(len(name), commLength)] }
	p := o.Process
	if p.Image != "" {
		out = append(out, cut(p.Image))
	}
	if _, exec := o.Event.(*event.Exec); exec && len(p.Argv) > 0 && p.Argv[0] != "" {
		if name := cut(p.Argv[0]); len(out) == 0 || out[0] != name {
			out = append(out, name)
		}
	}
	return out
}

func auditExec(n int, p *event.Process, out []string) []string {
	switch n {
	case fieldAuditType:
		return append(out, "SYSCALL", "EXECVE", "PATH", "CWD", "PROCTITLE")
	case fieldSyscall:
		return append(out, "execve")
	case fieldAuditSuccess:
		return append(out, "yes")
	case fieldAuditNameType:
		return append(out, "NORMAL")
	case fieldArgc:
		if !p.ArgvTruncated {
			return append(out, strconv.Itoa(len(p.Argv)))
		}
	case fieldAuditName:
		for _, name := range []string{p.Image, p.Script} {
			if name != "" {
				out = append(out, name)
			}
		}
	default:
		if i := n - fieldA0; i >= 0 && i < maxAuditArgs && i < len(p.Argv) {
			return append(out, p.Argv[i])
		}
	}
	return out
}

func auditFile(n int, ev *event.File, out []string) []string {
	switch n {
	case fieldAuditType:
		return append(out, "SYSCALL", "PATH")
	case fieldSyscall:
		return append(out, fileCalls[ev.Op]...)
	case fieldAuditSuccess:
		return append(out, "yes")
	case fieldAuditName:
		return fileValues(fieldTargetFilename, ev, out)
	case fieldAuditNameType:
		switch ev.Op {
		case event.FileCreate, event.FileMkdir, event.FileMknod, event.FileLink, event.FileSymlink:
			return append(out, "CREATE")
		case event.FileUnlink, event.FileRmdir:
			return append(out, "DELETE")
		case event.FileRename:
			return append(out, "DELETE", "CREATE")
		}
		return append(out, "NORMAL")
	}
	return out
}

func yesOrNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
