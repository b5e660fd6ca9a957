package taxonomy

import (
	"slices"
	"strconv"

	"github.com/vedette-edr/vedette/proto/sigma"
)

// Rules for auditd name the lines that it writes. What one event of the sensor would be
// there is several lines with one serial number; to rules it is one record, whose type has
// all of theirs. Reads of files and system calls that the sensor does not see are no
// records, and values that no record can have are refused when a rule is compiled.

// MaxAuditArgs is how many of an EXECVE line's a0, a1, … have a name.
const MaxAuditArgs = 16

// KeyConnect4 is the key that audit rules in common use give a connect(2) over IPv4.
const KeyConnect4 = "network_connect_4"

// auditFields are auditd's names for what the sensor sees.
func auditFields() map[string]int {
	fields := map[string]int{
		"type": AuditType, "SYSCALL": Syscall, "syscall": Syscall,
		"exe": Image, "comm": Comm, "proctitle": CommandLine, "cmdline": CommandLine, "cwd": CurrentDirectory,
		"pid": ProcessID, "ppid": ParentProcessID, "auid": AuditUID, "euid": AuditEUID, "ses": AuditSession,
		"name": AuditName, "nametype": AuditNameType, "key": AuditKey, "success": AuditSuccess,
		"argc": Argc, "vedette.Storyline": Storyline,
	}
	for i := range MaxAuditArgs {
		fields["a"+strconv.Itoa(i)] = A0 + i
	}
	return fields
}

func auditSources() sigma.Schema {
	fields := auditFields()
	source := func(of string, values map[int][]string, text ...int) sigma.Source {
		if of != "process_creation" { // only an exec has arguments
			for i := range MaxAuditArgs {
				values[A0+i] = []string{}
			}
		}
		return sigma.Source{Of: of, Service: "auditd", Fields: fields, Text: text, Values: values}
	}
	return sigma.Schema{
		source("process_creation", map[int][]string{
			AuditType: {"SYSCALL", "EXECVE", "PATH", "CWD", "PROCTITLE"}, Syscall: {"execve"},
			AuditNameType: {"NORMAL"}, AuditKey: {}, AuditSuccess: {"yes"},
		}, CommandLine, Image),
		source("file_event", map[int][]string{
			AuditType: {"SYSCALL", "PATH"}, Syscall: fileEventCalls(),
			AuditNameType: {"NORMAL", "CREATE", "DELETE"}, AuditKey: {}, Argc: {}, AuditSuccess: {"yes"},
		}, AuditName, Image),
		source("file_delete", map[int][]string{
			AuditType: {"SYSCALL", "PATH"}, Syscall: {"unlink", "unlinkat", "rmdir"},
			AuditNameType: {"DELETE"}, AuditKey: {}, Argc: {}, AuditSuccess: {"yes"},
		}, AuditName, Image),
		source("network_connection", map[int][]string{
			AuditType: {"SYSCALL"}, Syscall: {"connect", "accept"},
			AuditNameType: {}, AuditKey: {KeyConnect4}, Argc: {}, AuditName: {}, AuditSuccess: {"yes", "no"},
		}),
		source("privilege", map[int][]string{
			AuditType: {"SYSCALL"}, Syscall: PrivilegeCalls,
			AuditNameType: {}, AuditKey: {}, Argc: {}, AuditName: {}, AuditSuccess: {"yes", "no"},
		}),
	}
}

// PrivilegeCalls are the system calls that an event of category privilege may name.
var PrivilegeCalls = []string{
	"open", "mmap", "mprotect", "clone", "creat", "ptrace", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid",
	"setfsuid", "setfsgid", "capset", "pivot_root", "mount", "umount", "umount2", "init_module", "delete_module", "openat", "unshare",
	"setns", "process_vm_writev", "finit_module", "memfd_create", "bpf", "pkey_mprotect", "io_uring_setup", "io_uring_register",
	"move_mount", "fsmount", "openat2", "pidfd_getfd", "memfd_secret",
}

// FileCalls are the calls that do what a file event says was done, by its word for it; which
// of them it was is not told.
var FileCalls = map[string][]string{
	"write": {"open", "openat"}, "create": {"open", "openat", "creat"}, "truncate": {"truncate", "ftruncate"},
	"rename": {"rename", "renameat", "renameat2"}, "link": {"link", "linkat"}, "symlink": {"symlink", "symlinkat"},
	"unlink": {"unlink", "unlinkat"}, "rmdir": {"rmdir", "unlinkat"}, "mkdir": {"mkdir", "mkdirat"},
	"mknod": {"mknod", "mknodat"}, "chmod": {"chmod", "fchmod", "fchmodat"},
	"chown": {"chown", "fchown", "lchown", "fchownat"}, "utimes": {"utimensat", "utimes", "utime"},
	"setxattr": {"setxattr", "fsetxattr", "lsetxattr"}, "removexattr": {"removexattr", "fremovexattr", "lremovexattr"},
}

// fileEventCalls are those of all operations but deletions, which are a kind of their own.
func fileEventCalls() (calls []string) {
	for operation, these := range FileCalls {
		if operation != "unlink" && operation != "rmdir" {
			calls = append(calls, these...)
		}
	}
	slices.Sort(calls)
	return slices.Compact(calls)
}

// Given is what auditd's rules find in every record of a kind.
func Given(of string) sigma.Example {
	return givenOf[of]
}

var givenOf = map[string]sigma.Example{
	"process_creation": {
		AuditType: {"SYSCALL", "EXECVE", "PATH", "CWD", "PROCTITLE"}, Syscall: {"execve"}, AuditSuccess: {"yes"}, AuditNameType: {"NORMAL"},
	},
	"file_event":         {AuditType: {"SYSCALL", "PATH"}, AuditSuccess: {"yes"}},
	"file_delete":        {AuditType: {"SYSCALL", "PATH"}, AuditSuccess: {"yes"}, AuditNameType: {"DELETE"}},
	"network_connection": {AuditType: {"SYSCALL"}},
	"privilege":          {AuditType: {"SYSCALL"}},
}
