// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// AF_XDP sockets, which no hook of a device sees, and who could send through them. A part
// of cut.bpf.c.

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct net_device {
	int ifindex;
};
struct netns_xdp {
	struct hlist_head list;
};
struct net___cut {
	struct netns_xdp xdp;
	u64 net_cookie; /* 5.12, an atomic64_t before */
};
struct sock_common___cut {
	possible_net_t skc_net;
	u16 skc_family;
	struct hlist_node skc_node;
};
struct socket___cut {
	struct file *file;
};
struct sock___cut {
	struct sock_common___cut __sk_common;
	struct socket___cut *sk_socket;
};
struct xdp_sock {
	struct net_device *dev;
	u16 queue_id;
	bool zc;
	void *tx;
};
struct bpf_iter__task_vma {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct vm_area_struct *vma;
};
#pragma clang attribute pop

enum xdp_flags {
	XDP_SENDS = 1, /* has a ring to send from */
	XDP_ZEROCOPY = 2, /* the driver reads that ring by itself */
	XDP_MAPPED = 4, /* held by a mapping and not by a descriptor */
};
struct xdp_holder {
	u64 start; /* of the process, CLOCK_BOOTTIME, ns */
	u64 inode; /* of the socket; 0: it has no file */
	u32 pid; /* 0: in the list of sockets, whoever holds it */
	u32 device; /* 0: not bound */
	u16 queue;
	u16 flags; /* enum xdp_flags */
	u32 pad;
	u8 comm[16];
};
enum { XDP_MAX = 128 }; /* more are counted: user space says that it does not know them all */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, XDP_MAX);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct xdp_holder);
} xdp_sockets SEC(".maps");

INLINE void describe_xdp(struct xdp_holder *h, struct sock___cut *sk)
{
	struct xdp_sock *xs = (struct xdp_sock *)sk;
	struct socket___cut *socket = READ(sk->sk_socket);
	struct net_device *dev = READ(xs->dev);
	struct file *file = READ(socket->file);
	struct inode *inode = READ(file->f_inode);

	h->inode = READ(inode->i_ino);
	h->device = dev ? READ(dev->ifindex) : 0;
	h->queue = READ(xs->queue_id);
	h->flags = (READ(xs->tx) ? XDP_SENDS : 0) | (READ(xs->zc) ? XDP_ZEROCOPY : 0);
}

/* All AF_XDP sockets of the caller's network namespace, also those that no process has
 * a descriptor of: on their way through another socket, or registered with io_uring. Run
 * by user space, 5.10. */
SEC("raw_tp/list_xdp")
int list_xdp(u64 *ctx)
{
	struct net___cut *net = (void *)bpf_get_current_task_btf()->nsproxy->net_ns;
	struct hlist_node *node = READ(net->xdp.list.first);
	u32 n = 0;

	(void)ctx;
	for (; n < XDP_MAX && node; n++) {
		struct sock___cut *sk = (void *)node - __builtin_preserve_field_info(((struct sock___cut *)0)->__sk_common.skc_node, 0);
		struct xdp_holder *h;
		u32 at = n;

		h = bpf_map_lookup_elem(&xdp_sockets, &at);
		if (!h)
			break;
		describe_xdp(h, sk);
		node = READ(node->next);
	}
	cut.xdp_sockets = node ? XDP_MAX + 1 : n;
	return 0;
}

INLINE int tell_holder(struct seq_file *seq, struct task_struct *task, struct file *file, u16 flags)
{
	struct xdp_holder h = {};
	struct socket *socket = bpf_sock_from_file(file);
	struct sock___cut *sk;
	struct net___cut *net;

	if (!socket)
		return 0;
	sk = (struct sock___cut *)socket->sk;
	if (!sk || READ(sk->__sk_common.skc_family) != AF_XDP)
		return 0;
	net = (struct net___cut *)READ(sk->__sk_common.skc_net.net);
	if (READ(net->net_cookie) != netns_cookie)
		return 0;
	describe_xdp(&h, sk);
	h.flags |= flags;
	h.pid = task->tgid;
	h.start = task->group_leader->start_boottime;
	__builtin_memcpy(h.comm, task->group_leader->comm, sizeof(h.comm));
	bpf_seq_write(seq, &h, sizeof(h));
	return 0;
}

/* Who has a descriptor of one, threads with files of their own included. iter/task_file,
 * 5.8; bpf_sock_from_file 5.11. */
SEC("iter/task_file")
int xdp_holders(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;

	if (!task || !file)
		return 0;
	return tell_holder(ctx->meta->seq, task, file, 0);
}

/* Who has its rings mapped, which for a driver that reads them is enough. iter/task_vma, 5.12. */
SEC("iter/task_vma")
int xdp_mappers(struct bpf_iter__task_vma *ctx)
{
	struct task_struct *task = ctx->task;
	struct vm_area_struct *vma = ctx->vma;
	struct file *file;

	if (!task || !vma)
		return 0;
	file = vma->vm_file;
	if (!file)
		return 0;
	return tell_holder(ctx->meta->seq, task, file, XDP_MAPPED);
}
