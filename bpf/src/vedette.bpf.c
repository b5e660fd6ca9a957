// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The one compilation unit: it owns the rings, the maps and the counters, and
// includes the parts that use them.
#include "vmlinux.h"
#include "core.h"
#include "sip.h"
#include "event.h"
#include "maps.h"

/* Keeps the types of the contract in the object's BTF, where a test compares
 * them with Go's. */
struct contract {
	struct event_exec exec;
	struct event_fork fork;
	struct event_exit exit;
	struct event_process process;
	struct event_flow flow;
	struct event_dns dns;
	struct event_segment segment;
	struct event_socket socket;
	struct event_file file;
	struct watch_key watch_key;
	struct watch watch;
	struct file_identity file_identity;
	struct budget budget;
	struct event_privilege privilege;
	struct task_record task;
	struct reader reader;
	struct known_set known_set;
	struct process_key process_key;
	enum event_type types;
	enum loss losses;
	enum counter counters;
	enum exec_flags exec_flags;
	enum flow_flags flow_flags;
	enum dns_flags dns_flags;
	enum segment_flags segment_flags;
	enum socket_flags socket_flags;
	enum file_op file_ops;
	enum file_flags file_flags;
	enum watch_flags watch_flags;
	enum privilege_op privilege_ops;
	enum privilege_flags privilege_flags;
	enum bpf_object bpf_objects;
};
const volatile struct contract contract = {};

INLINE void count_loss(enum loss cause)
{
	u32 zero = 0;
	struct losses *all = bpf_map_lookup_elem(&losses, &zero);

	if (all) /* atomic: a program may interrupt another one on this CPU */
		__sync_fetch_and_add(&all->n[cause], 1);
}

INLINE void count(enum counter which)
{
	u32 zero = 0;
	struct counters *all = bpf_map_lookup_elem(&counters, &zero);

	if (all)
		__sync_fetch_and_add(&all->n[which], 1);
}

/* An event that was made and is not told. */
INLINE void count_kept(void)
{
	u32 zero = 0;
	struct counters *all = bpf_map_lookup_elem(&counters, &zero);

	if (all) {
		__sync_fetch_and_add(&all->n[COUNTER_TOTAL], 1);
		__sync_fetch_and_add(&all->n[COUNTER_SUPPRESSED], 1);
	}
}

INLINE void tell(void *ring, void *event, u32 size, u64 flags, enum loss cause)
{
	count(COUNTER_TOTAL);
	if (bpf_ringbuf_output(ring, event, size, flags))
		count_loss(cause);
}

/* Waking the reader costs several times what the event does (an interrupt and a
 * context switch). So it says until when it comes by itself, and only an exec that
 * finds it asleep wakes it at once; what else happens waits for the clock. (The
 * kernel's own notion, to wake when all before this record was read, would never
 * wake: the fork before an exec lies unread.) */
u64 woken_at = 0;

INLINE bool may_wake(u64 interval, u64 now)
{
	if (now - woken_at < interval)
		return false;
	woken_at = now;
	return true;
}

INLINE u64 reader_awake_until(void)
{
	u32 zero = 0;
	struct reader *r = bpf_map_lookup_elem(&reader, &zero);

	return r ? *(volatile u64 *)&r->awake_until : 0;
}

/* The sensor's own process; 0 before it said so. */
INLINE u32 sensor_pid(void)
{
	u32 zero = 0;
	struct reader *r = bpf_map_lookup_elem(&reader, &zero);

	return r ? r->pid : 0;
}

INLINE u64 wake_sleeping(u64 now)
{
	if (now >= reader_awake_until() && may_wake(wake_interval, now))
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

/* A ring that fills wakes a reader that waits for its clock, but not one that
 * reads: it would only be slowed by each event that it is behind. */
INLINE u64 wake_when_full(void *ring, u64 threshold, u64 now)
{
	if (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) >= threshold &&
	    reader_awake_until() != READER_READS && may_wake(FULL_WAKE_INTERVAL, now))
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

#include "known.bpf.c"
#include "credentials.bpf.c"
#include "task.bpf.c"
#include "image.bpf.c"
#include "process.bpf.c"
#include "exec.bpf.c"
#include "owner.bpf.c"
#include "tcp.bpf.c"
#include "packet.bpf.c"
#include "dns.bpf.c"
#include "udp.bpf.c"
#include "syscall.bpf.c"
#include "socket.bpf.c"
#include "objects.bpf.c"
#include "privilege.bpf.c"
#include "intrusion.bpf.c"
#include "watch.bpf.c"
#include "file.bpf.c"
#include "change.bpf.c"
#include "tamper.bpf.c"

char program_license[] SEC("license") = "Dual BSD/GPL";
