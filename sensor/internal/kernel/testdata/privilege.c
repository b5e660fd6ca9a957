// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// One system call of the privilege family, natively or by int $0x80:
//
//	privilege native|int80 OPERATION [ARGUMENT…]
//
// Prints what the call answered, and for some the id of whom it was done to. Built
// static and at a low address, so that 32-bit calls reach its data; without a red zone,
// because a call may push.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int compat;
static char buffer[4096], text1[512], text2[512], text3[512], zeros[4096];
static uint64_t words[512];
static uint32_t halves[512];

static long call(long native, long by32, long a, long b, long c, long d, long e)
{
	long out;

	if (!compat) {
		register long r10 asm("r10") = d;
		register long r8 asm("r8") = e;
		register long r9 asm("r9") = 0;
		asm volatile("syscall" : "=a"(out) : "a"(native), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			     : "rcx", "r11", "memory");
		return out;
	}
	/* The sixth argument, 0, is in ebp. */
	asm volatile("push %%rbp\n\txor %%ebp, %%ebp\n\tint $0x80\n\tpop %%rbp" : "=a"(out) : "a"(by32), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
		     : "r8", "r9", "r10", "r11", "memory");
	return (int)out;
}

static void must(long result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(result == -1 ? errno : -result));
		exit(3);
	}
}

static void become(unsigned uid) /* for good, by the C library */
{
	must(setresgid(uid, uid, uid), "setresgid");
	must(setresuid(uid, uid, uid), "setresuid");
}

static pid_t sleeper(void)
{
	pid_t pid = fork();

	must(pid, "fork");
	if (!pid) {
		close(1);
		close(2);
		alarm(10); /* who gave up his rights cannot end it */
		for (;;)
			pause();
	}
	return pid;
}

static void own_mounts(void)
{
	must(unshare(CLONE_NEWNS), "unshare");
	must(call(165, 21, 0, (long)strcpy(text1, "/"), 0, 1 << 18 | 16384, 0), "making mounts private");
}

static void set_caps(uint32_t effective, uint32_t permitted)
{
	halves[0] = 0x20080522; /* version 3 */
	halves[1] = 0;
	halves[2] = effective;
	halves[3] = permitted;
	halves[4] = halves[5] = halves[6] = halves[7] = 0;
}

static long act(const char *op, char **argv)
{
	if (!strcmp(op, "seteuid-up")) {
		must(call(117, 208, 1000, 1000, 0, 0, 0), "setresuid");
		return call(117, 208, -1, 0, -1, 0, 0);
	}
	if (!strcmp(op, "setuid16")) /* the oldest number has 16 bits */
		return call(105, 23, 1000, 0, 0, 0, 0);
	if (!strcmp(op, "setgid"))
		return call(106, 214, 1000, 0, 0, 0, 0);
	if (!strcmp(op, "setfsuid"))
		return call(122, 215, 1000, 0, 0, 0, 0);
	if (!strcmp(op, "setuid-refused")) {
		become(1000);
		return call(105, 213, 0, 0, 0, 0, 0);
	}
	if (!strcmp(op, "setuid-same"))
		return call(105, 213, 0, 0, 0, 0, 0);
	if (!strcmp(op, "capset")) {
		set_caps(0, 1 << 21);
		must(call(126, 185, (long)halves, (long)(halves + 2), 0, 0, 0), "capset");
		set_caps(1 << 21, 1 << 21);
		return call(126, 185, (long)halves, (long)(halves + 2), 0, 0, 0);
	}
	if (!strcmp(op, "capset-refused")) {
		become(1000);
		set_caps(1 << 21, 1 << 21);
		return call(126, 185, (long)halves, (long)(halves + 2), 0, 0, 0);
	}
	if (!strcmp(op, "userns"))
		return call(272, 310, CLONE_NEWUSER | CLONE_NEWUTS, 0, 0, 0, 0);
	if (!strcmp(op, "clone-userns")) {
		long pid = call(56, 120, CLONE_NEWUSER | CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0);

		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
		printf("target %ld\n", pid);
		return pid;
	}
	if (!strcmp(op, "clone-refused")) {
		become(1000);
		return call(56, 120, CLONE_NEWUTS | SIGCHLD, 0, 0, 0, 0);
	}
	if (!strcmp(op, "unshare"))
		return call(272, 310, CLONE_NEWUTS | CLONE_NEWIPC, 0, 0, 0, 0);
	if (!strcmp(op, "unshare-refused")) {
		become(1000);
		return call(272, 310, CLONE_NEWUTS, 0, 0, 0, 0);
	}
	if (!strcmp(op, "setns")) {
		int fd = open("/proc/self/ns/uts", O_RDONLY);
		struct stat st;

		must(fstat(fd, &st), "fstat");
		printf("object %lu\n", st.st_ino);
		return call(308, 346, fd, 0, 0, 0, 0);
	}
	if (!strcmp(op, "setns-refused"))
		return call(308, 346, open("/proc/self/ns/uts", O_RDONLY), CLONE_NEWNET, 0, 0, 0);
	if (!strcmp(op, "pivot-root")) {
		own_mounts();
		must(call(165, 21, (long)strcpy(text1, "none"), (long)strcpy(text2, argv[0]), (long)strcpy(text3, "tmpfs"), 0, 0), "mount");
		must(chdir(argv[0]), "chdir");
		return call(155, 217, (long)strcpy(text1, "."), (long)strcpy(text2, "."), 0, 0, 0);
	}
	if (!strcmp(op, "pivot-root-refused"))
		return call(155, 217, (long)strcpy(text1, "/nowhere"), (long)strcpy(text2, "/nowhere/old"), 0, 0, 0);
	if (!strcmp(op, "mount")) {
		own_mounts();
		return call(165, 21, (long)strcpy(text1, "from-here"), (long)strcpy(text2, argv[0]), (long)strcpy(text3, "tmpfs"), 2, 0);
	}
	if (!strcmp(op, "mount-refused"))
		return call(165, 21, (long)strcpy(text1, "from-here"), (long)strcpy(text2, "/nowhere"), (long)strcpy(text3, "tmpfs"), 0, 0);
	if (!strcmp(op, "fsmount") || !strcmp(op, "move-mount")) {
		long fs, fd;

		own_mounts();
		fs = call(430, 430, (long)strcpy(text1, "tmpfs"), 0, 0, 0, 0);
		must(fs, "fsopen");
		must(call(431, 431, fs, 6, 0, 0, 0), "fsconfig"); /* FSCONFIG_CMD_CREATE */
		fd = call(432, 432, fs, 0, 2, 0, 0);
		if (!strcmp(op, "fsmount"))
			return fd;
		must(fd, "fsmount");
		return call(429, 429, fd, (long)text3, AT_FDCWD, (long)strcpy(text2, argv[0]), 4); /* MOVE_MOUNT_F_EMPTY_PATH */
	}
	if (!strcmp(op, "umount")) {
		own_mounts();
		must(call(165, 21, (long)strcpy(text1, "none"), (long)strcpy(text2, argv[0]), (long)strcpy(text3, "tmpfs"), 0, 0), "mount");
		return call(166, 52, (long)text2, 0, 0, 0, 0);
	}
	if (!strncmp(op, "ptrace-", 7)) {
		pid_t pid = sleeper();
		long out;

		printf("target %d\n", pid);
		if (!strcmp(op, "ptrace-refused")) {
			become(1000);
			out = call(101, 26, 16, pid, 0, 0, 0);
		} else if (!strcmp(op, "ptrace-seize")) {
			out = call(101, 26, 0x4206, pid, 0, 0, 0);
		} else {
			must(call(101, 26, 16, pid, 0, 0, 0), "attach");
			must(waitpid(pid, NULL, __WALL), "waitpid");
			if (!strcmp(op, "ptrace-poke")) {
				call(101, 26, 2, pid, (long)zeros, (long)words, 0); /* PEEKDATA is not told */
				out = call(101, 26, 5, pid, (long)zeros, 77, 0);
			} else {
				must(call(101, 26, 12, pid, 0, (long)words, 0), "getregs");
				out = call(101, 26, 13, pid, 0, (long)words, 0);
			}
		}
		kill(pid, SIGKILL);
		return out;
	}
	if (!strcmp(op, "vm-writev") || !strcmp(op, "vm-writev-refused") || !strcmp(op, "vm-writev-self")) {
		pid_t pid = strcmp(op, "vm-writev-self") ? sleeper() : getpid();
		long out;

		printf("target %d\n", pid);
		if (!strcmp(op, "vm-writev-refused"))
			become(1000);
		words[0] = (uintptr_t)buffer; /* struct iovec, twice */
		words[1] = 16;
		words[2] = (uintptr_t)zeros;
		words[3] = 16;
		for (int i = 0; i < 4; i++)
			halves[i] = words[i];
		if (compat)
			out = call(0, 348, pid, (long)halves, 1, (long)(halves + 2), 1);
		else
			out = call(311, 0, pid, (long)words, 1, (long)(words + 2), 1);
		if (pid != getpid())
			kill(pid, SIGKILL);
		return out;
	}
	if (!strcmp(op, "proc-mem") || !strcmp(op, "proc-mem-read")) {
		pid_t pid = sleeper();
		long out;

		printf("target %d\n", pid);
		sprintf(text1, "/proc/%d/mem", pid);
		out = call(257, 295, AT_FDCWD, (long)text1, strcmp(op, "proc-mem") ? O_RDONLY : O_RDWR, 0, 0);
		kill(pid, SIGKILL);
		return out;
	}
	if (!strcmp(op, "memfd"))
		return call(319, 356, (long)strcpy(text1, "a-name"), 1, 0, 0, 0);
	if (!strcmp(op, "memfd-refused"))
		return call(319, 356, (long)text1, 0x8000, 0, 0, 0);
	if (!strcmp(op, "memfd-secret"))
		return call(447, 447, 0, 0, 0, 0, 0);
	if (!strcmp(op, "exec-anon")) { /* anonymous, and then writable too */
		words[0] = 0;
		if (compat)
			return call(0, 192, 0, 8192, 7, 0x22, -1);
		return call(9, 0, 0, 8192, 7, 0x22, -1);
	}
	if (!strcmp(op, "exec-mprotect")) {
		long at = compat ? call(0, 192, 0, 8192, 3, 0x22, -1) & 0xffffffff : call(9, 0, 0, 8192, 3, 0x22, -1);

		return call(10, 125, at, 8192, 5, 0, 0);
	}
	if (!strcmp(op, "exec-modified")) { /* a private mapping of a file, written to */
		int fd = open("/proc/self/exe", O_RDONLY);
		long at = compat ? call(0, 192, 0, 4096, 3, 0x2, fd) & 0xffffffff : call(9, 0, 0, 4096, 3, 0x2, fd);

		*(volatile char *)at = 1;
		return call(10, 125, at, 4096, 5, 0, 0);
	}
	if (!strcmp(op, "exec-memfd")) {
		long fd = call(319, 356, (long)strcpy(text1, "code"), 0, 0, 0, 0);

		must(ftruncate(fd, 4096), "ftruncate");
		return compat ? call(0, 192, 0, 4096, 5, 1, fd) & 0xffffffff : call(9, 0, 0, 4096, 5, 1, fd);
	}
	if (!strcmp(op, "exec-personality")) { /* READ_IMPLIES_EXEC */
		must(call(135, 136, 0x0400000, 0, 0, 0, 0), "personality");
		return compat ? call(0, 192, 0, 4096, 1, 0x22, -1) & 0xffffffff : call(9, 0, 0, 4096, 1, 0x22, -1);
	}
	if (!strcmp(op, "exec-old-mmap")) { /* int 0x80 alone: its arguments are in memory */
		halves[0] = 0, halves[1] = 4096, halves[2] = 5, halves[3] = 0x22, halves[4] = -1, halves[5] = 0;
		return call(0, 90, (long)halves, 0, 0, 0, 0) & 0xffffffff;
	}
	if (!strcmp(op, "exec-file")) { /* what every program does, and nobody is to hear of */
		int fd = open("/proc/self/exe", O_RDONLY);

		return compat ? call(0, 192, 0, 4096, 5, 2, fd) & 0xffffffff : call(9, 0, 0, 4096, 5, 2, fd);
	}
	if (!strcmp(op, "init-module"))
		return call(175, 128, (long)zeros, 64, (long)strcpy(text1, "some=parameter"), 0, 0);
	if (!strcmp(op, "finit-module"))
		return call(313, 350, open(argv[0], O_RDONLY), (long)strcpy(text1, "some=parameter"), 0, 0, 0);
	if (!strcmp(op, "delete-module"))
		return call(176, 129, (long)strcpy(text1, "no_such_module"), O_NONBLOCK, 0, 0, 0);
	if (!strcmp(op, "bpf-map")) {
		memset(halves, 0, sizeof(halves));
		halves[0] = 2, halves[1] = 4, halves[2] = 4, halves[3] = 1; /* an array of one */
		return call(321, 357, 0, (long)halves, 72, 0, 0);
	}
	if (!strcmp(op, "bpf-refused")) {
		become(1000);
		memset(halves, 0, sizeof(halves));
		halves[0] = 1;
		return call(321, 357, 13, (long)halves, 72, 0, 0);
	}
	if (!strcmp(op, "bpf-touch")) { /* another's map by its id: gets it and puts an element */
		long fd;

		memset(halves, 0, sizeof(halves));
		halves[0] = atoi(argv[0]);
		fd = call(321, 357, 14, (long)halves, 72, 0, 0);
		must(fd, "getting the map");
		memset(words, 0, sizeof(words));
		words[0] = fd, words[1] = (uintptr_t)zeros, words[2] = (uintptr_t)zeros;
		return call(321, 357, 2, (long)words, 72, 0, 0);
	}
	if (!strcmp(op, "bpf-link-detach")) {
		long fd;

		memset(halves, 0, sizeof(halves));
		halves[0] = atoi(argv[0]);
		fd = call(321, 357, 30, (long)halves, 72, 0, 0);
		must(fd, "getting the link");
		memset(halves, 0, sizeof(halves));
		halves[0] = fd;
		return call(321, 357, 34, (long)halves, 72, 0, 0);
	}
	if (!strcmp(op, "io-uring")) {
		memset(words, 0, sizeof(words));
		halves[0] = 0;
		((uint32_t *)words)[2] = 2; /* SQPOLL */
		return call(425, 425, 4, (long)words, 0, 0, 0);
	}
	if (!strcmp(op, "io-uring-refused"))
		return call(425, 425, 0, (long)words, 0, 0, 0);
	if (!strcmp(op, "io-uring-register")) {
		long fd;

		memset(words, 0, sizeof(words));
		fd = call(425, 425, 4, (long)words, 0, 0, 0);
		must(fd, "io_uring_setup");
		return call(427, 427, fd, 9, 0, 0, 0); /* IORING_REGISTER_PERSONALITY */
	}
	if (!strcmp(op, "pidfd-getfd")) {
		long pidfd = call(434, 434, atoi(argv[0]), 0, 0, 0, 0);

		must(pidfd, "pidfd_open");
		return call(438, 438, pidfd, 1, 0, 0, 0);
	}
	if (!strcmp(op, "kill"))
		return call(62, 37, atoi(argv[0]), atoi(argv[1]), 0, 0, 0);
	if (!strcmp(op, "flood")) { /* a number of changes that all are told */
		long n = atol(argv[0]);

		must(call(117, 208, 1000, 1000, 0, 0, 0), "setresuid");
		for (long i = 0; i < n; i++)
			must(call(117, 208, -1, i % 2 ? 1000 : 0, -1, 0, 0), "seteuid");
		return 0;
	}
	if (!strcmp(op, "getppid")) { /* the cheapest call of all, and how long it takes */
		struct timespec from, to;
		long n = atol(argv[0]);

		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
		for (long i = 0; i < n; i++)
			call(110, 64, 0, 0, 0, 0, 0);
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
		return ((to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec) * 1000 / n; /* ps */
	}
	fprintf(stderr, "no operation %s\n", op);
	exit(2);
}

int main(int argc, char **argv)
{
	long result;

	if (argc < 3)
		return 2;
	compat = !strcmp(argv[1], "int80");
	memset(buffer, 'x', sizeof(buffer));
	result = act(argv[2], argv + 3);
	printf("result %ld\n", result);
	return 0;
}
