// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What packet sockets see of what comes in. They are served before tc and netfilter; only
// generic XDP comes before them, on every device and without touching its driver. A part
// of cut.bpf.c.

enum {
	/* XDP_DROP and XDP_PASS. */
	SNIFF_DROP = 1,
	SNIFF_PASS = 2,
};

/* What generic XDP took from a device when these programs came, of what user space wants
 * back when they go: by its index, enum taken_feature. The programs have it with them
 * (BPF_PROG_BIND_MAP), so that it outlives the sensor as they do. User space alone reads
 * and writes it. */
enum taken_feature {
	TAKEN_LRO = 1, /* rx-lro */
	TAKEN_GRO_HW = 2, /* rx-gro-hw */
};
enum { TAKEN_MAX = 4096 }; /* devices; full: user space says so */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, TAKEN_MAX);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} cut_taken SEC(".maps");

/* What is on the wire is all there is: nothing was claimed yet. A tag that the device took
 * off is not seen; tc, which comes after, drops what has one. */
INLINE bool is_open_xdp(struct xdp_md *xdp, int header)
{
	struct packet p = { .xdp = xdp };
	u16 type = 0;
	u8 version = 0;

	if (header == CLOSED)
		return false;
	if (header == ETHERNET)
		return load(p, ETHERNET - sizeof(type), &type, sizeof(type)) && is_open(p, IN, type, ETHERNET);
	if (!load(p, BARE, &version, sizeof(version)))
		return false;
	return version >> 4 == 4 ? ip4_open(p, IN, BARE) : ip6_open(p, IN, BARE);
}

INLINE int sniff(struct xdp_md *xdp, int header)
{
	if (!cuts_in() || is_open_xdp(xdp, header))
		return SNIFF_PASS;
	count(IN);
	return SNIFF_DROP;
}

/* By kind of device, as those of tc; attached only while cut. Not xdp.frags, which would
 * spare the kernel making a packet of many pieces one: such a program is given a copy
 * (skb_pp_cow_data, 6.9) that has no mac_len, so that every tc program on the device after
 * it takes the network header for the begin of the frame. REPLACE, 5.7; BIND_MAP, 5.10. */
SEC("xdp")
int cut_sniff(struct xdp_md *xdp)
{
	return sniff(xdp, ETHERNET);
}

SEC("xdp")
int cut_sniff_bare(struct xdp_md *xdp)
{
	return sniff(xdp, BARE);
}

SEC("xdp")
int cut_sniff_closed(struct xdp_md *xdp)
{
	return sniff(xdp, CLOSED);
}
