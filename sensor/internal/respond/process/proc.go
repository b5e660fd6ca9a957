package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// tick is the unit of a start time in /proc (USER_HZ, which is 100 on every
// architecture that Go runs on): two processes with one PID that began within the
// same hundredth of a second are not told apart.
const tick = 10_000_000 // ns

// kernelThread is PF_KTHREAD in the flags of /proc/PID/stat.
const kernelThread = 0x00200000

// maxProcFile bounds what is read of one file below /proc/PID.
const maxProcFile = 64 << 10

// task is one process as /proc shows it.
type task struct {
	pid    int
	parent int
	state  byte
	flags  uint64
	start  uint64 // ticks since boot
	name   string
}

// dead: nothing of it will ever run again.
func (t task) dead() bool { return t.state == 'Z' || t.state == 'X' || t.state == 'x' }

// stopped by a signal or a tracer.
func (t task) stopped() bool { return t.state == 'T' || t.state == 't' }

func (t task) is(key event.ProcessKey) bool {
	return t.pid == int(key.PID) && (key.Start == 0 || t.start == key.Start/tick)
}

// key has the start to a tick only: what /proc tells.
func (t task) key() event.ProcessKey {
	return event.ProcessKey{PID: uint32(t.pid), Start: t.start * tick} //nolint:gosec // a PID is positive
}

func (t task) String() string { return fmt.Sprintf("%d (%s)", t.pid, t.name) }

// parseStat reads proc_pid_stat(5). The name may hold spaces and parentheses, so
// the fields are counted from the last one.
func parseStat(raw []byte) (task, error) {
	open, end := bytes.IndexByte(raw, '('), bytes.LastIndexByte(raw, ')')
	if open < 1 || end < open {
		return task{}, errors.New("reading /proc/PID/stat: it has no name")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw[:open])))
	if err != nil {
		return task{}, fmt.Errorf("reading /proc/PID/stat: %w", err)
	}
	// state ppid pgrp session tty tpgid flags … starttime is the 20th after the name.
	fields := strings.Fields(string(raw[end+1:]))
	if len(fields) < 20 || len(fields[0]) != 1 {
		return task{}, errors.New("reading /proc/PID/stat: too few fields")
	}
	t := task{pid: pid, state: fields[0][0], name: printable(string(raw[open+1 : end]))}
	parent, err1 := strconv.Atoi(fields[1])
	flags, err2 := strconv.ParseUint(fields[6], 10, 64)
	start, err3 := strconv.ParseUint(fields[19], 10, 64)
	t.parent, t.flags, t.start = parent, flags, start
	return t, errors.Join(err1, err2, err3)
}

// printable keeps a hostile name from writing on a person's terminal.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, name)
}

func (h *Host) read(pid int, file string) ([]byte, error) {
	f, err := os.Open(filepath.Join(h.cfg.Proc, strconv.Itoa(pid), file))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxProcFile))
}

// look is the process that has a PID now; false when there is none.
func (h *Host) look(pid int) (task, bool) {
	raw, err := h.read(pid, "stat")
	if err != nil {
		return task{}, false
	}
	t, err := parseStat(raw)
	return t, err == nil
}

// all are the processes that /proc lists, by PID.
func (h *Host) all() (map[int]task, error) {
	dir, err := os.Open(h.cfg.Proc)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	tasks := make(map[int]task, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if t, ok := h.look(pid); ok {
			tasks[pid] = t
		}
	}
	return tasks, nil
}

// below adds to members what descends from them by /proc's word. A process whose
// parent has ended belongs to the next subreaper there; the Tree knows better.
func below(tasks map[int]task, members map[int]task) {
	children := map[int][]int{}
	for pid, t := range tasks {
		children[t.parent] = append(children[t.parent], pid)
	}
	queue := make([]int, 0, len(members))
	for pid := range members {
		queue = append(queue, pid)
	}
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		for _, child := range children[pid] {
			if _, known := members[child]; !known {
				members[child] = tasks[child]
				queue = append(queue, child)
			}
		}
	}
}

// pidfd is a process that cannot be mistaken for another with its PID.
type pidfd int

// hold opens the process that key names and no other: the descriptor is opened
// first and the start time compared after, so that a PID that was given anew in
// between is noticed.
func (h *Host) hold(t task) (pidfd, bool) {
	fd, err := unix.PidfdOpen(t.pid, 0)
	if err != nil {
		return -1, false
	}
	if now, ok := h.look(t.pid); !ok || now.start != t.start || errors.Is(unix.PidfdSendSignal(fd, 0, nil, 0), unix.ESRCH) {
		_ = unix.Close(fd)
		return -1, false
	}
	return pidfd(fd), true
}

func (p pidfd) signal(s unix.Signal) error { return unix.PidfdSendSignal(int(p), s, nil, 0) }

func (p pidfd) close() { _ = unix.Close(int(p)) }

// sorted is for messages and for an order that does not change.
func sorted(tasks map[int]task) []task {
	list := make([]task, 0, len(tasks))
	for _, t := range tasks {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b task) int { return a.pid - b.pid })
	return list
}
