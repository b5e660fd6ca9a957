// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Whether a file is watched. It is when it, one of the directories above it, or its
// name in one of them is in `watched`: the way is walked by identities from the file
// upward, so that symbolic links, bind mounts, relative paths, /proc/self/root and other
// mount namespaces make no difference. The names that were passed on the way are what is
// told of its path.

enum {
	/* Directories looked at above a file. /usr/lib/modules/V/kernel/drivers/net/ethernet/
	 * X/Y/Z.ko is ten below /usr/lib. */
	WATCH_DEPTH = 10,
	ALIASES_MAX = 4, /* names of one inode that are looked at */
	NAME_MAX = 255,
	S_IFDIR = 0040000,
};

/* What names are hashed for; one that stands in a directory's children is another. */
enum { NAME_IN_DIRECTORY = 1, NAME_IN_CHILD = 2 };

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

/* A pointer that the verifier may know: by way of memory it becomes a number, which a
 * function may be given. */
INLINE u64 as_number(struct file_space *space, const void *pointer)
{
	*(volatile u64 *)&space->pointer = (u64)pointer;
	return *(volatile u64 *)&space->pointer;
}

INLINE u64 name_of(struct dentry *dentry)
{
	return hash_name((u64)READ(dentry->d_name.name), READ(dentry->d_name.hash_len) >> 32, NAME_IN_DIRECTORY);
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
	GIVE_TYPE(dentry);
	for (u32 i = 0; i < WATCH_DEPTH; i++, below++) {
		struct inode *inode = LOAD(dentry->d_inode);
		struct dentry *parent;

		key.inode = LOAD(inode->i_ino);
		key.name = 0;
		key.directory = below || (LOAD(inode->i_mode) & S_IFMT) == S_IFDIR;
		w = bpf_map_lookup_elem(&watched, &key);
		if (w) {
			u32 flags = w->flags;

			named = NULL;
			if ((flags & WATCH_NAMES) && child) {
				key.name = hash_name(as_number(space, (void *)child), child_length, NAME_IN_DIRECTORY);
				named = bpf_map_lookup_elem(&watched, &key);
				if (named && below > 1 && !(named->flags & WATCH_TREE))
					named = NULL;
			}
			if (!named && (flags & WATCH_STARS) && grandchild) {
				key.name = hash_name(as_number(space, (void *)grandchild), grandchild_length, NAME_IN_CHILD);
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
