// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// System calls that are worth a look after they were carried out. One program sees
// the end of each, native or 32-bit, and hands the few whose number is in its tables to
// the program of their class; a call's numbers are user space's to fill in.

enum {
	CALLS_MAX = 512, /* numbers; the kernel gives out fewer */
	TS_COMPAT = 2, /* thread_info.status: the call came by int 0x80 */
};

enum call_class {
	CALL_NONE = 0,
	CALL_OPEN = 1, /* file.bpf.c */
	CALL_NAME = 2,
	CALL_ATTRIBUTE = 3,
	CALL_MAP = 4,
	CALL_IDENTITY = 5, /* privilege.bpf.c */
	CALL_TRACE = 6,
	CALL_MEMORY = 7,
	CALL_MODULE = 8,
	CALL_BPF = 9,
	CALL_MOUNT = 10,
	CALL_NAMESPACE = 11,
	CALL_URING = 12,
	CALL_SOCKET = 13,
	CALL_CLASSES = 32,
};

const volatile u8 native_calls[CALLS_MAX] = {};
const volatile u8 compat_calls[CALLS_MAX] = {};

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PROG_ARRAY);
	MAP_NUMBER(max_entries, CALL_CLASSES);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} calls SEC(".maps");

/* A call that has ended. */
struct call {
	u64 args[6];
	s64 result;
	u32 number;
	bool compat;
};

INLINE bool is_compat(struct task_struct *task)
{
	return task->thread_info.status & TS_COMPAT;
}

/* The arguments as they were given: registers are the caller's own and nobody else's
 * to change; what they point to is not. */
INLINE void read_call(struct call *call, u64 *ctx, struct task_struct *task)
{
	struct pt_regs *regs = (void *)ctx[0];

	call->compat = is_compat(task);
	call->number = regs->orig_ax;
	call->result = ctx[1];
	if (call->compat) {
		call->args[0] = (u32)regs->bx;
		call->args[1] = (u32)regs->cx;
		call->args[2] = (u32)regs->dx;
		call->args[3] = (u32)regs->si;
		call->args[4] = (u32)regs->di;
		call->args[5] = (u32)regs->bp;
	} else {
		call->args[0] = regs->di;
		call->args[1] = regs->si;
		call->args[2] = regs->dx;
		call->args[3] = regs->r10;
		call->args[4] = regs->r8;
		call->args[5] = regs->r9;
	}
}

/* The end of every system call. tp_btf, 5.5; a call that is of no class costs some ten
 * instructions. */
SEC("tp_btf/sys_exit")
int call_end(u64 *ctx)
{
	struct pt_regs *regs = (void *)ctx[0];
	struct task_struct *task = bpf_get_current_task_btf();
	u64 number = regs->orig_ax;
	u32 class;

	if (number >= CALLS_MAX)
		return 0;
	class = is_compat(task) ? compat_calls[number] : native_calls[number];
	/* Who touches the sensor's own objects is told wherever he is: call_bpf asks for the
	 * scope itself. */
	if (!class || (class != CALL_BPF && !in_scope(task)))
		return 0;
	bpf_tail_call(ctx, &calls, class);
	return 0;
}
