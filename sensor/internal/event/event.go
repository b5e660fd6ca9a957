// Package event holds the values that travel through the sensor's stages:
// decode makes an Event, enrich joins it to its Process as an Observation,
// baseline gives a Verdict, detect gives Findings, uplink sends Records.
//
// Invariant: a value is never changed after it was handed to the next stage,
// but for Process, which enrich owns and replaces (never mutates) when an exec
// or an exit changes it. Stages import this package and never each other.
package event

import (
	"net/netip"
	"time"
)

// ProcessKey names a process for ever on one boot: a PID is reused, the pair is not.
type ProcessKey struct {
	PID   uint32 // thread-group id in the initial PID namespace
	Start uint64 // task_struct.start_boottime of the group leader, ns since boot
}

// Header is what every kernel event carries.
type Header struct {
	Time     uint64 // CLOCK_BOOTTIME, ns
	Process  ProcessKey
	Parent   ProcessKey // real_parent's group leader at the time of the event; zero for PID 1
	TID      uint32
	UID      uint32 // effective, initial user namespace
	CgroupID uint64 // cgroup v2 id, 0 when the process is in none
	Key      uint64 // the behaviour as this load of the programs hashes it; 0: it cannot be kept back
	NetNS    uint32 // inode of the network namespace
	Comm     [16]byte
}

// Event is one kernel event after decoding.
type Event interface {
	Head() *Header
}

// Head implements Event.
func (h *Header) Head() *Header { return h }

// ImageID is the identity of an executed file, whatever path led to it.
type ImageID struct {
	Device   uint64 // kernel dev_t: major<<20 | minor
	Inode    uint64
	Change   uint64 // ctime, ns since the epoch
	MountNS  uint32
	Size     uint64
	NLink    uint32 // 0: deleted or memfd
	MemoryFD bool   // made by memfd_create
}

// DirectoryID is a directory as it is mounted somewhere; its name may change.
type DirectoryID struct {
	Inode  uint64
	Device uint32 // kernel dev_t
	Mount  uint32 // the kernel's mnt_id; reused after an unmount
}

// Exec is a completed execve: the new image is already in place, its first
// instruction has not run.
type Exec struct {
	Header
	OldTID        uint32 // the thread that called execve, when it was not the leader
	Image         ImageID
	Path          []byte // resolved from the dentry, as seen from the process's root
	PathTruncated bool
	Filename      []byte // as given to execve: may be relative, a link, /dev/fd/N
	Interpreter   []byte // the script's #! interpreter's path, empty for a plain binary
	Argv          [][]byte
	ArgvBytes     uint32 // length of the whole, NULs included
	ArgvTruncated bool   // Argv holds the first 4 KiB
	ArgvHash      uint64 // of the whole, keyed anew with each load; 0: not all of it could be read
	RealUID       uint32
	GID           uint32
	LoginUID      uint32 // 4294967295: not a login session
	SessionID     uint32
	SetID         bool // privileges rose by the file's set-id bits or capabilities
	Cwd           DirectoryID
}

// Fork is a new process (threads are not told).
type Fork struct {
	Header
	Child ProcessKey
}

// Introduction says who a process is whose fork or exec was known and kept back, before
// the first thing that is told of it. Ancestors that were kept back come before it.
type Introduction struct {
	Header
	ExecKey  uint64 // Header.Key of the exec that it runs; 0: none since its fork
	ExecTime uint64 // CLOCK_BOOTTIME, ns
}

// Exit is the end of a process's last thread.
type Exit struct {
	Header
	Code   int32 // exit status, 0..255
	Signal int32 // terminating signal, 0 if none
}

// Direction of a flow, seen from this host.
type Direction uint8

// Directions.
const (
	Outbound Direction = iota
	Inbound
)

// FlowID is unique on one boot: the kernel's socket cookie plus, for UDP, the remote.
type FlowID struct {
	Cookie uint64
	Remote netip.AddrPort
}

// FlowOpen is a flow that began: TCP in state ESTABLISHED (or, when Failed, a
// connect that never got there), UDP at its first datagram.
type FlowOpen struct {
	Header
	Flow   FlowID
	Proto  uint8 // IANA: 6, 17
	Dir    Direction
	Local  netip.AddrPort
	Remote netip.AddrPort
	Failed bool
	// Accepted: told before as of who listened; this one accepted it, and is whose it is.
	Accepted bool
	// Tainted: the kernel told it because its process has a finding or comes of one that has.
	Tainted bool
}

// FlowClose is the end of a flow with its totals.
type FlowClose struct {
	Header
	Flow               FlowID
	Proto              uint8
	Dir                Direction
	Local, Remote      netip.AddrPort
	BytesIn, BytesOut  uint64
	PacketsIn, PktsOut uint64
	Opened             uint64 // CLOCK_BOOTTIME, ns
	// Known: its opening was kept back; it is told because it carried much.
	Known   bool
	Tainted bool
}

// DNS is one DNS message on port 53, parsed.
type DNS struct {
	Header
	Transport     string // udp, tcp
	Response      bool
	ID            uint16
	Name          string // presentation form without the final dot, lower case; odd bytes as \DDD
	Type          uint16
	RCode         uint8
	CNAMEs        []string
	Addrs         []netip.Addr
	TTL           time.Duration // smallest of the answers
	Truncated     bool
	Local, Remote netip.AddrPort
	// Known: an answer to a look-up that was kept back, told for its addresses alone.
	Known bool
}

// Address families and types of Socket, as socket(2) numbers them on x86-64.
const (
	FamilyInet    = 2
	FamilyInet6   = 10
	FamilyPacket  = 17
	FamilyVsock   = 40
	FamilyXDP     = 44
	SocketTypeRaw = 3
)

// Socket is a socket that was made, or refused, of the kinds that no flow tells of: raw,
// packet, XDP, vsock, SCTP and DCCP.
type Socket struct {
	Header
	Family, Type uint16
	Protocol     uint32 // IANA's; an ethertype for FamilyPacket
	Errno        int32  // 0: it was made
	Asked        bool   // by io_uring: whether it was made is not known
}

// Login is the beginning or the end of a login session. Its head names the session's
// first process.
type Login struct {
	Header
	User      string // as the login says; a number when it has no name
	LoginUID  uint32 // NoSession: told by utmp alone
	SessionID uint32
	Terminal  string         // without /dev/; "" when it has none
	Via       string         // the program that let it in: sshd, login, cron, …
	Source    netip.AddrPort // where it came from; port 0 when only the address is known, zero when local
	Host      string         // what utmp claims in its place
	End       bool
}

// Loss is a number of events that never arrived, by where and why.
type Loss struct {
	Where string // "ring:critical", "ring:bulk", "map:flows", "decode", …
	Cause string
	Count uint64
}
