// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// drive KIND ARGUMENT…: does one thing many times, and says on standard output how
// often and how long it took, as JSON. In C because what is measured costs less than
// what Go does around a fork.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	LISTEN_PORT = 7777,
	SERVE_PORT = 8080,
	DNS_PORT = 53,
	BATCH = 64, /* datagrams of one system call */
	/* Ephemeral ports: to whichever of them, it is one behaviour. */
	FIRST_PORT = 32768,
	PORTS = 28224, /* a multiple of BATCH */
	/* What is sent from: none of those, or it would also be received. */
	SEND_PORT = 20000,
	THREADS_MAX = 64,
	SECOND = 1000000000,
};

typedef unsigned long long count;

static void die(const char *what)
{
	fprintf(stderr, "drive: %s: %s\n", what, strerror(errno));
	exit(1);
}

static count now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (count)t.tv_sec * SECOND + t.tv_nsec;
}

static void pause_until(count at)
{
	struct timespec t = { .tv_sec = at / SECOND, .tv_nsec = at % SECOND };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static void spawn(const char *path)
{
	char *argv[] = { (char *)path, NULL };
	char *env[] = { NULL };
	int status;
	pid_t pid = vfork();

	if (pid == 0) {
		execve(path, argv, env);
		_exit(127);
	}
	if (pid < 0)
		die("vfork");
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			die("waitpid");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		die(path);
}

static struct sockaddr_in loopback(int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static int bound(int type, int port)
{
	struct sockaddr_in a = loopback(port);
	int on = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (void *)&a, sizeof(a)))
		die("bind");
	if (type == SOCK_STREAM && listen(fd, 128))
		die("listen");
	return fd;
}

static void connect_once(int listener)
{
	struct sockaddr_in a = loopback(LISTEN_PORT);
	struct linger reset = { .l_onoff = 1 };
	int server, client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (client < 0 || connect(client, (void *)&a, sizeof(a)))
		die("connect");
	server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (server < 0)
		die("accept");
	/* Reset, so that no port waits and none runs out. */
	setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(client);
	close(server);
}

static void open_once(const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		die(path);
	close(fd);
}

/* A query for the A record of a name. */
static size_t query(unsigned char *out, const char *name)
{
	static const unsigned char head[12] = { 0x12, 0x34, 1, 0, 0, 1 };
	size_t n = sizeof(head);

	memcpy(out, head, sizeof(head));
	while (*name) {
		size_t label = strcspn(name, ".");

		out[n++] = label;
		memcpy(out + n, name, label);
		n += label;
		name += label + (name[label] == '.');
	}
	memcpy(out + n, (unsigned char[]){ 0, 0, 1, 0, 1 }, 5);
	return n + 5;
}

/* Answers one query with 127.0.0.1. */
static void answer(int server)
{
	static const unsigned char record[] = { 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1 };
	unsigned char m[512];
	struct sockaddr_in from;
	socklen_t size = sizeof(from);
	ssize_t n = recvfrom(server, m, sizeof(m) - sizeof(record), 0, (void *)&from, &size);

	if (n < 12)
		return;
	m[2] |= 0x80;
	m[7] = 1;
	memcpy(m + n, record, sizeof(record));
	if (sendto(server, m, n + sizeof(record), 0, (void *)&from, size) < 0)
		die("answering");
}

/* server < 0: somebody else answers. */
static void lookup_once(int server, const char *name)
{
	struct sockaddr_in a = loopback(DNS_PORT);
	struct timeval most = { .tv_sec = 2 };
	unsigned char m[512];
	size_t n = query(m, name);
	int client = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (client < 0)
		die("socket");
	setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof(most));
	if (sendto(client, m, n, 0, (void *)&a, sizeof(a)) < 0)
		die("asking");
	if (server >= 0)
		answer(server);
	if (recv(client, m, sizeof(m), 0) < 0)
		die("waiting for the answer");
	close(client);
}

static void fetch_once(void)
{
	static const char request[] = "GET / HTTP/1.0\r\n\r\n";
	struct sockaddr_in a = loopback(SERVE_PORT);
	char page[4096];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (void *)&a, sizeof(a)) || write(fd, request, sizeof(request) - 1) < 0)
		die("fetching");
	while (read(fd, page, sizeof(page)) > 0)
		;
	close(fd);
}

static void *serve_names(void *arg)
{
	int server = bound(SOCK_DGRAM, DNS_PORT);

	for (;;)
		answer(server);
	return arg;
}

/* A name server and a web server, until they are ended. */
static void serve(void)
{
	static const char page[] = "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
	int server = bound(SOCK_STREAM, SERVE_PORT);
	pthread_t names;

	if (pthread_create(&names, NULL, serve_names, NULL))
		die("pthread_create");
	for (;;) {
		char request[1024];
		int fd = accept4(server, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			continue;
		if (read(fd, request, sizeof(request)) > 0 && write(fd, page, sizeof(page) - 1) < 0)
			perror("drive: answering");
		close(fd);
	}
}

/* rate 0: as fast as it goes. */
static void repeat(const char *kind, const char *what, count n, count rate)
{
	int listener = strcmp(kind, "connect") ? -1 : bound(SOCK_STREAM, LISTEN_PORT);
	count began = now(), i;

	for (i = 0; i < n; i++) {
		if (rate && began + i * SECOND / rate > now() + SECOND / 1000)
			pause_until(began + i * SECOND / rate);
		if (listener >= 0)
			connect_once(listener);
		else if (kind[0] == 's')
			spawn(what);
		else
			open_once(what);
	}
	printf("{\"ops\":%llu,\"ns\":%llu}\n", n, now() - began);
}

enum { SPAWNS, CONNECTIONS, LOOKUPS, OPENS, KINDS };

/* The kinds from first up to end, so many of each a second, in steps of ten milliseconds. */
static void pace(count seconds, const char *program, const char *file, const count *rates, count *done, int first, int end)
{
	int listener = -1, names = -1;
	count began = now();

	if (first <= CONNECTIONS && CONNECTIONS < end) {
		listener = bound(SOCK_STREAM, LISTEN_PORT);
		names = bound(SOCK_DGRAM, DNS_PORT);
	}
	for (count step = 1; step <= seconds * 100; step++) {
		for (int kind = first; kind < end; kind++) {
			for (; done[kind] < rates[kind] * step / 100; done[kind]++) {
				switch (kind) {
				case SPAWNS: spawn(program); break;
				case CONNECTIONS: connect_once(listener); break;
				case LOOKUPS: lookup_once(names, "db.bench.example"); break;
				case OPENS: open_once(file); break;
				}
			}
		}
		pause_until(began + step * SECOND / 100);
	}
}

/* A process of its own starts programs: one that accepts connections and starts
 * programs is to a sensor a server that starts one for each. */
static void mix(count seconds, const char *program, const char *file, const count *rates)
{
	count began = now();
	count *done = mmap(NULL, KINDS * sizeof(*done), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status;
	pid_t starter;

	if (done == MAP_FAILED)
		die("mmap");
	starter = fork();
	if (starter < 0)
		die("fork");
	if (starter == 0) {
		pace(seconds, program, file, rates, done, SPAWNS, SPAWNS + 1);
		exit(0);
	}
	pace(seconds, program, file, rates, done, SPAWNS + 1, KINDS);
	if (waitpid(starter, &status, 0) != starter || status)
		die("the process that starts programs");
	printf("{\"spawns\":%llu,\"connections\":%llu,\"lookups\":%llu,\"opens\":%llu,\"ns\":%llu}\n",
	       done[SPAWNS], done[CONNECTIONS], done[LOOKUPS], done[OPENS], now() - began);
}

static struct {
	count until;
	const char *file; /* NULL: none is opened */
	atomic_ullong datagrams, opens;
} flooding;

/* Datagrams to ever new ports, each a flow that nobody has seen, and opens of a file. */
static void *flood_one(void *arg)
{
	static char payload = 'x';
	struct iovec data = { &payload, 1 };
	struct sockaddr_in to[BATCH];
	struct mmsghdr messages[BATCH] = {};
	count datagrams = 0, opens = 0;
	int fd = -1;

	for (int i = 0; i < BATCH; i++) {
		to[i] = loopback(0);
		messages[i].msg_hdr = (struct msghdr){ .msg_name = &to[i], .msg_namelen = sizeof(to[i]), .msg_iov = &data, .msg_iovlen = 1 };
	}
	while (now() < flooding.until) {
		if (datagrams % PORTS == 0) { /* a flow is a socket and a peer */
			if (fd >= 0)
				close(fd);
			fd = bound(SOCK_DGRAM, SEND_PORT + (int)(size_t)arg);
		}
		for (int i = 0; i < BATCH; i++)
			to[i].sin_port = htons(FIRST_PORT + (datagrams + i) % PORTS);
		for (int sent = 0; sent < BATCH;) {
			int n = sendmmsg(fd, messages + sent, BATCH - sent, 0);

			if (n < 0)
				die("sendmmsg");
			sent += n;
			datagrams += n;
		}
		for (int i = 0; flooding.file && i < BATCH; i++, opens++)
			open_once(flooding.file);
	}
	atomic_fetch_add(&flooding.datagrams, datagrams);
	atomic_fetch_add(&flooding.opens, opens);
	close(fd);
	return arg;
}

/* As many new events as there are CPUs for, and a marker so many times a second. */
static void flood(count seconds, const char *marker, count rate, const char *file)
{
	pthread_t threads[THREADS_MAX];
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	count began = now(), markers = 0;

	if (n < 1 || n > THREADS_MAX)
		n = 1;
	flooding.until = began + seconds * SECOND;
	flooding.file = file;
	for (long i = 0; i < n; i++)
		if (pthread_create(&threads[i], NULL, flood_one, (void *)i))
			die("pthread_create");
	for (; markers < seconds * rate; markers++) {
		pause_until(began + markers * SECOND / rate);
		spawn(marker);
	}
	for (long i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	printf("{\"datagrams\":%llu,\"opens\":%llu,\"markers\":%llu,\"ns\":%llu}\n",
	       flooding.datagrams, flooding.opens, markers, now() - began);
}

static count number(const char *text)
{
	char *end;
	count n = strtoull(text, &end, 10);

	if (*end || !*text) {
		errno = EINVAL;
		die(text);
	}
	return n;
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";

	if (argc == 5 && (!strcmp(kind, "spawn") || !strcmp(kind, "open") || !strcmp(kind, "connect"))) {
		repeat(kind, argv[2], number(argv[3]), number(argv[4]));
	} else if (argc == 9 && !strcmp(kind, "mix")) {
		count rates[4] = { number(argv[5]), number(argv[6]), number(argv[7]), number(argv[8]) };

		mix(number(argv[2]), argv[3], argv[4], rates);
	} else if (argc == 6 && !strcmp(kind, "flood")) {
		flood(number(argv[2]), argv[3], number(argv[4]), strcmp(argv[5], "-") ? argv[5] : NULL);
	} else if (argc == 2 && !strcmp(kind, "serve")) {
		serve();
	} else if (argc == 2 && !strcmp(kind, "fetch")) {
		fetch_once();
	} else if (argc == 3 && !strcmp(kind, "lookup")) {
		lookup_once(-1, argv[2]);
	} else {
		fprintf(stderr, "usage: drive spawn PATH N RATE | connect - N RATE | open PATH N RATE |\n"
				"  mix SECONDS PROGRAM FILE SPAWNS CONNECTIONS LOOKUPS OPENS |\n"
				"  flood SECONDS MARKER RATE FILE|- | serve | fetch | lookup NAME\n");
		return 2;
	}
	return 0;
}
