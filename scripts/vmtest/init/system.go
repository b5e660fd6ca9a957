package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// newRoot is a file system that can be pivoted away from and bound elsewhere,
// which the kernel's own rootfs can not.
const newRoot = "/sysroot"

// becomeRoot moves everything from rootfs into a tmpfs and makes that the root.
func becomeRoot() error {
	if err := os.Mkdir(newRoot, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", newRoot, err)
	}
	if err := unix.Mount("tmpfs", newRoot, "tmpfs", 0, "mode=0755,size=80%"); err != nil {
		return fmt.Errorf("mounting the root: %w", err)
	}
	top, err := os.ReadDir("/")
	if err != nil {
		return fmt.Errorf("reading rootfs: %w", err)
	}
	for _, entry := range top {
		from := "/" + entry.Name()
		if from == newRoot || from == "/dev" {
			continue
		}
		if err := move(from); err != nil {
			return fmt.Errorf("moving %s into the root: %w", from, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	return os.Chdir("/")
}

// move copies a tree file by file and frees each at once: memory holds one copy.
func move(from string) error {
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := newRoot + path
		info, err := entry.Info()
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir():
			return os.Mkdir(to, info.Mode().Perm())
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, content, info.Mode().Perm()); err != nil {
			return err
		}
		return os.Remove(path)
	})
	return errors.Join(err, os.RemoveAll(from))
}

// mountAll mounts what a host has mounted.
func mountAll() error {
	for _, m := range []struct{ kind, at, options string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", "mode=0755"},
		{"devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/run", "mode=0755"},
		{"cgroup2", "/sys/fs/cgroup", ""},
		{"bpf", "/sys/fs/bpf", "mode=0700"},
		{"tracefs", "/sys/kernel/tracing", ""},
		{"securityfs", "/sys/kernel/security", ""},
		{"debugfs", "/sys/kernel/debug", ""},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return fmt.Errorf("making %s: %w", m.at, err)
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.options); err != nil {
			return fmt.Errorf("mounting %s: %w", m.at, err)
		}
	}
	for link, target := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2"} {
		if err := os.Symlink(target, link); err != nil {
			return fmt.Errorf("linking %s: %w", link, err)
		}
	}
	return nil
}

// loadModules loads what it can; a test that needs the rest says so.
func loadModules(paths []string) {
	for _, path := range paths {
		file, err := os.Open(path)
		if err == nil {
			err = unix.FinitModule(int(file.Fd()), "", 0)
			_ = file.Close()
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			fmt.Printf("init: loading %s: %v\n", filepath.Base(path), err)
		}
	}
}

// loopbackUp brings lo up, as every system does.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	return nil
}

func release() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", fmt.Errorf("reading the kernel's release: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}
