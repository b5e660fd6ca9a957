// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The program that the others start. It says who it is, by which file it runs and
// with which arguments: what an exec truly did, told by what was executed.
// ran through PATH WORD becomes PATH first. With LINGER it does not end at once.
#include "truth.h"

enum {
	ARGUMENTS_SAID = 6,
	ARGUMENT_SAID = 200, /* bytes of each */
	LINGERS_S = 3,
};

/* FNV-1a, 64 bits: names the whole of the arguments. */
static unsigned long long sum_of(const char *text, size_t length)
{
	unsigned long long sum = 14695981039346656037ULL;

	for (size_t i = 0; i < length; i++)
		sum = (sum ^ (unsigned char)text[i]) * 1099511628211ULL;
	return sum;
}

int main(int argc, char **argv)
{
	struct who me = myself();
	struct who parent = who_is(me.parent);
	char image[PATH_BYTES];
	char list[ARGUMENTS_SAID * (ARGUMENT_SAID + 4) + 1] = "";
	struct stat file;
	int at = 0;

	if (argc == 4 && !strcmp(argv[1], "through")) {
		execl(argv[2], "ran", argv[3], NULL);
		CHECK(!"execl came back");
	}
	ssize_t length = readlink("/proc/self/exe", image, sizeof(image) - 1);
	CHECK(length > 0);
	image[length] = 0;
	CHECK(stat("/proc/self/exe", &file) == 0);
	for (int i = 0; i < argc && i < ARGUMENTS_SAID; i++)
		at += snprintf(list + at, sizeof(list) - at, "%s\"%.*s\"", i ? "," : "", ARGUMENT_SAID, argv[i]);
	/* The kernel lays arguments out one after the other. */
	size_t bytes = argc ? argv[argc - 1] + strlen(argv[argc - 1]) + 1 - argv[0] : 0;
	say("{\"pid\":%d,\"start\":%llu,\"ppid\":%d,\"pstart\":%llu,\"image\":\"%s\",\"inode\":%llu,\"device\":%llu,"
	    "\"argv\":[%s],\"argv_bytes\":%zu,\"argv_sum\":\"%016llx\"}\n",
	    me.pid, me.start, parent.pid, parent.start, image, (unsigned long long)file.st_ino,
	    (unsigned long long)file.st_dev, list, bytes, argc ? sum_of(argv[0], bytes) : 0);
	if (getenv("LINGER"))
		sleep(LINGERS_S);
	return 0;
}
