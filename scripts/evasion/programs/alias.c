// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// alias PROGRAMS FOLDER: one program, started under every name that leads to it, and one
// other program that must not be taken for it. The last argument of each says which
// name it was. Mounts are made in a mount namespace of our own.
#include "files.h"
#include <sched.h>
#include <sys/mount.h>

enum { NAMES_MAX = 64 };

static char folder[PATH_BYTES];
static char program[PATH_BYTES]; /* FOLDER/one/ran */

/* under is FOLDER/NAME; the text lives until four more were asked for. */
static const char *under(const char *name)
{
	static char paths[4][PATH_BYTES];
	static unsigned next;
	char *path = paths[next++ % 4];

	name_of(path, folder, name);
	return path;
}

/* The programs run beside each other, long enough to be looked at as any that is in use. */
static pid_t lingering[NAMES_MAX];
static unsigned count;

static void linger(pid_t child)
{
	CHECK(count < NAMES_MAX);
	lingering[count++] = child;
}

static void await_all(void)
{
	while (count > 0)
		await(lingering[--count]);
}

static void by_path(const char *name, const char *path)
{
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		execl(path, "ran", name, NULL);
		CHECK(!"execl came back");
	}
	linger(child);
}

/* by_descriptor executes what is open, under the path that names the descriptor
 * below prefix, or under none. */
static void by_descriptor(const char *name, const char *prefix)
{
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		char path[64];
		char *argv[] = {"ran", (char *)name, NULL};
		int fd = open(program, O_PATH | O_CLOEXEC);
		CHECK(fd >= 0);
		snprintf(path, sizeof(path), "%s%d", prefix, fd);
		execveat(fd, *prefix ? path : "", argv, environ, *prefix ? 0 : AT_EMPTY_PATH);
		CHECK(!"execveat came back");
	}
	linger(child);
}

static void from_folder(void)
{
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		char *argv[] = {"ran", "execveat", NULL};
		int fd = open(under("one"), O_PATH | O_DIRECTORY | O_CLOEXEC);
		CHECK(fd >= 0);
		execveat(fd, "ran", argv, environ, 0);
		CHECK(!"execveat came back");
	}
	linger(child);
}

static void by_itself(void)
{
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		execl(program, "ran", "through", "/proc/self/exe", "self-exe", NULL);
		CHECK(!"execl came back");
	}
	linger(child);
}

static void bind(const char *from, const char *to)
{
	CHECK(mount(from, to, NULL, MS_BIND, NULL) == 0);
}

static void own_mounts(void)
{
	CHECK(unshare(CLONE_NEWNS) == 0);
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
}

static void in_namespace(void)
{
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		own_mounts();
		bind(under("one"), under("private"));
		execl(under("private/ran"), "ran", "mount-namespace", NULL);
		CHECK(!"execl came back");
	}
	linger(child);
}

static void in_chroot(void)
{
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		CHECK(mkdir(under("root/proc"), 0700) == 0);
		bind("/proc", under("root/proc"));
		copy("/dev/null", under("root/ran"));
		bind(program, under("root/ran"));
		CHECK(chroot(under("root")) == 0 && chdir("/") == 0);
		execl("/ran", "ran", "chroot", NULL);
		CHECK(!"execl came back");
	}
	linger(child);
}

static void make_names(const char *programs)
{
	char ran[PATH_BYTES];
	static const char *const folders[] = {"one", "other", "bound", "merged", "empty", "private", "root"};

	for (unsigned i = 0; i < sizeof(folders) / sizeof(*folders); i++)
		CHECK(mkdir(under(folders[i]), 0700) == 0);
	name_of(program, folder, "one/ran");
	name_of(ran, programs, "ran");
	copy(ran, program);
	copy(program, under("other/ran"));
	int other = open(under("other/ran"), O_WRONLY | O_APPEND | O_CLOEXEC);
	CHECK(other >= 0 && write(other, "x", 1) == 1 && close(other) == 0);
	copy(program, under("copy"));
	copy("/dev/null", under("bound-file"));
	CHECK(symlink(program, under("link")) == 0);
	CHECK(symlink("link", under("link-to-link")) == 0);
	CHECK(symlink("one", under("linked-folder")) == 0);
	CHECK(link(program, under("hard-link")) == 0);
}

static void run_names(void)
{
	char path[PATH_BYTES];

	CHECK(chdir(under("one")) == 0);
	by_path("relative", "./ran");
	by_path("dots", "../one/.././one/./ran");
	by_path("self-cwd", "/proc/self/cwd/ran");
	CHECK(chdir("/") == 0);
	CHECK(snprintf(path, sizeof(path), "//%s///one//ran", folder) < (int)sizeof(path));
	by_path("slashes", path);
	by_path("link", under("link"));
	by_path("link-to-link", under("link-to-link"));
	by_path("linked-folder", under("linked-folder/ran"));
	by_path("hard-link", under("hard-link"));
	CHECK(snprintf(path, sizeof(path), "/proc/self/root%s", program) < (int)sizeof(path));
	by_path("self-root", path);
	CHECK(snprintf(path, sizeof(path), "/proc/%d/root%s", getpid(), program) < (int)sizeof(path));
	by_path("other-root", path);
	by_itself();
	by_descriptor("self-fd", "/proc/self/fd/");
	by_descriptor("dev-fd", "/dev/fd/");
	by_descriptor("empty-path", "");
	from_folder();
}

static void run_mounts(void)
{
	char options[2 * PATH_BYTES + 32];

	bind(program, under("bound-file"));
	by_path("bound-file", under("bound-file"));
	bind(under("one"), under("bound"));
	by_path("bound-folder", under("bound/ran"));
	bind(program, "/bin/true");
	by_path("over-another", "/bin/true");
	CHECK(snprintf(options, sizeof(options), "lowerdir=%s:%s", under("one"), under("empty")) < (int)sizeof(options));
	CHECK(mount("overlay", under("merged"), "overlay", MS_RDONLY, options) == 0);
	by_path("overlay", under("merged/ran"));
	in_namespace();
	in_chroot();
}

int main(int argc, char **argv)
{
	CHECK(argc == 3 && realpath(argv[2], folder));
	CHECK(setenv("LINGER", "1", 1) == 0);
	make_names(argv[1]);
	by_path("absolute", program);
	by_path("other", under("other/ran"));
	own_mounts();
	run_names();
	run_mounts();
	by_path("copy", under("copy"));
	await_all();
	/* A rename changes the file's change time, so that nothing else may still run. */
	CHECK(rename(program, under("one/innocent")) == 0);
	by_path("renamed", under("one/innocent"));
	await_all();
	return 0;
}
