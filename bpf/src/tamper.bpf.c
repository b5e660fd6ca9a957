// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Who uses bpf(2), and who lays hands on the sensor itself: its objects, its process by
// signals, its cgroup. And io_uring, by which calls go that no other program here sees.

enum {
	BPF_MAP_CREATE = 0,
	BPF_MAP_LOOKUP_ELEM = 1,
	BPF_MAP_UPDATE_ELEM = 2,
	BPF_MAP_DELETE_ELEM = 3,
	BPF_MAP_GET_NEXT_KEY = 4,
	BPF_PROG_LOAD = 5,
	BPF_OBJ_PIN = 6,
	BPF_OBJ_GET = 7,
	BPF_PROG_ATTACH = 8,
	BPF_PROG_DETACH = 9,
	BPF_PROG_TEST_RUN = 10,
	BPF_PROG_GET_NEXT_ID = 11,
	BPF_MAP_GET_NEXT_ID = 12,
	BPF_PROG_GET_FD_BY_ID = 13,
	BPF_MAP_GET_FD_BY_ID = 14,
	BPF_OBJ_GET_INFO_BY_FD = 15,
	BPF_PROG_QUERY = 16,
	BPF_RAW_TRACEPOINT_OPEN = 17,
	BPF_BTF_LOAD = 18,
	BPF_BTF_GET_FD_BY_ID = 19,
	BPF_TASK_FD_QUERY = 20,
	BPF_MAP_LOOKUP_AND_DELETE_ELEM = 21,
	BPF_MAP_FREEZE = 22,
	BPF_BTF_GET_NEXT_ID = 23,
	BPF_MAP_LOOKUP_BATCH = 24,
	BPF_MAP_LOOKUP_AND_DELETE_BATCH = 25,
	BPF_MAP_UPDATE_BATCH = 26,
	BPF_MAP_DELETE_BATCH = 27,
	BPF_LINK_CREATE = 28,
	BPF_LINK_UPDATE = 29,
	BPF_LINK_GET_FD_BY_ID = 30,
	BPF_LINK_GET_NEXT_ID = 31,
	BPF_ENABLE_STATS = 32,
	BPF_LINK_DETACH = 34,
	BPF_PROG_BIND_MAP = 35,
	/* Where union bpf_attr has the descriptor that a command is about. */
	FD_FIRST = 0,
	FD_ATTACHED = 4,
	FD_PINNED = 8,
	FD_BATCH = 36,
	FD_NOWHERE = 0xffff,
	SIGNAL_CHILD = 17,
	SIGNAL_URGENT = 23,
	SEND_SIG_PRIV = 1, /* no pointer: 0 a process sends, 1 the kernel */
	SI_USER = 0,
	URING_REGISTER_FILES_UPDATE = 6,
	URING_REGISTER_FILES_UPDATE2 = 14,
	URING_REGISTER_BUFFERS_UPDATE = 16,
};

/* A command that only asks, as monitors do all day. */
INLINE bool only_asks(u32 command)
{
	switch (command) {
	case BPF_MAP_LOOKUP_ELEM:
	case BPF_MAP_GET_NEXT_KEY:
	case BPF_PROG_TEST_RUN:
	case BPF_PROG_GET_NEXT_ID:
	case BPF_MAP_GET_NEXT_ID:
	case BPF_OBJ_GET_INFO_BY_FD:
	case BPF_PROG_QUERY:
	case BPF_TASK_FD_QUERY:
	case BPF_BTF_GET_NEXT_ID:
	case BPF_MAP_LOOKUP_BATCH:
	case BPF_LINK_GET_NEXT_ID:
	case BPF_ENABLE_STATS:
		return true;
	}
	return false;
}

/* A command on a map's elements: part of the daily work of who has maps, and told only
 * when the map is the sensor's. */
INLINE bool on_elements(u32 command)
{
	switch (command) {
	case BPF_MAP_UPDATE_ELEM:
	case BPF_MAP_DELETE_ELEM:
	case BPF_MAP_LOOKUP_AND_DELETE_ELEM:
	case BPF_MAP_LOOKUP_AND_DELETE_BATCH:
	case BPF_MAP_UPDATE_BATCH:
	case BPF_MAP_DELETE_BATCH:
		return true;
	}
	return false;
}

INLINE u32 descriptor_at(u32 command)
{
	switch (command) {
	case BPF_MAP_UPDATE_ELEM:
	case BPF_MAP_DELETE_ELEM:
	case BPF_MAP_LOOKUP_AND_DELETE_ELEM:
	case BPF_MAP_FREEZE:
	case BPF_LINK_UPDATE:
	case BPF_LINK_DETACH:
	case BPF_PROG_BIND_MAP:
		return FD_FIRST;
	case BPF_PROG_ATTACH:
	case BPF_PROG_DETACH:
		return FD_ATTACHED;
	case BPF_OBJ_PIN:
		return FD_PINNED;
	case BPF_MAP_LOOKUP_AND_DELETE_BATCH:
	case BPF_MAP_UPDATE_BATCH:
	case BPF_MAP_DELETE_BATCH:
		return FD_BATCH;
	}
	return FD_NOWHERE;
}

/* bpf(2): what it made, by the descriptor that it gave; what it touched, by the one
 * that the caller's memory names after the call. tp_btf, 5.5. */
SEC("tp_btf/sys_exit")
int call_bpf(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct privilege_space *space;
	struct file *file = NULL;
	struct call call;
	u32 command, at, fd = 0, kind = 0, id = 0;
	bool claimed = false, ours = false;

	if ((u32)task->tgid == sensor_pid())
		return 0;
	read_call(&call, ctx, task);
	command = call.args[0];
	if (only_asks(command))
		return 0;
	at = descriptor_at(command);
	if (at != FD_NOWHERE) {
		claimed = true;
		if (!bpf_probe_read_user(&fd, sizeof(fd), (void *)(call.args[1] + at)))
			file = file_of(task, fd);
	} else if (call.result >= 0) {
		file = file_of(task, call.result);
	}
	if (file)
		kind = bpf_object_of(file, &id);
	if (kind) {
		u64 key = (u64)kind << 32 | id;

		ours = bpf_map_lookup_elem(&own_objects, &key);
	}
	if (!ours && (on_elements(command) || !in_scope(task)))
		return 0;
	space = begin_call(PRIVILEGE_BPF, task, &call);
	if (!space)
		return 0;
	space->event.command = command;
	space->event.kind = kind;
	space->event.object = id;
	if (claimed && kind)
		space->event.head.flags |= PRIVILEGE_CLAIMED_OBJECT;
	if (ours)
		space->event.head.flags |= PRIVILEGE_OURS;
	tell_privilege(PRIVILEGE_SLOT, kind, 0);
	return 0;
}

/* io_uring_setup and io_uring_register. A ring's flags are the kernel's own. tp_btf,
 * 5.5. */
SEC("tp_btf/sys_exit")
int call_uring(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct privilege_space *space;
	struct call call;
	struct io_ring_ctx *ring = NULL;
	u32 command = 0;
	u64 flags = 0;

	if ((u32)task->tgid == sensor_pid())
		return 0;
	read_call(&call, ctx, task);
	if (is_call(&call, 427, 427)) {
		command = call.args[1];
		if (command == URING_REGISTER_FILES_UPDATE || command == URING_REGISTER_FILES_UPDATE2 ||
		    command == URING_REGISTER_BUFFERS_UPDATE)
			return 0; /* part of a ring's daily work */
	} else if (call.result >= 0) {
		struct file *file = file_of(task, call.result);

		if (file && kernel_name(file) == NAME8('[', 'i', 'o', '_', 'u', 'r', 'i', 'n'))
			ring = READ(file->private_data);
		flags = ring ? READ(ring->flags) : 0;
	}
	space = begin_call(PRIVILEGE_URING, task, &call);
	if (!space)
		return 0;
	space->event.command = command;
	space->event.object = flags;
	tell_privilege(PRIVILEGE_SLOT, call.number, flags);
	return 0;
}

/* A signal to the sensor: who sent it, whatever scope he is in. Its own, and the two
 * that mean nothing to it, are not told. tp_btf, 5.5; another slot, since interrupts
 * send signals. */
SEC("tp_btf/signal_generate")
int signal_sent(u64 *ctx)
{
	u32 number = ctx[0];
	struct kernel_siginfo *info = (void *)ctx[1];
	struct task_struct *target = (void *)ctx[2];
	struct task_struct *task = bpf_get_current_task_btf();
	struct privilege_space *space;
	u32 sensor = sensor_pid();
	bool kernel = ctx[1] == SEND_SIG_PRIV;

	if (!sensor || (u32)target->tgid != sensor || (u32)task->tgid == sensor)
		return 0;
	if (number == SIGNAL_CHILD || number == SIGNAL_URGENT)
		return 0;
	if (ctx[1] > SEND_SIG_PRIV)
		kernel = READ(info->si_code) > SI_USER;
	space = begin_privilege(SIGNAL_SLOT, PRIVILEGE_SIGNAL, task);
	if (!space)
		return 0;
	space->event.head.flags |= PRIVILEGE_NO_CALL | PRIVILEGE_OURS;
	if (kernel)
		space->event.head.flags |= PRIVILEGE_FROM_KERNEL;
	space->event.command = number;
	set_target(space, target);
	tell_privilege(SIGNAL_SLOT, 0, 0);
	return 0;
}

INLINE void tell_cgroup(enum privilege_op op, struct cgroup *cgroup, const char *path, struct task_struct *target)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct privilege_space *space;

	if ((u32)task->tgid == sensor_pid())
		return;
	space = begin_privilege(PRIVILEGE_SLOT, op, task);
	if (!space)
		return;
	space->event.head.flags |= PRIVILEGE_NO_CALL | PRIVILEGE_OURS;
	space->event.object = cgroup->kn->id;
	set_target(space, target);
	add_name(space, path);
	tell_privilege(PRIVILEGE_SLOT, 0, 0);
}

/* The sensor is put into another cgroup, of either version. tp_btf, 5.5. */
SEC("tp_btf/cgroup_attach_task")
int cgroup_moved(u64 *ctx)
{
	struct task_struct *target = (void *)ctx[2];
	u32 sensor = sensor_pid();

	if (sensor && (u32)target->pid == sensor)
		tell_cgroup(PRIVILEGE_CGROUP_MOVE, (void *)ctx[0], (void *)ctx[1], target);
	return 0;
}

/* The sensor's cgroup is frozen: told for each group below the one that was written
 * to. The older freezer has no such hook. tp_btf, 5.5. */
SEC("tp_btf/cgroup_freeze")
int cgroup_frozen(u64 *ctx)
{
	struct cgroup *cgroup = (void *)ctx[0];
	u32 sensor = sensor_pid();
	struct task_struct *target;
	struct css_set *set;
	struct cgroup *own;
	struct kernfs_node *node;

	if (!sensor)
		return 0;
	target = task_of_pid(pid_of_number(pid_namespace_of(bpf_get_current_task_btf(), true), sensor));
	if (!target)
		return 0;
	set = READ(target->cgroups);
	own = READ(set->dfl_cgrp);
	node = READ(own->kn);
	if (READ(node->id) == cgroup->kn->id)
		tell_cgroup(PRIVILEGE_CGROUP_FREEZE, cgroup, (void *)ctx[1], target);
	return 0;
}
