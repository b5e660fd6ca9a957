// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What every program here shares: it does something many times and says, one JSON
// object a line, what the kernel then says was done. The suite holds a sensor's
// records against these lines.
#ifndef VEDETTE_TRUTH_H
#define VEDETTE_TRUTH_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	LINE_MAX_BYTES = 4096, /* PIPE_BUF: one write of it is never torn */
	PATH_BYTES = 1024,
};

#define CHECK(what) \
	do { \
		if (!(what)) { \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #what, strerror(errno)); \
			_exit(1); \
		} \
	} while (0)

/* say prints one line with one write, so that lines of many processes stay whole. */
__attribute__((format(printf, 1, 2), unused)) static void say(const char *format, ...)
{
	char line[LINE_MAX_BYTES];
	va_list args;

	va_start(args, format);
	int length = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	CHECK(length > 0 && length < (int)sizeof(line));
	CHECK(write(STDOUT_FILENO, line, length) == length);
}

/* A process as /proc names it: start is in clock ticks since boot. */
struct who {
	int pid;
	int parent;
	char state;
	unsigned long long start;
};

/* read_who reads a stat file of proc(5); without stdio, for use after vfork. */
__attribute__((unused)) static int read_who(const char *path, struct who *who)
{
	char text[1024];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	ssize_t length = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (length <= 0)
		return -1;
	text[length] = 0;
	who->pid = atoi(text);
	char *at = strrchr(text, ')'); /* a name may hold anything else */
	if (!at || sscanf(at + 2, "%c %d", &who->state, &who->parent) != 2)
		return -1;
	for (int field = 2; field < 22; field++) {
		at = strchr(at + 1, ' ');
		if (!at)
			return -1;
	}
	who->start = strtoull(at, NULL, 10);
	return 0;
}

__attribute__((unused)) static struct who who_is(int pid)
{
	struct who who = {0};
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	CHECK(read_who(path, &who) == 0);
	return who;
}

__attribute__((unused)) static struct who myself(void)
{
	struct who who = {0};

	CHECK(read_who("/proc/self/stat", &who) == 0);
	return who;
}

__attribute__((unused)) static void await(pid_t child)
{
	int status;

	while (waitpid(child, &status, 0) < 0)
		CHECK(errno == EINTR);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

__attribute__((unused)) static int count_of(const char *text)
{
	int n = atoi(text);

	CHECK(n > 0 && n <= 10 * 1000 * 1000);
	return n;
}

/* name_of joins a folder and a name. */
__attribute__((unused)) static void name_of(char *path, const char *folder, const char *name)
{
	CHECK(snprintf(path, PATH_BYTES, "%s/%s", folder, name) < PATH_BYTES);
}

#endif
