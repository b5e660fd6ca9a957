// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// An IP packet's way to its transport header.

/* Not inlined, so that its stack is not the caller's too. */
static __attribute__((noinline)) bool parse_packet(struct __sk_buff *skb, struct packet *d, u8 protocol)
{
	u8 head[IP6_HEADER];
	u16 ports[2];
	u32 offset;

	if (bpf_skb_load_bytes(skb, 0, head, IP_HEADER))
		return false;
	if (head[0] >> 4 == 4) {
		if (head[9] != protocol)
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
		for (int i = 0; i < IP6_EXTENSIONS_MAX && next != protocol; i++) {
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
		if (next != protocol)
			return false;
	}
	if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
		return false;
	d->source = __builtin_bswap16(ports[0]);
	d->dest = __builtin_bswap16(ports[1]);
	d->payload = offset;
	return true;
}
