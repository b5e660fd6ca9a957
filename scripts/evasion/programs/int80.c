// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// int80 exec|connect|socketcall N FOLDER: the 32-bit entry from a 64-bit program.
// It never passes the hooks of the 64-bit calls. What a pointer names must lie
// below 4 GiB: the program is linked at a fixed address and its data are static.
#include "loopback.h"
#include <stdint.h>

enum {
	NR32_EXECVE = 11,
	NR32_SOCKETCALL = 102,
	NR32_CONNECT = 362,
	SOCKETCALL_CONNECT = 3,
	PORT = 8080,
};

static long int80(long number, long a, long b, long c)
{
	long result;

	/* The entry clears r8 to r11 on some kernels. */
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "r8", "r9", "r10", "r11", "memory");
	return (int)result;
}

static uint32_t low(const void *pointer)
{
	uintptr_t address = (uintptr_t)pointer;

	CHECK(address <= UINT32_MAX);
	return (uint32_t)address;
}

static void by_exec(int n, const char *folder)
{
	static char path[PATH_BYTES], name[] = "ran", word[] = "int80", index[16];
	static uint32_t argv[4], environment[1];

	name_of(path, folder, "ran");
	argv[0] = low(name);
	argv[1] = low(word);
	argv[2] = low(index);
	for (int i = 0; i < n; i++) {
		snprintf(index, sizeof(index), "%d", i);
		pid_t child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			int80(NR32_EXECVE, low(path), low(argv), low(environment));
			CHECK(!"execve came back");
		}
		await(child);
	}
}

static void by_connect(int n, int socketcall)
{
	static struct sockaddr_in address;
	static uint32_t arguments[3];
	struct who me = myself();
	int server = listener(PORT);

	address = loopback(PORT);
	for (int i = 0; i < n; i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		CHECK(fd >= 0);
		arguments[0] = fd;
		arguments[1] = low(&address);
		arguments[2] = sizeof(address);
		long result = socketcall ? int80(NR32_SOCKETCALL, SOCKETCALL_CONNECT, low(arguments), 0)
					 : int80(NR32_CONNECT, fd, low(&address), sizeof(address));
		CHECK(result == 0);
		int served = accept(server, NULL, NULL);
		CHECK(served >= 0);
		say_flow(me, fd, peer_of(fd));
		hang_up(fd);
		close(served);
	}
}

int main(int argc, char **argv)
{
	CHECK(argc == 4);
	int n = count_of(argv[2]);

	if (!strcmp(argv[1], "exec"))
		by_exec(n, argv[3]);
	else if (!strcmp(argv[1], "connect"))
		by_connect(n, 0);
	else if (!strcmp(argv[1], "socketcall"))
		by_connect(n, 1);
	else
		return 2;
	return 0;
}
