// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The baseline in the kernel: what is known is counted and stays here, what is not
// is told, and before it who did it. How a program tells an event of a process:
//
//	p = process_of(pid, start);
//	key = …;                                 hash of who (p->image) did what to what
//	if (is_known(p, key, now)) return 0;     counted, and that is all
//	head.key = key;
//	introduce(&head, pid);                   its fork and exec, when they were known
//	tell(…);

enum {
	/* Ancestors that one event may have to tell. A longer line of processes that did
	 * only what is known loses its top: user space reads that from /proc. */
	UNTOLD_MAX = 8,
	LAG_SHIFT = 10, /* of event_head.lag */
};

/* What a behaviour key begins with, so that two kinds never have one key. */
enum key_kind {
	KEY_IMAGE = 1,
	KEY_SELF = 2,
	KEY_EXEC = 3,
	KEY_FLOW = 4,
	KEY_LOOKUP = 5,
	KEY_FILE = 6,
	KEY_PRIVILEGE = 7,
	KEY_SOCKET = 8,
};

INLINE void key_begin(struct sip *s, enum key_kind kind)
{
	sip_begin(s, sip_key[0], sip_key[1]);
	sip_word(s, kind);
}

#define HASH(...)                                                                        \
	({                                                                               \
		u64 words_[] = { __VA_ARGS__ };                                          \
		sip_of(words_, sizeof(words_) / sizeof(words_[0]), sip_key[0], sip_key[1]); \
	})

INLINE struct process *process_of(u32 pid, u64 start)
{
	struct process *p = bpf_map_lookup_elem(&processes, &pid);

	return p && p->start == start ? p : NULL;
}

INLINE struct process *process_of_task(struct task_struct *task)
{
	return process_of(task->tgid, task->group_leader->start_boottime);
}

INLINE void set_flags(struct process *p, u32 flags)
{
	if ((p->flags & flags) != flags)
		__sync_fetch_and_or(&p->flags, flags);
}

INLINE void clear_flags(struct process *p, u32 flags)
{
	if (p->flags & flags)
		__sync_fetch_and_and(&p->flags, ~flags);
}

INLINE struct known_count *known_in(u32 set, u64 key)
{
	struct known_set *s;

	set &= KNOWN_SETS - 1;
	s = bpf_map_lookup_elem(&known, &set);
	if (!s)
		return NULL; /* cannot be: the array has as many */
	for (u32 i = 0; i < KNOWN_WAYS; i++)
		if (*(volatile u64 *)&s->way[i].key == key)
			return &s->way[i];
	return NULL;
}

INLINE struct known_count *find_known(u64 key)
{
	struct known_count *c = known_in(key, key);

	return c ?: known_in(key >> 32, key);
}

/* Whether a behaviour needs no telling; it is counted then. p: who did it, NULL when
 * it is not in the table; now: 0 when it was not asked yet, which takes a while. */
INLINE bool is_known(struct process *p, u64 key, u64 now)
{
	struct known_count *c;

	if (!keep_known || !key || !p || (p->flags & PROCESS_TAINTED))
		return false;
	c = find_known(key);
	if (!c)
		return false;
	__sync_fetch_and_add(&c->count, 1);
	c->last = (now ?: bpf_ktime_get_boot_ns()) >> KNOWN_LAST_SHIFT;
	count_kept();
	return true;
}

/* One behaviour's key from who and up to four words of what. */
INLINE u64 key_of(enum key_kind kind, u64 image, u64 a, u64 b, u64 c, u64 d)
{
	return image ? HASH(kind, image, a, b, c, d) : 0;
}

INLINE void tell_process(u32 pid, struct process *p)
{
	struct event_process event = {};

	event.head.type = EVENT_PROCESS;
	event.head.size = sizeof(event);
	event.head.time = bpf_ktime_get_boot_ns();
	event.head.start = p->start;
	event.head.parent_start = p->parent_start;
	event.head.cgroup = p->cgroup;
	event.head.pid = pid;
	event.head.tid = pid;
	event.head.parent_pid = p->parent_pid;
	event.head.uid = p->uid;
	event.head.netns = p->netns;
	event.exec_key = p->exec_key;
	event.exec_time = p->exec_time;
	count(COUNTER_TOTAL);
	if (bpf_ringbuf_output(&critical, &event, sizeof(event), BPF_RB_NO_WAKEUP)) {
		count_loss(LOSS_PROCESS_RING_FULL);
		return; /* not marked: the next event tells it */
	}
	set_flags(p, PROCESS_NODE | PROCESS_TOLD);
}

/* Tells who a process is, unless it was told: its ancestors first, as far as they
 * live. One that ended was told at its end when anybody came of it. Returns how many were.
 * A function of its own to the verifier, which looks at it once and not at each call. */
__attribute__((noinline)) int catch_up(u32 pid)
{
	u32 line[UNTOLD_MAX];
	u32 n = 0;
	struct process *p = bpf_map_lookup_elem(&processes, &pid);

	for (; n < UNTOLD_MAX; n++) {
		u64 start;

		if (!p || (p->flags & PROCESS_TOLD))
			break;
		line[n] = pid;
		pid = p->parent_pid;
		start = p->parent_start;
		p = process_of(pid, start);
	}
	for (u32 i = 0; i < UNTOLD_MAX; i++) {
		u32 at = UNTOLD_MAX - 1 - i;

		if (at >= n)
			continue;
		pid = line[at];
		p = bpf_map_lookup_elem(&processes, &pid);
		if (p && !(p->flags & PROCESS_TOLD))
			tell_process(pid, p);
	}
	return n;
}

/* Tells who did what the head is of. The event began before that, and lies in a ring of its
 * own as a rule: the reader, which goes by time, is told by how much it must come later. */
INLINE void introduce(struct event_head *head, u32 pid)
{
	u64 now;

	if (!catch_up(pid))
		return;
	now = bpf_ktime_get_boot_ns();
	head->lag = now > head->time ? ((now - head->time) >> LAG_SHIFT) + 1 : 1;
}
