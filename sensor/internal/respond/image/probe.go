package image

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Probe proves that an execution is kept back: a file of random bytes, which is no
// program of any kind, is blocked for a moment and executed. Held back it gives
// EPERM; let through, ENOEXEC, and nothing ran either way.
func (g *Guard) Probe() (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running == nil {
		return "", errors.New("nothing is blocked")
	}
	blocked := *g.blocked.Load()
	f, err := os.CreateTemp(g.cfg.Dir, ".probe-*")
	if err != nil {
		return "", fmt.Errorf("making a probe program: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	content := make([]byte, 4096)
	_, _ = rand.Read(content) // never fails, by its documentation
	content[0] = 0            // neither "#!" nor ELF
	if _, err = f.Write(content); err == nil {
		err = f.Chmod(0o700)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("making a probe program: %w", err)
	}
	hash := sha256.Sum256(content)
	with := maps.Clone(blocked)
	with[hash] = int64(len(content))
	g.blocked.Store(&with)
	defer g.blocked.Store(&blocked)
	errno, err := execute(f.Name(), g.running.fd)
	switch {
	case err != nil:
		return "", err
	case errno != unix.EPERM:
		return "", fmt.Errorf("%w: exec gave %w", ErrRan, errno)
	}
	return "a probe program of blocked content was refused with EPERM", nil
}

// execute runs a program in a child that shares nothing with this process. With
// os/exec the calling thread would be at a halt until the exec is decided, and
// with it, now and then, the runtime that is to decide it. The child lets go of the
// group: were this process killed now, it would keep the group open, and with it
// every exec of the host waiting.
func execute(path string, group int) (unix.Errno, error) {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return 0, err
	}
	pid, errno := executeChild(name, uintptr(group))
	if errno != 0 {
		return 0, fmt.Errorf("starting the probe: %w", errno)
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("waiting for the probe: %w", err)
		}
		break
	}
	if !status.Exited() {
		return 0, fmt.Errorf("the probe ended by signal %d", status.Signal())
	}
	return unix.Errno(status.ExitStatus()), nil //nolint:gosec // 0 to 255
}

// executeChild ends the child with exec's error as its status. Nothing here may
// allocate, lock or grow the stack after the clone.
//
//go:noinline
//go:norace
func executeChild(name *byte, group uintptr) (int, unix.Errno) {
	argv := [2]*byte{name, nil}
	envv := [1]*byte{nil}
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return int(pid), errno
	}
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOSE, group, 0, 0)
	_, _, errno = syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])))
	for {
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
	}
}

// pseudo are file systems without programs.
var pseudo = []string{
	"proc", "sysfs", "cgroup", "cgroup2", "devpts", "debugfs", "tracefs", "bpf", "securityfs", "pstore", "mqueue",
	"configfs", "fusectl", "binfmt_misc", "autofs", "nsfs", "rpc_pipefs", "selinuxfs", "efivarfs", "hugetlbfs",
}

// maxNamespaces bounds the mount namespaces that are looked into.
const maxNamespaces = 128

// Mounts are the mount points of this host and of its containers that may hold
// programs, one for each file system, as paths that lead there from here.
func Mounts(proc string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	if err != nil {
		return nil, err
	}
	pids := []int{}
	for _, name := range names {
		if pid, err := strconv.Atoi(filepath.Base(name)); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids) // PID 1 first
	seen, devices := map[string]bool{}, map[string]bool{}
	var paths []string
	for _, pid := range pids {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		ns, err := os.Readlink(filepath.Join(dir, "ns/mnt"))
		if err != nil || seen[ns] || len(seen) >= maxNamespaces {
			continue
		}
		seen[ns] = true
		f, err := os.Open(filepath.Join(dir, "mountinfo"))
		if err != nil {
			continue
		}
		for _, m := range parseMounts(io.LimitReader(f, 4<<20)) {
			if !devices[m.device] {
				devices[m.device] = true
				paths = append(paths, filepath.Join(dir, "root", m.point))
			}
		}
		_ = f.Close()
	}
	if len(paths) == 0 {
		return nil, errors.New("no mount is listed in " + proc)
	}
	return paths, nil
}

type mount struct{ device, point string }

// parseMounts reads proc_pid_mountinfo(5).
func parseMounts(r io.Reader) []mount {
	var mounts []mount
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		kind, _, _ := strings.Cut(after, " ")
		if !ok || len(fields) < 6 || slices.Contains(pseudo, kind) {
			continue
		}
		// What is mounted noexec can be mounted elsewhere without: it is covered too.
		mounts = append(mounts, mount{fields[2], unescape(fields[4])})
	}
	return mounts
}

// unescape undoes \040 and the like.
func unescape(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if n, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
