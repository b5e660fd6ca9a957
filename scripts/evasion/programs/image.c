// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// image memfd|deleted|ldso|shebang|env|preload N FOLDER [LIBRARY]: programs that no
// path leads to, or whose path is another program's.
#include "files.h"

static char program[PATH_BYTES]; /* FOLDER/ran */
static char other[PATH_BYTES]; /* what the mode needs beside it */
static const char *library;

static void by_memfd(int i, char **argv)
{
	char path[64];
	int fd = in_memory(program, "payload");

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (i & 1)
		execv(path, argv);
	else
		execveat(fd, "", argv, environ, AT_EMPTY_PATH);
}

static void by_deleted(int i, char **argv)
{
	(void)i;
	copy(program, other);
	int fd = open(other, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0 && unlink(other) == 0);
	execveat(fd, "", argv, environ, AT_EMPTY_PATH);
}

static void by_loader(int i, char **argv)
{
	(void)i;
	execl(LOADER, "ld.so", other, argv[1], NULL);
}

static void by_script(int i, char **argv)
{
	(void)i;
	execv(other, argv);
}

static void by_preload(int i, char **argv)
{
	(void)i;
	CHECK(setenv("LD_PRELOAD", library, 1) == 0);
	execv(other, argv);
}

int main(int argc, char **argv)
{
	CHECK(argc == 4 || argc == 5);
	int n = count_of(argv[2]);
	const char *folder = argv[3];
	char inner[PATH_BYTES];
	void (*way)(int, char **) = by_script;

	library = argv[4];
	name_of(program, folder, "ran");
	if (!strcmp(argv[1], "memfd")) {
		way = by_memfd;
	} else if (!strcmp(argv[1], "deleted")) {
		way = by_deleted;
		name_of(other, folder, "gone");
	} else if (!strcmp(argv[1], "ldso")) {
		way = by_loader;
		name_of(other, folder, "ran-dynamic");
	} else if (!strcmp(argv[1], "preload")) {
		way = by_preload;
		name_of(other, folder, "ran-dynamic");
	} else if (!strcmp(argv[1], "shebang")) {
		name_of(inner, folder, "inner");
		name_of(other, folder, "outer");
		write_file(inner, "#!%s\n", program);
		write_file(other, "#!%s\n", inner);
	} else if (!strcmp(argv[1], "env")) {
		name_of(other, folder, "by-env");
		write_file(other, "#!/usr/bin/env sh\nexec %s \"$1\"\n", program);
	} else {
		return 2;
	}
	for (int i = 0; i < n; i++) {
		char word[16];
		char *arguments[] = {"ran", word, NULL};
		snprintf(word, sizeof(word), "%d", i);
		pid_t child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			way(i, arguments);
			CHECK(!"exec came back");
		}
		await(child);
	}
	return 0;
}
