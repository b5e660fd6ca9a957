package enrich

import (
	"bytes"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxCgroups bounds the remembered paths; past it all are learnt anew.
const maxCgroups = 4096

// cgroups turns cgroup ids into paths below the v2 mount. An id is the inode of
// the directory and is not used twice on one boot in practice: kernfs counts up.
type cgroups struct {
	proc, mount string
	paths       map[uint64]string
	hybrid      bool // v1 hierarchies are mounted as well
	ownMountNS  uint32
}

func newCgroups(proc, mount string) cgroups {
	c := cgroups{proc: proc, mount: mount, paths: map[uint64]string{}}
	raw, _ := readBounded(proc+"/self/mountinfo", 1<<20)
	c.hybrid = bytes.Contains(raw, []byte(" - cgroup "))
	c.ownMountNS = nsInode(proc + "/self/ns/mnt")
	return c
}

// findCgroup2 looks for the v2 mount that shows the hierarchy's root; a hybrid
// machine has it beside the v1 mounts.
func findCgroup2(mountinfo string) string {
	raw, err := readBounded(mountinfo, 1<<20)
	if err != nil {
		return ""
	}
	found := ""
	for line := range bytes.Lines(raw) {
		before, after, ok := bytes.Cut(line, []byte(" - "))
		fields := bytes.Fields(before)
		if !ok || len(fields) < 5 || !bytes.HasPrefix(after, []byte("cgroup2 ")) {
			continue
		}
		if found == "" || string(fields[3]) == "/" {
			found = unescapeMount(string(fields[4]))
		}
	}
	return found
}

// unescapeMount undoes the octal escapes of mountinfo (proc(5)).
func unescapeMount(s string) string {
	for _, e := range [][2]string{{`\040`, " "}, {`\011`, "\t"}, {`\012`, "\n"}, {`\134`, `\`}} {
		s = strings.ReplaceAll(s, e[0], e[1])
	}
	return s
}

// path of a cgroup; pid is a process that was in it a moment ago.
func (c *cgroups) path(id uint64, pid uint32) string {
	if id == 0 {
		return ""
	}
	if p, ok := c.paths[id]; ok {
		return p
	}
	raw, err := readBounded(c.proc+"/"+strconv.FormatUint(uint64(pid), 10)+"/cgroup", 64<<10)
	if err != nil {
		return ""
	}
	p := cgroup2Line(raw)
	if p == "" {
		return ""
	}
	// The process may have moved, or be another one by now: the inode must agree.
	var st unix.Stat_t
	if c.mount == "" || unix.Stat(path.Join(c.mount, p), &st) != nil || st.Ino != id {
		return ""
	}
	if len(c.paths) >= maxCgroups {
		clear(c.paths)
	}
	p = shared(p)
	c.paths[id] = p
	return p
}

// legacyPath is the longest path among the v1 hierarchies, which is the one a
// container runtime made.
func (c *cgroups) legacyPath(pid uint32) string {
	raw, err := readBounded(c.proc+"/"+strconv.FormatUint(uint64(pid), 10)+"/cgroup", 64<<10)
	if err != nil {
		return ""
	}
	longest := ""
	for line := range bytes.Lines(raw) {
		parts := bytes.SplitN(bytes.TrimRight(line, "\n"), []byte(":"), 3)
		if len(parts) == 3 && len(parts[2]) > len(longest) && containerOf(string(parts[2])) != "" {
			longest = string(parts[2])
		}
	}
	return longest
}

func cgroup2Line(raw []byte) string {
	for line := range bytes.Lines(raw) {
		if p, ok := bytes.CutPrefix(bytes.TrimRight(line, "\n"), []byte("0::")); ok {
			return strings.TrimSuffix(string(p), " (deleted)")
		}
	}
	return ""
}

// containerID matches the last component of a container's cgroup: docker/ID,
// docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope, and
// bare ids as the cgroupfs driver of Kubernetes makes.
var containerID = regexp.MustCompile(`^(?:(?:docker|cri-containerd|containerd|crio|libpod|nerdctl|buildkit)-)?([0-9a-f]{64})(?:\.scope)?$`)

// containerOf is the container id in a cgroup path: 64 hex digits, or lxc's name.
func containerOf(p string) string {
	if p == "" || p == "/" {
		return ""
	}
	parts := strings.Split(p, "/")
	for i := len(parts) - 1; i >= 0; i-- {
		if m := containerID.FindStringSubmatch(parts[i]); m != nil {
			return m[1]
		}
	}
	for i, part := range parts {
		if name, ok := strings.CutPrefix(part, "lxc.payload."); ok {
			return name
		}
		if (part == "lxc" || part == "lxc.payload") && i+1 < len(parts) {
			return parts[i+1]
		}
	}
	return ""
}

// unitOf is the systemd unit that a cgroup path names: the innermost service,
// scope, socket or mount.
func unitOf(p string) string {
	parts := strings.Split(p, "/")
	for i := len(parts) - 1; i >= 0; i-- {
		for _, suffix := range []string{".service", ".scope", ".socket", ".mount", ".swap"} {
			if strings.HasSuffix(parts[i], suffix) && len(parts[i]) > len(suffix) {
				return unescapeUnit(parts[i])
			}
		}
	}
	return ""
}

// unescapeUnit undoes the leading underscore by which systemd protects names
// that the kernel would take for its own (systemd's cg_escape).
func unescapeUnit(s string) string { return strings.TrimPrefix(s, "_") }

func nsInode(link string) uint32 {
	target, err := os.Readlink(link)
	if err != nil {
		return 0
	}
	_, number, _ := strings.Cut(strings.TrimSuffix(target, "]"), ":[")
	inode, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(inode)
}
