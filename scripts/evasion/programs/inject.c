// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// inject ptrace|vm|mem|module N: code and data put where they do not belong: into
// another process by each of three ways, and into the kernel. Each time it is a
// fresh victim, or a fresh process that tries.
#include "truth.h"
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static volatile long planted; /* at the same address in the victim, which is our fork */

enum { PLANTED = 0x5ca1ab1e };

static void by_ptrace(pid_t victim)
{
	int status;

	CHECK(ptrace(PTRACE_ATTACH, victim, NULL, NULL) == 0);
	CHECK(waitpid(victim, &status, 0) == victim && WIFSTOPPED(status));
	CHECK(ptrace(PTRACE_POKETEXT, victim, &planted, (void *)(uintptr_t)PLANTED) == 0);
	CHECK(ptrace(PTRACE_DETACH, victim, NULL, NULL) == 0);
}

static void by_writev(pid_t victim)
{
	long value = PLANTED;
	struct iovec from = {.iov_base = &value, .iov_len = sizeof(value)};
	struct iovec to = {.iov_base = (void *)&planted, .iov_len = sizeof(planted)};

	CHECK(process_vm_writev(victim, &from, 1, &to, 1, 0) == sizeof(value));
}

static void by_mem(pid_t victim)
{
	long value = PLANTED;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", victim);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0);
	CHECK(pwrite(fd, &value, sizeof(value), (uintptr_t)&planted) == sizeof(value));
	CHECK(close(fd) == 0);
}

/* The victim ends well only when it was truly changed. */
static void be_victim(void)
{
	while (!planted)
		usleep(100);
	_exit(planted == PLANTED ? 0 : 1);
}

static void into_victims(int n, void (*way)(pid_t))
{
	struct who me = myself();

	for (int i = 0; i < n; i++) {
		pid_t victim = fork();
		CHECK(victim >= 0);
		if (victim == 0)
			be_victim();
		way(victim);
		say("{\"pid\":%d,\"start\":%llu,\"target\":%d}\n", me.pid, me.start, victim);
		await(victim);
	}
}

/* What is no module is refused whatever the kernel; the attempt is what counts. */
static void into_kernel(int n)
{
	static const char none[] = "no module";

	for (int i = 0; i < n; i++) {
		pid_t child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			struct who me = myself();
			int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
			CHECK(fd >= 0);
			long result = i & 1 ? syscall(SYS_finit_module, fd, "", 0) : syscall(SYS_init_module, none, sizeof(none), "");
			CHECK(result < 0);
			say("{\"pid\":%d,\"start\":%llu}\n", me.pid, me.start);
			_exit(0);
		}
		await(child);
	}
}

int main(int argc, char **argv)
{
	CHECK(argc == 3);
	int n = count_of(argv[2]);

	if (!strcmp(argv[1], "ptrace"))
		into_victims(n, by_ptrace);
	else if (!strcmp(argv[1], "vm"))
		into_victims(n, by_writev);
	else if (!strcmp(argv[1], "mem"))
		into_victims(n, by_mem);
	else if (!strcmp(argv[1], "module"))
		into_kernel(n);
	else
		return 2;
	return 0;
}
