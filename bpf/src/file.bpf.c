// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Files on the watched set, and what is mapped to be executed. What is told is read
// from the open file and its directory entries after the call, never from the names
// that the caller gave: symbolic links, bind mounts, relative paths, /proc/self/root
// and another thread that rewrites them make no difference.

enum {
	OPEN_ACCESS = 3, /* O_ACCMODE */
	OPEN_CREATE = 0100,
	OPEN_TRUNCATE = 01000,
	FMODE_CREATED = 1 << 20,
	S_IFREG = 0100000,
	S_IWOTH = 0002,
	OP_OPENAT = 18, /* IORING_OP_* */
	OP_OPENAT2 = 28,
};

const volatile u32 tell_files = 0; /* 1: there are files to be told of */
const volatile u8 native_ops[CALLS_MAX] = {}; /* enum file_op by system call */
const volatile u8 compat_ops[CALLS_MAX] = {};

/* Appends a file's whole path, as walk_path does for an image; here the pointers are
 * none to the verifier. */
__attribute__((noinline)) int append_path(u64 file_at)
{
	struct file_space *space = file_space();
	struct task_struct *task = bpf_get_current_task_btf();
	struct file *file = (void *)file_at;
	struct dentry *root = task->fs->root.dentry;
	struct vfsmount *root_vfs = task->fs->root.mnt;
	struct dentry *dentry = READ(file->f_path.dentry);
	struct vfsmount *vfs = READ(file->f_path.mnt);
	struct dentry *top = READ(vfs->mnt_root);
	u32 before;

	if (!space)
		return 0;
	before = space->used;
	for (u32 i = 0; i < PATH_STEPS_MAX; i++) {
		struct dentry *parent;

		if (dentry == root && vfs == root_vfs)
			break;
		if (dentry == top) {
			struct mount *mount = (void *)vfs - __builtin_preserve_field_info(((struct mount *)0)->mnt, 0);
			struct mount *up = READ(mount->mnt_parent);

			if (up == mount)
				break;
			dentry = READ(mount->mnt_mountpoint);
			vfs = __builtin_preserve_access_index(&up->mnt);
			top = READ(vfs->mnt_root);
			continue;
		}
		if (space->used - before > FILE_PATH_MAX - NAME_ROOM || !append_file_name(space, READ(dentry->d_name.name))) {
			space->event.head.flags |= FILE_PATH_TRUNCATED;
			break;
		}
		parent = READ(dentry->d_parent);
		if (dentry == parent)
			break;
		dentry = parent;
	}
	return space->used - before;
}

/* Begins an event in the space. */
INLINE void begin_file(struct file_space *space, struct inode *inode, struct dentry *directory, enum file_op op, u32 flags)
{
	struct event_file *e = &space->event;
	struct task_struct *task = bpf_get_current_task_btf();

	fill_head(&e->head, EVENT_FILE, 0, task);
	e->head.flags = flags;
	e->inode = READ(inode->i_ino);
	e->device = READ_THROUGH(inode, i_sb, s_dev);
	e->directory = READ_THROUGH(directory, d_inode, i_ino);
	e->watch = 0;
	e->target_watch = 0;
	e->mode = READ(inode->i_mode);
	e->open_flags = 0;
	e->result = 0;
	e->mount_ns = task->nsproxy->mnt_ns->ns.inum;
	e->pad2 = 0;
	e->owner = READ(inode->i_uid.val);
	e->nlink = READ(inode->i_nlink);
	e->op = op;
	e->class = 0;
	e->path_len = 0;
	e->target_len = 0;
	*(volatile u32 *)&space->used = 0;
}

INLINE bool left_out(u32 critical)
{
	u32 zero = 0;
	struct budget *b = bpf_map_lookup_elem(&budget, &zero);
	u32 shift = b ? *(volatile u32 *)&b->file_sample_shift : 0;

	if (!shift || critical)
		return false;
	return bpf_get_prandom_u32() & ((1U << (shift & 31)) - 1);
}

/* Whether what this task does needs no telling. image: 0 for its own; what: the
 * behaviour beside who, the operation and where. Asked before anything is read that
 * only an event needs. */
__attribute__((noinline)) int known_file(u64 image, u32 op, u32 device, u64 directory, u64 what)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct file_space *space = file_space();
	struct process *p = process_of_task(task);

	if (!space)
		return 1;
	if (!image && p)
		image = p->image;
	space->key = key_of(KEY_FILE, image, op, (u64)device << 32 | task->nsproxy->mnt_ns->ns.inum, directory, what);
	return is_known(p, space->key, 0);
}

/* Tells the event in the space, of the behaviour that known_file was asked about. */
__attribute__((noinline)) int tell_file(u32 critical)
{
	struct file_space *space = file_space();
	struct event_file *e;
	struct process *p;
	u32 used;

	if (!space)
		return 0;
	e = &space->event;
	p = process_of(e->head.pid, e->head.start);
	e->head.key = space->key;
	if (!(p && (p->flags & PROCESS_TAINTED)) && left_out(critical)) {
		count(COUNTER_TOTAL);
		count_loss(LOSS_FILE_SAMPLED);
		return 0;
	}
	introduce(&e->head, e->head.pid);
	used = *(volatile u32 *)&space->used;
	if (used > sizeof(space->data))
		return 0; /* cannot be; for the verifier */
	used += sizeof(*e);
	e->head.size = used;
	tell(&bulk, space, used, wake_when_full(&bulk, bulk_wake_bytes, e->head.time), LOSS_FILE_RING_FULL);
	return 0;
}

INLINE bool is_told(struct file_space *space, enum file_op op)
{
	return space->found.ops & 1U << op;
}

/* Notes that a process is known to write to a file; false: it was. */
INLINE bool now_writes(struct inode *inode, u32 device, u32 pid)
{
	struct writer key = {};
	u64 now = bpf_ktime_get_boot_ns();

	key.inode = READ(inode->i_ino);
	key.device = device;
	key.pid = pid;
	if (bpf_map_lookup_elem(&writers, &key))
		return false;
	bpf_map_update_elem(&writers, &key, &now, BPF_ANY);
	return true;
}

/* A file that was opened. flags: what the open asked for, as far as that is in
 * registers; head_flags: of the event. */
__attribute__((noinline)) int opened(u64 file_at, u32 flags, u32 head_flags)
{
	struct file_space *space = file_space();
	struct file *file = (void *)file_at;
	enum file_op op = FILE_WRITE;
	struct super_block *sb;
	struct dentry *dentry;
	struct inode *inode;
	u32 mode, imode, device;
	bool typed = bpf_rdonly_cast;

	if (!space || !file)
		return 0;
	GIVE_TYPE(file);
	mode = LOAD(file->f_mode);
	if (!(mode & (FMODE_WRITE | FMODE_CREATED)) && !(flags & OPEN_TRUNCATE))
		return 0;
	inode = LOAD(file->f_inode);
	dentry = LOAD(file->f_path.dentry);
	imode = LOAD(inode->i_mode);
	sb = LOAD(inode->i_sb);
	device = LOAD(sb->s_dev);
	if ((imode & S_IFMT) != S_IFREG)
		return 0;
	if (mode & FMODE_CREATED)
		op = FILE_CREATE;
	else if ((flags & OPEN_TRUNCATE) && !LOAD(inode->i_size))
		op = FILE_TRUNCATE;
	dentry = (void *)as_number(space, dentry);
	inode = (void *)as_number(space, inode);
	if (look((u64)dentry, 0, 0))
		space->dentry = (u64)dentry;
	else if (READ(inode->i_nlink) < 2 || !look_inode((u64)inode))
		return 0;
	dentry = (void *)space->dentry;
	now_writes(inode, device, bpf_get_current_pid_tgid() >> 32);
	if (!is_told(space, op))
		return 0;
	if (known_file(0, op, device, number_of(READ(dentry->d_parent)), name_of(dentry)))
		return 0;
	begin_file(space, inode, READ(dentry->d_parent), op, head_flags);
	space->event.watch = space->found.id;
	space->event.class = space->found.class;
	space->event.open_flags = LOAD(file->f_flags);
	space->event.path_len = append_names((u64)dentry, 0, space->below);
	tell_file(space->found.critical);
	return 0;
}

/* open, openat, openat2, creat, open_by_handle_at that gave a descriptor. tp_btf, 5.5;
 * one that only reads costs what the registers say. */
SEC("tp_btf/sys_exit")
int call_open(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct file *file;
	u64 flags = 0;
	struct call call;
	u32 number;

	read_call(&call, ctx, task);
	if (call.result < 0)
		return 0;
	number = call.number;
	/* Where the flags are: native, then by int 0x80. */
	if (number == 437) { /* openat2: in memory */
		bpf_probe_read_user(&flags, sizeof(flags), (void *)call.args[2]);
		flags |= OPEN_CREATE;
	} else if (number == (call.compat ? 8 : 85)) { /* creat */
		flags = OPEN_CREATE | OPEN_TRUNCATE;
	} else if (number == (call.compat ? 5 : 2)) { /* open */
		flags = call.args[1];
	} else {
		flags = call.args[2];
	}
	if (!(flags & (OPEN_ACCESS | OPEN_CREATE | OPEN_TRUNCATE)))
		return 0;
	file = file_of(task, call.result);
	if (file)
		proc_mem_opened(task, &call, file);
	if (tell_files)
		opened((u64)file, flags, 0);
	return 0;
}

/* The end of an io_uring request, in the task whose ring it is or in a worker of the
 * same process, which has the same descriptors. tp_btf, 5.19 for what the request
 * says. */
SEC("tp_btf/io_uring_complete")
int uring_complete(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct io_kiocb *request = (void *)ctx[1];
	s32 result;
	u8 op;

	if (!request)
		return 0;
	op = READ(request->opcode);
	if (op != OP_OPENAT && op != OP_OPENAT2)
		return 0;
	result = READ(request->cqe.res);
	/* An open into the ring's own table gives 0 and no descriptor; writing through it
	 * is seen when it changes the file. */
	if (result < 0 || !in_scope(task))
		return 0;
	opened((u64)file_of(task, result), OPEN_CREATE, FILE_URING);
	return 0;
}

/* A file that was mapped to be executed. A library is one behaviour of the host, not
 * one of each program that loads it; what lies where nothing is installed is told
 * always. */
__attribute__((noinline)) int mapped_file(u32 fd)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct file_space *space = file_space();
	struct dentry *dentry, *parent;
	struct inode *inode, *above;
	struct process *p;
	struct file *file;
	u32 flags = FILE_WHOLE, device;
	u64 image;

	if (!space)
		return 0;
	file = file_of(task, fd);
	if (!file)
		return 0;
	inode = READ(file->f_inode);
	if ((READ(inode->i_mode) & S_IFMT) != S_IFREG)
		return 0;
	dentry = READ(file->f_path.dentry);
	parent = READ(dentry->d_parent);
	above = READ(parent->d_inode);
	if (parent == dentry) /* in no directory: a memfd, or shared memory */
		flags |= FILE_MEMFD;
	else if (READ(above->i_mode) & S_IWOTH)
		flags |= FILE_OPEN_PLACE;
	device = READ_THROUGH(inode, i_sb, s_dev);
	p = process_of_task(task);
	if (keep_known && flags == FILE_WHOLE && READ(inode->i_nlink) && !READ(inode->i_uid.val) &&
	    !(p && (p->flags & PROCESS_TAINTED)) && !now_writes(inode, device, 0)) {
		count_kept();
		return 0;
	}
	image = HASH(KEY_IMAGE, device, READ(inode->i_ino), READ(inode->i_size));
	if (known_file(image, FILE_MAP_EXEC, device, 0, 0))
		return 0;
	begin_file(space, inode, parent, FILE_MAP_EXEC, flags);
	space->event.path_len = append_path((u64)file);
	tell_file(flags != FILE_WHOLE);
	return 0;
}

/* The end of mmap, mprotect and pkey_mprotect. tp_btf, 5.17 for bpf_find_vma. */
SEC("tp_btf/sys_exit")
int call_map(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct call call;

	read_call(&call, ctx, task);
	anonymous_exec(task, &call);
	if (!tell_files || (call.result < 0 && call.result > -4096) || is_call(&call, 10, 125) || is_call(&call, 329, 380))
		return 0; /* refused, or mprotect and pkey_mprotect, which map nothing */
	if (call.compat && call.number == 90) { /* the old mmap has its arguments in memory */
		u32 args[6] = {};

		bpf_probe_read_user(args, sizeof(args), (void *)call.args[0]);
		for (int i = 0; i < 6; i++)
			call.args[i] = args[i];
	}
	if (!(call.args[2] & PROT_EXEC) || (call.args[3] & MAP_ANONYMOUS))
		return 0;
	mapped_file(call.args[4]);
	return 0;
}

/* Who a descriptor of the caller's own leads to. Run by user space itself
 * (BPF_PROG_TEST_RUN), 5.10; never attached. */
SEC("raw_tp/resolve_file")
int resolve_file(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct file_identity *out;
	struct inode *inode;
	struct file *file;
	u32 zero = 0;

	out = bpf_map_lookup_elem(&resolved, &zero);
	if (!out)
		return 0;
	out->mode = 0;
	file = file_of(task, ctx[0]);
	if (!file)
		return 0;
	inode = READ(file->f_inode);
	out->inode = READ(inode->i_ino);
	out->device = READ_THROUGH(inode, i_sb, s_dev);
	out->mode = READ(inode->i_mode);
	return 0;
}
