// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// race exec|open|connect N FOLDER: a second thread changes one byte of the argument
// for as long as the call runs. A sensor that reads user memory on entry tells what
// the kernel did not do. What was done is asked of the kernel afterwards.
#include "loopback.h"
#include <pthread.h>
#include <sched.h>

enum {
	EVEN_PORT = 0x2000, /* the two differ in their low byte alone */
	ODD_PORT = 0x2001,
	FLIPS_FIRST = 3, /* seen before the call, so that both threads run */
};

static volatile char *flipped[2]; /* the bytes that change */
static char first[2], second[2];
static volatile unsigned long flips;
static volatile int stop;

static void *flip(void *unused)
{
	(void)unused;
	while (!stop) {
		for (int i = 0; i < 2 && flipped[i]; i++)
			*flipped[i] = flips & 1 ? first[i] : second[i];
		flips++;
	}
	return NULL;
}

static pthread_t begin_flipping(void)
{
	pthread_t thread;
	unsigned long before = flips;

	CHECK(pthread_create(&thread, NULL, flip, NULL) == 0);
	while (flips < before + FLIPS_FIRST)
		sched_yield();
	return thread;
}

static void end_flipping(pthread_t thread)
{
	stop = 1;
	CHECK(pthread_join(thread, NULL) == 0);
}

static void flip_byte(int which, char *at, char one, char other)
{
	flipped[which] = at;
	first[which] = one;
	second[which] = other;
}

/* FOLDER/ran-a or ran-b, with an argument that is word-a or word-b. */
static void race_exec(int n, const char *folder)
{
	static char path[PATH_BYTES], word[] = "word-a", index[16];
	char *argv[] = {"ran", word, index, NULL};
	char *environment[] = {NULL};

	name_of(path, folder, "ran-a");
	flip_byte(0, path + strlen(path) - 1, 'a', 'b');
	flip_byte(1, word + strlen(word) - 1, 'a', 'b');
	for (int i = 0; i < n; i++) {
		snprintf(index, sizeof(index), "%d", i);
		pid_t child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			begin_flipping();
			execve(path, argv, environment);
			CHECK(!"execve came back");
		}
		await(child);
	}
}

/* FOLDER/file-a or file-b, opened for writing. */
static void race_open(int n, const char *folder)
{
	static char path[PATH_BYTES];
	struct who me = myself();

	name_of(path, folder, "file-a");
	flip_byte(0, path + strlen(path) - 1, 'a', 'b');
	pthread_t thread = begin_flipping();
	for (int i = 0; i < n; i++) {
		struct stat file;
		int fd = open(path, O_WRONLY | O_CLOEXEC);
		CHECK(fd >= 0 && fstat(fd, &file) == 0);
		say("{\"pid\":%d,\"start\":%llu,\"inode\":%llu}\n", me.pid, me.start, (unsigned long long)file.st_ino);
		CHECK(close(fd) == 0);
	}
	end_flipping(thread);
}

static void race_connect(int n)
{
	static struct sockaddr_in address;
	struct who me = myself();
	int listeners[2] = {listener(EVEN_PORT), listener(ODD_PORT)};

	address = loopback(EVEN_PORT);
	flip_byte(0, (char *)&address.sin_port + 1, EVEN_PORT & 0xff, ODD_PORT & 0xff);
	pthread_t thread = begin_flipping();
	for (int i = 0; i < n; i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		CHECK(fd >= 0);
		CHECK(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
		int remote = peer_of(fd);
		int served = accept(listeners[remote == ODD_PORT], NULL, NULL);
		CHECK(served >= 0);
		say_flow(me, fd, remote);
		hang_up(fd);
		close(served);
	}
	end_flipping(thread);
}

int main(int argc, char **argv)
{
	CHECK(argc == 4);
	int n = count_of(argv[2]);

	if (!strcmp(argv[1], "exec"))
		race_exec(n, argv[3]);
	else if (!strcmp(argv[1], "open"))
		race_open(n, argv[3]);
	else if (!strcmp(argv[1], "connect"))
		race_connect(n);
	else
		return 2;
	return 0;
}
