// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// forks reuse|nested N: many processes whose PIDs were others' a moment ago.
//
//   reuse   every child is given its PID (clone3, set_tid) out of a small window of
//           the PIDs at hand, as a small pid_max would do, without changing the
//           machine's
//   nested  in three PID namespaces, one in the other, the innermost with a small
//           pid_max of its own (Linux 6.14) when it can have one
//
// The tree is of one shape: the workers fork boughs, each bough forks leaves, so
// that reused PIDs are parents as well as children. Each process asks the /proc of
// the first namespace who it and its parent are and writes it to shared memory;
// in the end it is printed as "pid start ppid pstart", a line a process.
#include "truth.h"
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

enum {
	WORKERS = 2,
	WINDOWS_FROM = 20000, /* below any pid_max that a machine has by default */
	LEAVES = 9, /* of a bough, so that ten forks make one */
	WINDOW = 400, /* PIDs that a worker hands out in turn */
	STACK = 64 << 10,
	DEPTH = 3,
	NICENESS = 10,
	SMALL_PID_MAX = 500, /* 301 is the least that the kernel takes */
};

struct born {
	int pid, parent;
	uint64_t start, parent_start;
};

static struct born *all;
static _Atomic unsigned *used;
static unsigned limit;
static int from, next; /* this worker's window, and where in it we are; 0: any PID */
static struct who worker, bough; /* who the parent of what is born next is */
static char bough_stack[STACK] __attribute__((aligned(16))), leaf_stack[STACK] __attribute__((aligned(16)));

static struct who note(struct who parent)
{
	struct who me = myself();
	unsigned at = (*used)++;

	CHECK(at < limit);
	CHECK(me.parent == parent.pid);
	all[at] = (struct born){.pid = me.pid, .parent = parent.pid, .start = me.start, .parent_start = parent.start};
	return me;
}

/* start runs what on its stack in a new process that shares our memory, while we
 * wait as after vfork: without the copied page tables, a million of them cost minutes less. */
static long start(struct clone_args *args, void (*what)(void))
{
	long result = SYS_clone3;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "call *%[what]\n\t"
			 "hlt\n"
			 "1:"
			 : "+a"(result)
			 : "D"(args), "S"(sizeof(*args)), [what] "r"(what)
			 : "rcx", "r11", "memory");
	return result;
}

/* bear starts a process with a PID of the window; a PID that somebody has is passed over. */
static pid_t bear(char *stack, void (*what)(void))
{
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD,
		.stack = (uintptr_t)stack, .stack_size = STACK,
	};
	pid_t wanted;
	long child;

	if (from) {
		args.set_tid = (uintptr_t)&wanted;
		args.set_tid_size = 1;
	}
	for (int tries = 0; tries < WINDOW; tries++) {
		wanted = from + next;
		next = (next + 1) % WINDOW;
		child = start(&args, what);
		if (child != -EEXIST)
			break;
	}
	errno = child < 0 ? -child : 0;
	CHECK(child > 0);
	return child;
}

static void be_leaf(void)
{
	note(bough);
	_exit(0);
}

static void be_bough(void)
{
	bough = note(worker);
	for (int i = 0; i < LEAVES; i++)
		await(bear(leaf_stack, be_leaf));
	_exit(0);
}

static void work(int boughs)
{
	worker = myself();
	for (int i = 0; i < boughs; i++)
		await(bear(bough_stack, be_bough));
}

static void run_workers(int boughs, int window)
{
	pid_t workers[WORKERS];

	for (int i = 0; i < WORKERS; i++) {
		workers[i] = fork();
		CHECK(workers[i] >= 0);
		if (workers[i] == 0) {
			from = window ? window + i * WINDOW : 0;
			work(boughs / WORKERS);
			_exit(0);
		}
	}
	for (int i = 0; i < WORKERS; i++)
		await(workers[i]);
}

/* Since Linux 6.14 each PID namespace has a pid_max of its own; before, the file is
 * the whole machine's, which is left alone. */
static void shrink_pid_max(void)
{
	struct utsname kernel;
	int major = 0, minor = 0;

	CHECK(uname(&kernel) == 0 && sscanf(kernel.release, "%d.%d", &major, &minor) == 2);
	if (major < 6 || (major == 6 && minor < 14)) {
		fprintf(stderr, "pid_max is the machine's: Linux %d.%d has none of a namespace's own\n", major, minor);
		return;
	}
	int fd = open("/proc/sys/kernel/pid_max", O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	CHECK(dprintf(fd, "%d\n", SMALL_PID_MAX) > 0);
	CHECK(close(fd) == 0);
}

static void nest(int depth, int boughs)
{
	if (depth == 0) {
		shrink_pid_max();
		run_workers(boughs, 0);
		return;
	}
	CHECK(unshare(CLONE_NEWPID) == 0);
	pid_t first = fork();
	CHECK(first >= 0);
	if (first == 0) {
		nest(depth - 1, boughs);
		_exit(0);
	}
	await(first);
}

int main(int argc, char **argv)
{
	CHECK(argc == 3);
	int n = count_of(argv[2]);
	int boughs = n / (LEAVES + 1);

	/* Parents are what is tried here, not a flood: the sensor goes first. */
	CHECK(nice(NICENESS) == NICENESS);
	limit = n;
	size_t size = n * sizeof(struct born);
	all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	used = mmap(NULL, sizeof(*used), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(all != MAP_FAILED && used != MAP_FAILED);
	if (!strcmp(argv[1], "reuse"))
		run_workers(boughs, WINDOWS_FROM);
	else
		nest(DEPTH, boughs);
	FILE *out = fdopen(STDOUT_FILENO, "w");
	CHECK(out);
	for (unsigned i = 0; i < *used; i++)
		fprintf(out, "%d %llu %d %llu\n", all[i].pid, (unsigned long long)all[i].start, all[i].parent, (unsigned long long)all[i].parent_start);
	CHECK(fclose(out) == 0);
	return 0;
}
