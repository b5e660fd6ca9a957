// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Reaching into others: their memory, the kernel's modules, what is mounted where; and
// code that comes from no file.

enum {
	PTRACE_POKETEXT = 4,
	PTRACE_POKEDATA = 5,
	PTRACE_POKEUSR = 6,
	PTRACE_SETREGS = 13,
	PTRACE_SETFPREGS = 15,
	PTRACE_ATTACH = 16,
	PTRACE_SETFPXREGS = 19,
	PTRACE_SETREGSET = 0x4205,
	PTRACE_SEIZE = 0x4206,
	PROT_EXEC = 4,
	MAP_ANONYMOUS = 0x20,
	READ_IMPLIES_EXEC = 0x0400000,
	VM_WRITE = 2,
	VM_EXEC = 4,
	/* Mappings that one mprotect() is looked at across. */
	MAPPINGS_MAX = 8,
	PROC_MAGIC = 0x9fa0,
	FMODE_WRITE = 2,
};

INLINE bool changes_tracee(u32 request)
{
	switch (request) {
	case PTRACE_POKETEXT:
	case PTRACE_POKEDATA:
	case PTRACE_POKEUSR:
	case PTRACE_SETREGS:
	case PTRACE_SETFPREGS:
	case PTRACE_ATTACH:
	case PTRACE_SETFPXREGS:
	case PTRACE_SETREGSET:
	case PTRACE_SEIZE:
		return true;
	}
	return false;
}

/* The hash of what a target runs: it is part of the behaviour. */
INLINE u64 target_image(struct privilege_space *space)
{
	struct process *p = process_of(space->event.target_pid, space->event.target_start);

	return p ? p->image : 0;
}

/* ptrace, process_vm_writev, and pidfd_getfd on the sensor. tp_btf, 5.5. */
SEC("tp_btf/sys_exit")
int call_trace(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct *target = NULL;
	struct privilege_space *space;
	struct call call;
	u32 sensor = sensor_pid(), command = 0;
	enum privilege_op op;

	if ((u32)task->tgid == sensor)
		return 0;
	read_call(&call, ctx, task);
	if (is_call(&call, 101, 26)) {
		op = PRIVILEGE_PTRACE;
		command = call.args[0];
		if (!changes_tracee(command))
			return 0;
		target = task_of_number(task, call.args[1]);
	} else if (is_call(&call, 311, 348)) {
		op = PRIVILEGE_VM_WRITE;
		target = task_of_number(task, call.args[0]);
		if (target && READ(target->tgid) == task->tgid)
			return 0;
	} else {
		struct file *file = file_of(task, call.args[0]);

		op = PRIVILEGE_PIDFD_GETFD;
		command = call.args[1];
		target = file ? task_of_pidfd(file) : NULL;
		if (!target || !sensor || (u32)READ(target->tgid) != sensor)
			return 0;
	}
	space = begin_call(op, task, &call);
	if (!space)
		return 0;
	space->event.command = command;
	if (target)
		set_target(space, target);
	if (sensor && space->event.target_pid == sensor)
		space->event.head.flags |= PRIVILEGE_OURS;
	tell_privilege(PRIVILEGE_SLOT, target_image(space), 0);
	return 0;
}

/* A file that an open has just made a descriptor of: the memory of another process,
 * when it may be written to. */
INLINE void proc_mem_opened(struct task_struct *task, struct call *call, struct file *file)
{
	struct inode *inode = READ(file->f_inode);
	struct super_block *sb = READ(inode->i_sb);
	struct dentry *dentry = READ(file->f_path.dentry);
	struct proc_inode *proc = (void *)inode - __builtin_preserve_field_info(((struct proc_inode *)0)->vfs_inode, 0);
	struct privilege_space *space;
	struct task_struct *target;
	u32 name = 0, sensor = sensor_pid();

	if (READ(sb->s_magic) != PROC_MAGIC || !(READ(file->f_mode) & FMODE_WRITE))
		return;
	bpf_probe_read_kernel(&name, sizeof(name), READ(dentry->d_name.name));
	if (name != (u32)NAME8('m', 'e', 'm', 0, 0, 0, 0, 0))
		return;
	target = task_of_pid(READ(proc->pid));
	if (!target || READ(target->tgid) == task->tgid || (u32)task->tgid == sensor)
		return;
	space = begin_call(PRIVILEGE_PROC_MEM, task, call);
	if (!space)
		return;
	set_target(space, target);
	if (sensor && space->event.target_pid == sensor)
		space->event.head.flags |= PRIVILEGE_OURS;
	tell_privilege(PRIVILEGE_SLOT, target_image(space), 0);
}

/* A mapping, as far as it is looked at. */
struct mapping {
	u64 end;
	u32 flags; /* enum privilege_flags */
	bool found;
	bool anonymous; /* it holds what no file says */
	const unsigned char *name; /* of the file that it is of */
};

static long look_at_mapping(struct task_struct *task, struct vm_area_struct *vma, struct mapping *m)
{
	u64 flags = vma->vm_flags;
	struct file *file = vma->vm_file;

	(void)task;
	m->found = true;
	m->end = vma->vm_end;
	if (!(flags & VM_EXEC))
		return 0;
	if (!file) {
		m->anonymous = true;
	} else if (is_memory_file(file)) {
		m->anonymous = true;
		m->flags |= PRIVILEGE_MEMORY_FILE;
		m->name = file->f_path.dentry->d_name.name;
	} else if (vma->anon_vma) {
		m->anonymous = true;
		m->flags |= PRIVILEGE_MODIFIED;
		m->name = file->f_path.dentry->d_name.name;
	}
	if (m->anonymous && (flags & VM_WRITE))
		m->flags |= PRIVILEGE_WRITABLE;
	return 0;
}

/* mmap and mprotect that made memory executable which no file stands behind: the first
 * time in an image. What counts is the mapping as it now is; the registers stand
 * in for it where another thread holds the lock, or the call was refused. */
INLINE void anonymous_exec(struct task_struct *task, struct call *call)
{
	bool mmap = is_call(call, 9, 192) || (call->compat && call->number == 90);
	bool asked = (call->args[2] & PROT_EXEC) || (task->personality & READ_IMPLIES_EXEC);
	bool packed = call->compat && call->number == 90; /* its arguments are in memory */
	struct process *p = process_of_task(task);
	struct privilege_space *space;
	struct mapping m = {};
	u64 at = mmap ? (u64)call->result : call->args[0];
	u64 end = at + (packed ? 1 : call->args[1]);

	if (!asked && !packed)
		return;
	if ((u32)task->tgid == sensor_pid())
		return;
	if (call->result < 0 && call->result >= -4095) {
		if (packed || (mmap && !(call->args[3] & MAP_ANONYMOUS)))
			return;
	} else {
		if (p && (p->flags & PROCESS_ANONYMOUS))
			return;
		for (int i = 0; i < MAPPINGS_MAX && at < end && !m.anonymous; i++) {
			m.found = false;
			if (bpf_find_vma(task, at, look_at_mapping, &m, 0) || !m.found)
				break;
			at = m.end;
		}
		if (!m.found && !packed)
			m.anonymous = !mmap || (call->args[3] & MAP_ANONYMOUS);
		if (!m.anonymous)
			return;
		if (p)
			set_flags(p, PROCESS_ANONYMOUS);
	}
	space = begin_call(PRIVILEGE_EXEC_ANON, task, call);
	if (!space)
		return;
	space->event.arguments = call->args[2];
	space->event.head.flags |= m.flags;
	if (m.name)
		add_name(space, m.name);
	tell_privilege(PRIVILEGE_SLOT, 0, 0);
}

/* memfd_create and memfd_secret. tp_btf, 5.5. */
SEC("tp_btf/sys_exit")
int call_memory(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct privilege_space *space;
	struct file *file = NULL;
	struct call call;

	if ((u32)task->tgid == sensor_pid())
		return 0;
	read_call(&call, ctx, task);
	space = begin_call(PRIVILEGE_MEMFD, task, &call);
	if (!space)
		return 0;
	space->event.command = is_call(&call, 319, 356) ? call.args[1] : call.args[0];
	if (call.result >= 0)
		file = file_of(task, call.result);
	if (file && is_memory_file(file)) {
		struct dentry *dentry = READ(file->f_path.dentry);

		add_name(space, READ(dentry->d_name.name));
	}
	tell_privilege(PRIVILEGE_SLOT, 0, 0);
	return 0;
}

/* init_module, finit_module and delete_module. tp_btf, 5.5. */
SEC("tp_btf/sys_exit")
int call_module(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct privilege_space *space;
	struct file *file = NULL;
	struct call call;

	if ((u32)task->tgid == sensor_pid())
		return 0;
	read_call(&call, ctx, task);
	space = begin_call(PRIVILEGE_MODULE, task, &call);
	if (!space)
		return 0;
	if (is_call(&call, 313, 350)) {
		space->event.command = call.args[2];
		file = file_of(task, call.args[0]);
		if (file) {
			struct dentry *dentry = READ(file->f_path.dentry);

			add_name(space, READ(dentry->d_name.name));
		}
		add_claimed(space, call.args[1]); /* parameters */
	} else if (is_call(&call, 175, 128)) {
		add_claimed(space, call.args[2]); /* parameters */
	} else {
		space->event.command = call.args[1];
		add_claimed(space, call.args[0]); /* the module's name */
	}
	tell_privilege(PRIVILEGE_SLOT, call.number, 0);
	return 0;
}

/* A module that the kernel took, whoever's call it was. tp_btf, 5.5, where the kernel
 * has modules. */
SEC("tp_btf/module_load")
int module_loaded(u64 *ctx)
{
	struct module *module = (void *)ctx[0];
	struct task_struct *task = bpf_get_current_task_btf();
	struct privilege_space *space;

	if (!in_scope(task) || (u32)task->tgid == sensor_pid())
		return 0;
	space = begin_privilege(PRIVILEGE_SLOT, PRIVILEGE_MODULE, task);
	if (!space)
		return 0;
	space->event.head.flags |= PRIVILEGE_NO_CALL;
	add_name(space, __builtin_preserve_access_index(&module->name[0]));
	tell_privilege(PRIVILEGE_SLOT, 0, 0);
	return 0;
}

/* Puts the path of the youngest mount into the slot, as the task's root has it. A
 * function of its own to the verifier. */
__attribute__((noinline)) int name_mount(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u32 slot = PRIVILEGE_SLOT;
	struct privilege_space *space = bpf_map_lookup_elem(&privilege_spaces, &slot);
	struct dentry *root = task->fs->root.dentry;
	struct vfsmount *root_vfs = task->fs->root.mnt;
	struct mount *mount = youngest_mount(task);
	struct dentry *dentry;
	struct vfsmount *vfs;

	if (!space || !mount)
		return 0;
	space->event.head.flags |= PRIVILEGE_NAME_PATH;
	dentry = READ(mount->mnt_mountpoint);
	mount = READ(mount->mnt_parent);
	vfs = __builtin_preserve_access_index(&mount->mnt);
	for (int step = 0; step < MOUNT_PATH_STEPS; step++) {
		u32 used = *(volatile u32 *)&space->used;
		struct dentry *parent;
		long n;

		if (dentry == root && vfs == root_vfs)
			return 0;
		if (dentry == READ(vfs->mnt_root)) {
			struct mount *up;

			mount = (void *)vfs - __builtin_preserve_field_info(((struct mount *)0)->mnt, 0);
			up = READ(mount->mnt_parent);
			if (up == mount)
				return 0;
			dentry = READ(mount->mnt_mountpoint);
			vfs = __builtin_preserve_access_index(&up->mnt);
			continue;
		}
		KEEP(used);
		if (used > MOUNT_PATH_MAX)
			break;
		n = bpf_probe_read_kernel_str(space->data + used, NAME_ROOM, READ(dentry->d_name.name));
		if (n <= 0)
			break;
		space->event.name_len += n;
		*(volatile u32 *)&space->used = used + n;
		parent = READ(dentry->d_parent);
		if (dentry == parent)
			return 0;
		dentry = parent;
	}
	space->event.head.flags |= PRIVILEGE_NAME_CUT;
	text_lost(space);
	return 0;
}

/* mount, move_mount, fsmount, umount2 and pivot_root. Where something was mounted, the
 * kernel's own tree says; from what and of which type is claimed. tp_btf, 5.5. */
SEC("tp_btf/sys_exit")
int call_mount(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct *first;
	struct privilege_space *space;
	struct pid_namespace *machine;
	struct nsproxy *proxy;
	struct call call;
	bool moved;

	if ((u32)task->tgid == sensor_pid())
		return 0;
	read_call(&call, ctx, task);
	space = begin_call(is_call(&call, 155, 217) ? PRIVILEGE_PIVOT_ROOT : PRIVILEGE_MOUNT, task, &call);
	if (!space)
		return 0;
	machine = pid_namespace_of(task, true);
	first = READ(machine->child_reaper);
	proxy = READ(first->nsproxy);
	if (READ(proxy->mnt_ns) == task->nsproxy->mnt_ns)
		space->event.head.flags |= PRIVILEGE_HOST_MOUNTS;
	moved = is_call(&call, 429, 429);
	if (is_call(&call, 165, 21)) {
		space->event.arguments = call.args[3];
		if (call.result >= 0)
			name_mount();
		add_claimed(space, call.args[0]);
		add_claimed(space, call.args[1]);
		add_claimed(space, call.args[2]);
	} else if (moved) {
		space->event.arguments = call.args[4];
		if (call.result >= 0)
			name_mount();
		add_claimed(space, call.args[1]);
		add_claimed(space, call.args[3]);
	} else if (is_call(&call, 432, 432)) {
		space->event.arguments = call.args[1];
	} else { /* umount2, pivot_root */
		if (!is_call(&call, 155, 217))
			space->event.arguments = call.args[1];
		add_claimed(space, call.args[0]);
		if (is_call(&call, 155, 217))
			add_claimed(space, call.args[1]);
	}
	tell_privilege(PRIVILEGE_SLOT, call.number, space->event.arguments);
	return 0;
}
