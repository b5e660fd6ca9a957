// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// runtime N FOLDER: what a container runtime does at every start of a container,
// since CVE-2019-5736: it copies itself into sealed memory and runs that copy. It
// is found at /usr/sbin/runc, in a mount namespace of our own.
#include "files.h"
#include <sched.h>
#include <sys/mount.h>

#define CLONED "_LIBCONTAINER_CLONED_BINARY"

/* The second time we run from memory, and the container would be made. */
static int be_runtime(char **argv)
{
	if (getenv(CLONED))
		return 0;
	int fd = in_memory("/proc/self/exe", "runc_cloned:/proc/self/exe");
	CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0);
	CHECK(setenv(CLONED, "1", 1) == 0);
	fexecve(fd, argv, environ);
	CHECK(!"fexecve came back");
	return 1;
}

int main(int argc, char **argv)
{
	char path[PATH_BYTES], self[PATH_BYTES];

	if (argc == 2 && !strcmp(argv[1], "init"))
		return be_runtime(argv);
	CHECK(argc == 3);
	int n = count_of(argv[1]);

	name_of(self, argv[2], "runtime");
	name_of(path, argv[2], "sbin");
	CHECK(mkdir(path, 0755) == 0);
	name_of(path, argv[2], "sbin/runc");
	copy(self, path);
	name_of(path, argv[2], "sbin");
	CHECK(unshare(CLONE_NEWNS) == 0);
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	CHECK(mount(path, "/usr/sbin", NULL, MS_BIND, NULL) == 0);
	for (int i = 0; i < n; i++) {
		pid_t child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			execl("/usr/sbin/runc", "runc", "init", NULL);
			CHECK(!"execl came back");
		}
		await(child);
		say("{\"pid\":%d}\n", child);
	}
	return 0;
}
