// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// uring connect|openat|send inline|worker|sqpoll N FOLDER: the same deeds without
// their system calls: in the submitting task, in a worker thread of the ring, or
// by the kernel's polling thread, which needs no system call at all.
#include "loopback.h"
#include <linux/io_uring.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum {
	ENTRIES = 4,
	PORT = 8081,
	IDLE_MS = 50, /* then the polling thread sleeps and must be woken */
};

static struct {
	int fd;
	unsigned setup, flags; /* of the ring, of each entry */
	_Atomic unsigned *head, *tail, *mask, *state, *done_head, *done_tail, *done_mask;
	unsigned *array;
	struct io_uring_sqe *entries;
	struct io_uring_cqe *done;
} ring;

static void open_ring(void)
{
	struct io_uring_params p = {.flags = ring.setup, .sq_thread_idle = IDLE_MS};

	ring.fd = syscall(SYS_io_uring_setup, ENTRIES, &p);
	CHECK(ring.fd >= 0);
	CHECK(p.features & IORING_FEAT_SINGLE_MMAP);
	size_t size = p.sq_off.array + p.sq_entries * sizeof(unsigned);
	size_t done = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	char *at = mmap(NULL, size > done ? size : done, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQ_RING);
	CHECK(at != MAP_FAILED);
	ring.entries = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES);
	CHECK(ring.entries != MAP_FAILED);
	ring.head = (void *)(at + p.sq_off.head);
	ring.tail = (void *)(at + p.sq_off.tail);
	ring.mask = (void *)(at + p.sq_off.ring_mask);
	ring.state = (void *)(at + p.sq_off.flags);
	ring.array = (void *)(at + p.sq_off.array);
	ring.done_head = (void *)(at + p.cq_off.head);
	ring.done_tail = (void *)(at + p.cq_off.tail);
	ring.done_mask = (void *)(at + p.cq_off.ring_mask);
	ring.done = (void *)(at + p.cq_off.cqes);
}

/* perform submits one entry and waits for what became of it. */
static int perform(struct io_uring_sqe entry)
{
	unsigned tail = *ring.tail, slot = tail & *ring.mask, flags = IORING_ENTER_GETEVENTS;
	unsigned submitted = 1;

	entry.flags |= ring.flags;
	ring.entries[slot] = entry;
	ring.array[slot] = slot;
	*ring.tail = tail + 1;
	if (ring.setup & IORING_SETUP_SQPOLL) {
		submitted = 0;
		if (*ring.state & IORING_SQ_NEED_WAKEUP)
			flags |= IORING_ENTER_SQ_WAKEUP;
	}
	while (*ring.done_tail == *ring.done_head) {
		long result = syscall(SYS_io_uring_enter, ring.fd, submitted, 1, flags, NULL, 0);
		CHECK(result >= 0 || errno == EINTR);
		if (result > 0)
			submitted = 0;
	}
	int result = ring.done[*ring.done_head & *ring.done_mask].res;
	*ring.done_head = *ring.done_head + 1;
	errno = result < 0 ? -result : 0;
	return result;
}

static void by_connect(int n)
{
	struct sockaddr_in address = loopback(PORT);
	struct who me = myself();
	int server = listener(PORT);

	for (int i = 0; i < n; i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		CHECK(fd >= 0);
		struct io_uring_sqe entry = {.opcode = IORING_OP_CONNECT, .fd = fd, .addr = (uintptr_t)&address, .off = sizeof(address)};
		CHECK(perform(entry) == 0);
		int served = accept(server, NULL, NULL);
		CHECK(served >= 0);
		say_flow(me, fd, peer_of(fd));
		hang_up(fd);
		close(served);
	}
}

static void by_openat(int n, const char *folder)
{
	char path[PATH_BYTES];
	struct who me = myself();

	for (int i = 0; i < n; i++) {
		struct stat file;
		name_of(path, folder, i & 1 ? "file-a" : "file-b");
		struct io_uring_sqe entry = {.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uintptr_t)path, .open_flags = O_WRONLY | O_CLOEXEC};
		int fd = perform(entry);
		CHECK(fd >= 0 && fstat(fd, &file) == 0);
		say("{\"pid\":%d,\"start\":%llu,\"inode\":%llu}\n", me.pid, me.start, (unsigned long long)file.st_ino);
		CHECK(close(fd) == 0);
	}
}

/* A datagram from a socket that was never connected: only the message names the peer. */
static void by_send(int n)
{
	struct sockaddr_in address = loopback(PORT);
	struct who me = myself();
	int server = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char text[] = "by io_uring";
	struct iovec part = {.iov_base = text, .iov_len = sizeof(text)};
	struct msghdr message = {.msg_name = &address, .msg_namelen = sizeof(address), .msg_iov = &part, .msg_iovlen = 1};

	CHECK(server >= 0 && bind(server, (struct sockaddr *)&address, sizeof(address)) == 0);
	for (int i = 0; i < n; i++) {
		char got[64];
		int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		CHECK(fd >= 0);
		struct io_uring_sqe entry = {.opcode = IORING_OP_SENDMSG, .fd = fd, .addr = (uintptr_t)&message, .len = 1};
		CHECK(perform(entry) == sizeof(text));
		CHECK(recv(server, got, sizeof(got), 0) == sizeof(text));
		say_flow(me, fd, PORT);
		CHECK(close(fd) == 0);
	}
}

int main(int argc, char **argv)
{
	CHECK(argc == 5);
	int n = count_of(argv[3]);

	if (!strcmp(argv[2], "worker"))
		ring.flags = IOSQE_ASYNC;
	else if (!strcmp(argv[2], "sqpoll"))
		ring.setup = IORING_SETUP_SQPOLL;
	else if (strcmp(argv[2], "inline"))
		return 2;
	open_ring();
	if (!strcmp(argv[1], "connect"))
		by_connect(n);
	else if (!strcmp(argv[1], "openat"))
		by_openat(n, argv[4]);
	else if (!strcmp(argv[1], "send"))
		by_send(n);
	else
		return 2;
	return 0;
}
