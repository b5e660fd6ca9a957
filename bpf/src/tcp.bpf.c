// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// TCP flows: begun, failed and ended, with what the kernel counted.

/* sk need not be a pointer that the verifier trusts. */
INLINE void fill_addresses(struct event_flow *e, struct sock *sk)
{
	bool typed = bpf_rdonly_cast;
	struct inet_sock *inet = (void *)sk;
	struct sock_common *c;

	GIVE_TYPE(sk);
	GIVE_TYPE(inet);
	c = &sk->__sk_common;
	e->family = LOAD(c->skc_family);
	e->protocol = IPPROTO_TCP;
	/* skc_num is gone at the end: the port is given back before the state changes. */
	e->local_port = __builtin_bswap16(LOAD(inet->inet_sport));
	e->remote_port = __builtin_bswap16(LOAD(c->skc_dport));
	if (e->family == AF_INET) {
		u32 local = LOAD(c->skc_rcv_saddr), remote = LOAD(c->skc_daddr);

		__builtin_memcpy(e->local, &local, sizeof(local));
		__builtin_memcpy(e->remote, &remote, sizeof(remote));
	} else {
		bpf_probe_read_kernel(e->local, 16, __builtin_preserve_access_index(&c->skc_v6_rcv_saddr));
		bpf_probe_read_kernel(e->remote, 16, __builtin_preserve_access_index(&c->skc_v6_daddr));
	}
}

/* bytes_acked also counts SYN and FIN; sent less retransmitted is payload alone. */
INLINE u64 payload_out(struct sock *sk)
{
	bool typed = bpf_rdonly_cast;
	struct tcp_sock *tcp = (void *)sk;

	GIVE_TYPE(tcp);
	return LOAD(tcp->bytes_sent) - LOAD(tcp->bytes_retrans);
}

INLINE void fill_totals(struct event_flow *e, struct sock *sk)
{
	bool typed = bpf_rdonly_cast;
	struct tcp_sock *tcp = (void *)sk;

	GIVE_TYPE(tcp);
	e->bytes_out = payload_out(sk);
	e->bytes_in = LOAD(tcp->bytes_received);
	/* The peer's FIN takes one number of the sequence and is counted as a byte. */
	if (e->bytes_in && (sk->__sk_common.skc_flags & (1UL << SOCK_DONE)))
		e->bytes_in--;
	e->packets_out = LOAD(tcp->segs_out);
	e->packets_in = LOAD(tcp->segs_in);
}

/* A known flow that sent so much is told at its end after all: what leaves by a way
 * that is known is nothing that a count would show. */
enum { KNOWN_FLOW_BYTES = 16 << 20 };

/* What a flow is, as far as the next one of its kind is the same: the service's port
 * and not the client's. Addresses are exact; user space, which knows names and
 * prefixes, lets in each address that belongs to a known behaviour. */
INLINE u64 flow_key(struct process *p, struct event_flow *e, u32 flags)
{
	u64 *remote = (void *)e->remote;
	u32 port = flags & FLOW_INBOUND ? e->local_port : e->remote_port;

	return key_of(KEY_FLOW, p ? p->image : 0,
		      (u64)e->protocol << 32 | port << 8 | (flags & (FLOW_INBOUND | FLOW_FAILED)),
		      remote[0], remote[1], e->family);
}

/* Remembers that nobody has accepted a connection yet. */
INLINE void await_accept(u64 cookie, struct owner *owner)
{
	if (bpf_map_update_elem(&accepts, &cookie, owner, BPF_ANY))
		count_loss(LOSS_ACCEPT_TABLE_FULL);
}

/* At its end a connection is told of who accepted it, when that is not who listened. */
INLINE void end_accept(u64 cookie, struct owner *owner)
{
	struct owner *acceptor = bpf_map_lookup_elem(&accepts, &cookie);

	if (!acceptor)
		return;
	if (acceptor->pid != owner->pid || acceptor->start != owner->start) {
		u64 opened = owner->opened;
		u32 flags = owner->flags;

		*owner = *acceptor;
		owner->opened = opened;
		owner->flags = flags;
	}
	bpf_map_delete_elem(&accepts, &cookie);
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

/* The end of a flow whose opening was known: whether it needs no telling either. */
INLINE bool ends_known(struct sock *sk, struct owner *owner)
{
	struct process *p;

	if (owner->flags & FLOW_INBOUND)
		end_accept(bpf_get_socket_cookie(sk), owner);
	p = process_of(owner->pid, owner->start);
	if ((p && (p->flags & PROCESS_TAINTED)) || payload_out(sk) >= KNOWN_FLOW_BYTES)
		return false;
	owner->opened = 0; /* a socket may be connected again */
	owner->flags &= ~FLOW_KNOWN;
	count_kept();
	return true;
}

/* A flow that opened, failed to, or ended. A function of its own, so that what lies
 * on its stack is not cleared for states that are no flow's. */
static __attribute__((noinline)) void tell_flow(struct sock *sk, struct owner *owner, enum event_type type, u32 flags)
{
	struct event_flow event = {};
	struct process *p;

	event.cookie = bpf_get_socket_cookie(sk);
	if (flags & FLOW_INBOUND) {
		if (type == EVENT_FLOW_CLOSE)
			end_accept(event.cookie, owner);
		else
			await_accept(event.cookie, owner);
	}
	p = process_of(owner->pid, owner->start);
	fill_addresses(&event, sk);
	head_of_owner(&event.head, type, sizeof(event), owner);
	event.head.flags = flags;
	event.opened = owner->opened;
	if (type == EVENT_FLOW_CLOSE) {
		fill_totals(&event, sk);
		owner->opened = 0; /* a socket may be connected again */
		owner->flags &= ~FLOW_KNOWN;
	} else {
		if (owner->opened)
			event.head.time = owner->opened;
		event.head.key = flags & FLOW_SEEDED ? 0 : flow_key(p, &event, flags);
		if (is_known(p, event.head.key, event.head.time)) {
			owner->flags |= FLOW_KNOWN;
			return;
		}
		if (p && (flags & FLOW_INBOUND))
			set_flags(p, PROCESS_SERVES);
	}
	if (p && (p->flags & PROCESS_TAINTED))
		event.head.flags |= FLOW_TAINTED;
	introduce(&event.head, owner->pid);
	tell(&bulk, &event, sizeof(event), wake_when_full(&bulk, bulk_wake_bytes, event.head.time), LOSS_FLOW_RING_FULL);
}

/* TCP from connect or listen to the end. tp_btf, 5.5, with socket storage and
 * cookies for tracing programs 5.12. connect: SYN_SENT is set in the caller's
 * context. accept: the owner is who called listen, cloned to each child. */
SEC("tp_btf/inet_sock_set_state")
int tcp_state(u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	int old = ctx[1], new = ctx[2];
	struct owner *owner;

	if (new != TCP_SYN_SENT && new != TCP_LISTEN && new != TCP_ESTABLISHED && new != TCP_CLOSE)
		return 0;
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (scope_kind == SCOPE_NETNS && sk->__sk_common.skc_net.net->ns.inum != scope_netns)
		return 0;
	if (!LOAD_BITS(sk, __sk_common.skc_net_refcnt))
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
	if (new == TCP_ESTABLISHED) {
		owner->opened = bpf_ktime_get_boot_ns();
		tell_flow(sk, owner, EVENT_FLOW_OPEN, owner->flags);
	} else if (old == TCP_SYN_SENT) {
		tell_flow(sk, owner, EVENT_FLOW_OPEN, owner->flags | FLOW_FAILED);
	} else if (owner->opened) { /* else a hand-shake that the peer began and nobody ended: no flow */
		if (!(owner->flags & FLOW_KNOWN) || !ends_known(sk, owner))
			tell_flow(sk, owner, EVENT_FLOW_CLOSE, owner->flags);
	}
	return 0;
}
