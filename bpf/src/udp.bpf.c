// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// UDP flows, counted datagram by datagram because the kernel does not, and DNS,
// whose messages are handed on whole.

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
	u32 last, size;

	if (!space)
		return; /* cannot be: the array has both entries */
	e = &space->event;
	head_of_owner(&e->head, EVENT_DNS, 0, owner);
	catch_up(owner->pid);
	e->head.flags = way == INGRESS ? DNS_INGRESS : 0;
	if (length > DNS_MAX) {
		length = DNS_MAX;
		e->head.flags |= DNS_CUT;
	}
	/* Before 6.8 the verifier does not learn from a comparison with zero that a length
	 * is at least one, only from a bound: the length is made of one that was checked. */
	last = length - 1;
	KEEP(last);
	if (last >= DNS_MAX)
		return; /* an empty datagram is no message */
	length = last + 1;
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
	tell(&bulk, e, size, wake_when_full(&bulk, bulk_wake_bytes, e->head.time), LOSS_DNS_RING_FULL);
}

INLINE int datagram(struct __sk_buff *skb, u32 way)
{
	struct bpf_sock *sk = skb->sk;
	struct datagram d = {};
	struct udp_key key = {};
	struct dns_space *space = bpf_map_lookup_elem(&dns_spaces, &way);
	struct udp_flow *flow;
	struct owner *owner;
	struct process *p;
	u64 bytes, packets, now;

	if (!sk || !space)
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
		struct event_flow *e = &space->flow.flow;

		head_of_owner(&e->head, EVENT_FLOW_OPEN, sizeof(*e), owner);
		e->head.flags = way == INGRESS ? FLOW_INBOUND : 0;
		e->cookie = key.cookie;
		e->head.time = now;
		e->opened = now;
		e->bytes_in = 0;
		e->bytes_out = 0;
		e->packets_in = 0;
		e->packets_out = 0;
		e->family = d.family;
		e->protocol = IPPROTO_UDP;
		e->remote_port = key.remote_port;
		__builtin_memcpy(e->remote, key.remote, sizeof(e->remote));
		e->local_port = way == EGRESS ? d.source : d.dest;
		__builtin_memcpy(e->local, way == EGRESS ? d.from : d.to, sizeof(e->local));
		space->flow.last = now;
		p = process_of(owner->pid, owner->start);
		e->head.key = flow_key(p, e, e->head.flags);
		if (is_known(p, e->head.key))
			e->head.flags |= FLOW_KNOWN;
		else if (p && (p->flags & PROCESS_TAINTED))
			e->head.flags |= FLOW_TAINTED;
		/* Both ends of a race see the flow; only the one that put it in tells it. */
		if (!bpf_map_update_elem(&udp_flows, &key, &space->flow, BPF_NOEXIST) && !(e->head.flags & FLOW_KNOWN) && !catch_up(owner->pid))
			tell(&bulk, e, sizeof(*e), wake_when_full(&bulk, bulk_wake_bytes, now), LOSS_FLOW_RING_FULL);
		flow = bpf_map_lookup_elem(&udp_flows, &key);
		if (!flow) {
			count_loss(LOSS_UDP_TABLE_FULL);
			if (d.source == DNS_PORT || d.dest == DNS_PORT)
				tell_dns(skb, &space->flow.flow, owner, d.payload, way);
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
