package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// scopeKnobs are what the programs compare with.
type scopeKnobs struct {
	kind   uint32
	cgroup uint64
	level  uint32
	netns  uint32
}

// The numbers of enum scope_kind.
const (
	scopeHost uint32 = iota
	scopeCgroup
	scopeNetNS
)

func resolveScope(s Scope, cgroupMount string) (scopeKnobs, error) {
	switch s.Kind {
	case ScopeCgroup:
		return resolveCgroup(s.Path, cgroupMount)
	case ScopeNetNS:
		return resolveNetNS(s.Path)
	default:
		return scopeKnobs{kind: scopeHost}, nil
	}
}

func resolveCgroup(path, mount string) (scopeKnobs, error) {
	if mount == "" {
		return scopeKnobs{}, errors.New("scope cgroup needs a cgroup v2 hierarchy, and none is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
	}
	clean := filepath.Clean("/" + path)
	full := filepath.Join(mount, clean)
	id, err := cgroupID(full)
	if err != nil {
		return scopeKnobs{}, fmt.Errorf("resolving cgroup %q: %w", clean, err)
	}
	level := 0
	if clean != "/" {
		level = strings.Count(clean, "/")
	}
	return scopeKnobs{kind: scopeCgroup, cgroup: id, level: uint32(level)}, nil
}

// cgroupID is the kernel's number of a cgroup: its directory's file handle
// (kernfs, 5.5), which on 64-bit machines is its inode number as well.
func cgroupID(dir string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, err
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, errors.New("not in a cgroup v2 hierarchy")
	}
	return st.Ino, nil
}

func resolveNetNS(path string) (scopeKnobs, error) {
	if path == "self" {
		path = "/proc/self/ns/net"
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return scopeKnobs{}, fmt.Errorf("resolving network namespace %q: %w", path, err)
	}
	defer unix.Close(fd)
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return scopeKnobs{}, fmt.Errorf("resolving network namespace %q: not a network namespace: use /run/netns/NAME, /proc/PID/ns/net or self", path)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return scopeKnobs{}, fmt.Errorf("resolving network namespace %q: %w", path, err)
	}
	return scopeKnobs{kind: scopeNetNS, netns: uint32(st.Ino)}, nil
}

// cgroupMount finds where cgroup v2 is mounted whole, "" when nowhere.
func cgroupMount() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("opening mountinfo: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if mount, ok := parseCgroupMount(lines.Text()); ok {
			return mount, nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("reading mountinfo: %w", err)
	}
	return "", nil
}

// parseCgroupMount reads one line of mountinfo (proc_pid_mountinfo(5)):
// ID PARENT DEV ROOT MOUNTPOINT OPTIONS [TAG…] - TYPE SOURCE SUPER.
func parseCgroupMount(line string) (string, bool) {
	before, after, ok := strings.Cut(line, " - ")
	if !ok || !strings.HasPrefix(after, "cgroup2 ") {
		return "", false
	}
	fields := strings.Fields(before)
	if len(fields) < 5 || fields[3] != "/" {
		return "", false
	}
	return unescapeMount(fields[4]), true
}

// unescapeMount undoes the kernel's \ooo for space, tab, newline and backslash.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
