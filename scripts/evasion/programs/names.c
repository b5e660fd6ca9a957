// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// names N: look-ups over TCP, two on a connection, every byte a segment of its own,
// answered by a server of our own in the same way. A sensor that looks at packets
// alone never sees a whole name.
#include "loopback.h"
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>

enum {
	PORT = 53,
	MESSAGE_MAX = 512,
	HEADER = 12,
	PER_CONNECTION = 2,
};

static const unsigned char question_end[] = {0, 1, 0, 1}; /* type A, class IN */
/* A pointer to the question's name; A, IN, 60 s, 192.0.2.1 */
static const unsigned char answer[] = {0xc0, HEADER, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1};

static void drip(int fd, const unsigned char *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		CHECK(send(fd, bytes + i, 1, MSG_NOSIGNAL) == 1);
}

static void send_message(int fd, const unsigned char *message, uint16_t length)
{
	unsigned char prefix[2] = {length >> 8, length & 0xff};

	drip(fd, prefix, sizeof(prefix));
	drip(fd, message, length);
}

/* read_message is 0 at the peer's end. */
static size_t read_message(int fd, unsigned char *message)
{
	unsigned char prefix[2];
	ssize_t got = recv(fd, prefix, sizeof(prefix), MSG_WAITALL);

	if (got == 0)
		return 0;
	size_t length = prefix[0] << 8 | prefix[1];
	CHECK(got == sizeof(prefix) && length >= HEADER && length <= MESSAGE_MAX);
	CHECK(recv(fd, message, length, MSG_WAITALL) == (ssize_t)length);
	return length;
}

static size_t put_name(unsigned char *at, const char *name)
{
	size_t length = 0;

	for (const char *label = name; *label;) {
		size_t n = strcspn(label, ".");
		at[length++] = n;
		memcpy(at + length, label, n);
		length += n;
		label += n + (label[n] == '.');
	}
	at[length++] = 0;
	return length;
}

static void at_once(int fd)
{
	int on = 1;

	CHECK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
}

static void serve(int server)
{
	for (;;) {
		unsigned char message[MESSAGE_MAX + sizeof(answer)];
		int fd = accept(server, NULL, NULL);
		CHECK(fd >= 0);
		at_once(fd);
		for (size_t length; (length = read_message(fd, message)) > 0;) {
			message[2] |= 0x80; /* a response */
			message[7] = 1; /* with one answer */
			memcpy(message + length, answer, sizeof(answer));
			send_message(fd, message, length + sizeof(answer));
		}
		close(fd);
	}
}

static void ask(struct who me, int fd, int i)
{
	unsigned char message[MESSAGE_MAX] = {i >> 8, i & 0xff, 1, 0, 0, 1};
	char name[128];

	snprintf(name, sizeof(name), "look-up-%d.in-segments.test", i);
	size_t length = HEADER + put_name(message + HEADER, name);
	memcpy(message + length, question_end, sizeof(question_end));
	send_message(fd, message, length + sizeof(question_end));
	CHECK(read_message(fd, message) > length);
	say("{\"pid\":%d,\"start\":%llu,\"name\":\"%s\"}\n", me.pid, me.start, name);
}

int main(int argc, char **argv)
{
	CHECK(argc == 2);
	int n = count_of(argv[1]);
	struct sockaddr_in address = loopback(PORT);
	int server = listener(PORT);
	struct who me = myself();
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0)
		serve(server);
	for (int i = 0; i < n;) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
		at_once(fd);
		for (int k = 0; k < PER_CONNECTION && i < n; k++)
			ask(me, fd, i++);
		close(fd);
	}
	CHECK(kill(child, SIGTERM) == 0 && waitpid(child, NULL, 0) == child);
	return 0;
}
