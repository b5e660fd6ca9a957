// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The table of processes: fork, end, what runs already, and the mark of a taint.

enum {
	SIGNAL_GROUP_EXIT = 0x00000004,
	/* Children of an ending process that are told before it, so that the line to their
	 * ancestors is not lost; more are told when they do something, without it. */
	CHILDREN_MAX = 64,
};

/* Puts a process into the table; NULL: there is no room, and all of it is told. */
INLINE struct process *enter(u32 pid, struct process *fresh)
{
	if (bpf_map_update_elem(&processes, &pid, fresh, BPF_ANY)) {
		count_loss(LOSS_PROCESS_TABLE_FULL);
		return NULL;
	}
	return bpf_map_lookup_elem(&processes, &pid);
}

/* A process that is older than the sensor: what its argv was nobody knows any more, so
 * that its image alone stands for it. */
INLINE void enter_running(struct task_struct *task, struct task_record *record)
{
	struct process fresh = {};
	struct file *file = task->mm ? task->mm->exe_file : NULL;
	u32 pid = record->pid;

	fresh.start = record->start;
	fresh.parent_pid = record->parent_pid;
	fresh.parent_start = record->parent_start;
	fresh.cgroup = record->cgroup;
	fresh.netns = record->netns;
	if (HAS_FIELD(task->sessionid))
		fresh.session = task->sessionid;
	fresh.flags = PROCESS_NODE | PROCESS_TOLD;
	note_credentials(&fresh, task);
	if (file) {
		fresh.image = image_hash(file, task->nsproxy->mnt_ns->ns.inum);
		fresh.self = fresh.image;
	}
	bpf_map_update_elem(&processes, &pid, &fresh, BPF_NOEXIST);
}

/* In privilege.bpf.c. */
static __attribute__((noinline)) int new_namespaces(struct task_struct *parent, struct task_struct *child);
int gained_before_exec(void);

/* A frame of its own: what it keeps is not there while namespaces are told. */
static __attribute__((noinline)) void tell_fork(struct task_struct *parent, struct task_struct *child)
{
	struct event_fork event = {};
	struct process fresh = {};
	struct process *p;
	u32 pid = child->tgid, inherited = 0;

	fresh.start = child->start_boottime;
	fresh.parent_pid = child->real_parent->tgid;
	fresh.parent_start = child->real_parent->group_leader->start_boottime;
	fresh.cgroup = task_cgroup(child);
	fresh.netns = child->nsproxy->net_ns->ns.inum;
	note_credentials(&fresh, child);
	p = process_of(fresh.parent_pid, fresh.parent_start);
	if (p) {
		fresh.image = p->image;
		fresh.self = p->self;
		fresh.parent_self = p->self;
		fresh.session = p->session;
		inherited = p->flags & PROCESS_TAINTED;
		if (p->flags & PROCESS_SERVES)
			inherited |= PROCESS_SERVING;
		fresh.flags |= inherited | (p->flags & PROCESS_ANONYMOUS);
	}
	if (!keep_known || inherited)
		p = NULL;
	if (p && enter(pid, &fresh)) {
		count_kept();
		return;
	}
	catch_up(fresh.parent_pid);
	fresh.flags |= PROCESS_NODE | PROCESS_TOLD;
	if (!p)
		enter(pid, &fresh);
	fill_head(&event.head, EVENT_FORK, sizeof(event), parent);
	event.child_start = fresh.start;
	event.child_pid = pid;
	tell(&critical, &event, sizeof(event), wake_when_full(&critical, critical_wake_bytes, event.head.time), LOSS_FORK_RING_FULL);
}

/* Fork of a process. tp_btf, 5.5; told to the critical ring without waking, and only
 * when its parent's connections, a taint or a full table ask for it: what matters of a
 * child is what it does, and that tells who it is. */
SEC("tp_btf/sched_process_fork")
int process_fork(u64 *ctx)
{
	struct task_struct *parent = (void *)ctx[0];
	struct task_struct *child = (void *)ctx[1];

	if (child->pid != child->tgid || (child->flags & PF_KTHREAD))
		return 0;
	if (in_scope(child))
		tell_fork(parent, child);
	if ((child->nsproxy != parent->nsproxy || child->cred->user_ns != parent->cred->user_ns) && in_scope(parent))
		new_namespaces(parent, child);
	return 0;
}

/* Before a process ends: those of its children that user space does not know are told,
 * while their line to it is still to be had. The list may change under the walk, which
 * the kernel's own locks would prevent: a pointer that leads nowhere ends it. */
INLINE void tell_children(struct task_struct *task)
{
	void *head = __builtin_preserve_access_index(&task->children);
	struct list_head *at = READ(task->children.next);

	for (int i = 0; i < CHILDREN_MAX && at && (void *)at != head; i++) {
		struct task_struct *child = (void *)at - __builtin_preserve_field_info(((struct task_struct *)0)->sibling, 0);
		u32 pid = READ(child->tgid);
		struct process *p = bpf_map_lookup_elem(&processes, &pid);

		if (p && !(p->flags & PROCESS_TOLD))
			catch_up(pid);
		at = READ(at->next);
	}
}

/* The end of a process: its last thread. tp_btf, 5.5; not woken for, and told only of
 * one that user space knows. Before 6.16
 * the tracepoint does not say which thread is the last, and two that end at the
 * same moment may both see none left: the end is then told twice, never missed. */
SEC("tp_btf/sched_process_exit")
int process_exit(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct signal_struct *signal = task->signal;
	struct event_exit event = {};
	struct process *p;
	u32 pid;
	bool unknown;

	if (exit_tells_group) {
		if (!ctx[1])
			return 0;
	} else if (signal->live.counter > 0) {
		return 0;
	}
	if ((task->flags & PF_KTHREAD) || !in_scope(task))
		return 0;
	if (keep_known)
		tell_children(task);
	pid = task->tgid;
	p = process_of_task(task);
	unknown = keep_known && p && !(p->flags & (PROCESS_NODE | PROCESS_TAINTED));
	if (p)
		bpf_map_delete_elem(&processes, &pid);
	if (unknown) {
		count_kept();
		return 0;
	}
	fill_head(&event.head, EVENT_EXIT, sizeof(event), task);
	/* What wait(2) will say: the group's status when exit_group or a signal ended
	 * it, else the leader's own, which may have ended long before. */
	if (signal->flags & SIGNAL_GROUP_EXIT)
		event.status = signal->group_exit_code;
	else
		event.status = task->group_leader->exit_code;
	tell(&critical, &event, sizeof(event), wake_when_full(&critical, critical_wake_bytes, event.head.time), LOSS_EXIT_RING_FULL);
	return 0;
}

/* Every process that runs now, exactly as fork and exec name it; those in the scope
 * are put into the table as told, since user space hears of them here. iter/task, 5.8. */
SEC("iter/task")
int list_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct task_struct *parent;
	struct task_record record = {};

	if (!task || task->pid != task->tgid)
		return 0;
	parent = task->real_parent->group_leader;
	record.start = task->start_boottime;
	record.pid = task->tgid;
	record.parent_pid = parent->tgid;
	record.parent_start = record.parent_pid ? parent->start_boottime : 0;
	record.cgroup = task_cgroup(task);
	record.uid = task->cred->euid.val;
	record.netns = task->nsproxy->net_ns->ns.inum;
	record.in_scope = in_scope(task);
	__builtin_memcpy(record.comm, task->comm, COMM_LEN);
	bpf_seq_write(ctx->meta->seq, &record, sizeof(record));
	if (record.in_scope && !(task->flags & PF_KTHREAD))
		enter_running(task, &record);
	return 0;
}

/* Marks what user space wants tainted and all that came of it. Run twice: the first
 * time a child with a lower pid may come before its parent. iter/task, 5.8. */
SEC("iter/task")
int spread_taint(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct process_key key = {};
	struct process *p, *parent;

	if (!task || task->pid != task->tgid)
		return 0;
	key.pid = task->tgid;
	key.start = task->start_boottime;
	p = process_of(key.pid, key.start);
	if (!p || (p->flags & PROCESS_TAINTED))
		return 0;
	parent = process_of(p->parent_pid, p->parent_start);
	if ((parent && (parent->flags & PROCESS_TAINTED)) || bpf_map_lookup_elem(&taints, &key))
		set_flags(p, PROCESS_TAINTED);
	return 0;
}
