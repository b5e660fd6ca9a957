// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What clang and the kernel need of every program: sections, map notation, the
// helpers that are used (by their stable numbers) and reads of kernel memory.
#ifndef VEDETTE_CORE_H
#define VEDETTE_CORE_H

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

/* The notation of a BTF-described map: numbers are array sizes, types pointers. */
#define MAP_NUMBER(name, value) int (*name)[value]
#define MAP_TYPE(name, type) typeof(type) *name

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static long (*bpf_tail_call)(void *ctx, void *programs, u32 index) = (void *)12;
static u32 (*bpf_get_prandom_u32)(void) = (void *)7;
static u64 (*bpf_get_current_pid_tgid)(void) = (void *)14;
static long (*bpf_skb_load_bytes)(const void *skb, u32 offset, void *to, u32 len) = (void *)26;
static u64 (*bpf_get_socket_cookie)(void *ctx) = (void *)46;
static struct bpf_sock *(*bpf_sk_fullsock)(struct bpf_sock *sk) = (void *)95;
static struct bpf_tcp_sock *(*bpf_tcp_sock)(struct bpf_sock *sk) = (void *)96;
static void *(*bpf_sk_storage_get)(void *map, void *sk, void *value, u64 flags) = (void *)107;
static long (*bpf_probe_read_user)(void *dst, u32 size, const void *from) = (void *)112;
static long (*bpf_probe_read_kernel)(void *dst, u32 size, const void *from) = (void *)113;
static long (*bpf_probe_read_user_str)(void *dst, u32 size, const void *from) = (void *)114;
static long (*bpf_probe_read_kernel_str)(void *dst, u32 size, const void *from) = (void *)115;
static u64 (*bpf_ktime_get_boot_ns)(void) = (void *)125;
static long (*bpf_seq_write)(struct seq_file *seq, const void *data, u32 len) = (void *)127;
static long (*bpf_ringbuf_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;
static u64 (*bpf_ringbuf_query)(void *ring, u64 what) = (void *)134;
static struct task_struct *(*bpf_get_current_task_btf)(void) = (void *)158;
static struct pt_regs *(*bpf_task_pt_regs)(struct task_struct *task) = (void *)175; /* 5.15 */
static struct socket *(*bpf_sock_from_file)(struct file *file) = (void *)162;
static long (*bpf_find_vma)(struct task_struct *task, u64 address, void *each, void *with, u64 flags) = (void *)180;

/* Gives a number the type of the kernel object that it leads to, so that plain loads
 * can follow it (6.2). A load that leads nowhere reads as zero. */
extern void *bpf_rdonly_cast(const void *object, u32 type) __attribute__((section(".ksyms"), weak));
#define TYPE_ID(type) __builtin_btf_type_id(*(typeof(type) *)0, 1)

/* Whether the running kernel has a field: decided at load time, so that the
 * branch not taken is never verified. */
#define HAS_FIELD(field) __builtin_preserve_field_info(field, 2)

/* One field through a pointer that the verifier does not know. A pointer that
 * leads nowhere reads as zero. */
#define READ(src)                                                                        \
	({                                                                               \
		typeof(src) value_ = 0;                                                  \
		bpf_probe_read_kernel(&value_, sizeof(value_),                           \
				      __builtin_preserve_access_index(&(src)));          \
		value_;                                                                  \
	})

/* A field by a plain load where the kernel lets a number be given a type, which costs a
 * tenth of what a copy does. `typed` says that the pointer was given one. */
#define LOAD(field) (typed ? (field) : READ(field))
#define GIVE_TYPE(pointer)                                                               \
	do {                                                                             \
		if (typed)                                                               \
			(pointer) = bpf_rdonly_cast(pointer, TYPE_ID(typeof(*(pointer)))); \
	} while (0)

/* One field of what a pointer in a structure leads to. */
#define READ_THROUGH(ptr, pointer, field)                                                \
	({                                                                               \
		typeof((ptr)->pointer) through_ = READ((ptr)->pointer);                  \
		READ(through_->field);                                                   \
	})

/* A bit field: its place in its word is fitted at load time too, which a plain
 * access would not do. */
#define READ_BITS(ptr, field)                                                            \
	({                                                                               \
		u64 bits_ = 0;                                                           \
		bpf_probe_read_kernel(&bits_, __builtin_preserve_field_info((ptr)->field, 1), \
				      (void *)(ptr) + __builtin_preserve_field_info((ptr)->field, 0)); \
		bits_ <<= __builtin_preserve_field_info((ptr)->field, 4);                \
		bits_ >> __builtin_preserve_field_info((ptr)->field, 5);                 \
	})

/* The same through a pointer that the verifier knows, by a plain load. */
#define LOAD_BITS(ptr, field)                                                            \
	({                                                                               \
		void *at_ = (void *)(ptr) + __builtin_preserve_field_info((ptr)->field, 0); \
		u64 bits_ = 0;                                                           \
		switch (__builtin_preserve_field_info((ptr)->field, 1)) {                \
		case 1: bits_ = *(volatile u8 *)at_; break;                              \
		case 2: bits_ = *(volatile u16 *)at_; break;                             \
		case 4: bits_ = *(volatile u32 *)at_; break;                             \
		case 8: bits_ = *(volatile u64 *)at_; break;                             \
		}                                                                        \
		bits_ <<= __builtin_preserve_field_info((ptr)->field, 4);                \
		bits_ >> __builtin_preserve_field_info((ptr)->field, 5);                 \
	})

/* The compiler must not move or merge what follows: it knows nothing of the
 * verifier, which forgets a bound that was checked on another copy. */
#define KEEP(x) asm volatile("" : "+r"(x))

#endif
