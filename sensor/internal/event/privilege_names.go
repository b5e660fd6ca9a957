package event

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// ptraceRequests are those that are told (ptrace(2)).
var ptraceRequests = map[uint32]string{
	4: "poke", 5: "poke", 6: "poke", 13: "set-registers", 15: "set-registers", 19: "set-registers",
	0x4205: "set-registers", 16: "attach", 0x4206: "seize",
}

// bpfCommands are bpf(2)'s, by enum bpf_cmd.
var bpfCommands = [...]string{
	0: "map-create", 1: "map-lookup", 2: "map-update", 3: "map-delete", 4: "map-get-next-key", 5: "prog-load",
	6: "obj-pin", 7: "obj-get", 8: "prog-attach", 9: "prog-detach", 10: "prog-test-run", 11: "prog-get-next-id",
	12: "map-get-next-id", 13: "prog-get-fd-by-id", 14: "map-get-fd-by-id", 15: "obj-get-info-by-fd",
	16: "prog-query", 17: "raw-tracepoint-open", 18: "btf-load", 19: "btf-get-fd-by-id", 20: "task-fd-query",
	21: "map-lookup-and-delete", 22: "map-freeze", 23: "btf-get-next-id", 24: "map-lookup-batch",
	25: "map-lookup-and-delete-batch", 26: "map-update-batch", 27: "map-delete-batch", 28: "link-create",
	29: "link-update", 30: "link-get-fd-by-id", 31: "link-get-next-id", 32: "enable-stats", 33: "iter-create",
	34: "link-detach", 35: "prog-bind-map", 36: "token-create",
}

// namespaces by the clone(2) flag that makes or joins one.
var namespaces = []struct {
	flag uint64
	name string
}{
	{unix.CLONE_NEWUSER, "user"}, {unix.CLONE_NEWNS, "mount"}, {unix.CLONE_NEWPID, "pid"}, {unix.CLONE_NEWNET, "net"},
	{unix.CLONE_NEWIPC, "ipc"}, {unix.CLONE_NEWUTS, "uts"}, {unix.CLONE_NEWCGROUP, "cgroup"}, {unix.CLONE_NEWTIME, "time"},
}

// capabilities by their numbers (capabilities(7)).
var capabilities = [...]string{
	"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
	"linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
	"sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
	"sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
	"mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
	"checkpoint_restore",
}

// CommandName is the operation's own command in words; "" when it has none.
func (p *Privilege) CommandName() string {
	switch p.Operation {
	case OpPtrace:
		return ptraceRequests[p.Command]
	case OpBPF:
		if p.Command < uint32(len(bpfCommands)) {
			return bpfCommands[p.Command]
		}
		return strconv.FormatUint(uint64(p.Command), 10)
	case OpSignal:
		if name := unix.SignalName(unix.Signal(p.Command)); name != "" {
			return name
		}
		return strconv.FormatUint(uint64(p.Command), 10)
	}
	return ""
}

// Namespaces are those that the call made or joined, by its flags.
func (p *Privilege) Namespaces() (names []string) {
	switch p.Operation {
	case OpUserNS, OpUnshare, OpSetNS:
	default:
		return nil
	}
	for _, ns := range namespaces {
		if p.Arguments&ns.flag != 0 {
			names = append(names, ns.name)
		}
	}
	return names
}

// GainedCapabilities are those that are effective now and were not before.
func (p *Privilege) GainedCapabilities() (names []string) {
	if !p.Gained {
		return nil
	}
	for i, name := range capabilities {
		if p.Caps&^p.CapsBefore&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// ErrorName is why the call was refused, "" when it was not.
func (p *Privilege) ErrorName() string {
	const maxErrno = 4095 // MAX_ERRNO: an address is no error
	if p.Result >= 0 || p.Result < -maxErrno || p.Operation == OpSetUID && (p.Call == "setfsuid" || p.Call == "setfsgid") {
		return ""
	}
	if name := unix.ErrnoName(unix.Errno(-p.Result)); name != "" {
		return name
	}
	return strconv.FormatInt(-p.Result, 10)
}

// Marks are the facts that are true of it, as rules name them.
func (p *Privilege) Marks() (marks []string) {
	for _, m := range []struct {
		is   bool
		name string
	}{
		{p.Gained, "gained"}, {p.Unexplained, "unexplained"}, {p.Ours, "sensor"}, {p.ClaimedObject, "claimed-object"},
		{p.Writable, "writable"}, {p.Modified, "modified"}, {p.MemoryFile, "memory-file"}, {p.FromKernel, "from-kernel"},
		{p.HostMounts, "host-mounts"}, {p.Compat, "32-bit"},
	} {
		if m.is {
			marks = append(marks, m.name)
		}
	}
	return marks
}
