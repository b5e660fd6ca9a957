// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Who owns a socket. It is written down when a process makes the socket do
// something, in that process's own context, and read later from contexts that
// belong to nobody (softirq, timers).

enum {
	AF_INET = 2,
	AF_INET6 = 10,
	IPPROTO_TCP = 6,
	IPPROTO_UDP = 17,
	IPPROTO_MPTCP = 262,
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
	TCP_SYN_RECV = 3,
	TCP_CLOSE = 7,
	TCP_LISTEN = 10,
	SOCK_DONE = 1, /* bit: the peer's FIN was received */
	DNS_PORT = 53,
	IP_HEADER = 20,
	IP6_HEADER = 40,
	UDP_HEADER = 8,
	IP6_EXTENSIONS_MAX = 6, /* each kind once (RFC 8200, 4.1); more is not sent by anything honest */
	EGRESS = 0,
	INGRESS = 1,
	/* A thread that io_uring made in the process (5.12): it is named iou-wrk-… or
	 * iou-sqp-…, which says nothing of who it works for. */
	PF_IO_WORKER = 0x10,
};

INLINE void fill_owner(struct owner *owner, struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	struct task_struct *parent = task->real_parent->group_leader;

	/* Plain loads: the verifier knows what each pointer leads to, and one takes a tenth
	 * of what a helper does. */
	owner->start = leader->start_boottime;
	owner->pid = task->tgid;
	owner->tid = task->pid;
	owner->parent_pid = parent->tgid;
	owner->parent_start = owner->parent_pid ? parent->start_boottime : 0;
	owner->cgroup = task_cgroup(task);
	owner->uid = task->cred->euid.val;
	owner->netns = task->nsproxy->net_ns->ns.inum;
	if (task->flags & PF_IO_WORKER)
		task = leader;
	__builtin_memcpy(owner->comm, task->comm, COMM_LEN);
}

INLINE void head_of_owner(struct event_head *head, enum event_type type, u32 size, struct owner *owner)
{
	head->type = type;
	head->flags = 0;
	head->size = size;
	head->time = bpf_ktime_get_boot_ns();
	head->start = owner->start;
	head->parent_start = owner->parent_start;
	head->cgroup = owner->cgroup;
	head->key = 0;
	head->pid = owner->pid;
	head->tid = owner->tid;
	head->parent_pid = owner->parent_pid;
	head->uid = owner->uid;
	head->netns = owner->netns;
	head->lag = 0;
	__builtin_memcpy(head->comm, owner->comm, COMM_LEN);
}

/* Notes the current process as the owner of a UDP socket, unless it is already.
 * Only a fresh socket is surely of its maker's network namespace. */
INLINE void own_udp(void *sk, bool fresh)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct owner *owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	u32 netns = 0;

	if (owner) {
		if (owner->pid == bpf_get_current_pid_tgid() >> 32)
			return;
		netns = owner->netns; /* the socket's; the process may have left it */
	} else if (!in_scope(task) || (scope_kind == SCOPE_NETNS && !fresh)) {
		return;
	} else {
		owner = bpf_sk_storage_get(&owners, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (!owner) {
			count_loss(LOSS_OWNER_STORAGE);
			return;
		}
	}
	if (scope_kind == SCOPE_CGROUP && !task_in_cgroup(task))
		return; /* handed to a process outside: it stays its maker's */
	fill_owner(owner, task);
	if (netns)
		owner->netns = netns;
}

/* A new socket is its maker's. cgroup/sock_create, 4.10; storage 5.10. */
SEC("cgroup/sock_create")
int udp_create(struct bpf_sock *ctx)
{
	if (ctx->protocol == IPPROTO_UDP)
		own_udp(ctx, true);
	return 1;
}

/* Then it is whoever aims it or sends through it: a socket handed on by a service
 * manager belongs to the service. cgroup/connect and sendmsg, 4.17 and 4.18. */
SEC("cgroup/connect4")
int udp_connect4(struct bpf_sock_addr *ctx)
{
	if (ctx->protocol == IPPROTO_UDP && ctx->sk)
		own_udp(ctx->sk, false);
	return 1;
}

SEC("cgroup/connect6")
int udp_connect6(struct bpf_sock_addr *ctx)
{
	if (ctx->protocol == IPPROTO_UDP && ctx->sk)
		own_udp(ctx->sk, false);
	return 1;
}

SEC("cgroup/sendmsg4")
int udp_sendmsg4(struct bpf_sock_addr *ctx)
{
	if (ctx->protocol == IPPROTO_UDP && ctx->sk)
		own_udp(ctx->sk, false);
	return 1;
}

SEC("cgroup/sendmsg6")
int udp_sendmsg6(struct bpf_sock_addr *ctx)
{
	if (ctx->protocol == IPPROTO_UDP && ctx->sk)
		own_udp(ctx->sk, false);
	return 1;
}

/* Gives the sockets that are older than the sensor their owner. iter/task_file,
 * 5.8; bpf_sock_from_file 5.11. Run twice: the second time all listening ports
 * are known, so that the direction of established flows is. The first process
 * that holds the socket, by pid, is taken: a service before its workers. */
SEC("iter/task_file")
int seed_owners(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;
	struct owner *owner;
	struct listen_key key = {};
	u32 netns;
	u16 protocol;
	u8 state;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk)
		return 0;
	if (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6)
		return 0;
	protocol = sk->sk_protocol;
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP && protocol != IPPROTO_MPTCP)
		return 0;
	netns = sk->__sk_common.skc_net.net->ns.inum;
	if (scope_kind == SCOPE_NETNS && netns != scope_netns)
		return 0;
	if (scope_kind == SCOPE_CGROUP && !task_in_cgroup(task))
		return 0;
	state = sk->__sk_common.skc_state;
	key.netns = netns;
	key.port = sk->__sk_common.skc_num;

	owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	if (!owner) {
		owner = bpf_sk_storage_get(&owners, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (!owner) {
			count_loss(LOSS_OWNER_STORAGE);
			return 0;
		}
		fill_owner(owner, task);
		owner->netns = netns;
		owner->flags = FLOW_SEEDED;
		if (state == TCP_LISTEN && protocol != IPPROTO_UDP) {
			owner->flags = FLOW_INBOUND; /* its children are new */
			bpf_map_update_elem(&listeners, &key, owner, BPF_NOEXIST);
		}
	}
	if (protocol != IPPROTO_TCP || !(owner->flags & FLOW_SEEDED))
		return 0;
	if (state != TCP_CLOSE && !owner->opened)
		owner->opened = bpf_ktime_get_boot_ns(); /* earlier, unknown when */
	if (bpf_map_lookup_elem(&listeners, &key))
		owner->flags |= FLOW_INBOUND;
	return 0;
}
