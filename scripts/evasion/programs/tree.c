// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// tree thread|vfork|leader N FOLDER: the ways to become a program that confuse who
// is whose child: an exec by a thread that is not the leader, a vfork, and a leader
// that ends before its threads do. Processes that execute nothing say who they are
// themselves, with "forked": 1.
#include "truth.h"
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

static char path[PATH_BYTES], word[16];
static char *arguments[] = {"ran", word, NULL};
static char *environment[] = {NULL};
static int executes; /* whether the thread that is left executes, or starts a child */

static void become(void)
{
	execve(path, arguments, environment);
	CHECK(!"execve came back");
}

static void *execute(void *unused)
{
	(void)unused;
	become();
	return NULL;
}

static void by_thread(void)
{
	pthread_t thread;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		CHECK(pthread_create(&thread, NULL, execute, NULL) == 0);
		for (;;)
			pause();
	}
	await(child);
}

static void by_vfork(void)
{
	pid_t child = vfork();

	CHECK(child >= 0);
	if (child == 0)
		become();
	await(child);
}

static void *go_on_alone(void *unused)
{
	struct who me;

	(void)unused;
	do {
		sched_yield();
		me = myself();
	} while (me.state != 'Z'); /* the leader's; its threads live */
	if (executes)
		become();
	by_vfork();
	struct who parent = who_is(me.parent);
	say("{\"pid\":%d,\"start\":%llu,\"ppid\":%d,\"pstart\":%llu,\"forked\":1}\n", me.pid, me.start, parent.pid, parent.start);
	_exit(0);
}

static void by_leader(void)
{
	pthread_t thread;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		CHECK(pthread_create(&thread, NULL, go_on_alone, NULL) == 0);
		syscall(SYS_exit, 0);
	}
	await(child);
}

int main(int argc, char **argv)
{
	CHECK(argc == 4);
	int n = count_of(argv[2]);
	void (*way)(void) = !strcmp(argv[1], "thread") ? by_thread : !strcmp(argv[1], "vfork") ? by_vfork : by_leader;

	name_of(path, argv[3], "ran");
	for (int i = 0; i < n; i++) {
		snprintf(word, sizeof(word), "%d", i);
		executes = i & 1;
		way();
	}
	return 0;
}
