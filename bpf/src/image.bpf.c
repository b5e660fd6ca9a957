// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// An image: what file it is, by which path, and with which arguments it was started.

enum {
	S_ISUID = 04000,
	S_ISGID = 02000,
	/* The kernel keeps "was asked for" in the top bit of the nanoseconds (6.13). */
	CTIME_NSEC_MASK = 0x7fffffff,
	NSEC_PER_SEC = 1000000000,
	/* argv is hashed whole, up to what ARG_MAX lets through with the default stack. */
	ARGV_CHUNKS_MAX = 2 * 1024 * 1024 / ARGV_MAX,
	/* Names passed within the file's mount, and as many names and mounts above it.
	 * PATH_MAX allows 2048 names,
	 * people use 20; what is deeper is truncated and says so. */
	PATH_STEPS_MAX = 96,
};

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
	if (!LOAD_BITS(bprm, secureexec))
		return false;
	if ((inode->i_mode & S_ISUID) && cred->euid.val == inode->i_uid.val)
		return true;
	if ((inode->i_mode & S_ISGID) && cred->egid.val == inode->i_gid.val)
		return true;
	return cred->euid.val != 0 && CAPABILITIES(cred->cap_permitted);
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

/* Writes behind argv the components from the file up to the root of the process, each
 * ended by NUL. Upward is the only way a dentry can be walked; user space turns them
 * round. A function of its own to the verifier. */
__attribute__((noinline)) int walk_path(void)
{
	u32 zero = 0;
	struct exec_space *space = bpf_map_lookup_elem(&exec_spaces, &zero);
	struct task_struct *task = bpf_get_current_task_btf();
	struct file *file = task->mm->exe_file; /* that of bprm, since the new image is in place */
	struct dentry *dentry = file->f_path.dentry;
	struct vfsmount *vfs = file->f_path.mnt;
	struct dentry *root = task->fs->root.dentry;
	struct vfsmount *root_vfs = task->fs->root.mnt;
	struct dentry *top = vfs->mnt_root;
	volatile u32 *walked;

	if (!space)
		return 0;
	walked = &space->walked;
	*walked = space->event.argv_len;
	/* Within the file's mount the verifier knows what each pointer leads to, and a
	 * plain load takes a tenth of the time that a helper does. */
	for (int step = 0; step < PATH_STEPS_MAX && dentry != top; step++) {
		struct dentry *parent = dentry->d_parent;
		u32 used = *walked;

		if (dentry == root && vfs == root_vfs)
			return 0;
		if (used > ARGV_MAX + PATH_MAX || !append_name(space, used, dentry->d_name.name))
			goto cut;
		if (dentry == parent)
			return 0;
		dentry = parent;
	}
	/* Above it the way leads through mounts, which are no pointers to the verifier. */
	for (int step = 0; step < PATH_STEPS_MAX; step++) {
		struct dentry *parent;
		u32 used = *walked;

		if (dentry == root && vfs == root_vfs)
			return 0;
		if (dentry == top) {
			struct mount *mount = (void *)vfs - __builtin_preserve_field_info(((struct mount *)0)->mnt, 0);
			struct mount *up = READ(mount->mnt_parent);

			if (up == mount) /* the namespace's root, or a detached mount */
				return 0;
			dentry = READ(mount->mnt_mountpoint);
			vfs = __builtin_preserve_access_index(&up->mnt);
			top = READ(vfs->mnt_root);
			continue;
		}
		if (used > ARGV_MAX + PATH_MAX || !append_name(space, used, READ(dentry->d_name.name)))
			break;
		parent = READ(dentry->d_parent);
		if (dentry == parent) /* memfd and other files outside any directory: the name is all */
			return 0;
		dentry = parent;
	}
cut:
	space->event.head.flags |= EXEC_PATH_TRUNCATED;
	return 0;
}

/* The path of the working directory would cost as much as the file's again; nearly
 * always it is one that user space has just read. */
INLINE void fill_cwd(struct event_exec *e, struct task_struct *task)
{
	bool typed = bpf_rdonly_cast;
	struct vfsmount *vfs = task->fs->pwd.mnt;
	struct mount *mount = (void *)vfs - __builtin_preserve_field_info(((struct mount *)0)->mnt, 0);
	struct inode *inode = task->fs->pwd.dentry->d_inode;

	e->cwd_inode = inode->i_ino;
	e->cwd_device = inode->i_sb->s_dev;
	GIVE_TYPE(mount);
	e->cwd_mount = LOAD(mount->mnt_id);
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
static __attribute__((noinline)) u64 image_hash(struct file *file, u32 mount_ns)
{
	struct inode *inode = file->f_inode;
	struct dentry *dentry = file->f_path.dentry;

	return HASH(KEY_IMAGE, (u64)inode->i_sb->s_dev << 32 | mount_ns, inode->i_ino, change_time(inode),
		    /* hash_len in two: the verifier of 6.1 refuses to read over both halves of a union. */
		    (u64)dentry->d_name.len << 32 | dentry->d_name.hash, dentry->d_parent->d_inode->i_ino);
}

/* Hashes so many bytes of a page of argv, the first one or a later, with the words
 * before it. What lies behind them is cleared. A function of its own to the verifier. */
__attribute__((noinline)) int hash_page(u32 length, u32 later)
{
	u32 zero = 0, words = length / 8, rest = length % 8;
	struct exec_space *space = bpf_map_lookup_elem(&exec_spaces, &zero);
	u64 *page;

	if (!space)
		return 0;
	page = later ? space->later : (u64 *)space->data;
	if (rest) {
		/* What is known of the length the verifier of 6.1 does not know of a copy of it. */
		KEEP(words);
		if (words >= ARGV_MAX / 8)
			return 0; /* cannot be */
		page[words++] &= (1ULL << rest * 8) - 1;
	}
	/* Before the first page lie the hash so far, which is 0, and the four lengths, which
	 * are its own; before a later one lies the same of it. */
	words += 2;
	KEEP(words);
	if (words > SIP_WORDS_MAX)
		return 0; /* cannot be */
	space->event.argv_hash = sip_of(page - 2, words, sip_key[0], sip_key[1]);
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
	space->before = space->event.argv_hash;
	space->left = left;
	return hash_page(length, 1);
}

/* Reads the first page of argv to where the event has it, and hashes the whole, each page
 * with the hash of those before it; the hash is 0 when a page was not in memory. The parts
 * are functions of their own to the verifier, which would else look at what follows them
 * once for each number of words and pages. */
__attribute__((noinline)) int read_argv(u64 start, u64 length)
{
	u32 zero = 0, first = length > ARGV_MAX ? ARGV_MAX : length;
	struct exec_space *space = bpf_map_lookup_elem(&exec_spaces, &zero);

	if (!space)
		return 0;
	KEEP(first);
	space->event.argv_hash = 0;
	space->event.argv_len = 0;
	space->event.path_len = 0;
	space->event.filename_len = 0;
	space->event.interp_len = 0;
	if (!length || first > ARGV_MAX || bpf_probe_read_user(space->data, first, (void *)start))
		return 0;
	space->event.argv_len = first;
	hash_page(first, 0);
	for (u32 i = 1; i < ARGV_CHUNKS_MAX; i++) {
		u64 at = (u64)i * ARGV_MAX;

		if (at >= length)
			break;
		if (hash_later(start + at, length - at)) {
			space->event.argv_hash = 0;
			break;
		}
	}
	return 0;
}
