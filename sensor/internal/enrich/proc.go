package enrich

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// maxArgv is how much of a command line is kept, as the kernel part does.
const maxArgv = 4096

// tick is USER_HZ, which the kernel fixes at 100 for user space on every
// architecture that Vedette runs on; /proc tells starts in it.
const tick = uint64(1e9 / 100)

type stat struct {
	comm  string
	ppid  uint32
	start uint64 // ticks since boot
}

func (s stat) startNanos() uint64 { return s.start * tick }

// startIs compares with an exact start; /proc rounds down.
func (s stat) startIs(exact uint64) bool {
	got := exact / tick
	return s.start == got || s.start+1 == got || s.start == got+1
}

// parseStat reads /proc/PID/stat; comm may hold anything, so the last ) ends it.
func parseStat(raw []byte) (stat, bool) {
	open, end := bytes.IndexByte(raw, '('), bytes.LastIndexByte(raw, ')')
	if open < 0 || end < open {
		return stat{}, false
	}
	fields := bytes.Fields(raw[end+1:])
	if len(fields) < 20 {
		return stat{}, false
	}
	ppid, err1 := strconv.ParseUint(string(fields[1]), 10, 32)
	start, err2 := strconv.ParseUint(string(fields[19]), 10, 64)
	if err1 != nil || err2 != nil {
		return stat{}, false
	}
	return stat{string(raw[open+1 : end]), uint32(ppid), start}, true
}

func readStat(proc string, pid uint32) (stat, bool) {
	raw, err := readBounded(procPath(proc, pid, "stat"), 4096)
	if err != nil {
		return stat{}, false
	}
	return parseStat(raw)
}

func procPath(proc string, pid uint32, name string) string {
	return proc + "/" + strconv.FormatUint(uint64(pid), 10) + "/" + name
}

func readBounded(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, limit))
}

func readLink(proc string, pid uint32, name string) string {
	target, err := os.Readlink(procPath(proc, pid, name))
	if err != nil {
		return ""
	}
	return target
}

// auditNumber reads a file of one number, which is NoSession when there is none.
func (e *Enricher) auditNumber(pid uint32, name string) uint32 {
	if raw, err := readBounded(procPath(e.cfg.Proc, pid, name), 32); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 32); err == nil {
			return uint32(n)
		}
	}
	return event.NoSession
}

// fromProc tells what /proc knows of a process, which is nothing when the PID is
// somebody else's by now. Fields that change by exec are read before and after
// nothing is locked, so they are taken as of now.
func (e *Enricher) fromProc(key event.ProcessKey, comm string) *event.Process {
	p := &event.Process{Key: key, Image: comm, LoginUID: event.NoSession, SessionID: event.NoSession}
	st, ok := readStat(e.cfg.Proc, key.PID)
	if !ok || !st.startIs(key.Start) {
		return p
	}
	if p.Image == "" {
		p.Image = st.comm
	}
	// A kernel thread has no image and no arguments.
	if exe := readLink(e.cfg.Proc, key.PID, "exe"); exe != "" {
		image, gone := strings.CutSuffix(exe, " (deleted)")
		p.Image = shared(image)
		p.ImageID = e.imageID(key.PID, gone, image)
	}
	if raw, err := readBounded(procPath(e.cfg.Proc, key.PID, "cmdline"), maxArgv+1); err == nil && len(raw) > 0 {
		p.ArgvBytes = uint32(len(raw)) //nolint:gosec // at most maxArgv+1
		p.ArgvTruncated = len(raw) > maxArgv
		raw = raw[:min(len(raw), maxArgv)]
		p.Argv = strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
	}
	if raw, err := readBounded(procPath(e.cfg.Proc, key.PID, "status"), 16<<10); err == nil {
		p.UID = effectiveUID(raw)
		p.User = e.users.name(p.UID, e.last)
	}
	p.LoginUID = e.auditNumber(key.PID, "loginuid")
	p.SessionID = e.auditNumber(key.PID, "sessionid")
	p.Cwd = shared(readLink(e.cfg.Proc, key.PID, "cwd"))
	p.Interpreter, p.Script = scriptOf("", "", p.Image, p.Argv)
	// A running program whose file is gone was upgraded, nearly always; only an
	// exec event tells that it was gone before it ran.
	atStart := p.ImageID
	atStart.NLink = max(atStart.NLink, 1)
	p.Traits = imageTraits(p.Image, atStart, false)
	return p
}

// imageID of a running process's executable; zero when it cannot be read.
func (e *Enricher) imageID(pid uint32, deleted bool, image string) event.ImageID {
	var st unix.Stat_t
	if err := unix.Stat(procPath(e.cfg.Proc, pid, "exe"), &st); err != nil {
		return event.ImageID{}
	}
	id := event.ImageID{
		Device: kernelDevice(st.Dev), Inode: st.Ino, Change: changeTime(&st),
		Size: uint64(st.Size), NLink: uint32(st.Nlink), //nolint:gosec // a file's size is not negative
		MountNS:  nsInode(procPath(e.cfg.Proc, pid, "ns/mnt")),
		MemoryFD: deleted && strings.HasPrefix(image, "/memfd:"),
	}
	return id
}

// kernelDevice is st_dev in the kernel's own form (include/linux/kdev_t.h).
func kernelDevice(dev uint64) uint64 {
	return uint64(unix.Major(dev))<<20 | uint64(unix.Minor(dev))
}

func changeTime(st *unix.Stat_t) uint64 {
	return uint64(st.Ctim.Nano()) //nolint:gosec // after 1970
}

// effectiveUID is the second number of the Uid line of /proc/PID/status.
func effectiveUID(raw []byte) uint32 {
	for line := range bytes.Lines(raw) {
		if rest, ok := bytes.CutPrefix(line, []byte("Uid:")); ok {
			if fields := bytes.Fields(rest); len(fields) >= 2 {
				uid, _ := strconv.ParseUint(string(fields[1]), 10, 32)
				return uint32(uid) //nolint:gosec // parsed as 32 bits
			}
		}
	}
	return 0
}

func listPIDs(proc string) (map[uint32]bool, error) {
	dir, err := os.Open(proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	alive := make(map[uint32]bool, len(entries))
	for _, entry := range entries {
		if pid, err := strconv.ParseUint(entry, 10, 32); err == nil {
			alive[uint32(pid)] = true
		}
	}
	return alive, nil
}
