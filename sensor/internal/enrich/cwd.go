package enrich

import (
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	// cwdFresh is how long a working directory's name is believed. Which directory it
	// is comes from the kernel with each exec; only a rename of it, or of what it lies
	// in, is seen this late.
	cwdFresh = uint64(1e9)
	// maxCwds bounds the remembered directories; past it all are read anew.
	maxCwds = 1024
)

type cwd struct {
	path string
	read uint64 // time of the exec that it was read for
}

// cwdOf names the working directory of an exec. A process that ended meanwhile has
// none to read any more, but its parent's is nearly always the same.
func (e *Enricher) cwdOf(ev *event.Exec, before *event.Process) string {
	if ev.Cwd.Inode == 0 { // told by nobody
		if path := readLink(e.cfg.Proc, ev.Process.PID, "cwd"); path != "" {
			return shared(path)
		}
		return before.Cwd
	}
	known, ok := e.cwds[ev.Cwd]
	if ok && ev.Time < known.read+cwdFresh {
		return known.path
	}
	path := e.readCwd(ev.Process.PID, ev.Cwd)
	if path == "" && ev.Parent.PID != 0 {
		path = e.readCwd(ev.Parent.PID, ev.Cwd)
	}
	if path == "" {
		if ok {
			return known.path
		}
		return before.Cwd
	}
	if len(e.cwds) >= maxCwds {
		clear(e.cwds)
	}
	path = shared(path)
	e.cwds[ev.Cwd] = cwd{path, ev.Time}
	return path
}

// readCwd reads a process's working directory, if it is the one that is meant: by
// now the process may be elsewhere, or another one.
func (e *Enricher) readCwd(pid uint32, dir event.DirectoryID) string {
	path := readLink(e.cfg.Proc, pid, "cwd")
	if path == "" {
		return ""
	}
	var st unix.Stat_t
	if unix.Stat(procPath(e.cfg.Proc, pid, "cwd"), &st) != nil || st.Ino != dir.Inode {
		return ""
	}
	return path
}
