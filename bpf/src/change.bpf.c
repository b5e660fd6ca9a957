// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Changes by name (rename, link, unlink …) and of attributes, and writes that no open
// was seen of. Every one of them moves the inode's change time, and the kernel says so
// while the call runs, in the task that makes it. What a call changed is noted there,
// with the name that it had; when the call has ended, the name that it has now tells
// what became of it. Names in the caller's memory are never read.

enum {
	URING_ENTER = 426, /* both ways of calling */
	OP_RENAMEAT = 35, /* IORING_OP_* that change more than a file's content */
	OP_UNLINKAT = 36,
	OP_LINKAT = 39,
	OP_FSETXATTR = 41,
	OP_SETXATTR = 42,
	OP_FTRUNCATE = 55,
};

INLINE u32 class_of_call(struct task_struct *task, u64 number)
{
	if (number >= CALLS_MAX)
		return CALL_NONE;
	return is_compat(task) ? compat_calls[number] : native_calls[number];
}

/* Notes an inode under one of its names; NULL: it has none yet. */
INLINE void remember_name(struct change *c, struct inode *inode, struct dentry *dentry)
{
	struct touched *t;
	u32 n = c->n, length;

	if (n >= TOUCHED_MAX) {
		count_loss(LOSS_FILE_UNMATCHED);
		return;
	}
	t = &c->at[n];
	c->n = n + 1;
	t->inode = (u64)inode;
	t->number = READ(inode->i_ino);
	t->device = READ_THROUGH(inode, i_sb, s_dev);
	t->mode = READ(inode->i_mode);
	t->dentry = (u64)dentry;
	if (!dentry)
		return;
	t->parent = (u64)READ(dentry->d_parent);
	t->name_hash = READ(dentry->d_name.hash_len);
	length = t->name_hash >> 32;
	KEEP(length);
	if (length <= NAME_MAX)
		bpf_probe_read_kernel(t->name, length, READ(dentry->d_name.name));
}

/* Notes an inode that the running call changes. */
INLINE void remember(struct inode *inode, u64 number, u32 tid)
{
	struct change *c = bpf_map_lookup_elem(&changes, &tid);
	struct file_space *space;

	if (!c) {
		space = file_space();
		if (!space)
			return;
		space->fresh.call = number;
		if (bpf_map_update_elem(&changes, &tid, &space->fresh, BPF_ANY)) {
			count_loss(LOSS_FILE_UNMATCHED);
			return;
		}
		c = bpf_map_lookup_elem(&changes, &tid);
		if (!c)
			return;
	}
	for (u32 i = 0; i < TOUCHED_MAX; i++)
		if (c->at[i].inode == (u64)inode)
			return;
	/* Each of its names: which of them the call is about is seen when it has ended. */
	for (u32 i = 0; i < ALIASES_MAX; i++) {
		u64 dentry = alias_of((u64)inode, i);

		if (i && !dentry)
			break;
		remember_name(c, inode, (void *)dentry);
	}
}

/* What an io_uring worker is at, as far as it is more than a write: the requests that
 * change names and attributes are always left to workers. */
INLINE u32 worker_op(struct task_struct *task)
{
	struct io_worker *worker = task->worker_private;
	struct io_kiocb *request = NULL;
	struct io_wq_work *work;

	if (!HAS_FIELD(worker->cur_work) || !HAS_FIELD(request->work) || !worker)
		return FILE_CHANGE;
	work = READ(worker->cur_work);
	if (!work)
		return FILE_CHANGE;
	request = (void *)work - __builtin_preserve_field_info(((struct io_kiocb *)0)->work, 0);
	switch (READ(request->opcode)) {
	case OP_RENAMEAT:
		return FILE_RENAME;
	case OP_UNLINKAT:
		return FILE_UNLINK;
	case OP_LINKAT:
		return FILE_LINK;
	case OP_FSETXATTR:
	case OP_SETXATTR:
		return FILE_SETXATTR;
	case OP_FTRUNCATE:
		return FILE_TRUNCATE;
	}
	return FILE_CHANGE;
}

/* A file that changes and no call of its own says why: it is written, through whatever
 * descriptor or mapping. op: FILE_WRITE, or what else is known of it. */
__attribute__((noinline)) int written(u64 inode_at, u32 op, u32 flags)
{
	struct file_space *space = file_space();
	struct inode *inode = (void *)inode_at;
	struct writer key = {};
	struct dentry *dentry;
	u32 mode;

	if (!space)
		return 0;
	mode = READ(inode->i_mode) & S_IFMT;
	if (mode == S_IFDIR && op != FILE_WRITE) {
		op = FILE_CHANGE;
		flags |= FILE_DIRECTORY;
	} else if (mode != S_IFREG) {
		return 0;
	}
	key.inode = READ(inode->i_ino);
	key.device = READ_THROUGH(inode, i_sb, s_dev);
	key.pid = bpf_get_current_pid_tgid() >> 32;
	if (mode == S_IFREG && (op == FILE_WRITE || op == FILE_CHANGE) && bpf_map_lookup_elem(&writers, &key))
		return 0;
	if (!look_inode(inode_at) || !is_told(space, op))
		return 0;
	if (mode == S_IFREG)
		now_writes(inode, key.device, key.pid);
	dentry = (void *)space->dentry;
	if (known_file(0, op, key.device, number_of(READ(dentry->d_parent)), name_of(dentry)))
		return 0;
	begin_file(space, inode, READ(dentry->d_parent), op, flags);
	space->event.watch = space->found.id;
	space->event.class = space->found.class;
	space->event.path_len = append_names((u64)dentry, 0, space->below);
	tell_file(space->found.critical);
	return 0;
}

#define TIME_OF(time) (READ((time).tv_sec) * NSEC_PER_SEC + READ((time).tv_nsec))

/* Whether what last happened to an inode is that it was read: what marks it dirty then is
 * its access time, which nothing else moves beyond its change time but utimes(2), and
 * that is told. */
INLINE bool was_read(struct inode *inode)
{
	struct inode___67 *i67 = (void *)inode;
	struct inode___66 *i66 = (void *)inode;
	struct inode___65 *i65 = (void *)inode;
	u64 changed, accessed;

	if (HAS_FIELD(inode->i_ctime_sec))
		changed = READ(inode->i_ctime_sec) * NSEC_PER_SEC + READ(inode->i_ctime_nsec);
	else if (HAS_FIELD(i66->__i_ctime))
		changed = TIME_OF(i66->__i_ctime);
	else
		changed = TIME_OF(i65->i_ctime);
	if (HAS_FIELD(inode->i_atime_sec))
		accessed = READ(inode->i_atime_sec) * NSEC_PER_SEC + READ(inode->i_atime_nsec);
	else if (HAS_FIELD(i67->__i_atime))
		accessed = TIME_OF(i67->__i_atime);
	else
		accessed = TIME_OF(i66->i_atime);
	return accessed > changed;
}

/* An inode's change time moves, or (dirty) something of it that may be that. named: only
 * of an inode that has a name (one that is read from the disk has none yet). */
INLINE int changed(u64 *ctx, bool named, bool dirty)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct inode *inode = NULL;
	struct pt_regs *regs;
	u32 class, op;
	bool read;

	if ((task->flags & PF_KTHREAD) || !in_scope(task))
		return 0;
	/* Copied, it is a number to the verifier, and so may be given to a function. */
	bpf_probe_read_kernel(&inode, sizeof(inode), ctx);
	if (named && !alias_of((u64)inode, 0))
		return 0;
	read = dirty && was_read(inode);
	if (task->flags & PF_IO_WORKER) {
		op = worker_op(task);
		return read && op == FILE_CHANGE ? 0 : written((u64)inode, op, FILE_URING);
	}
	regs = bpf_task_pt_regs(task);
	class = class_of_call(task, regs->orig_ax);
	if (class == CALL_NAME || class == CALL_ATTRIBUTE)
		remember(inode, regs->orig_ax, task->pid);
	else if (read)
		return 0;
	else if (regs->orig_ax == URING_ENTER)
		return written((u64)inode, FILE_CHANGE, FILE_URING);
	else if (class != CALL_OPEN)
		return written((u64)inode, FILE_WRITE, 0);
	return 0;
}

/* The change time of an inode on ext4, xfs, btrfs, tmpfs. tp_btf, 6.13. */
SEC("tp_btf/ctime_ns_xchg")
int inode_change(u64 *ctx)
{
	return changed(ctx, false, false);
}

/* The same within one tick of the clock. tp_btf, 6.13. */
SEC("tp_btf/ctime_xchg_skip")
int inode_change_again(u64 *ctx)
{
	return changed(ctx, false, false);
}

/* The same on other file systems, overlay among them, and when an inode is read.
 * tp_btf, 6.13. */
SEC("tp_btf/inode_set_ctime_to_ts")
int inode_change_plain(u64 *ctx)
{
	return changed(ctx, true, false);
}

/* What ext4 tells of itself. tp_btf, for kernels before 6.13. */
SEC("tp_btf/ext4_mark_inode_dirty")
int inode_change_ext4(u64 *ctx)
{
	return changed(ctx, false, true);
}

/* What every file system that has no journal of its own tells. tp_btf, for kernels
 * before 6.13. */
SEC("tp_btf/writeback_mark_inode_dirty")
int inode_change_dirty(u64 *ctx)
{
	return changed(ctx, true, true);
}

/* Whether a directory entry no longer leads to an inode. */
INLINE bool is_gone(struct dentry *dentry, struct inode *inode)
{
	return READ(dentry->d_inode) != inode || !READ(dentry->d_hash.pprev);
}

/* What a call made of one inode that it changed. 1: the inode is what the call was
 * about, watched or not. */
__attribute__((noinline)) int judge(u32 i, u32 op)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct change *c = bpf_map_lookup_elem(&changes, &tid);
	struct file_space *space = file_space();
	u64 leaf = 0, from = 0, target = 0, what, name;
	u32 critical = 0, before = 0, after = 0, length;
	u32 watch = 0, class = 0, below = WATCH_DEPTH, target_watch = 0, target_below = WATCH_DEPTH;
	struct dentry *dentry, *directory;
	struct inode *inode;
	struct touched *t;
	bool is_dir;

	/* One copy of it, for the verifier of 6.1. */
	KEEP(i);
	if (!c || !space || i >= TOUCHED_MAX)
		return 0;
	KEEP(i);
	t = &c->at[i];
	inode = (void *)t->inode;
	is_dir = (t->mode & S_IFMT) == S_IFDIR;
	for (u32 j = 0; j < TOUCHED_MAX; j++) {
		if (j == i || c->at[j].inode != t->inode)
			continue;
		/* Of several names it is the one that went, or any: then the first. */
		if (op == FILE_UNLINK ? !is_gone((void *)t->dentry, inode) : op != FILE_RENAME && j < i)
			return 0;
	}
	/* By way of memory it is a number to the verifier, which a function may be given. */
	*(volatile u64 *)&space->pointer = (u64)t->name;
	name = *(volatile u64 *)&space->pointer;
	length = t->name_hash >> 32;
	switch (op) {
	case FILE_UNLINK:
		if (is_dir || !t->dentry)
			return 0;
		leaf = name;
		from = t->parent;
		break;
	case FILE_RMDIR:
		if (!is_dir || !t->dentry)
			return 0;
		for (u32 j = 0; j < TOUCHED_MAX; j++)
			if (j != i && c->at[j].dentry == t->parent)
				leaf = name;
		if (!leaf)
			return 0;
		from = t->parent;
		break;
	case FILE_RENAME:
		dentry = (void *)t->dentry;
		if (!dentry || READ(dentry->d_inode) != inode)
			return 0;
		if ((u64)READ(dentry->d_parent) == t->parent && READ(dentry->d_name.hash_len) == t->name_hash)
			return 0;
		leaf = name;
		from = t->parent;
		target = t->dentry;
		break;
	case FILE_LINK:
		if (is_dir || !t->dentry)
			return 0;
		leaf = name;
		from = t->parent;
		target = alias_of(t->inode, 0);
		break;
	case FILE_SYMLINK:
	case FILE_MKDIR:
	case FILE_MKNOD:
		if (t->dentry)
			return 0;
		from = alias_of(t->inode, 0);
		if (!from)
			return 0;
		break;
	default: /* attributes */
		from = t->dentry;
		if (!from)
			return 0;
	}
	before = look(from, leaf, length);
	if (!before && (op >= FILE_CHMOD || op == FILE_UNLINK || op == FILE_LINK) && look_inode(t->inode)) {
		before = 1;
		leaf = 0;
		from = space->dentry;
	}
	if (before) {
		before = is_told(space, op);
		critical = space->found.critical;
		watch = space->found.id;
		class = space->found.class;
		below = space->below;
	}
	if (target && look(target, 0, 0)) {
		after = is_told(space, op);
		critical |= space->found.critical;
		/* What is watched for itself keeps its path; the new name is another. */
		if (space->below || (space->found.flags & WATCH_TREE)) {
			target_watch = space->found.id;
			target_below = space->below;
		}
		if (!class || after)
			class = space->found.class;
	}
	if (!before && !after)
		return 1;
	dentry = (void *)from;
	what = leaf ? hash_name(leaf, length, NAME_IN_DIRECTORY) : name_of(dentry);
	directory = leaf ? dentry : READ(dentry->d_parent);
	if (target) {
		dentry = (void *)target;
		directory = READ(dentry->d_parent);
		what ^= hash_name((u64)READ(dentry->d_name.name), READ(dentry->d_name.hash_len) >> 32, NAME_IN_CHILD);
	}
	if (known_file(0, op, t->device, number_of(directory), what))
		return 1;
	begin_file(space, inode, directory, op, watch ? 0 : FILE_PATH_TRUNCATED);
	space->event.inode = t->number;
	space->event.device = t->device;
	if (op == FILE_UNLINK || op == FILE_RMDIR) { /* the inode may be gone */
		space->event.mode = t->mode;
		space->event.nlink = 0;
	}
	space->event.watch = watch;
	space->event.target_watch = target_watch;
	space->event.class = class;
	space->event.path_len = append_names(from, leaf, below);
	if (target)
		space->event.target_len = append_names(target, 0, target_below);
	if (op == FILE_SYMLINK) {
		const char *text = READ(inode->i_link);

		before = space->used;
		if (text && append_file_name(space, text)) {
			space->event.target_len = space->used - before;
			space->event.head.flags |= FILE_TEXT_TARGET;
		}
	}
	tell_file(critical);
	return 1;
}

/* What the end of a call says of the inodes that it changed. */
INLINE int settle_changes(u64 *ctx, bool whole)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u32 tid = task->pid, subjects = 0, op;
	struct change *c;
	struct call call;

	c = bpf_map_lookup_elem(&changes, &tid);
	if (!c)
		return 0;
	read_call(&call, ctx, task);
	if (call.result >= 0 && c->call == call.number && call.number < CALLS_MAX) {
		op = call.compat ? compat_ops[call.number] : native_ops[call.number];
		if (op == FILE_UNLINK && call.number == (call.compat ? 301 : 263) && (call.args[2] & 0x200))
			op = FILE_RMDIR; /* unlinkat with AT_REMOVEDIR */
		for (u32 i = 0; i < TOUCHED_MAX; i++)
			if (i < c->n)
				subjects += judge(i, op);
		/* A file system that makes the inode elsewhere, as overlay does: what is
		 * left to say is where. */
		if (whole && !subjects)
			for (u32 i = 0; i < TOUCHED_MAX; i++)
				if (i < c->n && (c->at[i].mode & S_IFMT) == S_IFDIR)
					written(c->at[i].inode, FILE_CHANGE, 0);
	}
	bpf_map_delete_elem(&changes, &tid);
	return 0;
}

/* rename, link, symlink, unlink, mkdir, rmdir, mknod. tp_btf, 5.15. */
SEC("tp_btf/sys_exit")
int call_name(u64 *ctx)
{
	return settle_changes(ctx, true);
}

/* chmod, chown, utimes, truncate, setxattr, removexattr, by name or descriptor. tp_btf,
 * 5.15. */
SEC("tp_btf/sys_exit")
int call_attribute(u64 *ctx)
{
	return settle_changes(ctx, false);
}
