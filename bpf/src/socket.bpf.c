// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Sockets that no flow tells of, when they are made: those that see or forge packets
// (raw, packet, XDP), those that reach a hypervisor (vsock), and the transports that
// nobody expects (SCTP, DCCP).

enum {
	AF_PACKET = 17,
	AF_VSOCK = 40,
	AF_XDP = 44,
	SOCK_STREAM = 1,
	SOCK_DGRAM = 2,
	SOCK_TYPE_MASK = 15, /* flags lie above */
	IPPROTO_DCCP = 33,
	IPPROTO_SCTP = 132,
	NR_ACCEPT = 43,
	NR_ACCEPT4 = 288,
	NR_COMPAT_SOCKETCALL = 102,
	NR_COMPAT_ACCEPT4 = 364,
	SOCKETCALL_SOCKET = 1,
	SOCKETCALL_ACCEPT = 5,
	SOCKETCALL_ACCEPT4 = 18,
	IORING_OP_SOCKET = 45,
	S_IFMT = 0170000,
	S_IFSOCK = 0140000,
};

/* protocol: 0 when it is left to the type. */
INLINE bool tells_of(u32 family, u32 type, u32 protocol)
{
	if (family == AF_PACKET || family == AF_XDP || family == AF_VSOCK)
		return true;
	if (family != AF_INET && family != AF_INET6)
		return false;
	/* Types other than these two are raw sockets', SCTP's and DCCP's, and SOCK_PACKET, of
	 * which the kernel makes a packet socket whatever the family says. */
	return (type != SOCK_STREAM && type != SOCK_DGRAM) || protocol == IPPROTO_SCTP || protocol == IPPROTO_DCCP;
}

/* The socket that a descriptor of the current process leads to, NULL when it is none
 * (any more). Not a pointer that the verifier trusts. */
INLINE struct socket *socket_of(struct task_struct *task, u32 fd)
{
	bool typed = bpf_rdonly_cast;
	struct file *file = file_of(task, fd);
	struct inode *inode;

	if (!file)
		return NULL;
	GIVE_TYPE(file);
	inode = LOAD(file->f_inode);
	if ((LOAD(inode->i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	return LOAD(file->private_data);
}

INLINE void tell_socket(struct task_struct *task, u16 family, u16 type, u32 protocol, s32 result, u16 flags)
{
	struct event_socket event = {};
	struct process *p = process_of_task(task);

	u64 key = key_of(KEY_SOCKET, p ? p->image : 0, (u64)family << 32 | type, protocol, (u32)result, flags);

	if (is_known(p, key, 0))
		return;
	fill_head(&event.head, EVENT_SOCKET, sizeof(event), task);
	event.head.key = key;
	event.head.flags = flags;
	event.family = family;
	event.type = type;
	event.protocol = protocol;
	event.result = result;
	introduce(&event.head, task->tgid);
	tell(&bulk, &event, sizeof(event), wake_when_full(&bulk, bulk_wake_bytes, event.head.time), LOSS_SOCKET_RING_FULL);
}

INLINE bool is_accept(struct call *call)
{
	if (!call->compat)
		return call->number == NR_ACCEPT || call->number == NR_ACCEPT4;
	if (call->number == NR_COMPAT_SOCKETCALL)
		return call->args[0] == SOCKETCALL_ACCEPT || call->args[0] == SOCKETCALL_ACCEPT4;
	return call->number == NR_COMPAT_ACCEPT4;
}

/* Gives an accepted connection to who accepted it, when that is not who listened: a
 * worker, or a service whose socket its manager made. It is told again, as its. */
INLINE void settle_accept(struct task_struct *task, s64 fd)
{
	bool typed = bpf_rdonly_cast;
	struct socket *socket = fd < 0 ? NULL : socket_of(task, fd);
	struct event_flow event = {};
	struct owner *owner;
	struct process *p;
	struct sock *sk;
	u32 netns, flags;
	u64 opened;

	if (!socket)
		return;
	GIVE_TYPE(socket);
	sk = LOAD(socket->sk);
	if (!sk)
		return;
	GIVE_TYPE(sk);
	if (LOAD(sk->sk_protocol) != IPPROTO_TCP)
		return;
	event.cookie = LOAD(sk->__sk_common.skc_cookie.counter);
	owner = bpf_map_lookup_elem(&accepts, &event.cookie);
	if (!owner)
		return;
	if (owner->pid == (u32)task->tgid && owner->start == task->group_leader->start_boottime) {
		bpf_map_delete_elem(&accepts, &event.cookie);
		return;
	}
	netns = owner->netns; /* the socket's */
	flags = owner->flags;
	opened = owner->opened;
	fill_owner(owner, task);
	owner->netns = netns;
	head_of_owner(&event.head, EVENT_FLOW_OPEN, sizeof(event), owner);
	event.opened = opened;
	fill_addresses(&event, sk);
	p = process_of_task(task);
	event.head.key = flow_key(p, &event, flags);
	if (is_known(p, event.head.key, event.head.time))
		return;
	event.head.flags = FLOW_INBOUND | FLOW_ACCEPTED;
	if (p) {
		set_flags(p, PROCESS_SERVES);
		if (p->flags & PROCESS_TAINTED)
			event.head.flags |= FLOW_TAINTED;
	}
	introduce(&event.head, task->tgid);
	tell(&bulk, &event, sizeof(event), wake_when_full(&bulk, bulk_wake_bytes, event.head.time), LOSS_FLOW_RING_FULL);
}

/* The end of accept(2) and of socket(2), native, 32-bit and by socketcall(2). What was made is read from
 * the kernel's socket; what was refused, from the registers, but for socketcall, whose
 * arguments lie where others can change them: of that only what was made is told. */
SEC("tp_btf/sys_exit")
int call_socket(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	bool by_register = true;
	u16 family, type;
	u32 protocol;
	struct call call = {};

	read_call(&call, ctx, task);
	if (is_accept(&call)) {
		settle_accept(task, call.result);
		return 0;
	}
	if (call.compat && call.number == NR_COMPAT_SOCKETCALL) {
		if (call.args[0] != SOCKETCALL_SOCKET)
			return 0;
		by_register = false;
	}
	/* Nearly all are not of interest, and the registers say so. */
	if (by_register && !tells_of(call.args[0], call.args[1] & SOCK_TYPE_MASK, call.args[2]))
		return 0;
	if (call.result < 0) {
		if (!by_register)
			return 0;
		family = call.args[0];
		type = call.args[1] & SOCK_TYPE_MASK;
		protocol = call.args[2];
	} else {
		struct socket *socket = socket_of(task, call.result);
		struct sock *sk;

		if (!socket)
			return 0; /* closed again by another thread, before anything was done with it */
		sk = READ(socket->sk);
		family = READ(sk->__sk_common.skc_family);
		type = READ(socket->type);
		/* A packet socket's is its ethertype, which is not in the common part. */
		protocol = family == AF_PACKET && by_register ? __builtin_bswap16(call.args[2]) : READ(sk->sk_protocol);
	}
	if (tells_of(family, type, protocol))
		tell_socket(task, family, type, protocol, call.result < 0 ? call.result : 0, 0);
	return 0;
}

/* socket(2) without the call. What io_uring was asked for is its own copy by now; what
 * becomes of it is not told. tp_btf/io_uring_submit_req, 6.3; in 6.0 to 6.2, which user
 * space sees, io_uring_submit_sqe. */
SEC("tp_btf/io_uring_submit_req")
int uring_socket(u64 *ctx)
{
	struct io_kiocb *request = (void *)ctx[0];
	struct io_socket *asked = (void *)request; /* the command is its first part */
	struct task_struct *task = bpf_get_current_task_btf();
	u16 family, type;
	u32 protocol;

	if (request->opcode != IORING_OP_SOCKET || !in_scope(task))
		return 0;
	family = READ(asked->domain);
	type = READ(asked->type) & SOCK_TYPE_MASK;
	protocol = READ(asked->protocol);
	if (family == AF_PACKET)
		protocol = __builtin_bswap16(protocol);
	if (tells_of(family, type, protocol))
		tell_socket(task, family, type, protocol, 0, SOCKET_ASKED);
	return 0;
}
