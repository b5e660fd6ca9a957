// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Every map, its bound and what happens at the bound. Sizes marked "knob" are set
// by user space before loading. No map is pinned or shared between sensors.
#ifndef VEDETTE_MAPS_H
#define VEDETTE_MAPS_H

/* Knobs: constants to the verifier, which removes what they rule out. */
enum scope_kind {
	SCOPE_HOST = 0,
	SCOPE_CGROUP = 1,
	SCOPE_NETNS = 2,
};
const volatile u32 scope_kind = SCOPE_HOST;
const volatile u64 scope_cgroup = 0; /* id of the subtree's root */
const volatile u32 scope_level = 0; /* and its depth */
const volatile u32 scope_netns = 0; /* inode */
const volatile u32 exit_tells_group = 0; /* sched_process_exit has group_dead (6.16) */
const volatile u64 critical_wake_bytes = 1 << 20; /* unread bytes at which the reader is woken early */
const volatile u64 bulk_wake_bytes = 1 << 20;
const volatile u32 keep_known = 1; /* 0: everything is told, known or not */
const volatile u64 sip_key[2] = { 0, 0 }; /* of this load alone: nobody can make up what counts as known */
const volatile u64 wake_interval = 10000000; /* ns; the least time between two wake-ups by execs */

enum { FULL_WAKE_INTERVAL = 1000000 }; /* ns; the least time between two by a filling ring */

/* Written by the reader alone, through a mapping: until when (CLOCK_BOOTTIME, ns) it
 * comes by itself. 0: it sleeps until it is woken. READER_READS: it is reading. */
#define READER_READS (~0ULL)
struct reader {
	u64 awake_until;
	u32 pid; /* the sensor's own: what its children execute is always told */
	u32 pad;
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_NUMBER(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct reader);
} reader SEC(".maps");

/* exec, fork, exit. Full: the event is lost and counted. Size: knob. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_RINGBUF);
	MAP_NUMBER(max_entries, 4 << 20);
} critical SEC(".maps");

/* flows, DNS. Full: the event is lost and counted. Size: knob. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_RINGBUF);
	MAP_NUMBER(max_entries, 4 << 20);
} bulk SEC(".maps");

/* One value for all causes, and one for all counters: user space reads each by one
 * system call, and what is counted together lies together. */
struct losses {
	u64 n[LOSS_COUNT];
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct losses);
} losses SEC(".maps");

struct counters {
	u64 n[COUNTER_COUNT];
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct counters);
} counters SEC(".maps");

/* Who owns a socket. Lives and dies with the socket, so it needs no bound of its
 * own; CLONE hands the listener's owner on to each accepted socket. */
struct owner {
	u64 start;
	u64 parent_start;
	u64 cgroup;
	u64 opened; /* 0: no flow has been told */
	u32 pid;
	u32 tid;
	u32 parent_pid;
	u32 uid;
	u32 netns;
	u32 flags; /* enum flow_flags */
	u8 comm[COMM_LEN];
};

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_SK_STORAGE);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	MAP_TYPE(key, int);
	MAP_TYPE(value, struct owner);
} owners SEC(".maps");

/* Accepted connections by cookie: first that of who listened, until it accepts it itself;
 * then that of who did instead, until the end. Full: it stays the listener's, counted. */
enum { ACCEPTS_MAX = 16384 };
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, ACCEPTS_MAX);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, struct owner);
} accepts SEC(".maps");

/* UDP flows by socket and remote. Full: the datagram's count is lost and counted;
 * nothing is evicted unseen. User space removes idle flows, the faster the fuller
 * it is. Size: knob. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, 16384);
	MAP_TYPE(key, struct udp_key);
	MAP_TYPE(value, struct udp_flow);
} udp_flows SEC(".maps");

/* Who listened on which port when the sensor started: the direction of older flows,
 * and the owner of what an older MPTCP listener accepts, whose TCP socket no file
 * leads to. Written only by the seeding iterator; a newer listener has its own
 * owner and is never looked up here. Full: such a flow is taken for outbound. */
struct listen_key {
	u32 netns;
	u32 port;
};
enum { LISTENERS_MAX = 8192 };
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, LISTENERS_MAX);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct listen_key);
	MAP_TYPE(value, struct owner);
} listeners SEC(".maps");

/* What is known, by behaviour key, and how often it was seen since. A key has its place in
 * one of two sets, by its low and its high half, which a keyed hash makes as good as
 * random; a set is a line of the cache, so that one that is known costs one line, and one
 * that is not two. User space alone puts keys in and takes them out, through a mapping and
 * without a system call; it does not give a place away again before every program that may
 * have looked it up has ended: no count is lost. Both sets full: user space takes the
 * least recently seen of the eight out. */
struct known_count {
	u64 key; /* 0: free */
	u32 count; /* turns over; user space takes differences */
	u32 last; /* CLOCK_BOOTTIME, ns >> KNOWN_LAST_SHIFT */
};
enum {
	KNOWN_WAYS = 4,
	KNOWN_SETS = 8192, /* a power of two */
	KNOWN_LAST_SHIFT = 30, /* about a second */
};
struct known_set {
	struct known_count way[KNOWN_WAYS];
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, KNOWN_SETS);
	MAP_NUMBER(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct known_set);
} known SEC(".maps");

/* Every process in the scope, by thread-group id: what it runs, as hashes, and what
 * user space knows of it. Full: all that such a process does is told, and counted
 * (LOSS_PROCESS_TABLE_FULL). Entries go with their process. Size: knob. */
enum process_flags {
	PROCESS_NODE = 1, /* user space knows that there is such a process */
	PROCESS_TOLD = 2, /* and what it runs */
	PROCESS_TAINTED = 4, /* it has a finding, or comes of one that has: everything is told */
	PROCESS_SERVES = 8, /* it accepted connections that were told: its forks are told */
	PROCESS_SERVING = 16, /* forked by such a one: its execs are told */
	PROCESS_ANONYMOUS = 32, /* it has executable memory that is no file's, and that was told */
	PROCESS_COULD_GAIN = 64, /* it had root's ids or a capability when its credentials were last looked at */
};
struct process {
	u64 start; /* tells a reused pid */
	u64 image; /* hash of the image's identity; 0: not seen */
	u64 self; /* of image, argv and users: what a child's exec is compared with */
	u64 parent_self; /* the parent's, at the fork */
	u64 exec_key; /* of its last exec, 0: none since its fork */
	u64 exec_time;
	u64 parent_start;
	u64 cgroup;
	u32 parent_pid; /* who forked it, whoever adopted it since */
	u32 uid;
	u32 netns;
	u32 flags; /* enum process_flags */
	u32 session; /* at its last exec, or its parent's: an exec in another is a login */
	u32 real_uid; /* with what follows: as they were when last looked at */
	u32 gid; /* effective */
	u32 user_ns; /* inode */
	u32 spent; /* of its share of the critical ring in the second */
	u32 pad;
	u64 second;
	u64 caps; /* effective */
};
enum { PROCESSES_MAX = 32768 };
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, PROCESSES_MAX);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct process);
} processes SEC(".maps");

/* The processes that user space wants tainted, read by the iterator that marks them
 * and all that came of them. Emptied after each run. */
struct process_key {
	u64 start;
	u32 pid;
	u32 pad;
};
enum { TAINTS_MAX = 1024 };
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, TAINTS_MAX);
	MAP_TYPE(key, struct process_key);
	MAP_TYPE(value, u32);
} taints SEC(".maps");

/* Working space, one per CPU and program: the kernel never runs a program inside
 * itself on one CPU, but another program may interrupt. */
enum {
	ARGV_MAX = 4096,
	PATH_MAX = 4096,
	NAME_ROOM = 256, /* NAME_MAX and NUL */
	FILENAME_ROOM = 4096, /* what getname() accepts */
	INTERP_ROOM = 256, /* BINPRM_BUF_SIZE */
};
struct exec_space {
	/* What is used of each exec lies together: each page of it that a known one touches
	 * costs as much as all of its hashing. */
	u64 image; /* of struct process, while the exec is looked at */
	u64 self;
	/* The length so far while the path is walked: the verifier does not follow
	 * what is in a map, and so finds every round of the loop alike (1,000,000
	 * instructions become 10,000). */
	u32 walked;
	u32 pad;
	struct event_exec event;
	/* Room past the sum, because each copy is checked against its largest size. */
	u8 data[ARGV_MAX + PATH_MAX + NAME_ROOM + FILENAME_ROOM + INTERP_ROOM];
	/* A page of argv after the first, and what is hashed with it. */
	u64 before; /* the hash of those before it */
	u64 left; /* bytes, with this page's */
	u64 later[ARGV_MAX / 8];
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct exec_space);
} exec_spaces SEC(".maps");

/* What is watched, by identity, so that no alias leads past it: a directory or a file
 * by its inode, a name in a directory by the directory's inode and the name's hash
 * (which is there before the file is). User space alone writes it. Size: knob. */
enum watch_flags {
	WATCH_TREE = 1, /* all that is below it, and itself */
	WATCH_SELF = 2, /* the inode itself */
	WATCH_NAMES = 4, /* a directory of which some names are in this map */
	WATCH_STARS = 8, /* a directory of which names in its children are in this map */
	WATCH_REFRESH = 16, /* user space looks at its paths again when something happens here */
};
struct watch_key {
	u64 inode;
	u64 name; /* 0: the inode itself */
	u32 device;
	/* 1: a directory. On an overlay over more than one file system directories have numbers
	 * of its own, and files those of their layer: one number may be both. */
	u32 directory;
};
struct watch {
	u32 id;
	u16 class;
	u16 flags; /* enum watch_flags */
	u32 ops; /* a bit for each enum file_op that is told */
	u32 critical; /* 1: the budget never samples it */
};
enum { WATCHED_MAX = 16384 };
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, WATCHED_MAX);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct watch_key);
	MAP_TYPE(value, struct watch);
} watched SEC(".maps");

/* Who a file descriptor of the sensor's own leads to, in the kernel's numbers, which
 * stat(2) does not give on every file system. Written by resolve_file. */
struct file_identity {
	u64 inode;
	u32 device;
	u32 mode; /* 0: no such descriptor */
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct file_identity);
} resolved SEC(".maps");

/* What user space asks of the programs when it comes near its budget. */
struct budget {
	u32 file_sample_shift; /* tell one of 2^shift file events that are not critical; 0: each */
	u32 pad;
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct budget);
} budget SEC(".maps");

/* The inodes that a call which is under way has changed, by thread: when it has
 * ended, where they are now is compared with where they were. Entries go with their
 * call. Full: counted (LOSS_FILE_UNMATCHED). */
enum {
	NAME_WORDS = 32, /* NAME_MAX and NUL, in words */
	/* Names of what one call changes. A rename: two directories, the file, the one that it
	 * replaces, and room for other names of the two. */
	TOUCHED_MAX = 8,
	CHANGES_MAX = 512, /* calls at one time */
};
struct touched {
	u64 inode;
	u64 dentry; /* 0: it had no name yet */
	u64 parent;
	u64 name_hash; /* with its length, as the dentry has them */
	u64 number;
	u32 device;
	u32 mode;
	u64 name[NAME_WORDS];
};
struct change {
	u64 call; /* number */
	u32 n;
	u32 told; /* subjects that were found */
	struct touched at[TOUCHED_MAX];
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, CHANGES_MAX);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct change);
} changes SEC(".maps");

/* Who is known to write to which file, so that a writer is told once and not with
 * each write; and libraries of ordinary places that were told. The least recently used
 * go: told once more. */
struct writer {
	u64 inode;
	u32 device;
	u32 pid; /* 0: the library itself */
};
enum { WRITERS_MAX = 8192 };
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_NUMBER(max_entries, WRITERS_MAX);
	MAP_TYPE(key, struct writer);
	MAP_TYPE(value, u64);
} writers SEC(".maps");

enum {
	FILE_PATH_MAX = 2048, /* of a path below what is watched, or of a library's */
};
struct file_space {
	struct event_file event;
	u8 data[2 * FILE_PATH_MAX + 2 * NAME_ROOM];
	u32 used; /* of data; here for the reason that `walked` is in its space */
	u32 below; /* components from the watched path down to the file */
	struct watch found;
	u64 dentry; /* the name by which it was found */
	u64 key; /* of the behaviour that is looked at */
	u64 pointer; /* one that passes through here is a number to the verifier */
	struct sip hash;
	u64 name[NAME_WORDS + 1];
	struct change fresh;
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct file_space);
} file_spaces SEC(".maps");

/* Privilege events: one per CPU for what happens in a process's own context, where
 * nothing of the kind interrupts, and one for signals, which interrupts send. */
enum {
	PRIVILEGE_SLOT = 0,
	SIGNAL_SLOT = 1,
	PRIVILEGE_SLOTS = 2,
	CLAIMED_STRINGS = 3, /* mount(2) has the most: source, target, type */
	CLAIMED_ROOM = 256,
	MOUNT_PATH_MAX = 1024,
	PRIVILEGE_TEXT_MAX = MOUNT_PATH_MAX + NAME_ROOM + CLAIMED_STRINGS * CLAIMED_ROOM,
};
struct privilege_space {
	struct event_privilege event;
	u8 data[PRIVILEGE_TEXT_MAX + NAME_ROOM];
	u32 used; /* of data; here, so that the verifier does not follow it */
	u32 pad;
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, PRIVILEGE_SLOTS);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct privilege_space);
} privilege_spaces SEC(".maps");

/* The ids of the sensor's own maps, programs and links, by kind << 32 | id. User
 * space fills it after loading and after attaching. Full: user space says so. */
enum { OWN_OBJECTS_MAX = 512 };
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, OWN_OBJECTS_MAX);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, u32);
} own_objects SEC(".maps");

struct packet {
	u16 family;
	u16 source;
	u16 dest;
	u16 pad;
	u32 payload; /* offset of the transport header, until who reads that moves it on */
	u8 from[16];
	u8 to[16];
};

struct dns_space {
	struct udp_flow flow; /* one that is new */
	struct udp_key key;
	struct packet packet;
	u32 pad;
	struct event_dns event;
	u8 data[DNS_MAX];
	struct sip hash; /* of the question; the stack has no room for it */
	u64 left; /* of a label while the question is hashed; here as `walked` above is */
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 2); /* egress, ingress */
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct dns_space);
} dns_spaces SEC(".maps");

struct segment_space {
	struct event_segment event;
	u8 data[SEGMENT_MAX];
	struct packet packet;
	/* A program that hangs on a cgroup can be interrupted by itself: a process sends,
	 * and a softirq does. Who finds the space taken loses its bytes, counted. */
	u64 taken;
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 2); /* egress, ingress */
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct segment_space);
} segment_spaces SEC(".maps");

/* Where the two streams of a connection begin, of those alone that have port 53 at an
 * end. Lives and dies with the socket. */
struct stream {
	u32 first[2]; /* sequence number of the first byte: egress, ingress */
	u32 found[2];
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_SK_STORAGE);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, int);
	MAP_TYPE(value, struct stream);
} streams SEC(".maps");

#endif
