// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Processes: who they are, whether they are in the scope, and fork, exec, exit.

enum {
	PF_KTHREAD = 0x00200000,
	SIGNAL_GROUP_EXIT = 0x00000004,
	S_ISUID = 04000,
	S_ISGID = 02000,
	NO_LOGIN = 0xffffffff,
	/* The kernel keeps "was asked for" in the top bit of the nanoseconds (6.13). */
	CTIME_NSEC_MASK = 0x7fffffff,
	NSEC_PER_SEC = 1000000000,
	/* argv is hashed whole, up to what ARG_MAX lets through with the default stack. */
	ARGV_CHUNKS_MAX = 2 * 1024 * 1024 / ARGV_MAX,
	/* Children of an ending process that are told before it, so that the line to their
	 * ancestors is not lost; more are told when they do something, without it. */
	CHILDREN_MAX = 64,
	/* Names passed within the file's mount, and as many names and mounts above it.
	 * PATH_MAX allows 2048 names,
	 * people use 20; what is deeper is truncated and says so. */
	PATH_STEPS_MAX = 96,
};

INLINE u64 task_cgroup(struct task_struct *task)
{
	return task->cgroups->dfl_cgrp->kn->id;
}

INLINE bool task_in_cgroup(struct task_struct *task)
{
	struct cgroup *cgroup = task->cgroups->dfl_cgrp;
	u32 level = scope_level;

	if (cgroup->level < (int)level)
		return false;
	if (HAS_FIELD(cgroup->ancestors)) {
		/* An array of unknown length: the verifier cannot bound the index. */
		struct cgroup **at = __builtin_preserve_access_index(&cgroup->ancestors[0]);
		struct cgroup *root = NULL;
		struct kernfs_node *node;

		bpf_probe_read_kernel(&root, sizeof(root), at + level);
		node = READ(root->kn);
		return READ(node->id) == scope_cgroup;
	} else {
		struct cgroup___ids *old = (void *)cgroup;
		u64 *at = __builtin_preserve_access_index(&old->ancestor_ids[0]);
		u64 id = 0;

		bpf_probe_read_kernel(&id, sizeof(id), at + level);
		return id == scope_cgroup;
	}
}

INLINE bool in_scope(struct task_struct *task)
{
	if (scope_kind == SCOPE_CGROUP)
		return task_in_cgroup(task);
	if (scope_kind == SCOPE_NETNS)
		return task->nsproxy->net_ns->ns.inum == scope_netns;
	return true;
}

INLINE void fill_head(struct event_head *head, enum event_type type, u32 size, struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	struct task_struct *parent = task->real_parent->group_leader;

	head->type = type;
	head->flags = 0;
	head->size = size;
	head->time = bpf_ktime_get_boot_ns();
	head->start = leader->start_boottime;
	head->pid = task->tgid;
	head->tid = task->pid;
	head->parent_pid = parent->tgid;
	/* PID 1 and the first kernel threads are children of the idle task, PID 0. */
	head->parent_start = head->parent_pid ? parent->start_boottime : 0;
	head->cgroup = task_cgroup(task);
	head->key = 0;
	head->uid = task->cred->euid.val;
	head->netns = task->nsproxy->net_ns->ns.inum;
	head->pad = 0;
	__builtin_memcpy(head->comm, task->comm, COMM_LEN);
}

INLINE u64 change_time(struct inode *inode)
{
	struct inode___66 *i66 = (void *)inode;
	struct inode___65 *i65 = (void *)inode;

	if (HAS_FIELD(inode->i_ctime_sec))
		return inode->i_ctime_sec * NSEC_PER_SEC + (inode->i_ctime_nsec & CTIME_NSEC_MASK);
	if (HAS_FIELD(i66->__i_ctime))
		return i66->__i_ctime.tv_sec * NSEC_PER_SEC + i66->__i_ctime.tv_nsec;
	return i65->i_ctime.tv_sec * NSEC_PER_SEC + i65->i_ctime.tv_nsec;
}

/* Whether the exec raised privileges by the file. secureexec alone also stands
 * for a caller that had them before, and for LSM domain changes. */
INLINE bool is_setid(struct linux_binprm *bprm, struct inode *inode, struct cred *cred)
{
	if (!READ_BITS(bprm, secureexec))
		return false;
	if ((inode->i_mode & S_ISUID) && cred->euid.val == inode->i_uid.val)
		return true;
	if ((inode->i_mode & S_ISGID) && cred->egid.val == inode->i_gid.val)
		return true;
	return cred->euid.val != 0 && capabilities(__builtin_preserve_access_index(&cred->cap_permitted));
}

/* Appends a component; false: it could not be read. */
INLINE bool append_name(struct exec_space *space, u32 used, const void *name)
{
	long n = bpf_probe_read_kernel_str(space->data + used, NAME_ROOM, name);

	if (n <= 0) {
		count_loss(LOSS_PATH_UNREADABLE);
		return false;
	}
	*(volatile u32 *)&space->walked = used + n;
	return true;
}

/* Writes the components from the file up to the root of the process, each ended
 * by NUL. Upward is the only way a dentry can be walked; user space turns them
 * round. */
INLINE void walk_path(struct exec_space *space, struct file *file, struct task_struct *task)
{
	struct dentry *dentry = file->f_path.dentry;
	struct vfsmount *vfs = file->f_path.mnt;
	struct dentry *root = task->fs->root.dentry;
	struct vfsmount *root_vfs = task->fs->root.mnt;
	struct dentry *top = vfs->mnt_root;
	volatile u32 *walked = &space->walked;

	*walked = 0;
	/* Within the file's mount the verifier knows what each pointer leads to, and a
	 * plain load takes a tenth of the time that a helper does. */
	for (int step = 0; step < PATH_STEPS_MAX && dentry != top; step++) {
		struct dentry *parent = dentry->d_parent;
		u32 used = *walked;

		if (dentry == root && vfs == root_vfs)
			return;
		if (used > PATH_MAX || !append_name(space, used, dentry->d_name.name))
			goto cut;
		if (dentry == parent)
			return;
		dentry = parent;
	}
	/* Above it the way leads through mounts, which are no pointers to the verifier. */
	for (int step = 0; step < PATH_STEPS_MAX; step++) {
		struct dentry *parent;
		u32 used = *walked;

		if (dentry == root && vfs == root_vfs)
			return;
		if (dentry == top) {
			struct mount *mount = (void *)vfs - __builtin_preserve_field_info(((struct mount *)0)->mnt, 0);
			struct mount *up = READ(mount->mnt_parent);

			if (up == mount) /* the namespace's root, or a detached mount */
				return;
			dentry = READ(mount->mnt_mountpoint);
			vfs = __builtin_preserve_access_index(&up->mnt);
			top = READ(vfs->mnt_root);
			continue;
		}
		if (used > PATH_MAX || !append_name(space, used, READ(dentry->d_name.name)))
			break;
		parent = READ(dentry->d_parent);
		if (dentry == parent) /* memfd and other files outside any directory: the name is all */
			return;
		dentry = parent;
	}
cut:
	space->event.head.flags |= EXEC_PATH_TRUNCATED;
}

/* The path of the working directory would cost as much as the file's again; nearly
 * always it is one that user space has just read. */
INLINE void fill_cwd(struct event_exec *e, struct task_struct *task)
{
	struct vfsmount *vfs = task->fs->pwd.mnt;
	struct mount *mount = (void *)vfs - __builtin_preserve_field_info(((struct mount *)0)->mnt, 0);
	struct inode *inode = task->fs->pwd.dentry->d_inode;

	e->cwd_inode = inode->i_ino;
	e->cwd_device = inode->i_sb->s_dev;
	e->cwd_mount = READ(mount->mnt_id);
}

INLINE bool is_memfd(struct file *file)
{
	struct dentry *dentry = file->f_path.dentry;
	char name[8] = {};

	/* A real file is never its own parent, whatever it is called. */
	if (dentry != dentry->d_parent)
		return false;
	bpf_probe_read_kernel_str(name, sizeof(name), dentry->d_name.name);
	return name[0] == 'm' && name[1] == 'e' && name[2] == 'm' && name[3] == 'f' && name[4] == 'd' && name[5] == ':';
}

/* The identity of an image, whatever leads to it; its name's hash and its folder tell
 * two links to one file apart, which rules can. */
INLINE u64 image_hash(struct file *file, u32 mount_ns)
{
	struct inode *inode = file->f_inode;
	struct dentry *dentry = file->f_path.dentry;
	struct sip s;

	key_begin(&s, KEY_IMAGE);
	sip_word(&s, (u64)inode->i_sb->s_dev << 32 | mount_ns);
	sip_word(&s, inode->i_ino);
	sip_word(&s, change_time(inode));
	/* hash_len in two: the verifier of 6.1 refuses to read over both halves of a union. */
	sip_word(&s, (u64)dentry->d_name.len << 32 | dentry->d_name.hash);
	sip_word(&s, dentry->d_parent->d_inode->i_ino);
	return sip_end(&s, 0);
}

/* Takes in a page of argv, the first or one of those after it. A function of its own
 * to the verifier. */
__attribute__((noinline)) int hash_argv(u32 length, u32 later)
{
	u32 zero = 0;
	struct exec_space *space = bpf_map_lookup_elem(&exec_spaces, &zero);
	struct sip s;
	u64 *page;
	u32 words, last = length / 8;

	if (!space || length > ARGV_MAX)
		return 0;
	page = later ? space->later : space->first;
	/* What is known of the length the verifier of 6.1 does not know of a copy of it. */
	KEEP(last);
	if (last > ARGV_MAX / 8)
		return 0;
	page[last] &= (1ULL << length % 8 * 8) - 1;
	words = (length + 7) / 8;
	s = space->argv;
	for (u32 i = 0; i < words; i++) {
		/* Else the compiler counts by a copy of i, of which older verifiers know nothing. */
		KEEP(i);
		if (i >= ARGV_MAX / 8)
			break;
		sip_word(&s, page[i]);
	}
	space->argv = s;
	return 0;
}

/* Takes in the page of argv at an address, of what is left; 1: it was not in memory. */
__attribute__((noinline)) int hash_later(u64 at, u64 left)
{
	u32 zero = 0, length = left > ARGV_MAX ? ARGV_MAX : left;
	struct exec_space *space = bpf_map_lookup_elem(&exec_spaces, &zero);

	KEEP(length);
	if (!space || length > ARGV_MAX || bpf_probe_read_user(space->later, length, (void *)at))
		return 1;
	return hash_argv(length, 1);
}

/* Reads the first page of argv and hashes the whole; its hash stays 0 when a page of it
 * was not in memory. The parts are functions of their own to the verifier, which would
 * else look at what follows them once for each number of words and pages. */
__attribute__((noinline)) int read_argv(u64 start, u64 length)
{
	u32 zero = 0, first = length > ARGV_MAX ? ARGV_MAX : length;
	struct exec_space *space = bpf_map_lookup_elem(&exec_spaces, &zero);

	if (!space)
		return 0;
	KEEP(first);
	space->unreadable = 1;
	if (first > ARGV_MAX || bpf_probe_read_user(space->first, first, (void *)start))
		return 0;
	space->unreadable = 0;
	key_begin(&space->argv, 0);
	hash_argv(first, 0);
	for (u32 i = 1; i < ARGV_CHUNKS_MAX; i++) {
		u64 at = (u64)i * ARGV_MAX;

		if (at >= length)
			break;
		if (hash_later(start + at, length - at))
			return 0;
	}
	space->event.argv_hash = sip_end(&space->argv, length);
	return 0;
}

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
		count(COUNTER_TOTAL);
		count(COUNTER_SUPPRESSED);
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

/* Enters into the table what the exec in the working space made of its process; 1: it
 * was known and is not to be told. */
__attribute__((noinline)) int settle_exec(void)
{
	u32 zero = 0, pid;
	struct exec_space *space = bpf_map_lookup_elem(&exec_spaces, &zero);
	struct event_head *head;
	struct process *p;
	struct sip s;
	bool is, login;

	if (!space)
		return 0;
	head = &space->event.head;
	pid = head->pid;
	p = process_of(pid, head->start);
	if (!p) {
		struct process fresh = {};

		fresh.start = head->start;
		fresh.parent_pid = head->parent_pid;
		fresh.parent_start = head->parent_start;
		fresh.flags = PROCESS_NODE | PROCESS_TOLD;
		p = enter(pid, &fresh);
		if (!p)
			return 0;
	}
	/* What serves a connection is judged by who is at its other end, a login by who
	 * it is, and the sensor's own children are its canaries. */
	login = space->event.session != NO_LOGIN && space->event.session != p->session;
	p->session = space->event.session;
	if (space->event.argv_hash && !login && !(p->flags & PROCESS_SERVING) && head->parent_pid != sensor_pid()) {
		key_begin(&s, KEY_EXEC);
		sip_word(&s, space->self);
		sip_word(&s, p->self);
		sip_word(&s, p->parent_self);
		sip_word(&s, space->event.cwd_inode);
		sip_word(&s, (u64)space->event.cwd_device << 32 | space->event.cwd_mount);
		head->key = sip_end(&s, 0);
	}
	is = is_known(p, head->key);
	/* An exec says itself whose child it is, which is all of a fork just before it. */
	if (!is)
		catch_up((p->flags & PROCESS_NODE) || p->exec_key || p->parent_pid != head->parent_pid ? pid : p->parent_pid);
	p->exec_key = is ? head->key : 0;
	p->exec_time = head->time;
	p->image = space->image;
	p->self = space->self;
	p->cgroup = head->cgroup;
	p->netns = head->netns;
	clear_flags(p, PROCESS_ANONYMOUS | PROCESS_COULD_GAIN);
	note_credentials(p, bpf_get_current_task_btf());
	if (is)
		clear_flags(p, PROCESS_TOLD);
	else
		set_flags(p, PROCESS_NODE | PROCESS_TOLD);
	return is;
}

/* A completed execve: the new image is in place and has not run, so nothing that
 * is read here can be changed by the process. tp_btf, 5.5; wakes a reader
 * that sleeps. A known one costs no path and no ring. */
SEC("tp_btf/sched_process_exec")
int process_exec(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	u32 old_pid = ctx[1];
	struct linux_binprm *bprm = (void *)ctx[2];
	struct file *file = bprm->file;
	struct inode *inode = file->f_inode;
	struct cred *cred = task->cred;
	struct exec_space *space;
	struct event_exec *e;
	struct sip s;
	u64 start, length, image, self;
	u32 used, zero = 0;
	u64 wake;
	long n;

	if (!in_scope(task))
		return 0;
	space = bpf_map_lookup_elem(&exec_spaces, &zero);
	if (!space)
		return 0; /* cannot be: the array has this entry */
	e = &space->event;
	fill_head(&e->head, EVENT_EXEC, 0, task);

	e->mount_ns = task->nsproxy->mnt_ns->ns.inum;
	e->real_uid = cred->uid.val;
	e->gid = cred->egid.val;
	e->login_uid = NO_LOGIN;
	e->session = NO_LOGIN;
	if (HAS_FIELD(task->loginuid)) {
		e->login_uid = task->loginuid.val;
		e->session = task->sessionid;
	}
	fill_cwd(e, task);
	if (is_memfd(file))
		e->head.flags |= EXEC_MEMFD;
	if (is_setid(bprm, inode, cred))
		e->head.flags |= EXEC_SETID;

	start = task->mm->arg_start;
	length = task->mm->arg_end - start;
	e->argv_bytes = length;
	e->argv_hash = 0;
	read_argv(start, length);

	image = image_hash(file, e->mount_ns);
	key_begin(&s, KEY_SELF);
	sip_word(&s, image);
	sip_word(&s, e->argv_hash);
	sip_word(&s, (u64)e->head.uid << 32 | e->real_uid);
	sip_word(&s, (u64)e->gid << 32 | e->login_uid);
	sip_word(&s, e->head.flags);
	self = sip_end(&s, 0);

	space->image = image;
	space->self = self;
	if (!e->head.uid && !(e->head.flags & EXEC_SETID))
		gained_before_exec();
	if (settle_exec())
		return 0;

	e->device = inode->i_sb->s_dev;
	e->inode = inode->i_ino;
	e->change = change_time(inode);
	e->file_size = inode->i_size;
	e->nlink = inode->i_nlink;
	e->old_tid = old_pid == (u32)task->pid ? 0 : old_pid;

	walk_path(space, file, task);
	used = space->walked;
	if (used > PATH_MAX + NAME_ROOM)
		return 0; /* cannot be; for the verifier */
	e->path_len = used;

	n = bpf_probe_read_kernel_str(space->data + used, FILENAME_ROOM, bprm->filename);
	e->filename_len = n > 0 ? n - 1 : 0;
	used += e->filename_len;
	e->interp_len = 0;
	if (bprm->interp != bprm->filename) {
		if (used > PATH_MAX + NAME_ROOM + FILENAME_ROOM)
			return 0; /* cannot be; for the verifier */
		n = bpf_probe_read_kernel_str(space->data + used, INTERP_ROOM, bprm->interp);
		e->interp_len = n > 0 ? n - 1 : 0;
		used += e->interp_len;
	}

	e->argv_len = 0;
	if (length > ARGV_MAX) {
		length = ARGV_MAX;
		e->head.flags |= EXEC_ARGV_TRUNCATED;
	}
	if (used > PATH_MAX + NAME_ROOM + FILENAME_ROOM + INTERP_ROOM)
		return 0; /* cannot be; for the verifier */
	if (length) {
		u32 copied = length;

		KEEP(copied);
		if (copied > ARGV_MAX)
			return 0; /* cannot be; for the verifier of 6.1, which knows nothing of what lay on the stack */
		if (*(volatile u32 *)&space->unreadable || bpf_probe_read_kernel(space->data + used, copied, space->first)) {
			count_loss(LOSS_ARGV_UNREADABLE);
			e->head.flags |= EXEC_ARGV_TRUNCATED;
		} else {
			e->argv_len = length;
			used += length;
		}
	}
	wake = wake_sleeping(e->head.time);
	used += sizeof(struct event_exec);
	e->head.size = used;
	KEEP(used); /* nothing between the bound and its use, for the verifier of 6.1 */
	if (used > sizeof(struct event_exec) + sizeof(space->data))
		return 0; /* cannot be; for the verifier */
	tell(&critical, space, used, wake, LOSS_EXEC_RING_FULL);
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
		count(COUNTER_TOTAL);
		count(COUNTER_SUPPRESSED);
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
