// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Sockets on loopback, and what the kernel says of a connection.
#ifndef VEDETTE_LOOPBACK_H
#define VEDETTE_LOOPBACK_H

#include "truth.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

__attribute__((unused)) static struct sockaddr_in loopback(int port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	return address;
}

__attribute__((unused)) static int listener(int port)
{
	struct sockaddr_in address = loopback(port);
	int on = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0);
	CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
	CHECK(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	CHECK(listen(fd, 64) == 0);
	return fd;
}

/* say_flow says who made a flow and where it truly goes. */
__attribute__((unused)) static void say_flow(struct who me, int fd, int remote)
{
	struct sockaddr_in local;
	socklen_t length = sizeof(local);

	CHECK(getsockname(fd, (struct sockaddr *)&local, &length) == 0);
	say("{\"pid\":%d,\"start\":%llu,\"local\":%d,\"remote\":%d}\n", me.pid, me.start, ntohs(local.sin_port), remote);
}

__attribute__((unused)) static int peer_of(int fd)
{
	struct sockaddr_in remote;
	socklen_t length = sizeof(remote);

	CHECK(getpeername(fd, (struct sockaddr *)&remote, &length) == 0);
	return ntohs(remote.sin_port);
}

/* hang_up resets, so that no port waits and none runs out. */
__attribute__((unused)) static void hang_up(int fd)
{
	struct linger now = {.l_onoff = 1};

	CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0);
	CHECK(close(fd) == 0);
}

#endif
