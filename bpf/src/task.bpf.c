// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Who a task is, and whether it is in the scope.

enum {
	PF_KTHREAD = 0x00200000,
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
	head->lag = 0;
	__builtin_memcpy(head->comm, task->comm, COMM_LEN);
}

/* The file of a descriptor; NULL: none. Another thread may have put another file there
 * since the call: what depends on that compares what it finds with the result. Not a
 * pointer that the verifier trusts. */
INLINE struct file *file_of(struct task_struct *task, u32 fd)
{
	bool typed = bpf_rdonly_cast;
	struct fdtable *table = task->files->fdt;
	struct file **files;
	struct file *file = NULL;

	GIVE_TYPE(table);
	files = LOAD(table->fd);
	if (fd >= LOAD(table->max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	return file;
}
