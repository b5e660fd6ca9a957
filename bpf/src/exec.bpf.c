// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What a process executes.

enum {
	NO_LOGIN = 0xffffffff,
};

/* Enters into the table what the exec in the working space made of its process; 1: it
 * was known and is not to be told. */
static __attribute__((noinline)) int settle_exec(struct exec_space *space, struct process *p)
{
	struct event_head *head = &space->event.head;
	u32 pid = head->pid;
	bool is, login;

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
	if (space->event.argv_hash && !login && !(p->flags & PROCESS_SERVING) && head->parent_pid != sensor_pid())
		head->key = HASH(KEY_EXEC, space->self, p->self, p->parent_self, space->event.cwd_inode,
				 (u64)space->event.cwd_device << 32 | space->event.cwd_mount);
	is = is_known(p, head->key, head->time);
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
	struct process *p;
	u64 length;
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

	length = task->mm->arg_end - task->mm->arg_start;
	e->argv_bytes = length;
	read_argv(task->mm->arg_start, length);

	space->image = image_hash(file, e->mount_ns);
	space->self = HASH(KEY_SELF, space->image, e->argv_hash, (u64)e->head.uid << 32 | e->real_uid,
			   (u64)e->gid << 32 | e->login_uid, e->head.flags);
	p = process_of(e->head.pid, e->head.start);
	if (p && p->uid && p->real_uid && !e->head.uid && !(e->head.flags & EXEC_SETID) && !(p->flags & PROCESS_COULD_GAIN))
		gained_before_exec();
	if (settle_exec(space, p))
		return 0;

	e->device = inode->i_sb->s_dev;
	e->inode = inode->i_ino;
	e->change = change_time(inode);
	e->file_size = inode->i_size;
	e->nlink = inode->i_nlink;
	e->old_tid = old_pid == (u32)task->pid ? 0 : old_pid;

	if (length != e->argv_len) {
		e->head.flags |= EXEC_ARGV_TRUNCATED;
		if (!e->argv_len)
			count_loss(LOSS_ARGV_UNREADABLE);
	}
	walk_path();
	used = space->walked;
	if (used > ARGV_MAX + PATH_MAX + NAME_ROOM)
		return 0; /* cannot be; for the verifier */
	e->path_len = used - e->argv_len;

	n = bpf_probe_read_kernel_str(space->data + used, FILENAME_ROOM, bprm->filename);
	e->filename_len = n > 0 ? n - 1 : 0;
	used += e->filename_len;
	e->interp_len = 0;
	if (bprm->interp != bprm->filename) {
		if (used > ARGV_MAX + PATH_MAX + NAME_ROOM + FILENAME_ROOM)
			return 0; /* cannot be; for the verifier */
		n = bpf_probe_read_kernel_str(space->data + used, INTERP_ROOM, bprm->interp);
		e->interp_len = n > 0 ? n - 1 : 0;
		used += e->interp_len;
	}
	wake = wake_sleeping(e->head.time);
	used += sizeof(struct event_exec);
	e->head.size = used;
	KEEP(used); /* nothing between the bound and its use, for the verifier of 6.1 */
	if (used > sizeof(struct event_exec) + sizeof(space->data))
		return 0; /* cannot be; for the verifier */
	tell(&critical, e, used, wake, LOSS_EXEC_RING_FULL);
	return 0;
}
