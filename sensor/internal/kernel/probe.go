package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
)

// Features is what this kernel and this process's rights allow.
type Features struct {
	Release     string // uname -r
	CgroupMount string // where cgroup v2 is mounted, "" when nowhere
	// Flows: socket storage and cookies in tracing programs (5.12).
	Flows bool
	// ExitTellsGroup: sched_process_exit says which thread is the last (6.16).
	ExitTellsGroup bool
	// UringSubmit is the tracepoint that is given each io_uring request, "" when there
	// is none (before 6.0).
	UringSubmit string
	// Changes is what tells the inodes that a call changes, in the calling task.
	Changes ChangeSource
	// Ext4: ext4 says itself which inodes it changes, and is part of the kernel's own image.
	Ext4 bool
	// URing: a completed io_uring request says what it was (5.19).
	URing bool
	// Calls: the ends of system calls can be looked at.
	Calls bool
	Gaps  []string

	missing []string // programs that have nothing to hang on here
}

// ChangeSource is where the kernel says which inodes a call changes.
type ChangeSource uint8

// Change sources.
const (
	ChangesUnseen     ChangeSource = iota
	ChangesSome                    // what some file systems say of themselves
	ChangesEverywhere              // each move of a change time (6.13)
)

// What no kernel lets these programs see. It is said, not hidden.
var standingGaps = []string{
	"DNS over TLS, HTTPS and QUIC is not read; port 53 is, over UDP and TCP",
	"a TCP flow that is accepted through io_uring, or handed on after it was accepted, belongs to the process that called listen or accept",
	"connects that routing or a local firewall refuses before a SYN is made are not seen",
	"what goes through raw, packet, XDP, vsock, SCTP and DCCP sockets is not seen, only that they are made; the kernel's own connections are not seen",
	"scripts that an interpreter reads by itself are not seen: the image is the file that the kernel ran",
	"files below more than ten directories under a watched one, and hard links into one under a name that the kernel has forgotten, are not seen",
	"attribute flags (chattr) and writes to block devices are not seen",
	"of a set-up with MPTCP each subflow is told as a flow",
	"the memory of a process opened for writing is not seen when the open goes through io_uring or is refused",
	"memory made executable by mremap or shmat is not seen, nor what an mprotect across more than eight mappings reaches beyond them",
	"freezing the sensor by the freezer of cgroup v1 is not seen",
}

// capabilities that the sensor cannot do without, and why.
var needed = []struct {
	bit  int
	name string
	use  string
}{
	{unix.CAP_BPF, "CAP_BPF", "loading eBPF programs"},
	{unix.CAP_PERFMON, "CAP_PERFMON", "reading kernel memory from eBPF programs"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "attaching eBPF programs to cgroups"},
}

// Probe says what this kernel and this process's rights allow. It loads nothing
// that stays. The error joins everything that has to change before Open can work.
func Probe() (Features, error) {
	var f Features
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return f, fmt.Errorf("reading the kernel's release: %w", err)
	}
	f.Release = unix.ByteSliceToString(uts.Release[:])
	if err := probeRights(); err != nil {
		return f, err
	}
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, os.ErrNotExist) {
			return f, ErrNoBTF
		}
		return f, fmt.Errorf("reading the kernel's BTF: %w", err)
	}
	if !hasTracepoint(spec, "sched_process_exec") || features.HaveMapType(ebpf.RingBuf) != nil {
		return f, fmt.Errorf("%w (running %s)", ErrTooOld, f.Release)
	}
	f.ExitTellsGroup = tracepointArguments(spec, "sched_process_exit") >= 2
	f.UringSubmit = uringSubmit(spec)
	f.Gaps = append(f.Gaps, standingGaps...)
	if f.UringSubmit == "" {
		f.Gaps = append(f.Gaps, "sockets that io_uring makes are not seen: kernel 6.0 or newer is needed")
	}
	f.Flows = versionAtLeast(5, 12)
	if !f.Flows {
		f.Gaps = append(f.Gaps, "flows and DNS are not seen: kernel 5.12 or newer is needed")
	}
	if !f.ExitTellsGroup {
		f.Gaps = append(f.Gaps, "the end of a process whose last threads end at one moment may be told twice (kernel before 6.16)")
	}
	probeFiles(spec, &f)
	f.probeCalls(spec)
	if f.CgroupMount, err = cgroupMount(); err != nil {
		return f, err
	}
	if f.CgroupMount == "" {
		f.Gaps = append(f.Gaps, "UDP flows and DNS are not seen: no cgroup v2 hierarchy is mounted")
	}
	return f, nil
}

// probeFiles says how far changes of files are seen.
func probeFiles(spec *btf.Spec, f *Features) {
	var request *btf.Struct
	if spec.TypeByName("io_kiocb", &request) == nil && hasTracepoint(spec, "io_uring_complete") {
		f.URing = slices.ContainsFunc(request.Members, func(m btf.Member) bool { return m.Name == "cqe" })
	}
	if !f.URing {
		f.Gaps = append(f.Gaps, "files opened by io_uring are seen only when they change (kernel before 5.19)")
	}
	switch {
	case !versionAtLeast(5, 15):
		f.Gaps = append(f.Gaps, "renames, links, removals and changes of attributes are not seen: kernel 5.15 or newer is needed")
	case hasTracepoint(spec, "ctime_ns_xchg") && hasTracepoint(spec, "ctime_xchg_skip") && hasTracepoint(spec, "inode_set_ctime_to_ts"):
		f.Changes = ChangesEverywhere
	case hasTracepoint(spec, "writeback_mark_inode_dirty"):
		f.Changes = ChangesSome
		where := "file systems that mark their inodes dirty themselves"
		if f.Ext4 = hasTracepoint(spec, "ext4_mark_inode_dirty"); f.Ext4 {
			where = "ext4 and " + where
		}
		f.Gaps = append(f.Gaps, "renames, links, removals and changes of attributes are seen on "+where+" only, not on tmpfs, overlay or xfs (kernel before 6.13)",
			"writes through descriptors that were opened before the sensor, and by io_uring's own descriptors, may be missed (kernel before 6.13)")
	}
}

// probeCalls finds what the programs for privileges can hang on.
func (f *Features) probeCalls(spec *btf.Spec) {
	f.Calls = runtime.GOARCH == "amd64" && hasTracepoint(spec, "sys_exit")
	if !f.Calls {
		f.Gaps = append(f.Gaps, "changes of privilege, ptrace, mounts, modules, bpf(2) and io_uring are not seen: the programs know the system calls of x86-64 only")
	} else if !versionAtLeast(5, 17) {
		f.missing = append(f.missing, bpf.VedetteProgCallMap)
		f.Gaps = append(f.Gaps, "memory made executable is not seen: kernel 5.17 or newer is needed")
	}
	if !hasTracepoint(spec, "module_load") {
		// Without modules there is nothing to see, and what tries is told by its call.
		f.missing = append(f.missing, modulePrograms...)
	}
	for _, hook := range []struct{ tracepoint, program, gap string }{
		{"signal_generate", bpf.VedetteProgSignalSent, "signals to the sensor are not seen: this kernel has no signal_generate tracepoint"},
		{"cgroup_attach_task", bpf.VedetteProgCgroupMoved, "moving the sensor into another cgroup is not seen: this kernel has no cgroup_attach_task tracepoint"},
		{"cgroup_freeze", bpf.VedetteProgCgroupFrozen, "freezing the sensor's cgroup is not seen: this kernel has no cgroup_freeze tracepoint"},
	} {
		if !hasTracepoint(spec, hook.tracepoint) {
			f.missing = append(f.missing, hook.program)
			f.Gaps = append(f.Gaps, hook.gap)
		}
	}
}

// probeRights names every capability that is missing, and lockdown.
func probeRights() error {
	var missing []error
	effective, err := effectiveCapabilities()
	if err != nil {
		return err
	}
	has := func(bit int) bool { return effective&(1<<bit) != 0 }
	for _, c := range needed {
		// bpf(2) takes CAP_SYS_ADMIN for each of them.
		if has(c.bit) || has(unix.CAP_SYS_ADMIN) {
			continue
		}
		missing = append(missing, &MissingCapabilityError{Capability: c.name, For: c.use})
	}
	if !versionAtLeast(5, 11) && !has(unix.CAP_SYS_RESOURCE) {
		missing = append(missing, &MissingCapabilityError{Capability: "CAP_SYS_RESOURCE", For: "raising RLIMIT_MEMLOCK for eBPF maps on kernels before 5.11"})
	}
	if mode, err := os.ReadFile("/sys/kernel/security/lockdown"); err == nil && strings.Contains(string(mode), "[confidentiality]") {
		missing = append(missing, ErrLockdown)
	}
	return errors.Join(missing...)
}

func effectiveCapabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("reading capabilities: %w", err)
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}

func uringSubmit(spec *btf.Spec) string {
	if hasTracepoint(spec, "io_uring_submit_req") {
		return "io_uring_submit_req"
	}
	// Before 6.0 it had seven arguments and the request was not the first.
	if tracepointArguments(spec, "io_uring_submit_sqe") == 2 {
		return "io_uring_submit_sqe"
	}
	return ""
}

func hasTracepoint(spec *btf.Spec, name string) bool {
	return tracepointArguments(spec, name) > 0
}

// tracepointArguments counts what a BTF-typed program is given; 0: no such tracepoint.
func tracepointArguments(spec *btf.Spec, name string) int {
	var def *btf.Typedef
	if err := spec.TypeByName("btf_trace_"+name, &def); err != nil {
		return 0
	}
	pointer, ok := def.Type.(*btf.Pointer)
	if !ok {
		return 0
	}
	proto, ok := pointer.Target.(*btf.FuncProto)
	if !ok {
		return 0
	}
	return len(proto.Params) - 1 // the first is the tracepoint's own data
}

func versionAtLeast(major, minor uint32) bool {
	version, err := features.LinuxVersionCode()
	return err == nil && version >= major<<16|minor<<8
}
