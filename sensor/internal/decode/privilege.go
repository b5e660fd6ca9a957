package decode

import (
	"bytes"
	"fmt"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const privilegeSize = headSize + 96

// maxClaimed is CLAIMED_STRINGS of bpf/include/maps.h.
const maxClaimed = 3

// enum privilege_flags of bpf/include/event.h.
const (
	privilegeCompat        = 1
	privilegeGained        = 2
	privilegeUnexplained   = 4
	privilegeOurs          = 8
	privilegeClaimedObject = 16
	privilegeWritable      = 32
	privilegeModified      = 64
	privilegeMemoryFile    = 128
	privilegeFromKernel    = 256
	privilegeNamePath      = 512
	privilegeHostMounts    = 1024
	privilegeTextCut       = 2048
	privilegeNoCall        = 4096
	privilegeNoBefore      = 8192
	privilegeNameCut       = 16384
)

// operations by enum privilege_op of bpf/include/event.h.
var operations = [...]event.Operation{
	1: event.OpSetUID, 2: event.OpCapability, 3: event.OpUserNS, 4: event.OpUnshare, 5: event.OpSetNS,
	6: event.OpPivotRoot, 7: event.OpMount, 8: event.OpPtrace, 9: event.OpVMWrite, 10: event.OpProcMem,
	11: event.OpMemFD, 12: event.OpExecAnon, 13: event.OpModule, 14: event.OpBPF, 15: event.OpSignal,
	16: event.OpCgroupMove, 17: event.OpCgroupFreeze, 18: event.OpURing, 19: event.OpPidFDGetFD,
}

// The calls that a privilege event may be of, by their numbers on x86-64 and by
// int 0x80 (arch/x86/entry/syscalls of the kernel's source).
var (
	nativeCalls = map[uint32]string{
		2: "open", 9: "mmap", 10: "mprotect", 56: "clone", 85: "creat", 101: "ptrace", 105: "setuid", 106: "setgid", 113: "setreuid",
		114: "setregid", 117: "setresuid", 119: "setresgid", 122: "setfsuid", 123: "setfsgid", 126: "capset",
		155: "pivot_root", 165: "mount", 166: "umount2", 175: "init_module", 176: "delete_module", 257: "openat",
		272: "unshare", 308: "setns", 311: "process_vm_writev", 313: "finit_module", 319: "memfd_create", 321: "bpf",
		329: "pkey_mprotect", 425: "io_uring_setup", 427: "io_uring_register", 429: "move_mount", 432: "fsmount",
		437: "openat2", 438: "pidfd_getfd", 447: "memfd_secret",
	}
	compatCalls = map[uint32]string{
		5: "open", 8: "creat", 21: "mount", 22: "umount", 23: "setuid", 26: "ptrace", 46: "setgid", 52: "umount2", 70: "setreuid",
		71: "setregid", 90: "mmap", 120: "clone", 125: "mprotect", 128: "init_module", 129: "delete_module",
		138: "setfsuid", 139: "setfsgid", 164: "setresuid", 170: "setresgid", 185: "capset", 192: "mmap",
		203: "setreuid", 204: "setregid", 208: "setresuid", 210: "setresgid", 213: "setuid", 214: "setgid",
		215: "setfsuid", 216: "setfsgid", 217: "pivot_root", 295: "openat", 310: "unshare", 346: "setns",
		348: "process_vm_writev", 350: "finit_module", 356: "memfd_create", 357: "bpf", 380: "pkey_mprotect",
		425: "io_uring_setup", 427: "io_uring_register", 429: "move_mount", 432: "fsmount", 437: "openat2",
		438: "pidfd_getfd", 447: "memfd_secret",
	}
)

// CallName names a system call that a privilege event may be of; "" for another one.
func CallName(number uint32, compat bool) string {
	if compat {
		return compatCalls[number]
	}
	return nativeCalls[number]
}

func decodePrivilege(raw []byte) (event.Event, error) {
	if len(raw) < privilegeSize {
		return nil, fmt.Errorf("%w: privilege event of %d bytes", ErrMalformed, len(raw))
	}
	e := new(event.Privilege)
	flags := head(raw, &e.Header)
	b := raw[headSize:]
	op := order.Uint32(b[48:])
	if op == 0 || op >= uint32(len(operations)) {
		return nil, fmt.Errorf("%w: privilege operation %d", ErrMalformed, op)
	}
	e.Operation = operations[op]
	e.Target = event.ProcessKey{Start: order.Uint64(b[0:]), PID: order.Uint32(b[60:])}
	e.Arguments = order.Uint64(b[8:])
	e.Object = order.Uint64(b[16:])
	e.CapsBefore = order.Uint64(b[24:])
	e.Caps = order.Uint64(b[32:])
	e.Result = int64(order.Uint64(b[40:])) //nolint:gosec // two's complement on both sides
	e.Command = order.Uint32(b[56:])
	e.UIDBefore = order.Uint32(b[64:])
	e.GIDBefore = order.Uint32(b[68:])
	e.GID = order.Uint32(b[72:])
	e.RealUID = order.Uint32(b[76:])
	e.Kind = event.ObjectKind(order.Uint32(b[80:]))
	e.UserNS = order.Uint32(b[84:])
	is := func(flag uint16) bool { return flags&flag != 0 }
	e.Compat = is(privilegeCompat)
	if !is(privilegeNoCall) {
		e.Call = CallName(order.Uint32(b[52:]), e.Compat)
	}
	e.Gained, e.Unexplained = is(privilegeGained), is(privilegeUnexplained)
	e.Ours, e.ClaimedObject = is(privilegeOurs), is(privilegeClaimedObject)
	e.Writable, e.Modified, e.MemoryFile = is(privilegeWritable), is(privilegeModified), is(privilegeMemoryFile)
	e.FromKernel, e.HostMounts = is(privilegeFromKernel), is(privilegeHostMounts)
	e.TextCut, e.NoBefore = is(privilegeTextCut), is(privilegeNoBefore)

	nameLen, claimedLen := int(order.Uint16(b[88:])), int(order.Uint16(b[90:]))
	tail := raw[privilegeSize:]
	if nameLen+claimedLen != len(tail) {
		return nil, fmt.Errorf("%w: privilege event says %d+%d bytes, has %d", ErrMalformed, nameLen, claimedLen, len(tail))
	}
	if is(privilegeNamePath) {
		e.Name = appendPath(nil, tail[:nameLen], is(privilegeNameCut))
		if nameLen == 0 {
			e.Name = []byte("/") // no component: what was mounted on is the root itself
		}
	} else if nameLen > 0 {
		e.Name = bytes.Clone(tail[:nameLen])
	}
	e.Claimed = claimedOf(bytes.Clone(tail[nameLen:]))
	return e, nil
}

// claimedOf splits strings that are each ended by NUL.
func claimedOf(own []byte) [][]byte {
	var out [][]byte
	for len(own) > 0 && len(out) < maxClaimed {
		one, rest, _ := bytes.Cut(own, []byte{0})
		out = append(out, one[:len(one):len(one)])
		own = rest
	}
	return out
}
