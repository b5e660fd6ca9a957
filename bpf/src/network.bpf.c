// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Flows and DNS. A socket's owner is written down when a process makes the socket
// do something, in that process's own context, and read later from contexts that
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
};

INLINE void fill_owner(struct owner *owner, struct task_struct *task)
{
	struct task_struct *leader = READ(task->group_leader);
	struct task_struct *parent = READ(task->real_parent);
	struct css_set *set = READ(task->cgroups);
	struct cgroup *cgroup = READ(set->dfl_cgrp);
	struct kernfs_node *node = READ(cgroup->kn);
	struct cred *cred = READ(task->cred);
	struct nsproxy *nsproxy = READ(task->nsproxy);
	struct net *net = READ(nsproxy->net_ns);

	parent = READ(parent->group_leader);
	owner->start = READ(leader->start_boottime);
	owner->pid = READ(task->tgid);
	owner->tid = READ(task->pid);
	owner->parent_pid = READ(parent->tgid);
	owner->parent_start = owner->parent_pid ? READ(parent->start_boottime) : 0;
	owner->cgroup = READ(node->id);
	owner->uid = READ(cred->euid.val);
	owner->netns = READ(net->ns.inum);
	bpf_probe_read_kernel(owner->comm, COMM_LEN, __builtin_preserve_access_index(&task->comm));
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
	head->pid = owner->pid;
	head->tid = owner->tid;
	head->parent_pid = owner->parent_pid;
	head->uid = owner->uid;
	head->netns = owner->netns;
	head->pad = 0;
	__builtin_memcpy(head->comm, owner->comm, COMM_LEN);
}

INLINE void fill_addresses(struct event_flow *e, struct sock *sk)
{
	struct sock_common *c = &sk->__sk_common;
	struct inet_sock *inet = (void *)sk;

	e->family = c->skc_family;
	e->protocol = IPPROTO_TCP;
	/* skc_num is gone at the end: the port is given back before the state changes. */
	e->local_port = __builtin_bswap16(READ(inet->inet_sport));
	e->remote_port = __builtin_bswap16(c->skc_dport);
	if (e->family == AF_INET) {
		u32 local = c->skc_rcv_saddr, remote = c->skc_daddr;

		__builtin_memcpy(e->local, &local, sizeof(local));
		__builtin_memcpy(e->remote, &remote, sizeof(remote));
	} else {
		bpf_probe_read_kernel(e->local, 16, __builtin_preserve_access_index(&c->skc_v6_rcv_saddr));
		bpf_probe_read_kernel(e->remote, 16, __builtin_preserve_access_index(&c->skc_v6_daddr));
	}
}

INLINE void fill_totals(struct event_flow *e, struct sock *sk)
{
	struct tcp_sock *tcp = (void *)sk;
	u64 sent = READ(tcp->bytes_sent), again = READ(tcp->bytes_retrans);
	u64 received = READ(tcp->bytes_received);

	/* bytes_acked also counts SYN and FIN; sent less retransmitted is payload alone. */
	e->bytes_out = sent - again;
	/* The peer's FIN takes one number of the sequence and is counted as a byte. */
	if (received && (sk->__sk_common.skc_flags & (1UL << SOCK_DONE)))
		received--;
	e->bytes_in = received;
	e->packets_out = READ(tcp->segs_out);
	e->packets_in = READ(tcp->segs_in);
}

/* Gives a socket that an older listener accepted to who listened. */
INLINE struct owner *adopt(struct sock *sk, int old)
{
	struct listen_key key = {};
	struct owner *listener, *owner;
	struct inet_sock *inet = (void *)sk;

	if (old == TCP_CLOSE || old == TCP_SYN_SENT)
		return NULL;
	key.netns = sk->__sk_common.skc_net.net->ns.inum;
	key.port = __builtin_bswap16(READ(inet->inet_sport));
	listener = bpf_map_lookup_elem(&listeners, &key);
	if (!listener)
		return NULL;
	owner = bpf_sk_storage_get(&owners, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!owner) {
		count_loss(LOSS_OWNER_STORAGE);
		return NULL;
	}
	*owner = *listener;
	if (old != TCP_SYN_RECV) {
		owner->opened = bpf_ktime_get_boot_ns(); /* earlier, unknown when */
		owner->flags |= FLOW_SEEDED;
	}
	return owner;
}

/* TCP from connect or listen to the end. tp_btf, 5.5, with socket storage and
 * cookies for tracing programs 5.12. connect: SYN_SENT is set in the caller's
 * context. accept: the owner is who called listen, cloned to each child. */
SEC("tp_btf/inet_sock_set_state")
int tcp_state(u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	int old = ctx[1], new = ctx[2];
	struct event_flow event = {};
	struct owner *owner;
	enum event_type type;
	u16 flags;

	if (new != TCP_SYN_SENT && new != TCP_LISTEN && new != TCP_ESTABLISHED && new != TCP_CLOSE)
		return 0;
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (scope_kind == SCOPE_NETNS && sk->__sk_common.skc_net.net->ns.inum != scope_netns)
		return 0;
	if (!READ_BITS(sk, __sk_common.skc_net_refcnt))
		return 0; /* the kernel's own: NFS, SMB, … */

	if (new == TCP_SYN_SENT || new == TCP_LISTEN) {
		struct task_struct *task = bpf_get_current_task_btf();

		if (scope_kind == SCOPE_CGROUP && !task_in_cgroup(task))
			return 0;
		owner = bpf_sk_storage_get(&owners, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (!owner) {
			count_loss(LOSS_OWNER_STORAGE);
			return 0;
		}
		fill_owner(owner, task);
		owner->netns = sk->__sk_common.skc_net.net->ns.inum;
		owner->flags = new == TCP_LISTEN ? FLOW_INBOUND : 0;
		owner->opened = 0;
		return 0;
	}

	if (new == TCP_CLOSE && old == TCP_LISTEN)
		return 0;
	owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	if (!owner)
		owner = adopt(sk, old);
	if (!owner) {
		/* In a cgroup's scope this is how a socket of others looks. */
		if (scope_kind != SCOPE_CGROUP && old != TCP_CLOSE)
			count(COUNTER_UNATTRIBUTED);
		return 0;
	}
	flags = owner->flags;
	if (new == TCP_ESTABLISHED) {
		type = EVENT_FLOW_OPEN;
		owner->opened = bpf_ktime_get_boot_ns();
	} else if (old == TCP_SYN_SENT) {
		type = EVENT_FLOW_OPEN;
		flags |= FLOW_FAILED;
	} else if (owner->opened) {
		type = EVENT_FLOW_CLOSE;
		fill_totals(&event, sk);
	} else {
		return 0; /* a hand-shake that the peer began and nobody ended: no flow */
	}
	head_of_owner(&event.head, type, sizeof(event), owner);
	event.head.flags = flags;
	event.cookie = bpf_get_socket_cookie(sk);
	event.opened = owner->opened;
	if (new == TCP_ESTABLISHED)
		event.head.time = owner->opened;
	fill_addresses(&event, sk);
	if (type == EVENT_FLOW_CLOSE)
		owner->opened = 0; /* a socket may be connected again */
	tell(&bulk, &event, sizeof(event), wake_when_full(&bulk, bulk_wake_bytes), LOSS_FLOW_RING_FULL);
	return 0;
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

struct datagram {
	u16 family;
	u16 source;
	u16 dest;
	u16 pad;
	u32 payload; /* offset */
	u8 from[16];
	u8 to[16];
};

INLINE bool parse_datagram(struct __sk_buff *skb, struct datagram *d)
{
	u8 head[IP6_HEADER];
	u16 ports[2];
	u32 offset;

	if (bpf_skb_load_bytes(skb, 0, head, IP_HEADER))
		return false;
	if (head[0] >> 4 == 4) {
		if (head[9] != IPPROTO_UDP)
			return false;
		d->family = AF_INET;
		offset = (head[0] & 15) * 4;
		__builtin_memcpy(d->from, head + 12, 4);
		__builtin_memcpy(d->to, head + 16, 4);
	} else {
		u8 next;

		if (bpf_skb_load_bytes(skb, 0, head, IP6_HEADER))
			return false;
		d->family = AF_INET6;
		offset = IP6_HEADER;
		__builtin_memcpy(d->from, head + 8, 16);
		__builtin_memcpy(d->to, head + 24, 16);
		next = head[6];
		for (int i = 0; i < IP6_EXTENSIONS_MAX && next != IPPROTO_UDP; i++) {
			u8 extension[2];

			/* hop-by-hop, routing, destination options; a fragment's header never
			 * gets here: the hooks stand before fragmenting and after joining. */
			if (next != 0 && next != 43 && next != 60)
				return false;
			if (bpf_skb_load_bytes(skb, offset, extension, sizeof(extension)))
				return false;
			next = extension[0];
			offset += (extension[1] + 1) * 8;
		}
		if (next != IPPROTO_UDP)
			return false;
	}
	if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
		return false;
	d->source = __builtin_bswap16(ports[0]);
	d->dest = __builtin_bswap16(ports[1]);
	d->payload = offset + UDP_HEADER;
	return true;
}

INLINE void tell_dns(struct __sk_buff *skb, struct event_flow *flow, struct owner *owner, u32 payload, u32 way)
{
	struct dns_space *space = bpf_map_lookup_elem(&dns_spaces, &way);
	struct event_dns *e;
	u32 length = skb->len - payload;
	u32 size;

	if (!space)
		return; /* cannot be: the array has both entries */
	e = &space->event;
	head_of_owner(&e->head, EVENT_DNS, 0, owner);
	e->head.flags = way == INGRESS ? DNS_INGRESS : 0;
	if (length > DNS_MAX) {
		length = DNS_MAX;
		e->head.flags |= DNS_CUT;
	}
	KEEP(length);
	if (length == 0 || length > DNS_MAX)
		return; /* an empty datagram is no message */
	if (bpf_skb_load_bytes(skb, payload, space->data, length)) {
		count_loss(LOSS_DNS_UNREADABLE);
		return;
	}
	size = sizeof(*e) + length;
	e->head.size = size;
	e->len = length;
	e->family = flow->family;
	e->local_port = flow->local_port;
	e->remote_port = flow->remote_port;
	__builtin_memcpy(e->local, flow->local, sizeof(e->local));
	__builtin_memcpy(e->remote, flow->remote, sizeof(e->remote));
	tell(&bulk, space, size, wake_when_full(&bulk, bulk_wake_bytes), LOSS_DNS_RING_FULL);
}

INLINE int datagram(struct __sk_buff *skb, u32 way)
{
	struct bpf_sock *sk = skb->sk;
	struct datagram d = {};
	struct udp_key key = {};
	struct udp_flow fresh = {};
	struct udp_flow *flow;
	struct owner *owner;
	u64 bytes, packets, now;

	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_UDP)
		return 1;
	owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	if (!owner) {
		/* Only a whole host's sensor can tell that this is nobody's socket. */
		if (scope_kind == SCOPE_HOST)
			count(COUNTER_UNATTRIBUTED);
		return 1;
	}
	if (!parse_datagram(skb, &d)) {
		count_loss(LOSS_UDP_UNPARSED);
		return 1;
	}
	key.cookie = bpf_get_socket_cookie(skb);
	key.family = d.family;
	if (way == EGRESS) {
		key.remote_port = d.dest;
		__builtin_memcpy(key.remote, d.to, sizeof(d.to));
	} else {
		key.remote_port = d.source;
		__builtin_memcpy(key.remote, d.from, sizeof(d.from));
	}
	now = bpf_ktime_get_boot_ns();
	bytes = skb->len - d.payload;
	packets = skb->gso_segs ?: 1;

	flow = bpf_map_lookup_elem(&udp_flows, &key);
	if (!flow) {
		struct event_flow *e = &fresh.flow;

		head_of_owner(&e->head, EVENT_FLOW_OPEN, sizeof(*e), owner);
		e->head.flags = way == INGRESS ? FLOW_INBOUND : 0;
		e->cookie = key.cookie;
		e->head.time = now;
		e->opened = now;
		e->family = d.family;
		e->protocol = IPPROTO_UDP;
		e->remote_port = key.remote_port;
		__builtin_memcpy(e->remote, key.remote, sizeof(e->remote));
		e->local_port = way == EGRESS ? d.source : d.dest;
		__builtin_memcpy(e->local, way == EGRESS ? d.from : d.to, sizeof(e->local));
		fresh.last = now;
		/* Both ends of a race see the flow; only the one that put it in tells it. */
		if (!bpf_map_update_elem(&udp_flows, &key, &fresh, BPF_NOEXIST))
			tell(&bulk, e, sizeof(*e), wake_when_full(&bulk, bulk_wake_bytes), LOSS_FLOW_RING_FULL);
		flow = bpf_map_lookup_elem(&udp_flows, &key);
		if (!flow) {
			count_loss(LOSS_UDP_TABLE_FULL);
			if (d.source == DNS_PORT || d.dest == DNS_PORT)
				tell_dns(skb, &fresh.flow, owner, d.payload, way);
			return 1;
		}
	}
	if (way == EGRESS) {
		__sync_fetch_and_add(&flow->flow.bytes_out, bytes);
		__sync_fetch_and_add(&flow->flow.packets_out, packets);
	} else {
		__sync_fetch_and_add(&flow->flow.bytes_in, bytes);
		__sync_fetch_and_add(&flow->flow.packets_in, packets);
	}
	flow->last = now;
	if (d.source == DNS_PORT || d.dest == DNS_PORT)
		tell_dns(skb, &flow->flow, owner, d.payload, way);
	return 1;
}

/* Datagrams out. cgroup_skb, 4.10; socket storage 5.2. Never drops. */
SEC("cgroup_skb/egress")
int datagram_out(struct __sk_buff *skb)
{
	return datagram(skb, EGRESS);
}

/* Datagrams in. cgroup_skb, 4.10; socket storage 5.2. Never drops. */
SEC("cgroup_skb/ingress")
int datagram_in(struct __sk_buff *skb)
{
	return datagram(skb, INGRESS);
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
