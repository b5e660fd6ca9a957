// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// UDP flows, counted datagram by datagram because the kernel does not. DNS is handed
// on, of TCP that alone.

INLINE int datagram(struct __sk_buff *skb, u32 way)
{
	struct bpf_sock *sk = skb->sk;
	struct packet *d;
	struct udp_key *key;
	struct dns_space *space;
	struct udp_flow *flow;
	struct owner *owner;
	struct process *p;
	u64 bytes, packets, now;

	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	if (sk->protocol == IPPROTO_TCP) {
		if (sk->src_port == DNS_PORT || sk->dst_port == __builtin_bswap16(DNS_PORT))
			segment(skb, way);
		return 1;
	}
	space = bpf_map_lookup_elem(&dns_spaces, &way);
	if (sk->protocol != IPPROTO_UDP || !space)
		return 1;
	d = &space->packet;
	key = &space->key;
	__builtin_memset(d, 0, sizeof(*d));
	__builtin_memset(key, 0, sizeof(*key));
	owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	if (!owner) {
		/* Only a whole host's sensor can tell that this is nobody's socket. */
		if (scope_kind == SCOPE_HOST)
			count(COUNTER_UNATTRIBUTED);
		return 1;
	}
	if (!parse_packet(skb, d, IPPROTO_UDP)) {
		count_loss(LOSS_UDP_UNPARSED);
		return 1;
	}
	d->payload += UDP_HEADER;
	key->cookie = bpf_get_socket_cookie(skb);
	key->family = d->family;
	if (way == EGRESS) {
		key->remote_port = d->dest;
		__builtin_memcpy(key->remote, d->to, sizeof(d->to));
	} else {
		key->remote_port = d->source;
		__builtin_memcpy(key->remote, d->from, sizeof(d->from));
	}
	now = bpf_ktime_get_boot_ns();
	bytes = skb->len - d->payload;
	packets = skb->gso_segs ?: 1;

	flow = bpf_map_lookup_elem(&udp_flows, key);
	if (!flow) {
		struct event_flow *e = &space->flow.flow;

		head_of_owner(&e->head, EVENT_FLOW_OPEN, sizeof(*e), owner);
		e->head.flags = way == INGRESS ? FLOW_INBOUND : 0;
		e->cookie = key->cookie;
		e->head.time = now;
		e->opened = now;
		e->bytes_in = 0;
		e->bytes_out = 0;
		e->packets_in = 0;
		e->packets_out = 0;
		e->family = d->family;
		e->protocol = IPPROTO_UDP;
		e->remote_port = key->remote_port;
		__builtin_memcpy(e->remote, key->remote, sizeof(e->remote));
		e->local_port = way == EGRESS ? d->source : d->dest;
		__builtin_memcpy(e->local, way == EGRESS ? d->from : d->to, sizeof(e->local));
		space->flow.last = now;
		p = process_of(owner->pid, owner->start);
		e->head.key = flow_key(p, e, e->head.flags);
		if (is_known(p, e->head.key, now))
			e->head.flags |= FLOW_KNOWN;
		else if (p && (p->flags & PROCESS_TAINTED))
			e->head.flags |= FLOW_TAINTED;
		/* Both ends of a race see the flow; only the one that put it in tells it. */
		if (!bpf_map_update_elem(&udp_flows, key, &space->flow, BPF_NOEXIST) && !(e->head.flags & FLOW_KNOWN)) {
			introduce(&e->head, owner->pid);
			tell(&bulk, e, sizeof(*e), wake_when_full(&bulk, bulk_wake_bytes, now), LOSS_FLOW_RING_FULL);
		}
		flow = bpf_map_lookup_elem(&udp_flows, key);
		if (!flow) {
			count_loss(LOSS_UDP_TABLE_FULL);
			if (d->source == DNS_PORT || d->dest == DNS_PORT)
				tell_dns(skb, &space->flow.flow, owner, d->payload, way);
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
	if (d->source == DNS_PORT || d->dest == DNS_PORT)
		tell_dns(skb, &flow->flow, owner, d->payload, way);
	return 1;
}

/* Packets out. cgroup_skb, 4.10; socket storage 5.2. Never drops. */
SEC("cgroup_skb/egress")
int datagram_out(struct __sk_buff *skb)
{
	return datagram(skb, EGRESS);
}

/* Packets in. cgroup_skb, 4.10; socket storage 5.2. Never drops. */
SEC("cgroup_skb/ingress")
int datagram_in(struct __sk_buff *skb)
{
	return datagram(skb, INGRESS);
}
