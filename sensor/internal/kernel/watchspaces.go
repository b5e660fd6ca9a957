package kernel

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// namespace is a mount namespace that something was executed in.
type namespace struct {
	pid   uint32 // who executed there last
	held  uint32 // who was there at the last look; 0: none was found yet
	since time.Time
	used  time.Time
}

// executed notes the mount namespace of an exec.
func (w *watcher) executed(ev *event.Exec) {
	ns := ev.Image.MountNS
	if ns == w.own || ns == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	s := w.spaces[ns]
	if s == nil {
		if len(w.spaces) >= maxNamespaces {
			var oldest uint32
			for id, other := range w.spaces {
				if o := w.spaces[oldest]; o == nil || other.used.Before(o.used) {
					oldest = id
				}
			}
			delete(w.spaces, oldest)
			w.gap[fmt.Sprintf("files are watched in the %d mount namespaces that were executed in last", maxNamespaces)] = true
		}
		s = &namespace{since: now}
		w.spaces[ns] = s
	}
	s.pid, s.used = ev.Process.PID, now
	if now.Sub(s.since) < settling {
		w.soon()
	}
}

// exited: who stood for a mount namespace is gone, and it may have been the last one in it.
// The next file system that is mounted gets the number of one that went with it, and the
// identities of that one's files; until they are looked up they would be told as the files
// that were watched there.
func (w *watcher) exited(ev *event.Exit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.spaces {
		if s.held == ev.Process.PID || s.held == 0 && s.pid == ev.Process.PID {
			w.soon()
			return
		}
	}
}

// maxAbove bounds the parents that are asked for one process.
const maxAbove = 32

// eldest is the furthest of a process and those above it, up to the first that is elsewhere: a
// container's first process rather than one of the many that come and go in it. 0: it has ended.
func eldest(pid, ns uint32) (in uint32) {
	for range maxAbove {
		if !inNamespace(pid, ns) {
			break
		}
		in, pid = pid, parentOf(pid)
	}
	return in
}

// parentOf is 0 of a process that has ended, and of what has no parent in this PID namespace.
func parentOf(pid uint32) uint32 {
	fields, err := statFields(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	parent, err := strconv.ParseUint(fields[1], 10, 32)
	if err != nil {
		return 0
	}
	return uint32(parent)
}

// members finds who is in which mount namespace, by one look at all processes. Files of a
// namespace are looked up through one of its processes: to hold the namespace open would
// keep its file systems from being unmounted.
type members struct {
	looked bool
	by     map[uint32]uint32 // mount namespace to a process in it
}

// maxMembers bounds the processes that one look asks.
const maxMembers = 1 << 16

// of is a process that is in a namespace, 0 when there is none: who stood for it, else the eldest
// above who was executed there last, else whoever is found. It looks at all processes only when
// nobody who was known there is left.
func (m *members) of(ns uint32, s namespace) uint32 {
	if inNamespace(s.held, ns) {
		return s.held
	}
	if pid := eldest(s.pid, ns); pid != 0 {
		return pid
	}
	if !m.looked {
		m.look()
	}
	return m.by[ns]
}

func (m *members) look() {
	m.looked, m.by = true, map[uint32]uint32{}
	proc, err := os.Open("/proc")
	if err != nil {
		return
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(maxMembers) // what could be read
	for _, name := range names {
		pid, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			continue
		}
		if ns := mountNamespace(uint32(pid)); ns != 0 && m.by[ns] == 0 {
			m.by[ns] = uint32(pid)
		}
	}
}

func inNamespace(pid, ns uint32) bool { return pid != 0 && mountNamespace(pid) == ns }

// mountNamespace is the inode of a process's mount namespace; 0: it has ended.
func mountNamespace(pid uint32) uint32 {
	var st unix.Stat_t
	if unix.Stat(fmt.Sprintf("/proc/%d/ns/mnt", pid), &st) != nil {
		return 0
	}
	return uint32(st.Ino) //nolint:gosec // inode numbers of namespaces have 32 bits
}
