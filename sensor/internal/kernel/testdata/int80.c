// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// int80 PORT: connects to a port of 127.0.0.1 and opens a packet socket by the calls of
// the 32-bit entry, each in two ways. Linked at a low address: what a 32-bit pointer names must
// lie below 4 GiB.
#include <arpa/inet.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NR_SOCKETCALL = 102, NR_SOCKET = 359, NR_CONNECT = 362, CALL_SOCKET = 1, CALL_CONNECT = 3 };

static struct sockaddr_in address;
static uint32_t arguments[3];

static int int80(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "r8", "r9", "r10", "r11", "memory");
	return (int)result;
}

static int by_socketcall(long call, uint32_t a, uint32_t b, uint32_t c)
{
	arguments[0] = a;
	arguments[1] = b;
	arguments[2] = c;
	return int80(NR_SOCKETCALL, call, (long)arguments, 0);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	address.sin_family = AF_INET;
	address.sin_port = htons(atoi(argv[1]));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (int80(NR_CONNECT, socket(AF_INET, SOCK_STREAM, 0), (long)&address, sizeof(address)))
		return 3;
	if (by_socketcall(CALL_CONNECT, socket(AF_INET, SOCK_STREAM, 0), (uint32_t)(uintptr_t)&address, sizeof(address)))
		return 4;
	if (int80(NR_SOCKET, AF_PACKET, SOCK_RAW, htons(0x806)) < 0)
		return 5;
	if (by_socketcall(CALL_SOCKET, AF_PACKET, SOCK_DGRAM, htons(0x806)) < 0)
		return 6;
	return 0;
}
