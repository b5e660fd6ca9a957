// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// From the numbers in a call's registers to the kernel's own objects: which file a
// descriptor is, which task a process number means where the caller lives.

enum {
	XA_LEVELS_MAX = 8, /* of six bits: more than a process number has */
	XA_SLOT_MASK = 63,
	XA_NODE_MASK = 3, /* the low bits of a pointer to a node are 2 */
	XA_NODE = 2,
	PIDTYPE_PID = 0,
	MOUNT_TREE_MAX = 40, /* a red-black tree of 2^20 mounts is no deeper */
	MOUNT_PATH_STEPS = 48,
	PIDFS_MAGIC = 0x50494446,
};

INLINE struct task_struct *task_of_pid(struct pid *pid)
{
	struct hlist_node *node = pid ? READ(pid->tasks[PIDTYPE_PID].first) : NULL;

	if (!node)
		return NULL;
	return (void *)node - __builtin_preserve_field_info(((struct task_struct *)0)->pid_links, 0);
}

/* The process-number namespace that a task lives in: level 0 is the machine's. */
INLINE struct pid_namespace *pid_namespace_of(struct task_struct *task, bool machine)
{
	struct pid *pid = task->thread_pid;
	struct upid *numbers = __builtin_preserve_access_index(&pid->numbers[0]);
	u32 level = machine ? 0 : pid->level;
	struct upid *at = numbers + level;

	return READ(at->ns);
}

/* Who has a number in a namespace, as find_pid_ns() has it: the numbers are an xarray,
 * whose nodes take six bits each. Whoever has the number now is named: one that the call
 * was carried out on can not be gone before the call ends, unless it was killed. */
INLINE struct pid *pid_of_number(struct pid_namespace *ns, u32 number)
{
	u64 entry = (u64)READ(ns->idr.idr_rt.xa_head);

	for (int i = 0; i < XA_LEVELS_MAX; i++) {
		struct xa_node *node;
		u32 shift;

		if ((entry & XA_NODE_MASK) != XA_NODE)
			break;
		node = (void *)(entry - XA_NODE);
		shift = READ(node->shift);
		if (i == 0 && shift < 32 && (number >> shift) > XA_SLOT_MASK)
			return NULL;
		void **slots = __builtin_preserve_access_index(&node->slots[0]);

		entry = 0;
		bpf_probe_read_kernel(&entry, sizeof(entry), slots + ((number >> (shift & 31)) & XA_SLOT_MASK));
	}
	return entry & XA_NODE_MASK ? NULL : (void *)entry;
}

INLINE struct task_struct *task_of_number(struct task_struct *task, u32 number)
{
	return task_of_pid(pid_of_number(pid_namespace_of(task, false), number));
}

/* The process that a pidfd stands for: since 6.9 a file system of its own has them. */
INLINE struct task_struct *task_of_pidfd(struct file *file)
{
	struct inode *inode = READ(file->f_inode);
	struct super_block *sb = READ(inode->i_sb);

	if (READ(sb->s_magic) == PIDFS_MAGIC)
		return task_of_pid(READ(inode->i_private));
	return task_of_pid(READ(file->private_data));
}

/* A file's name, as far as it fits eight bytes; files outside any directory have one
 * that the kernel gave them. Others: 0. */
INLINE u64 kernel_name(struct file *file)
{
	struct dentry *dentry = READ(file->f_path.dentry);
	u64 name = 0;

	if (!dentry || READ(dentry->d_parent) != dentry)
		return 0;
	bpf_probe_read_kernel(&name, sizeof(name), READ(dentry->d_name.name));
	return name;
}

#define NAME8(a, b, c, d, e, f, g, h)                                                    \
	((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 |   \
	 (u64)(f) << 40 | (u64)(g) << 48 | (u64)(h) << 56)

INLINE bool is_memory_file(struct file *file)
{
	u64 name = kernel_name(file);

	return (name << 16) == (NAME8('m', 'e', 'm', 'f', 'd', ':', 0, 0) << 16) || name == NAME8('s', 'e', 'c', 'r', 'e', 't', 'm', 'e');
}

/* What bpf(2) made that a descriptor stands for; 0: none of it. */
INLINE u32 bpf_object_of(struct file *file, u32 *id)
{
	void *object = READ(file->private_data);
	u64 name = kernel_name(file);

	if (name == NAME8('b', 'p', 'f', '-', 'm', 'a', 'p', 0)) {
		*id = READ(((struct bpf_map *)object)->id);
		return BPF_OBJECT_MAP;
	}
	if (name == NAME8('b', 'p', 'f', '-', 'p', 'r', 'o', 'g')) {
		struct bpf_prog_aux *aux = READ(((struct bpf_prog *)object)->aux);

		*id = READ(aux->id);
		return BPF_OBJECT_PROGRAM;
	}
	if (name == NAME8('b', 'p', 'f', '_', 'l', 'i', 'n', 'k') || name == NAME8('b', 'p', 'f', '-', 'l', 'i', 'n', 'k')) {
		*id = READ(((struct bpf_link *)object)->id);
		return BPF_OBJECT_LINK;
	}
	if ((u32)name == (u32)NAME8('b', 't', 'f', 0, 0, 0, 0, 0)) {
		*id = READ(((struct btf *)object)->id);
		return BPF_OBJECT_TYPES;
	}
	return 0;
}

/* The youngest mount of a task's namespace: what a call has just mounted, unless
 * another thread was faster still. */
INLINE struct mount *youngest_mount(struct task_struct *task)
{
	struct mnt_namespace *ns = task->nsproxy->mnt_ns;
	struct mnt_namespace___67 *old = (void *)ns;

	if (HAS_FIELD(ns->mounts)) {
		struct rb_node *node = READ(ns->mounts.rb_node);

		if (!node)
			return NULL;
		for (int i = 0; i < MOUNT_TREE_MAX; i++) {
			struct rb_node *right = READ(node->rb_right);

			if (!right)
				break;
			node = right;
		}
		return (void *)node - __builtin_preserve_field_info(((struct mount *)0)->mnt_node, 0);
	} else {
		struct list_head *last = READ(old->list.prev);

		return last ? (void *)last - __builtin_preserve_field_info(((struct mount *)0)->mnt_list, 0) : NULL;
	}
}
