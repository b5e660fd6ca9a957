// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The contract between the programs and package decode. Fixed widths, explicit
// padding, multiples of 8 bytes, never packed; enumerations only grow at their
// end; what varies in length comes last. A test compares every offset with Go's.
#ifndef VEDETTE_EVENT_H
#define VEDETTE_EVENT_H

enum event_type {
	EVENT_EXEC = 1,
	EVENT_FORK = 2,
	EVENT_EXIT = 3,
	EVENT_FLOW_OPEN = 4,
	EVENT_FLOW_CLOSE = 5,
	EVENT_DNS = 6,
	EVENT_PROCESS = 7, /* who a process is whose fork or exec was not told when it happened */
	EVENT_FILE = 8, /* struct event_file, file.bpf.c */
	EVENT_PRIVILEGE = 9, /* struct event_privilege, privilege.bpf.c */
	EVENT_DNS_SEGMENT = 10, /* bytes of a TCP stream with port 53 at one end */
	EVENT_SOCKET = 11, /* a socket that flows do not tell of: raw, packet, XDP, … */
};

/* Causes of loss: the index into `losses`. Each says what exactly did not arrive. */
enum loss {
	LOSS_EXEC_RING_FULL = 0,      /* an exec: the critical ring had no room */
	LOSS_FORK_RING_FULL = 1,      /* a fork: the critical ring had no room */
	LOSS_EXIT_RING_FULL = 2,      /* an exit: the critical ring had no room */
	LOSS_FLOW_RING_FULL = 3,      /* a flow's opening or end: the bulk ring had no room */
	LOSS_DNS_RING_FULL = 4,       /* a DNS message: the bulk ring had no room */
	LOSS_ARGV_UNREADABLE = 5,     /* an exec's argv (the exec itself arrived): its page was not in memory */
	LOSS_OWNER_STORAGE = 6,       /* the owner of a socket, and so its flows: no memory for the socket's storage */
	LOSS_UDP_TABLE_FULL = 7,      /* a datagram's count: its flow was new and the flow table full */
	LOSS_UDP_UNPARSED = 8,        /* a datagram's count: its IP headers could not be followed to UDP */
	LOSS_DNS_UNREADABLE = 9,      /* a DNS message: its bytes could not be copied from the packet */
	LOSS_PATH_UNREADABLE = 10,    /* an exec's path (the exec itself arrived): a name could not be read */
	LOSS_PROCESS_RING_FULL = 11,  /* who a process is: the critical ring had no room; told again with its next event */
	LOSS_PROCESS_TABLE_FULL = 12, /* no event: a process had no room in the table, so all that it did was told */
	LOSS_SEGMENT_RING_FULL = 13,  /* bytes of a DNS stream: the bulk ring had no room */
	LOSS_SEGMENT_UNREADABLE = 14, /* bytes of a DNS stream: they could not be copied, or their place in it is not known */
	LOSS_SOCKET_RING_FULL = 15,   /* a socket's making: the bulk ring had no room */
	LOSS_ACCEPT_TABLE_FULL = 16,  /* no event: who accepts a connection is not told, only who listens */
	LOSS_FILE_RING_FULL = 17,     /* a file event: the bulk ring had no room */
	LOSS_FILE_SAMPLED = 18,       /* a file event that the budget left out, see struct budget */
	LOSS_FILE_UNMATCHED = 19,     /* a change by name or of attributes: too many at one time, or of one call */
	LOSS_PRIVILEGE_RING_FULL = 20, /* a privilege event: the critical ring had no room */
	LOSS_PRIVILEGE_SHARE = 21,    /* a privilege event beyond its process's share of the critical ring: the bulk ring had no room */
	LOSS_PRIVILEGE_TEXT = 22,     /* a privilege event's text (the event itself arrived): it could not be read */
	LOSS_COUNT = 23,
};

/* Index into `counters`. */
enum counter {
	COUNTER_TOTAL = 0,        /* events made in the scope, lost ones included */
	COUNTER_SUPPRESSED = 1,   /* events kept back as known */
	COUNTER_UNATTRIBUTED = 2, /* flow events and datagrams of sockets that no process is known to own */
	COUNTER_COUNT = 3,
};

enum { COMM_LEN = 16 };

struct event_head {
	u16 type; /* enum event_type */
	u16 flags; /* the type's own */
	u32 size; /* of the whole record */
	u64 time; /* CLOCK_BOOTTIME, ns */
	u64 start; /* start_boottime of the thread-group leader */
	u64 parent_start;
	u64 cgroup; /* v2 id */
	u64 key; /* the behaviour's, by a keyed hash of this load; 0: it can not become known */
	u32 pid; /* thread group, initial pid namespace */
	u32 tid;
	u32 parent_pid;
	u32 uid; /* effective, initial user namespace */
	u32 netns; /* inode */
	/* How much later than time the event is to be handed on, in units of 1024 ns: after it was
	 * told who did it, which an event that is known to nobody yet makes the kernel tell first. */
	u32 lag;
	u8 comm[COMM_LEN];
};

enum exec_flags {
	EXEC_PATH_TRUNCATED = 1,
	EXEC_ARGV_TRUNCATED = 2,
	EXEC_MEMFD = 4,
	EXEC_SETID = 8,
};

struct event_exec {
	struct event_head head;
	u64 device;
	u64 inode;
	u64 change; /* ctime, ns since the epoch */
	u64 file_size;
	u32 nlink;
	u32 mount_ns;
	u32 old_tid; /* of the thread that called execve, if not the leader */
	u32 real_uid;
	u32 gid;
	u32 login_uid;
	u32 session;
	u32 argv_bytes; /* whole length, before truncation */
	u64 cwd_inode; /* the working directory: who it is, its name is user space's to read */
	u32 cwd_device;
	u32 cwd_mount; /* mnt_id */
	u64 argv_hash; /* keyed, of the whole argv, also of what is cut; 0: could not be read to its end */
	u16 argv_len; /* of what follows, in this order */
	u16 path_len;
	u16 filename_len;
	u16 interp_len;
	/* argv: as in memory, NUL between · path: components from the file upward, each
	 * ended by NUL · filename, interp: without NUL */
};

struct event_fork {
	struct event_head head; /* of the forking process */
	u64 child_start;
	u32 child_pid;
	u32 pad2;
};

/* Told before the first event of a process whose fork or exec was known and stayed in
 * the kernel, and before it its ancestors' that were not told either. */
struct event_process {
	struct event_head head; /* of the process; time: now */
	u64 exec_key; /* of the exec that it runs; 0: none since its fork */
	u64 exec_time;
};

struct event_exit {
	struct event_head head;
	u32 status; /* wait(2) status word */
	u32 pad2;
};

enum flow_flags {
	FLOW_INBOUND = 1,
	FLOW_FAILED = 2,
	FLOW_SEEDED = 4, /* began before the sensor */
	FLOW_KNOWN = 8, /* its opening was known and not told; told of only when it grows large */
	FLOW_TAINTED = 16, /* its process has a finding, or comes of one that has */
	FLOW_ACCEPTED = 32, /* told before as of who listened: this is who accepted it */
};

struct event_flow {
	struct event_head head; /* of the owning process */
	u64 cookie;
	u64 opened;
	u64 bytes_in;
	u64 bytes_out;
	u64 packets_in;
	u64 packets_out;
	u16 family; /* AF_INET or AF_INET6 */
	u16 protocol; /* IANA */
	u16 local_port; /* host order */
	u16 remote_port;
	u8 local[16]; /* IPv4: the first four bytes */
	u8 remote[16];
};

/* What was done to a file. A bit of struct watch.ops stands for each. */
enum file_op {
	FILE_WRITE = 1, /* opened for writing, or written through a descriptor that was never told */
	FILE_CREATE = 2, /* made by an open */
	FILE_TRUNCATE = 3,
	FILE_RENAME = 4,
	FILE_LINK = 5,
	FILE_SYMLINK = 6,
	FILE_UNLINK = 7,
	FILE_MKDIR = 8,
	FILE_RMDIR = 9,
	FILE_MKNOD = 10,
	FILE_CHMOD = 11,
	FILE_CHOWN = 12,
	FILE_UTIMES = 13,
	FILE_SETXATTR = 14,
	FILE_REMOVEXATTR = 15,
	FILE_CHANGE = 16, /* through io_uring or in a directory: changed, and no call says how */
	FILE_MAP_EXEC = 17, /* mapped to be executed: a library, or what ld.so runs */
};

enum file_flags {
	FILE_PATH_TRUNCATED = 1, /* the path's beginning is not known */
	FILE_URING = 2, /* by io_uring */
	FILE_DIRECTORY = 4, /* the path is the directory in which something changed */
	FILE_MEMFD = 8,
	FILE_OPEN_PLACE = 16, /* the file's directory is one that everybody may write to */
	FILE_WHOLE = 32, /* the path is the whole one, from the process's root */
	FILE_TEXT_TARGET = 64, /* the target is what a symbolic link says */
};

struct event_file {
	struct event_head head;
	u64 inode;
	u64 directory; /* its inode */
	u32 device; /* kernel dev_t */
	u32 watch; /* id of the watched path that the path begins with; 0: none */
	u32 target_watch; /* the same for the target */
	u32 mode; /* i_mode, after it was done */
	u32 open_flags;
	s32 result;
	u32 mount_ns;
	u32 pad2;
	u32 owner; /* i_uid */
	u32 nlink;
	u16 op; /* enum file_op */
	u16 class; /* user space's own, from struct watch */
	u16 path_len; /* of what follows */
	u16 target_len;
	/* path, target: components from the file upward, each ended by NUL; below the
	 * watched path, or whole */
};

/* A DNS message as it was on the wire; bounded by what EDNS says is safe to send
 * unfragmented (DNS flag day 2020), so that a large answer is cut and flagged. */
enum { DNS_MAX = 1232 };
enum dns_flags {
	DNS_INGRESS = 1,
	DNS_CUT = 2,
	DNS_KNOWN = 4, /* an answer to a look-up that is known: told for the addresses in it alone */
};

struct event_dns {
	struct event_head head;
	u16 family;
	u16 len; /* of the message that follows */
	u16 local_port;
	u16 remote_port;
	u8 local[16];
	u8 remote[16];
};

/* Some bytes of a TCP stream that may carry DNS: of one packet, which is told in
 * pieces when it is longer. What of it is news user space finds out. */
enum {
	SEGMENT_MAX = 4096,
	SEGMENT_PIECES = 16, /* 64 KiB, the largest packet but for IPv6 jumbograms, which are lost and counted */
};
enum segment_flags {
	SEGMENT_INGRESS = 1,
	SEGMENT_LAST = 2, /* the sender says nothing more: FIN or RST */
};

struct event_segment {
	struct event_head head;
	u64 cookie;
	u32 position; /* of the first byte in the stream, which begins at 0 */
	u16 family;
	u16 len; /* of the bytes that follow */
	u16 local_port;
	u16 remote_port;
	u32 pad2;
	u8 local[16];
	u8 remote[16];
};

enum socket_flags {
	SOCKET_ASKED = 1, /* by io_uring; what became of it is not known */
};

struct event_socket {
	struct event_head head;
	s32 result; /* 0, or the error */
	u32 protocol;
	u16 family;
	u16 type;
	u32 pad2;
};

/* What was done. */
enum privilege_op {
	PRIVILEGE_SETUID = 1,       /* effective ids changed; or would have */
	PRIVILEGE_CAPABILITY = 2,   /* capset(2) that added */
	PRIVILEGE_USERNS = 3,       /* a new user namespace, whatever else is new */
	PRIVILEGE_UNSHARE = 4,      /* other new namespaces */
	PRIVILEGE_SETNS = 5,        /* joined; object: the namespace's inode */
	PRIVILEGE_PIVOT_ROOT = 6,
	PRIVILEGE_MOUNT = 7,        /* mount, move_mount, fsmount, umount: number tells which */
	PRIVILEGE_PTRACE = 8,       /* command: the request */
	PRIVILEGE_VM_WRITE = 9,     /* process_vm_writev(2) into another process */
	PRIVILEGE_PROC_MEM = 10,    /* /proc/PID/mem of another process opened for writing */
	PRIVILEGE_MEMFD = 11,       /* command: its flags */
	PRIVILEGE_EXEC_ANON = 12,   /* memory that is no file's made executable; the first time in an image */
	PRIVILEGE_MODULE = 13,
	PRIVILEGE_BPF = 14,         /* command: bpf(2)'s; object: the id of what it made or touched */
	PRIVILEGE_SIGNAL = 15,      /* to the sensor; command: the signal */
	PRIVILEGE_CGROUP_MOVE = 16, /* of the sensor; object: the new cgroup */
	PRIVILEGE_CGROUP_FREEZE = 17, /* of the sensor's cgroup */
	PRIVILEGE_URING = 18,       /* io_uring_setup, object: the ring's flags; io_uring_register, command: the operation */
	PRIVILEGE_PIDFD_GETFD = 19, /* of the sensor's descriptors; command: which */
};

enum privilege_flags {
	PRIVILEGE_COMPAT = 1,          /* the call came by int 0x80: number is of the other table */
	PRIVILEGE_GAINED = 2,          /* the effective user became root's, or effective capabilities were added */
	PRIVILEGE_UNEXPLAINED = 4,     /* gained by a process that had nothing that allows it */
	PRIVILEGE_OURS = 8,            /* the object is one of the sensor's own */
	PRIVILEGE_CLAIMED_OBJECT = 16, /* which object, is from the caller's memory */
	PRIVILEGE_WRITABLE = 32,       /* the executable memory is writable too */
	PRIVILEGE_MODIFIED = 64,       /* it is a file's, but was written to */
	PRIVILEGE_MEMORY_FILE = 128,   /* it is a memfd's */
	PRIVILEGE_FROM_KERNEL = 256,   /* the signal is the kernel's own */
	PRIVILEGE_NAME_PATH = 512,     /* name: components from the mount point upward, each ended by NUL */
	PRIVILEGE_HOST_MOUNTS = 1024,  /* in the mount namespace of the machine's first process */
	PRIVILEGE_TEXT_CUT = 2048,     /* a text is longer, or could not be read */
	PRIVILEGE_NO_CALL = 4096,      /* seen otherwise than at the end of a call: number is none */
	PRIVILEGE_NO_BEFORE = 8192,    /* what it was before is not known */
	PRIVILEGE_NAME_CUT = 16384,    /* the path begins somewhere above; a claimed text can not bring that about */
};

/* What the sensor loaded, and what bpf(2) can name. */
enum bpf_object {
	BPF_OBJECT_MAP = 1,
	BPF_OBJECT_PROGRAM = 2,
	BPF_OBJECT_LINK = 3,
	BPF_OBJECT_TYPES = 4,
};

struct event_privilege {
	struct event_head head; /* of who did it; flags: enum privilege_flags */
	u64 target_start; /* of the process that it was done to */
	u64 arguments; /* flags of the call: mount's, the namespaces', the protection of memory */
	u64 object; /* by op */
	u64 caps_before; /* effective */
	u64 caps;
	s64 result; /* of the call, negative: errno */
	u32 op; /* enum privilege_op */
	u32 number; /* of the call */
	u32 command; /* by op */
	u32 target_pid; /* 0: none, or not to be found */
	u32 uid_before; /* effective, as uid is in head */
	u32 gid_before;
	u32 gid;
	u32 real_uid;
	u32 kind; /* enum bpf_object */
	u32 user_ns; /* inode */
	u16 name_len; /* of what follows, in this order */
	u16 claimed_len;
	u32 pad2;
	/* name: as the kernel has it · claimed: what the caller's memory said after the
	 * call, each string ended by NUL; it may have said something else before */
};

/* A UDP flow in the table: user space sweeps it and makes the flow's end. */
struct udp_key {
	u64 cookie;
	u8 remote[16];
	u16 remote_port;
	u16 family;
	u32 pad;
};

struct udp_flow {
	struct event_flow flow; /* as it was told at its first datagram */
	u64 last; /* CLOCK_BOOTTIME of the latest datagram */
};

/* One process, from the task iterator. */
struct task_record {
	u64 start;
	u64 parent_start;
	u64 cgroup;
	u32 pid;
	u32 parent_pid;
	u32 uid;
	u32 netns;
	u32 in_scope;
	u32 pad;
	u8 comm[COMM_LEN];
};

#endif
