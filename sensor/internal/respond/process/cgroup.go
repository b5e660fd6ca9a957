package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// groupPrefix begins the name of each cgroup that this package makes. It is made
// inside the cgroup that its processes come from, so that limits, accounting and
// whoever stops the unit go on to reach them, and so that the way back needs no
// record: it is the folder above.
const groupPrefix = "vedette-frozen-"

// findCgroup2 is where the v2 hierarchy is mounted; "" when it is not.
func findCgroup2(proc string) string {
	f, err := os.Open(filepath.Join(proc, "self/mountinfo"))
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(io.LimitReader(f, 1<<20))
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		// The fourth is the mount's root: another than "/" shows a part of the tree.
		if ok && strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 && fields[3] == "/" {
			return fields[4]
		}
	}
	return ""
}

// cgroupOf is the path of a process below the v2 mount; false when it cannot be
// told, as for one outside this cgroup namespace.
func (h *Host) cgroupOf(pid int) (string, bool) {
	raw, err := h.read(pid, "cgroup")
	if err != nil || h.cfg.Cgroup == "" {
		return "", false
	}
	for line := range bytes.Lines(raw) {
		path, ok := bytes.CutPrefix(bytes.TrimSuffix(line, []byte("\n")), []byte("0::/"))
		if !ok {
			continue
		}
		clean := "/" + string(path)
		if strings.HasSuffix(clean, " (deleted)") || clean == "/.." || strings.HasPrefix(clean, "/../") {
			return "", false
		}
		return clean, true
	}
	return "", false
}

func (h *Host) file(cgroup, name string) string { return filepath.Join(h.cfg.Cgroup, cgroup, name) }

func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// wantsFrozen is what cgroup.freeze says: what was asked for, not what is reached.
func (h *Host) wantsFrozen(cgroup string) (bool, error) {
	raw, err := os.ReadFile(h.file(cgroup, "cgroup.freeze"))
	return string(bytes.TrimSpace(raw)) == "1", err
}

func (h *Host) setFrozen(cgroup string, frozen bool) error {
	text := "0"
	if frozen {
		text = "1"
	}
	return write(h.file(cgroup, "cgroup.freeze"), text)
}

// awaitFrozen waits until every task of the cgroup is stopped. One in an
// uninterruptible wait delays it.
func (h *Host) awaitFrozen(ctx context.Context, cgroup string, limit time.Duration) error {
	f, err := os.Open(h.file(cgroup, "cgroup.events"))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	deadline := time.Now().Add(limit)
	buffer := make([]byte, 256)
	for {
		n, err := f.ReadAt(buffer, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if bytes.Contains(buffer[:n], []byte("frozen 1")) {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 || ctx.Err() != nil {
			return fmt.Errorf("the tasks of cgroup %s did not all stop within %s: one waits for a disk or a network file system", cgroup, limit)
		}
		// The kernel wakes a poller of this file when it changes (POLLPRI).
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}, int(min(left, pollEvery).Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

const pollEvery = 20 * time.Millisecond

// pids are those in the cgroup itself, not below it.
func (h *Host) pids(cgroup string) ([]int, error) {
	f, err := os.Open(h.file(cgroup, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var pids []int
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// 0 is a process outside this PID namespace.
		if pid, err := strconv.Atoi(lines.Text()); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, lines.Err()
}

// move puts a process that is held into a cgroup. The kernel takes a number, so
// that one which was given anew in between is put back.
func (h *Host) move(p pidfd, t task, from, to string) error {
	if err := write(h.file(to, "cgroup.procs"), strconv.Itoa(t.pid)); err != nil {
		return err
	}
	if !errors.Is(p.signal(0), unix.ESRCH) {
		return nil
	}
	if now, ok := h.look(t.pid); ok && now.start != t.start {
		if at, known := h.cgroupOf(t.pid); known && at == to {
			_ = write(h.file(from, "cgroup.procs"), strconv.Itoa(t.pid))
		}
	}
	return unix.ESRCH
}

// inside says whether path is cgroup or below it.
func inside(path, cgroup string) bool {
	return cgroup == "/" || path == cgroup || strings.HasPrefix(path, cgroup+"/")
}
