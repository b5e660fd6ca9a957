// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The first cut: programs that hang on every device, armed and idle, and drop all but
// what an isolation leaves open from the moment in which one word of memory is set.
//
// A unit of its own, beside vedette.bpf.c: it has no ring, no scope and no event, and it
// loads where the sensor's own programs do not, so that a host can be cut by less than
// what it takes to see it. A program that decides in the kernel may share the word.
#include "vmlinux.h"
#include "core.h"

static u64 (*bpf_get_netns_cookie)(void *ctx) = (void *)122; /* 5.7; for setsockopt 5.15 */

enum {
	/* TC_ACT_UNSPEC and TC_ACT_SHOT, and the same numbers on tcx (6.6). */
	NEXT = -1,
	DROP = 2,

	AF_INET = 2,
	AF_INET6 = 10,
	AF_XDP = 44,
	SOCK_RAW = 3,
	SOL_PACKET = 263,
	SOL_XDP = 283,
	PACKET_QDISC_BYPASS = 20,
	IPPROTO_UDP = 17,
	IPPROTO_ICMPV6 = 58,

	ETHERNET = 14, /* bytes before the network header */
	BARE = 0, /* a device whose packets begin with it */
	CLOSED = -1, /* a device of which nothing is known: nothing is left open there */

	IP6_HEADER = 40,
	ARP_MAX = 64, /* the frame; Ethernet's least without checksum is 60: more is a tunnel */
	ND_MAX = 160, /* the message */
	HOPS_MAX = 255,
	ROUTER_SOLICITATION = 133,
	ROUTER_ADVERTISEMENT = 134,
	NEIGHBOUR_SOLICITATION = 135,
	NEIGHBOUR_ADVERTISEMENT = 136,
	DHCP_SERVER = 67,
	DHCP_CLIENT = 68,
	DHCP6_CLIENT = 546,
	DHCP6_SERVER = 547,
};
#define NET16(x) __builtin_bswap16(x)

/* The word, and what else user space writes through its mapping of this page. Any number
 * but the first and the last cuts both ways: what is not understood is not let through. */
enum cut_level {
	CUT_NONE = 0,
	CUT_ALL = 1,
	CUT_EGRESS = 2,
};
struct cut_state {
	u32 level; /* enum cut_level */
	u32 sensor; /* thread group of the sensor: what sockets it makes are marked */
	u32 xdp_sockets; /* that list_xdp found, whether or not there was room for them */
	u32 pad;
};
volatile struct cut_state cut = {};

const volatile u64 netns_cookie = 0; /* of the namespace that is cut (SO_NETNS_COOKIE) */

/* The coordinators' endpoints. User space alone writes it; full: it says so. */
struct node {
	u8 address[16]; /* IPv4: the first four */
	u16 port; /* network order */
	u16 family;
	u32 pad;
};
enum { NODES_MAX = 32 };
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, NODES_MAX);
	MAP_TYPE(key, struct node);
	MAP_TYPE(value, u32);
} nodes SEC(".maps");

/* The IPv6 prefixes on this host's links, where neighbours are asked for by their own
 * addresses. User space alone writes it and keeps to the bound. */
struct prefix {
	u32 bits;
	u8 address[16];
};
enum { ON_LINK_MAX = 64, BPF_MAP_TYPE_LPM_TRIE = 11 };
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_LPM_TRIE);
	MAP_NUMBER(max_entries, ON_LINK_MAX);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct prefix);
	MAP_TYPE(value, u32);
} on_link SEC(".maps");

/* The sensor's own sockets. Lives and dies with the socket. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_SK_STORAGE);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, int);
	MAP_TYPE(value, u32);
} ours SEC(".maps");

/* Packets dropped, by enum way. */
enum way {
	OUT = 0,
	IN = 1,
	WAYS = 2,
};
struct dropped {
	u64 n[WAYS];
};
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct dropped);
} dropped SEC(".maps");

struct ip4 {
	u8 version_length;
	u8 tos;
	u16 length;
	u16 id;
	u16 fragment;
	u8 ttl;
	u8 protocol;
	u16 sum;
	u8 from[4];
	u8 to[4];
	u16 source; /* UDP's */
	u16 dest;
	u32 rest;
};
struct ip6 {
	u8 version;
	u8 flow[3];
	u16 length;
	u8 next;
	u8 hops;
	u8 from[16];
	u8 to[16];
	union {
		struct {
			u16 source; /* UDP's */
			u16 dest;
		};
		struct {
			u8 type; /* ICMP's */
			u8 code;
			u16 sum;
		};
	};
};

/* A packet as the hook has it that judges it: one of the two, and which is known when the
 * program is made, so that the choice is not in it. */
struct packet {
	struct __sk_buff *skb; /* tc */
	struct xdp_md *xdp;
};

INLINE bool load(struct packet p, u32 at, void *to, u32 size)
{
	void *from;

	if (p.skb)
		return !bpf_skb_load_bytes(p.skb, at, to, size);
	from = (void *)(long)p.xdp->data + at; /* one piece: see sniff.bpf.c */
	if (from + size > (void *)(long)p.xdp->data_end)
		return false;
	/* Network headers are so at least, and no load needs more than it has. */
	__builtin_memcpy(to, __builtin_assume_aligned(from, sizeof(u16)), size);
	return true;
}

INLINE u32 length(struct packet p)
{
	return p.skb ? p.skb->len : p.xdp->data_end - p.xdp->data;
}

/* Whether the packet's socket is one of the sensor's. What is forwarded, and what came
 * of another namespace, has none; what was written to a raw or packet socket has that. */
INLINE bool is_ours(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return false;
	sk = bpf_sk_fullsock(sk);
	return sk && bpf_sk_storage_get(&ours, sk, NULL, 0);
}

INLINE bool is_node(struct node *remote, struct packet p, enum way way)
{
	return bpf_map_lookup_elem(&nodes, remote) && (way == IN || is_ours(p.skb));
}

/* No options (source routes) and no fragment, first or later. */
INLINE bool ip4_open(struct packet p, enum way way, u32 at)
{
	struct ip4 ip;
	struct node remote = { .family = AF_INET };

	if (!load(p, at, &ip, sizeof(ip)))
		return false;
	if (ip.version_length != 0x45 || ip.protocol != IPPROTO_UDP || (ip.fragment & NET16(0x3fff)))
		return false;
	if (way == IN && ip.source == NET16(DHCP_SERVER) && ip.dest == NET16(DHCP_CLIENT))
		return true;
	/* Broadcast alone: a renewal to one address looks the same as a tunnel. */
	if (way == OUT && ip.source == NET16(DHCP_CLIENT) && ip.dest == NET16(DHCP_SERVER) &&
	    (ip.to[0] & ip.to[1] & ip.to[2] & ip.to[3]) == 0xff)
		return true;
	__builtin_memcpy(remote.address, way == OUT ? ip.to : ip.from, sizeof(ip.to));
	remote.port = way == OUT ? ip.dest : ip.source;
	return is_node(&remote, p, way);
}

INLINE bool is_link_local(const u8 *address)
{
	return address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

/* A neighbour message to an address off the link would be routed there. */
INLINE bool is_near(const u8 *address)
{
	struct prefix key = { .bits = 128 };

	if (is_link_local(address) || (address[0] == 0xff && address[1] == 0x02))
		return true;
	__builtin_memcpy(key.address, address, sizeof(key.address));
	return bpf_map_lookup_elem(&on_link, &key);
}

INLINE bool neighbour_open(struct packet p, enum way way, u32 at, struct ip6 *ip)
{
	if (ip->hops != HOPS_MAX || ip->code)
		return false;
	if (way == IN && ip->type == ROUTER_ADVERTISEMENT)
		return true;
	if (ip->type != NEIGHBOUR_SOLICITATION && ip->type != NEIGHBOUR_ADVERTISEMENT &&
	    !(way == OUT && ip->type == ROUTER_SOLICITATION))
		return false;
	if (NET16(ip->length) > ND_MAX)
		return false;
	return way == IN || (length(p) <= at + IP6_HEADER + ND_MAX && is_near(ip->to));
}

INLINE bool is_all_dhcp(const u8 *a) /* ff02::1:2 */
{
	return a[0] == 0xff && a[1] == 2 && a[13] == 1 && a[15] == 2 &&
	       !(a[2] | a[3] | a[4] | a[5] | a[6] | a[7] | a[8] | a[9] | a[10] | a[11] | a[12] | a[14]);
}

/* The first header alone: with any extension before it nothing is let through. */
INLINE bool ip6_open(struct packet p, enum way way, u32 at)
{
	struct ip6 ip;
	struct node remote = { .family = AF_INET6 };

	if (!load(p, at, &ip, sizeof(ip)) || (ip.version & 0xf0) != 0x60)
		return false;
	if (ip.next == IPPROTO_ICMPV6)
		return neighbour_open(p, way, at, &ip);
	if (ip.next != IPPROTO_UDP)
		return false;
	if (way == OUT && ip.source == NET16(DHCP6_CLIENT) && ip.dest == NET16(DHCP6_SERVER) &&
	    is_link_local(ip.from) && is_all_dhcp(ip.to))
		return true;
	if (way == IN && ip.source == NET16(DHCP6_SERVER) && ip.dest == NET16(DHCP6_CLIENT) &&
	    is_link_local(ip.from) && is_link_local(ip.to))
		return true;
	__builtin_memcpy(remote.address, way == OUT ? ip.to : ip.from, sizeof(ip.to));
	remote.port = way == OUT ? ip.dest : ip.source;
	return is_node(&remote, p, way);
}

/* Ethernet and IPv4, addresses of 6 and 4 bytes, request and reply. */
INLINE bool arp_open(struct packet p, enum way way)
{
	struct {
		u16 hardware;
		u16 protocol;
		u8 sizes[2];
		u16 operation;
	} arp;

	if (!load(p, ETHERNET, &arp, sizeof(arp)))
		return false;
	return arp.hardware == NET16(1) && arp.protocol == NET16(0x0800) && arp.sizes[0] == 6 && arp.sizes[1] == 4 &&
	       (arp.operation == NET16(1) || arp.operation == NET16(2)) &&
	       length(p) <= (way == OUT ? ARP_MAX : ARP_MAX + ETHERNET);
}

/* The same as the isolation's rules (sensor/internal/respond/isolation/rules.go) leave
 * open, or less. The type is in network order. */
INLINE bool is_open(struct packet p, enum way way, u16 type, int header)
{
	if (header == ETHERNET && type == NET16(0x0806))
		return arp_open(p, way);
	if (type == NET16(0x0800))
		return ip4_open(p, way, header);
	if (type == NET16(0x86dd))
		return ip6_open(p, way, header);
	return false;
}

/* What the sender claims and what is on the wire must agree. */
INLINE bool is_open_tc(struct __sk_buff *skb, enum way way, int header)
{
	struct packet p = { .skb = skb };
	u16 type = (u16)skb->protocol, wire = 0;

	if (header == CLOSED)
		return false;
	if (header == ETHERNET && (skb->vlan_present || !load(p, ETHERNET - sizeof(wire), &wire, sizeof(wire)) || wire != type))
		return false;
	return is_open(p, way, type, header);
}

INLINE void count(enum way way)
{
	u32 zero = 0;
	struct dropped *all = bpf_map_lookup_elem(&dropped, &zero);

	if (all)
		__sync_fetch_and_add(&all->n[way], 1);
}

INLINE int verdict(struct __sk_buff *skb, enum way way, int header)
{
	if (is_open_tc(skb, way, header))
		return NEXT;
	count(way);
	return DROP;
}

INLINE bool cuts_in(void)
{
	u32 level = cut.level;

	return level != CUT_NONE && level != CUT_EGRESS;
}

INLINE int out(struct __sk_buff *skb, int header)
{
	if (cut.level == CUT_NONE)
		return NEXT;
	return verdict(skb, OUT, header);
}

INLINE int in(struct __sk_buff *skb, int header)
{
	if (!cuts_in())
		return NEXT;
	return verdict(skb, IN, header);
}

/* One pair for each kind of device, so that nothing is looked up: tcx (6.6) or a clsact
 * filter, first of all. Idle: one load and one branch. */
SEC("tc")
int cut_out(struct __sk_buff *skb)
{
	return out(skb, ETHERNET);
}

SEC("tc")
int cut_in(struct __sk_buff *skb)
{
	return in(skb, ETHERNET);
}

SEC("tc")
int cut_out_bare(struct __sk_buff *skb)
{
	return out(skb, BARE);
}

SEC("tc")
int cut_in_bare(struct __sk_buff *skb)
{
	return in(skb, BARE);
}

SEC("tc")
int cut_out_closed(struct __sk_buff *skb)
{
	return out(skb, CLOSED);
}

SEC("tc")
int cut_in_closed(struct __sk_buff *skb)
{
	return in(skb, CLOSED);
}

/* The sensor, by the number that the kernel gives it, whatever its PID namespace. Run by
 * user space, 5.10. */
SEC("raw_tp/cut_self")
int cut_self(u64 *ctx)
{
	(void)ctx;
	cut.sensor = bpf_get_current_pid_tgid() >> 32;
	return 0;
}

/* Marks the sensor's sockets, and while the host is cut refuses raw ones: their packets
 * are cut as all others are, so this is for a device that appears and is not covered yet.
 * ICMPv6 is left, which is how routers are listened to. cgroup/sock_create, 4.10; storage 5.10. */
SEC("cgroup/sock_create")
int cut_create(struct bpf_sock *ctx)
{
	if (ctx->protocol == IPPROTO_UDP && cut.sensor && bpf_get_current_task_btf()->tgid == (int)cut.sensor)
		bpf_sk_storage_get(&ours, ctx, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (cut.level == CUT_NONE || ctx->type != SOCK_RAW)
		return 1;
	if (ctx->family == AF_INET6 && ctx->protocol == IPPROTO_ICMPV6)
		return 1;
	return bpf_get_netns_cookie(ctx) != netns_cookie;
}

/* The options without which a socket cannot pass the hooks of a device: an AF_XDP socket
 * has no ring and cannot be bound before them, and a packet socket keeps its queueing
 * discipline. cgroup/setsockopt, 5.3; netns cookie 5.15. Attached only while cut. */
struct bpf_sockopt {
	struct bpf_sock *sk;
	void *optval;
	void *optval_end;
	s32 level;
	s32 optname;
	s32 optlen;
	s32 retval;
};
SEC("cgroup/setsockopt")
int cut_setsockopt(struct bpf_sockopt *ctx)
{
	bool passes_by = ctx->level == SOL_XDP || (ctx->level == SOL_PACKET && ctx->optname == PACKET_QDISC_BYPASS);

	if (passes_by && cut.level != CUT_NONE && bpf_get_netns_cookie(ctx) == netns_cookie)
		return 0;
	/* The caller's own bytes are used and not the kernel's copy, which for an option of
	 * more than a page (a firewall's rules) would else be refused with EFAULT. */
	ctx->optlen = 0;
	return 1;
}

#include "afxdp.bpf.c"
#include "sniff.bpf.c"

/* Keeps the types of the contract in the object's BTF, where a test compares them. */
struct cut_contract {
	enum cut_level levels;
	enum way ways;
	enum xdp_flags xdp_flags;
	enum taken_feature taken;
	struct xdp_holder holder;
};
const volatile struct cut_contract contract = {};

char program_license[] SEC("license") = "Dual BSD/GPL";
