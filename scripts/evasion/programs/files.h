// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Copies of programs.
#ifndef VEDETTE_FILES_H
#define VEDETTE_FILES_H

#include "truth.h"
#include <sys/mman.h>
#include <sys/sendfile.h>

/* pour appends the whole of a file to an open one. */
__attribute__((unused)) static void pour(const char *path, int into)
{
	struct stat file;
	int from = open(path, O_RDONLY | O_CLOEXEC);

	CHECK(from >= 0 && fstat(from, &file) == 0);
	for (off_t left = file.st_size; left > 0;) {
		ssize_t moved = sendfile(into, from, NULL, left);
		CHECK(moved > 0);
		left -= moved;
	}
	close(from);
}

__attribute__((unused)) static void copy(const char *from, const char *to)
{
	int into = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);

	CHECK(into >= 0);
	pour(from, into);
	CHECK(close(into) == 0);
}

/* in_memory is a copy that no path leads to. */
__attribute__((unused)) static int in_memory(const char *from, const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	CHECK(fd >= 0);
	pour(from, fd);
	return fd;
}

__attribute__((unused, format(printf, 2, 3))) static void write_file(const char *path, const char *format, ...)
{
	va_list args;
	FILE *file = fopen(path, "we");

	CHECK(file);
	va_start(args, format);
	CHECK(vfprintf(file, format, args) > 0);
	va_end(args);
	CHECK(fchmod(fileno(file), 0700) == 0);
	CHECK(fclose(file) == 0);
}

#endif
