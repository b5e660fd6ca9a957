// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// DNS: messages whole over UDP, and over TCP the bytes of the stream with their place
// in it, which user space joins.

enum {
	DNS_HEADER = 12,
	DNS_NAME_MAX = 255, /* RFC 1035, 2.3.4 */
	DNS_LABEL_MAX = 63,
	/* What may follow the question of a query that is kept back: an OPT record with a
	 * cookie and a client subnet. More could carry anything and is always told. */
	DNS_EXTRA_MAX = 64,
	TCP_HEADER = 20,
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
};

/* What is asked, by whom and which way, as a behaviour: name, type and class. Not the
 * id, and the name in lower case, because clients vary both against forgers. 0: there is
 * more or else in the message, which lies in the space, than one plain question. A
 * function of its own to the verifier, which looks at it once. */
__attribute__((noinline)) u64 lookup_key(u64 image, u32 length, u32 way)
{
	struct dns_space *space = bpf_map_lookup_elem(&dns_spaces, &way);
	u32 end = 0;
	u64 word = 0;
	bool response;
	u8 *m;

	if (!space || !image)
		return 0;
	m = space->data;
	response = m[2] & 0x80;
	if (length < DNS_HEADER + 5 || m[4] != 0 || m[5] != 1)
		return 0;
	if (!response && ((m[2] & 0xfe) || (m[3] & 0xcf) || m[6] || m[7] || m[8] || m[9] || m[10] || m[11] > 1))
		return 0;
	key_begin(&space->hash, KEY_LOOKUP);
	sip_word(&space->hash, image);
	sip_word(&space->hash, response ? !way : way);
	space->left = 0;
	for (u32 i = 0; i < DNS_NAME_MAX; i++) {
		u8 c = m[DNS_HEADER + i];
		u64 left = *(volatile u64 *)&space->left;

		if (left) {
			*(volatile u64 *)&space->left = left - 1;
			if (c >= 'A' && c <= 'Z')
				c |= 0x20;
		} else if (c > DNS_LABEL_MAX) {
			return 0; /* compressed: no client does that to the only name */
		} else if (c) {
			*(volatile u64 *)&space->left = c;
		} else {
			end = i + 1;
			break;
		}
		word = word << 8 | c;
		if ((i & 7) == 7) {
			sip_word(&space->hash, word);
			word = 0;
		}
	}
	KEEP(end);
	if (!end || end > DNS_NAME_MAX || DNS_HEADER + end + 4 > length)
		return 0;
	if (!response && length - (DNS_HEADER + end + 4) > DNS_EXTRA_MAX)
		return 0;
	sip_word(&space->hash, word);
	m += DNS_HEADER + end;
	sip_word(&space->hash, (u64)m[0] << 24 | m[1] << 16 | m[2] << 8 | m[3]);
	return sip_end(&space->hash, end);
}

INLINE void tell_dns(struct __sk_buff *skb, struct event_flow *flow, struct owner *owner, u32 payload, u32 way)
{
	struct dns_space *space = bpf_map_lookup_elem(&dns_spaces, &way);
	struct process *p = process_of(owner->pid, owner->start);
	struct event_dns *e;
	u32 length = skb->len - payload;
	u32 last, size;
	u64 key;

	if (!space)
		return; /* cannot be: the array has both entries */
	e = &space->event;
	head_of_owner(&e->head, EVENT_DNS, 0, owner);
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
	key = !p || e->head.flags & DNS_CUT ? 0 : lookup_key(p->image, length, way);
	if (!(space->data[2] & 0x80)) {
		if (is_known(p, key, e->head.time))
			return;
		e->head.key = key;
		introduce(&e->head, owner->pid);
	} else if (keep_known && key && p && !(p->flags & PROCESS_TAINTED) && find_known(key)) {
		/* Flows are named by what is in it, for as long as it says; who asked need
		 * not be told for that. */
		e->head.flags |= DNS_KNOWN;
	} else {
		introduce(&e->head, owner->pid);
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

/* Where a packet's payload lies in its stream. The socket itself says where that began:
 * sequence numbers begin anywhere, and the SYN may have been before the sensor. */
INLINE bool find_stream(struct bpf_sock *sk, struct owner *owner, u32 way, u32 *first)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
	struct stream *stream = bpf_sk_storage_get(&streams, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	u32 at = way & 1;

	if (!tcp || !stream)
		return false;
	if (!stream->found[at]) {
		if (at == INGRESS)
			stream->first[at] = tcp->rcv_nxt - (u32)tcp->bytes_received;
		else /* a SYN counts as a byte that was acknowledged, but not one with an ACK */
			stream->first[at] = tcp->snd_una - (u32)tcp->bytes_acked + !(owner->flags & FLOW_INBOUND);
		stream->found[at] = 1;
	}
	*first = stream->first[at];
	return true;
}

INLINE void tell_segment(struct __sk_buff *skb, struct bpf_sock *sk, struct owner *owner, struct segment_space *space, u32 way)
{
	struct event_segment *e = &space->event;
	struct packet *d = &space->packet;
	u32 length, position, first;
	u8 head[TCP_HEADER];
	bool last, syn;

	if (!parse_packet(skb, d, IPPROTO_TCP) || bpf_skb_load_bytes(skb, d->payload, head, sizeof(head))) {
		count_loss(LOSS_SEGMENT_UNREADABLE);
		return;
	}
	d->payload += (head[12] >> 4) * 4;
	last = head[13] & (TCP_FIN | TCP_RST);
	syn = head[13] & TCP_SYN;
	length = skb->len > d->payload ? skb->len - d->payload : 0;
	if (!length && !last)
		return; /* an ACK alone, which is every second packet */
	/* Data in a SYN that comes in (TCP fast open): the socket is not yet there that will
	 * have it. */
	if ((syn && way == INGRESS) || !find_stream(sk, owner, way, &first)) {
		if (length)
			count_loss(LOSS_SEGMENT_UNREADABLE);
		return;
	}
	position = (head[4] << 24 | head[5] << 16 | head[6] << 8 | head[7]) + syn - first;
	head_of_owner(&e->head, EVENT_DNS_SEGMENT, 0, owner);
	e->cookie = bpf_get_socket_cookie(skb);
	e->family = d->family;
	e->local_port = way == EGRESS ? d->source : d->dest;
	e->remote_port = way == EGRESS ? d->dest : d->source;
	__builtin_memcpy(e->local, way == EGRESS ? d->from : d->to, sizeof(e->local));
	__builtin_memcpy(e->remote, way == EGRESS ? d->to : d->from, sizeof(e->remote));
	for (u32 i = 0; i < SEGMENT_PIECES; i++) {
		u32 done = i * SEGMENT_MAX, n = length - done, more;

		if (length < done || (i && length == done))
			break;
		e->head.flags = way == INGRESS ? SEGMENT_INGRESS : 0;
		if (n > SEGMENT_MAX)
			n = SEGMENT_MAX;
		else if (last)
			e->head.flags |= SEGMENT_LAST;
		/* What follows the first byte is bounded and not all of it, as with messages. */
		more = n - 1;
		KEEP(more);
		if (n && (more >= SEGMENT_MAX || bpf_skb_load_bytes(skb, d->payload + done, space->data, more + 1))) {
			count_loss(LOSS_SEGMENT_UNREADABLE);
			break;
		}
		KEEP(n);
		if (n > SEGMENT_MAX)
			break;
		e->position = position + done;
		e->len = n;
		e->head.size = sizeof(*e) + n;
		tell(&bulk, e, sizeof(*e) + n, wake_when_full(&bulk, bulk_wake_bytes, e->head.time), LOSS_SEGMENT_RING_FULL);
	}
	if (length > SEGMENT_PIECES * SEGMENT_MAX)
		count_loss(LOSS_SEGMENT_UNREADABLE);
}

/* A packet of a connection with port 53 at an end. A function of its own, so that
 * other connections' packets pay for two comparisons. */
__attribute__((noinline)) int segment(struct __sk_buff *skb, u32 way)
{
	struct segment_space *space = bpf_map_lookup_elem(&segment_spaces, &way);
	struct bpf_sock *sk = skb->sk;
	struct owner *owner;

	if (!space || !sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 0;
	owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	if (!owner) {
		if (scope_kind == SCOPE_HOST)
			count(COUNTER_UNATTRIBUTED);
		return 0;
	}
	catch_up(owner->pid);
	if (__sync_lock_test_and_set(&space->taken, 1)) {
		count_loss(LOSS_SEGMENT_UNREADABLE);
		return 0;
	}
	tell_segment(skb, sk, owner, space, way);
	space->taken = 0;
	return 0;
}
