// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What a process executes.

enum {
	NO_LOGIN = 0xffffffff,
};

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
