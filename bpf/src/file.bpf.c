// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Files on the watched set, and what is mapped to be executed. What is told is read
// from the open file and its directory entries after the call, never from the names
// that the caller gave: symbolic links, bind mounts, relative paths, /proc/self/root
// and another thread that rewrites them make no difference.
//
// A file is watched when it, one of the directories above it, or its name in one of
// them is in `watched`.

enum {
	/* Directories looked at above a file. /usr/lib/modules/V/kernel/drivers/net/ethernet/
	 * X/Y/Z.ko is ten below /usr/lib. */
	WATCH_DEPTH = 10,
	ALIASES_MAX = 4, /* names of one inode that are looked at */
	OPEN_ACCESS = 3, /* O_ACCMODE */
	OPEN_CREATE = 0100,
	OPEN_TRUNCATE = 01000,
	FMODE_WRITE = 2,
	FMODE_CREATED = 1 << 20,
	S_IFMT = 0170000,
	S_IFDIR = 0040000,
	S_IFREG = 0100000,
	S_IWOTH = 0002,
	PROC_SUPER_MAGIC = 0x9fa0,
	TMPFS_MAGIC = 0x01021994,
	PROT_EXEC = 4,
	MAP_ANONYMOUS = 0x20,
	OP_OPENAT = 18, /* IORING_OP_* */
	OP_OPENAT2 = 28,
	NAME_MAX = 255,
};

/* What names are hashed for; one that stands in a directory's children is another. */
enum { NAME_IN_DIRECTORY = 1, NAME_IN_CHILD = 2 };

const volatile u8 native_ops[CALLS_MAX] = {}; /* enum file_op by system call */
const volatile u8 compat_ops[CALLS_MAX] = {};

INLINE struct file_space *file_space(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&file_spaces, &zero);
}

INLINE u64 number_of(struct dentry *dentry)
{
	return READ_THROUGH(dentry, d_inode, i_ino);
}

/* The keyed hash of a name in kernel memory; user space makes the same. */
__attribute__((noinline)) u64 hash_name(u64 name, u32 length, u32 where)
{
	struct file_space *space = file_space();
	u32 words;

	if (!space || length > NAME_MAX)
		return 0;
	KEEP(length);
	if (length > NAME_MAX || bpf_probe_read_kernel(space->name, length, (void *)name))
		return 0;
	words = (length + 7) / 8;
	if (length % 8 && length / 8 < NAME_WORDS)
		space->name[length / 8] &= (1ULL << length % 8 * 8) - 1;
	sip_begin(&space->hash, sip_key[0], sip_key[1]);
	sip_word(&space->hash, where);
	for (u32 i = 0; i < NAME_WORDS && i < words; i++)
		sip_word(&space->hash, space->name[i]);
	return sip_end(&space->hash, length);
}

/* A field by a plain load where the kernel lets a number be given a type, which costs a
 * tenth of what a copy does. */
#define LOAD(field) (typed ? (field) : READ(field))

/* The same of a name whose pointer the verifier may know: by way of memory it becomes
 * a number, which a function may be given. */
INLINE u64 hash_child(struct file_space *space, u64 name, u32 length, u32 where)
{
	*(volatile u64 *)&space->pointer = name;
	return hash_name(*(volatile u64 *)&space->pointer, length, where);
}

/* Looks up from a directory entry whether it is watched; leaf: a name in it that is
 * meant instead of it, since its own entry is gone. 1: the space says by what. */
__attribute__((noinline)) int look(u64 from, u64 leaf, u32 leaf_length)
{
	struct file_space *space = file_space();
	struct dentry *dentry = (void *)from;
	u64 child = leaf, grandchild = 0;
	u32 child_length = leaf_length, grandchild_length = 0;
	u32 below = leaf ? 1 : 0;
	struct watch_key key = {};
	struct watch *w, *named;
	bool typed = bpf_rdonly_cast;

	if (!space || !dentry)
		return 0;
	key.device = READ_THROUGH(dentry, d_sb, s_dev);
	if (typed)
		dentry = bpf_rdonly_cast(dentry, TYPE_ID(struct dentry));
	for (u32 i = 0; i < WATCH_DEPTH; i++, below++) {
		struct inode *inode = LOAD(dentry->d_inode);
		struct dentry *parent;

		key.inode = LOAD(inode->i_ino);
		key.name = 0;
		w = bpf_map_lookup_elem(&watched, &key);
		if (w) {
			u32 flags = w->flags;

			named = NULL;
			if ((flags & WATCH_NAMES) && child) {
				key.name = hash_child(space, child, child_length, NAME_IN_DIRECTORY);
				named = bpf_map_lookup_elem(&watched, &key);
				if (named && below > 1 && !(named->flags & WATCH_TREE))
					named = NULL;
			}
			if (!named && (flags & WATCH_STARS) && grandchild) {
				key.name = hash_child(space, grandchild, grandchild_length, NAME_IN_CHILD);
				named = bpf_map_lookup_elem(&watched, &key);
				if (named && below > 2 && !(named->flags & WATCH_TREE))
					named = NULL;
			}
			if (!named && ((flags & WATCH_TREE) || ((flags & WATCH_SELF) && !below)))
				named = w;
			if (named) {
				space->found = *named;
				space->below = below;
				return 1;
			}
		}
		parent = LOAD(dentry->d_parent);
		if (parent == dentry)
			break;
		grandchild = child;
		grandchild_length = child_length;
		child = (u64)LOAD(dentry->d_name.name);
		child_length = LOAD(dentry->d_name.hash_len) >> 32;
		dentry = parent;
	}
	return 0;
}

/* The nth name that the kernel remembers of an inode; 0: none. */
__attribute__((noinline)) u64 alias_of(u64 inode_at, u32 nth)
{
	struct inode *inode = (void *)inode_at;
	struct hlist_node *node = READ(inode->i_dentry.first);

	for (u32 i = 0; i < ALIASES_MAX && node; i++) {
		if (i == nth)
			return (u64)node - __builtin_preserve_field_info(((struct dentry *)0)->d_u.d_alias, 0);
		node = READ(node->next);
	}
	return 0;
}

/* Looks whether an inode is watched by any of its names. 1: the space says by what,
 * and which name. */
__attribute__((noinline)) int look_inode(u64 inode)
{
	struct file_space *space = file_space();

	if (!space)
		return 0;
	for (u32 i = 0; i < ALIASES_MAX; i++) {
		u64 dentry = alias_of(inode, i);

		if (!dentry)
			break;
		if (look(dentry, 0, 0)) {
			space->dentry = dentry;
			return 1;
		}
	}
	return 0;
}

INLINE bool append_file_name(struct file_space *space, const void *name)
{
	u32 used = *(volatile u32 *)&space->used;
	long n;

	if (used > 2 * FILE_PATH_MAX)
		return false;
	n = bpf_probe_read_kernel_str(space->data + used, NAME_ROOM, name);
	if (n <= 0)
		return false;
	*(volatile u32 *)&space->used = used + n;
	return true;
}

/* Appends so many names, from a leaf (if there is one) or an entry upward, and returns
 * their bytes. */
__attribute__((noinline)) int append_names(u64 from, u64 leaf, u32 names)
{
	struct file_space *space = file_space();
	struct dentry *dentry = (void *)from;
	u32 before;

	if (!space)
		return 0;
	before = space->used;
	if (leaf) {
		if (!names || !append_file_name(space, (void *)leaf))
			return space->used - before;
		names--;
	}
	for (u32 i = 0; i < WATCH_DEPTH && i < names; i++) {
		struct dentry *parent = READ(dentry->d_parent);

		if (parent == dentry || !append_file_name(space, READ(dentry->d_name.name)))
			break;
		dentry = parent;
	}
	return space->used - before;
}

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
	e->target_pid = 0;
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

/* Tells the event in the space, unless it is known. what: the behaviour beside who and
 * the operation, by the directory; image: 0 for who did it. */
__attribute__((noinline)) int tell_file(u64 image, u64 what, u32 critical)
{
	struct file_space *space = file_space();
	struct event_file *e;
	struct process *p;
	u32 used;

	if (!space)
		return 0;
	e = &space->event;
	p = process_of(e->head.pid, e->head.start);
	if (!image && p)
		image = p->image;
	e->head.key = key_of(KEY_FILE, image, e->op, (u64)e->device << 32 | e->mount_ns, e->directory, what);
	if (is_known(p, e->head.key))
		return 0;
	if (!(p && (p->flags & PROCESS_TAINTED)) && left_out(critical)) {
		count(COUNTER_TOTAL);
		count_loss(LOSS_FILE_SAMPLED);
		return 0;
	}
	catch_up(e->head.pid);
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

/* Another process's memory: /proc/PID/mem or /proc/PID/task/TID/mem. */
INLINE bool opened_memory(struct file_space *space, struct inode *inode, struct dentry *dentry)
{
	struct proc_inode *proc = (void *)inode - __builtin_preserve_field_info(((struct proc_inode *)0)->vfs_inode, 0);
	struct task_struct *task = bpf_get_current_task_btf();
	char name[4] = {};
	struct pid *pid;
	u32 target;

	bpf_probe_read_kernel(name, sizeof(name), READ(dentry->d_name.name));
	if (name[0] != 'm' || name[1] != 'e' || name[2] != 'm' || name[3])
		return false;
	pid = READ(proc->pid);
	target = pid ? READ(pid->numbers[0].nr) : 0;
	if (!target || target == (u32)task->tgid)
		return false;
	begin_file(space, inode, READ(dentry->d_parent), FILE_PROC_MEM, 0);
	space->event.target_pid = target;
	space->event.path_len = append_names((u64)dentry, 0, WATCH_DEPTH);
	tell_file(0, 0, 1);
	return true;
}

/* A file that was opened. flags: what the open asked for, as far as that is in
 * registers; head_flags: of the event. */
__attribute__((noinline)) int opened(u64 file_at, u32 flags, u32 head_flags)
{
	struct file_space *space = file_space();
	struct file *file = (void *)file_at;
	enum file_op op = FILE_WRITE;
	struct dentry *dentry;
	struct inode *inode;
	u32 mode, imode;

	if (!space || !file)
		return 0;
	mode = READ(file->f_mode);
	if (!(mode & (FMODE_WRITE | FMODE_CREATED)) && !(flags & OPEN_TRUNCATE))
		return 0;
	inode = READ(file->f_inode);
	dentry = READ(file->f_path.dentry);
	imode = READ(inode->i_mode);
	if ((imode & S_IFMT) != S_IFREG)
		return 0;
	if (READ_THROUGH(inode, i_sb, s_magic) == PROC_SUPER_MAGIC) {
		opened_memory(space, inode, dentry);
		return 0;
	}
	if (mode & FMODE_CREATED)
		op = FILE_CREATE;
	else if ((flags & OPEN_TRUNCATE) && !READ(inode->i_size))
		op = FILE_TRUNCATE;
	if (look((u64)dentry, 0, 0))
		space->dentry = (u64)dentry;
	else if (READ(inode->i_nlink) < 2 || !look_inode((u64)inode))
		return 0;
	dentry = (void *)space->dentry;
	now_writes(inode, READ_THROUGH(inode, i_sb, s_dev), bpf_get_current_pid_tgid() >> 32);
	if (!is_told(space, op))
		return 0;
	begin_file(space, inode, READ(dentry->d_parent), op, head_flags);
	space->event.watch = space->found.id;
	space->event.class = space->found.class;
	space->event.open_flags = READ(file->f_flags);
	space->event.path_len = append_names((u64)dentry, 0, space->below);
	tell_file(0, hash_name((u64)READ(dentry->d_name.name), READ(dentry->d_name.hash_len) >> 32, NAME_IN_DIRECTORY),
		  space->found.critical);
	return 0;
}

/* The open file behind a descriptor of this task. */
INLINE struct file *file_of(struct task_struct *task, u32 fd)
{
	struct fdtable *table = task->files->fdt;
	struct file *file = NULL;

	if (fd < table->max_fds)
		bpf_probe_read_kernel(&file, sizeof(file), READ(table->fd) + fd);
	return file;
}

/* open, openat, openat2, creat, open_by_handle_at that gave a descriptor. tp_btf, 5.5;
 * one that only reads costs what the registers say. */
SEC("tp_btf/sys_exit")
int call_open(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
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
	opened((u64)file_of(task, call.result), flags, 0);
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
INLINE void mapped_file(struct call *call, struct task_struct *task)
{
	struct file_space *space = file_space();
	struct dentry *dentry, *parent;
	struct inode *inode, *above;
	struct file *file;
	struct sip s;
	u32 flags = FILE_WHOLE, device;
	u64 image;

	if (!space)
		return;
	file = file_of(task, call->args[4]);
	if (!file)
		return;
	inode = READ(file->f_inode);
	if ((READ(inode->i_mode) & S_IFMT) != S_IFREG)
		return;
	dentry = READ(file->f_path.dentry);
	parent = READ(dentry->d_parent);
	above = READ(parent->d_inode);
	if (parent == dentry) /* in no directory: a memfd, or shared memory */
		flags |= FILE_MEMFD;
	else if (READ(above->i_mode) & S_IWOTH)
		flags |= FILE_OPEN_PLACE;
	device = READ_THROUGH(inode, i_sb, s_dev);
	if (flags == FILE_WHOLE && READ(inode->i_nlink) && !READ(inode->i_uid.val) && !now_writes(inode, device, 0)) {
		count(COUNTER_TOTAL);
		count(COUNTER_SUPPRESSED);
		return;
	}
	begin_file(space, inode, parent, FILE_MAP_EXEC, flags);
	key_begin(&s, KEY_IMAGE);
	sip_word(&s, device);
	sip_word(&s, space->event.inode);
	sip_word(&s, READ(inode->i_size));
	image = sip_end(&s, 0);
	space->event.path_len = append_path((u64)file);
	tell_file(image, 0, flags != FILE_WHOLE);
}

/* mmap that gave executable memory. tp_btf, 5.5. */
SEC("tp_btf/sys_exit")
int call_map(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct call call;

	read_call(&call, ctx, task);
	if (call.result < 0 && call.result > -4096)
		return 0;
	if (call.compat && call.number == 90) { /* the old mmap has its arguments in memory */
		u32 args[6] = {};

		bpf_probe_read_user(args, sizeof(args), (void *)call.args[0]);
		for (int i = 0; i < 6; i++)
			call.args[i] = args[i];
	}
	if (!(call.args[2] & PROT_EXEC) || (call.args[3] & MAP_ANONYMOUS))
		return 0;
	mapped_file(&call, task);
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
