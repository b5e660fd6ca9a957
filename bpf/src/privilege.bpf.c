// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Changes of privilege: how each is told, and those of credentials and namespaces.
// All is read at the end of the call, from its registers and the kernel's objects. What
// only the caller's memory says is told as claimed, and decides nothing.

enum {
	/* Events of one process and second that may go to the critical ring; the rest go
	 * to the bulk ring, so that none can push execs out. Ordinary ones make a dozen in
	 * their life, and 256 take 60 KiB of 4 MiB. */
	PRIVILEGE_SHARE = 256,
	CLONE_NEWTIME = 0x00000080,
	CLONE_NEWNS = 0x00020000,
	CLONE_NEWCGROUP = 0x02000000,
	CLONE_NEWUTS = 0x04000000,
	CLONE_NEWIPC = 0x08000000,
	CLONE_NEWUSER = 0x10000000,
	CLONE_NEWPID = 0x20000000,
	CLONE_NEWNET = 0x40000000,
	CLONE_NEW = CLONE_NEWTIME | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
		    CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET,
	NSFS_MAGIC = 0x6e736673,
	/* Never known: each is told. */
	PRIVILEGE_ALWAYS = PRIVILEGE_UNEXPLAINED | PRIVILEGE_OURS,
};

INLINE bool is_call(struct call *call, u32 native, u32 compat)
{
	return call->number == (call->compat ? compat : native);
}

/* An event of a task in a slot, to be filled further. */
INLINE struct privilege_space *begin_privilege(u32 slot, enum privilege_op op, struct task_struct *task)
{
	struct privilege_space *space = bpf_map_lookup_elem(&privilege_spaces, &slot);
	struct cred *cred = task->cred;

	if (!space)
		return NULL;
	__builtin_memset(&space->event, 0, sizeof(space->event));
	fill_head(&space->event.head, EVENT_PRIVILEGE, 0, task);
	space->event.op = op;
	space->event.gid = cred->egid.val;
	space->event.real_uid = cred->uid.val;
	space->event.user_ns = cred->user_ns->ns.inum;
	space->event.caps = CAPABILITIES(cred->cap_effective);
	space->event.uid_before = space->event.head.uid;
	space->event.gid_before = space->event.gid;
	space->event.caps_before = space->event.caps;
	space->used = 0;
	return space;
}

/* An event of the current task's call. */
INLINE struct privilege_space *begin_call(enum privilege_op op, struct task_struct *task, struct call *call)
{
	struct privilege_space *space = begin_privilege(PRIVILEGE_SLOT, op, task);

	if (!space)
		return NULL;
	space->event.number = call->number;
	space->event.result = call->result;
	if (call->compat)
		space->event.head.flags |= PRIVILEGE_COMPAT;
	return space;
}

INLINE void set_target(struct privilege_space *space, struct task_struct *target)
{
	struct task_struct *leader = READ(target->group_leader);

	space->event.target_pid = READ(target->tgid);
	space->event.target_start = READ(leader->start_boottime);
}

INLINE void text_lost(struct privilege_space *space)
{
	space->event.head.flags |= PRIVILEGE_TEXT_CUT;
	count_loss(LOSS_PRIVILEGE_TEXT);
}

/* Appends a name of the kernel's, without NUL. */
INLINE void add_name(struct privilege_space *space, const void *name)
{
	u32 used = *(volatile u32 *)&space->used;
	long n;

	KEEP(used);
	if (used > PRIVILEGE_TEXT_MAX)
		return;
	n = bpf_probe_read_kernel_str(space->data + used, NAME_ROOM, name);
	if (n <= 0) {
		text_lost(space);
		return;
	}
	if (n == NAME_ROOM)
		space->event.head.flags |= PRIVILEGE_TEXT_CUT;
	space->event.name_len += n - 1;
	*(volatile u32 *)&space->used = used + n - 1;
}

/* Appends a string of the caller's memory with its NUL; one that is not to be read is
 * empty, so that each keeps its place. */
INLINE void add_claimed(struct privilege_space *space, u64 at)
{
	u32 used = *(volatile u32 *)&space->used;
	long n = 0;

	KEEP(used);
	if (used > PRIVILEGE_TEXT_MAX)
		return;
	if (at) {
		n = bpf_probe_read_user_str(space->data + used, CLAIMED_ROOM, (void *)at);
		if (n <= 0)
			text_lost(space);
		else if (n == CLAIMED_ROOM)
			space->event.head.flags |= PRIVILEGE_TEXT_CUT;
	}
	if (n <= 0) {
		space->data[used] = 0;
		n = 1;
	}
	space->event.claimed_len += n;
	*(volatile u32 *)&space->used = used + n;
}

/* Whether one more event of a process may go to the critical ring. What is not in the
 * table has no share. Two threads that begin a second at one moment may both begin it. */
INLINE bool within_share(struct process *p, u64 now)
{
	u64 second = now / NSEC_PER_SEC;

	if (!p)
		return false;
	if (p->second != second) {
		p->second = second;
		p->spent = 0;
	}
	return __sync_fetch_and_add(&p->spent, 1) < PRIVILEGE_SHARE;
}

/* Tells the event in a slot, unless it is known. c, d: what else tells this behaviour
 * from others. A function of its own to the verifier. */
__attribute__((noinline)) int tell_privilege(u32 slot, u64 c, u64 d)
{
	struct privilege_space *space = bpf_map_lookup_elem(&privilege_spaces, &slot);
	struct event_head *head;
	struct process *p;
	u32 size;

	if (!space)
		return 0;
	head = &space->event.head;
	p = process_of(head->pid, head->start);
	if (p && !(head->flags & PRIVILEGE_ALWAYS) && space->event.op != PRIVILEGE_SIGNAL &&
	    space->event.op != PRIVILEGE_CGROUP_MOVE && space->event.op != PRIVILEGE_CGROUP_FREEZE) {
		u64 error = space->event.result < 0 ? space->event.result : 0;

		head->key = key_of(KEY_PRIVILEGE, p->image, (u64)space->event.op << 32 | space->event.command,
				   error << 16 | head->flags, c, d);
	}
	if (is_known(p, head->key, head->time))
		return 0;
	if (p)
		introduce(head, head->pid);
	if (space->event.target_pid)
		introduce(head, space->event.target_pid);
	size = *(volatile u32 *)&space->used;
	KEEP(size);
	if (size > PRIVILEGE_TEXT_MAX + NAME_ROOM)
		return 0; /* cannot be; for the verifier */
	size += sizeof(struct event_privilege);
	head->size = size;
	if (within_share(p, head->time))
		tell(&critical, &space->event, size, wake_when_full(&critical, critical_wake_bytes, head->time), LOSS_PRIVILEGE_RING_FULL);
	else
		tell(&bulk, &space->event, size, wake_when_full(&bulk, bulk_wake_bytes, head->time), LOSS_PRIVILEGE_SHARE);
	return 0;
}

/* Compares the credentials in the slot with those that the process had when they were
 * last looked at, and says whether they differ. In another user namespace
 * capabilities are others. */
INLINE bool compare_credentials(struct privilege_space *space, struct process *p)
{
	struct event_privilege *e = &space->event;
	bool gained;

	if (!p) {
		e->head.flags |= PRIVILEGE_NO_BEFORE;
		return true;
	}
	e->uid_before = p->uid;
	e->gid_before = p->gid;
	e->caps_before = p->caps;
	gained = p->uid && !e->head.uid;
	if (gained && p->real_uid && !(p->flags & PROCESS_COULD_GAIN))
		e->head.flags |= PRIVILEGE_UNEXPLAINED;
	if (p->user_ns == e->user_ns && (e->caps & ~p->caps)) {
		gained = true;
		if (!(p->flags & PROCESS_COULD_GAIN))
			e->head.flags |= PRIVILEGE_UNEXPLAINED;
	}
	if (gained)
		e->head.flags |= PRIVILEGE_GAINED;
	return p->uid != e->head.uid || p->gid != e->gid || p->real_uid != e->real_uid || gained;
}

/* The current task, which executes a file without set-id bits, is root without that
 * any call made it so. Told before its exec, as what the old image did. */
__attribute__((noinline)) int gained_before_exec(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct process *p = process_of_task(task);
	struct privilege_space *space;

	if (!p || !p->uid || !p->real_uid || (p->flags & PROCESS_COULD_GAIN))
		return 0;
	space = begin_privilege(PRIVILEGE_SLOT, PRIVILEGE_SETUID, task);
	if (!space)
		return 0;
	compare_credentials(space, p);
	space->event.head.flags |= PRIVILEGE_NO_CALL;
	tell_privilege(PRIVILEGE_SLOT, 0, 0);
	return 0;
}

/* setuid, setgid and the rest of their family, and capset. What changes nothing is
 * not told; what is refused is. tp_btf, 5.5. */
SEC("tp_btf/sys_exit")
int call_identity(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct process *p = process_of_task(task);
	struct privilege_space *space;
	struct call call;
	bool capset, fs, differ;

	if ((u32)task->tgid == sensor_pid())
		return 0;
	read_call(&call, ctx, task);
	capset = is_call(&call, 126, 185);
	/* They answer with what it was, whatever they did. */
	fs = is_call(&call, 122, 215) || is_call(&call, 123, 216) || (call.compat && (call.number == 138 || call.number == 139));
	space = begin_call(capset ? PRIVILEGE_CAPABILITY : PRIVILEGE_SETUID, task, &call);
	if (!space)
		return 0;
	differ = compare_credentials(space, p);
	if (fs) {
		space->event.command = task->cred->fsuid.val;
		differ |= task->cred->fsuid.val != task->cred->euid.val;
	}
	if (p)
		note_credentials(p, task);
	if (capset && call.result >= 0)
		differ = space->event.caps & ~space->event.caps_before;
	if (fs || call.result >= 0) {
		if (!differ)
			return 0;
	}
	tell_privilege(PRIVILEGE_SLOT, (u64)space->event.head.uid << 32 | space->event.gid,
		       space->event.caps & ~space->event.caps_before);
	return 0;
}

/* What a fork gave its child that the parent does not have. */
static __attribute__((noinline)) int new_namespaces(struct task_struct *parent, struct task_struct *child)
{
	struct nsproxy *had = parent->nsproxy, *has = child->nsproxy;
	struct privilege_space *space;
	u32 made = 0;

	if ((u32)parent->tgid == sensor_pid())
		return 0;
	if (child->cred->user_ns != parent->cred->user_ns)
		made |= CLONE_NEWUSER;
	if (has->mnt_ns != had->mnt_ns)
		made |= CLONE_NEWNS;
	if (has->uts_ns != had->uts_ns)
		made |= CLONE_NEWUTS;
	if (has->ipc_ns != had->ipc_ns)
		made |= CLONE_NEWIPC;
	if (has->net_ns != had->net_ns)
		made |= CLONE_NEWNET;
	if (has->cgroup_ns != had->cgroup_ns)
		made |= CLONE_NEWCGROUP;
	if (has->pid_ns_for_children != had->pid_ns_for_children)
		made |= CLONE_NEWPID;
	if (!made) /* a fork after unshare(CLONE_NEWTIME) enters what was told then */
		return 0;
	space = begin_privilege(PRIVILEGE_SLOT, made & CLONE_NEWUSER ? PRIVILEGE_USERNS : PRIVILEGE_UNSHARE, parent);
	if (!space)
		return 0;
	space->event.head.flags |= PRIVILEGE_NO_CALL;
	space->event.arguments = made;
	space->event.target_pid = child->tgid;
	space->event.target_start = child->start_boottime;
	tell_privilege(PRIVILEGE_SLOT, made, 0);
	return 0;
}

/* unshare and setns; clone where it was refused (what it made, the fork tells; what
 * clone3 asked for is in the caller's memory, and a refusal of it is not told).
 * tp_btf, 5.5. */
SEC("tp_btf/sys_exit")
int call_namespace(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct privilege_space *space;
	struct process *p;
	struct call call;
	u64 made;

	read_call(&call, ctx, task);
	made = call.args[0] & CLONE_NEW;
	if (is_call(&call, 56, 120)) {
		made &= ~CLONE_NEWTIME; /* there it is a part of the exit signal */
		if (call.result >= 0 || !made)
			return 0;
	}
	if ((u32)task->tgid == sensor_pid())
		return 0;
	p = process_of_task(task);
	if (is_call(&call, 308, 346)) {
		struct file *file = file_of(task, call.args[0]);
		struct inode *inode = file ? READ(file->f_inode) : NULL;
		struct super_block *sb = inode ? READ(inode->i_sb) : NULL;

		space = begin_call(PRIVILEGE_SETNS, task, &call);
		if (!space)
			return 0;
		space->event.arguments = call.args[1] & CLONE_NEW;
		if (sb && READ(sb->s_magic) == NSFS_MAGIC) {
			space->event.object = READ(inode->i_ino);
		} else if (file && call.result >= 0) {
			struct task_struct *target = task_of_pidfd(file);

			if (target)
				set_target(space, target);
		}
	} else {
		if (!made)
			return 0;
		space = begin_call(made & CLONE_NEWUSER ? PRIVILEGE_USERNS : PRIVILEGE_UNSHARE, task, &call);
		if (!space)
			return 0;
		space->event.arguments = made;
	}
	if (p && call.result >= 0)
		note_credentials(p, task);
	tell_privilege(PRIVILEGE_SLOT, space->event.arguments, 0);
	return 0;
}
