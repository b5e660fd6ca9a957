// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// argv long|rewrite N FOLDER: arguments that hide what matters behind 128 KiB of
// what does not, and arguments that are other ones as soon as the program runs.
#include "loopback.h"
#include <sys/prctl.h>

enum {
	LONG_BYTES = 128 << 10, /* also MAX_ARG_STRLEN, the most that one argument has */
	PART_BYTES = 1 << 10,
	PARTS = LONG_BYTES / PART_BYTES,
	PORT = 8082,
};

/* Many arguments or one; the payload is their end, which differs in its last byte. */
static void run_long(int n, const char *folder)
{
	static char path[PATH_BYTES], part[PART_BYTES], whole[LONG_BYTES];
	static char *argv[PARTS + 3];

	name_of(path, folder, "ran");
	memset(part, 'p', sizeof(part) - 1);
	memset(whole, 'w', sizeof(whole) - 1);
	for (int i = 0; i < n; i++) {
		char payload[] = "payload-a";
		char last = "ab"[i % 2];
		int at = 0;
		argv[at++] = "ran";
		if (i / 2 % 2) {
			whole[sizeof(whole) - 2] = last;
			argv[at++] = whole;
		} else {
			while (at <= PARTS)
				argv[at++] = part;
			payload[sizeof(payload) - 2] = last;
			argv[at++] = payload;
		}
		argv[at] = NULL;
		pid_t child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			execv(path, argv);
			CHECK(!"execv came back");
		}
		await(child);
	}
}

static void run_rewrites(int n, const char *folder)
{
	char path[PATH_BYTES], word[16];
	int server = listener(PORT);

	name_of(path, folder, "argv");
	for (int i = 0; i < n; i++) {
		snprintf(word, sizeof(word), "%d", i);
		pid_t child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			execl(path, "argv", "guilty", word, NULL);
			CHECK(!"execl came back");
		}
		int served = accept(server, NULL, NULL);
		CHECK(served >= 0);
		await(child);
		close(served);
	}
}

/* guilty says what it was started with, and does its deed under another name. */
static int guilty(char **argv)
{
	struct sockaddr_in address = loopback(PORT), local;
	socklen_t length = sizeof(local);
	struct who me = myself();
	char word[16];

	snprintf(word, sizeof(word), "%s", argv[2]);
	for (int i = 0; i < 3; i++)
		memset(argv[i], 'x', strlen(argv[i]));
	CHECK(prctl(PR_SET_NAME, "innocent") == 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	CHECK(getsockname(fd, (struct sockaddr *)&local, &length) == 0);
	say("{\"pid\":%d,\"start\":%llu,\"local\":%d,\"remote\":%d,\"argv\":[\"argv\",\"guilty\",\"%s\"]}\n",
	    me.pid, me.start, ntohs(local.sin_port), PORT, word);
	hang_up(fd);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "guilty"))
		return guilty(argv);
	CHECK(argc == 4);
	int n = count_of(argv[2]);

	if (!strcmp(argv[1], "long"))
		run_long(n, argv[3]);
	else if (!strcmp(argv[1], "rewrite"))
		run_rewrites(n, argv[3]);
	else
		return 2;
	return 0;
}
