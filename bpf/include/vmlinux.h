// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The few kernel types and fields that the programs read, and no others. Only
// names matter: offsets are fitted at load time to the running kernel (CO-RE).
// A type with a ___suffix is the same kernel type as it was in other releases.
#ifndef VEDETTE_VMLINUX_H
#define VEDETTE_VMLINUX_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long long s64;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum { /* bpf_map_update_elem */
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
};
enum {
	BPF_F_NO_PREALLOC = 1U << 0,
	BPF_F_CLONE = 1U << 9,
	BPF_F_MMAPABLE = 1U << 10,
};
enum {
	BPF_SK_STORAGE_GET_F_CREATE = 1U << 0,
};
enum {
	BPF_RB_NO_WAKEUP = 1ULL << 0,
	BPF_RB_FORCE_WAKEUP = 1ULL << 1,
	BPF_RB_AVAIL_DATA = 0, /* bpf_ringbuf_query */
};

/* The user-visible program contexts (include/uapi/linux/bpf.h): fixed layout. */
struct bpf_sock {
	u32 bound_dev_if;
	u32 family;
	u32 type;
	u32 protocol;
	u32 mark;
	u32 priority;
	u32 src_ip4;
	u32 src_ip6[4];
	u32 src_port; /* host order */
	u16 dst_port; /* network order */
	u16 pad;
};
struct bpf_tcp_sock {
	u32 snd_cwnd;
	u32 srtt_us;
	u32 rtt_min;
	u32 snd_ssthresh;
	u32 rcv_nxt;
	u32 snd_nxt;
	u32 snd_una;
	u32 mss_cache;
	u32 ecn_flags;
	u32 rate_delivered;
	u32 rate_interval_us;
	u32 packets_out;
	u32 retrans_out;
	u32 total_retrans;
	u32 segs_in;
	u32 data_segs_in;
	u32 segs_out;
	u32 data_segs_out;
	u32 lost_out;
	u32 sacked_out;
	u64 bytes_received;
	u64 bytes_acked;
};
struct bpf_sock_addr {
	u32 user_family;
	u32 user_ip4;
	u32 user_ip6[4];
	u32 user_port;
	u32 family;
	u32 type;
	u32 protocol;
	u32 msg_src_ip4;
	u32 msg_src_ip6[4];
	u32 pad;
	struct bpf_sock *sk;
};
struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};
struct __sk_buff {
	u32 len;
	u32 pkt_type;
	u32 mark;
	u32 queue_mapping;
	u32 protocol;
	u32 vlan_present;
	u32 vlan_tci;
	u32 vlan_proto;
	u32 priority;
	u32 ingress_ifindex;
	u32 ifindex;
	u32 tc_index;
	u32 cb[5];
	u32 hash;
	u32 tc_classid;
	u32 data;
	u32 data_end;
	u32 napi_id;
	u32 family;
	u32 remote_ip4;
	u32 local_ip4;
	u32 remote_ip6[4];
	u32 local_ip6[4];
	u32 remote_port;
	u32 local_port;
	u32 data_meta;
	u64 flow_keys;
	u64 tstamp;
	u32 wire_len;
	u32 gso_segs;
	struct bpf_sock *sk;
	u32 gso_size;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	u32 val;
} kuid_t;
typedef struct {
	u32 val;
} kgid_t;
typedef struct {
	int counter;
} atomic_t;
typedef struct {
	s64 counter;
} atomic64_t;
typedef struct {
	u64 val; /* two u32 before 6.3, the same eight bytes */
} kernel_cap_t;
struct timespec64 {
	s64 tv_sec;
	long tv_nsec;
};

struct list_head {
	struct list_head *next;
	struct list_head *prev;
};
struct ns_common {
	unsigned int inum;
};
struct net {
	struct ns_common ns;
};
struct rb_node {
	struct rb_node *rb_right;
};
struct rb_root {
	struct rb_node *rb_node;
};
struct mnt_namespace {
	struct ns_common ns;
	struct rb_root mounts; /* 6.8: by age */
};
struct mnt_namespace___67 { /* up to 6.7 */
	struct list_head list;
};
struct uts_namespace;
struct ipc_namespace;
struct cgroup_namespace;
struct time_namespace;
struct nsproxy {
	struct uts_namespace *uts_ns;
	struct ipc_namespace *ipc_ns;
	struct mnt_namespace *mnt_ns;
	struct pid_namespace *pid_ns_for_children;
	struct net *net_ns;
	struct time_namespace *time_ns_for_children;
	struct cgroup_namespace *cgroup_ns;
};
struct user_namespace {
	struct ns_common ns;
};
struct cred {
	kuid_t uid;
	kgid_t gid;
	kuid_t suid;
	kuid_t euid;
	kgid_t egid;
	kuid_t fsuid;
	kernel_cap_t cap_permitted;
	kernel_cap_t cap_effective;
	struct user_namespace *user_ns;
};
struct kernfs_node {
	u64 id;
};
struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup *ancestors[]; /* 6.1 */
};
struct cgroup___ids { /* before 6.1 */
	u64 ancestor_ids[];
};
struct css_set {
	struct cgroup *dfl_cgrp;
};
struct signal_struct {
	atomic_t live;
	int group_exit_code;
	unsigned int flags;
};
struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
	struct file *exe_file;
};
struct qstr {
	u64 hash_len; /* both of what follows */
	u32 hash;
	u32 len;
	const unsigned char *name;
};
struct hlist_node {
	struct hlist_node *next;
};
struct hlist_head {
	struct hlist_node *first;
};
struct super_block {
	u32 s_dev;
	unsigned long s_magic;
};
struct inode {
	u16 i_mode;
	kuid_t i_uid;
	kgid_t i_gid;
	struct super_block *i_sb;
	const char *i_link; /* of a short symbolic link */
	struct hlist_head i_dentry;
	unsigned long i_ino;
	unsigned int i_nlink;
	s64 i_size;
	void *i_private;
	s64 i_ctime_sec; /* 6.11 */
	u32 i_ctime_nsec;
	s64 i_atime_sec; /* 6.11 */
	u32 i_atime_nsec;
};
struct inode___67 { /* 6.7 to 6.10 */
	struct timespec64 __i_atime;
};
struct inode___66 { /* 6.6 to 6.10; what is the access time's, up to 6.6 */
	struct timespec64 __i_ctime;
	struct timespec64 i_atime;
};
struct inode___65 { /* up to 6.5 */
	struct timespec64 i_ctime;
};
struct vfsmount;
struct hlist_bl_node {
	struct hlist_bl_node **pprev;
};
struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
	union {
		struct hlist_node d_alias;
	} d_u;
};
struct vfsmount {
	struct dentry *mnt_root;
};
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct rb_node mnt_node; /* 6.8 */
	struct list_head mnt_list;
	const char *mnt_devname;
	int mnt_id;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct fs_struct {
	struct path root;
	struct path pwd;
};
struct file {
	unsigned int f_mode;
	struct inode *f_inode;
	unsigned int f_flags;
	struct path f_path;
	void *private_data;
};
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};
struct files_struct {
	struct fdtable *fdt;
};
struct xa_node {
	unsigned char shift;
	void *slots[64];
};
struct xarray {
	void *xa_head;
};
struct idr {
	struct xarray idr_rt;
};
struct pid_namespace {
	struct idr idr;
	struct task_struct *child_reaper;
};
struct upid {
	int nr;
	struct pid_namespace *ns;
};
struct pid {
	unsigned int level;
	struct hlist_head tasks[4];
	struct upid numbers[];
};
struct proc_inode {
	struct pid *pid;
	struct inode vfs_inode;
};
struct io_cqe {
	s32 res;
};
struct io_wq_work {
	unsigned int flags;
};
struct io_worker {
	struct io_wq_work *cur_work;
};
struct io_kiocb { /* cqe: 5.19 */
	u8 opcode;
	struct io_cqe cqe;
	struct io_wq_work work;
};
struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	unsigned long vm_flags;
	struct file *vm_file;
	void *anon_vma;
};
struct kernel_siginfo {
	int si_code;
};
struct module {
	char name[56];
};
struct bpf_map {
	u32 id;
};
struct bpf_prog_aux {
	u32 id;
};
struct bpf_prog {
	struct bpf_prog_aux *aux;
};
struct bpf_link {
	u32 id;
};
struct btf {
	u32 id;
};
struct io_ring_ctx {
	unsigned int flags;
};
struct thread_info {
	u32 status;
};
struct pt_regs { /* x86-64 */
	unsigned long bp, bx, r10, r9, r8, cx, dx, si, di, orig_ax;
};
struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	struct mm_struct *mm;
	int exit_code;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct list_head children;
	struct list_head sibling;
	struct task_struct *group_leader;
	u64 start_boottime;
	struct cred *cred;
	char comm[16];
	struct fs_struct *fs;
	struct files_struct *files;
	struct pid *thread_pid;
	struct hlist_node pid_links[4];
	unsigned int personality;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	void *worker_private; /* of an io_uring worker: struct io_worker */
	kuid_t loginuid;
	unsigned int sessionid;
	struct css_set *cgroups;
};
struct linux_binprm {
	struct file *file;
	const char *filename;
	const char *interp;
	unsigned int secureexec : 1;
};

struct in6_addr {
	u8 bytes[16];
};
typedef struct {
	struct net *net;
} possible_net_t;
struct sock_common {
	u32 skc_daddr;
	u32 skc_rcv_saddr;
	u16 skc_dport;
	u16 skc_num;
	u16 skc_family;
	volatile unsigned char skc_state;
	unsigned char skc_net_refcnt : 1;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	unsigned long skc_flags;
};
struct sock {
	struct sock_common __sk_common;
	u16 sk_protocol;
	u16 sk_type;
};
struct inet_sock {
	u16 inet_sport;
};
struct tcp_sock {
	u32 segs_out;
	u64 bytes_sent;
	u64 bytes_received;
	u32 segs_in;
	u64 bytes_retrans;
};
struct socket {
	s16 type;
	struct sock *sk;
};

struct io_socket { /* 5.19 */
	int domain;
	int type;
	int protocol;
};

struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file;
};

#pragma clang attribute pop

#endif
