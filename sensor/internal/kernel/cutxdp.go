package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
)

const (
	// maxXDPSockets is XDP_MAX of bpf/src/afxdp.bpf.c.
	maxXDPSockets = 128
	// stopPatience is the longest that a stopped process's threads may take to come to
	// rest before it is told as not stopped.
	stopPatience = 200 * time.Millisecond
	// stopPoll is how often that is looked at.
	stopPoll = 500 * time.Microsecond
)

// enum xdp_flags of bpf/src/afxdp.bpf.c.
const (
	xdpSends    = 1
	xdpZeroCopy = 2
	xdpMapped   = 4
)

// xdpHolder is struct xdp_holder of bpf/src/afxdp.bpf.c.
type xdpHolder struct {
	Start, Inode         uint64
	PID, Device          uint32
	Queue, Flags, Pad, _ uint16
	Comm                 [16]byte
}

// FrozenProcess names a process for good: a pid alone may be another's by then.
type FrozenProcess struct {
	PID   uint32
	Start uint64 // CLOCK_BOOTTIME, ns
	Comm  string
}

// XDPSocket is an AF_XDP socket of the namespace that could send.
type XDPSocket struct {
	Inode    uint64 // 0: no file
	Device   uint32 // index; 0: not bound
	Queue    uint16
	ZeroCopy bool // the driver reads its ring: what stands in it still leaves
	Holders  []FrozenProcess
	// Why it is not stopped, "" when it is: each of its holders stands still.
	Why string
}

// XDPReport is what CutXDP found and did.
type XDPReport struct {
	Sockets []XDPSocket
	// Unknown: there are more sockets than could be looked at.
	Unknown bool
}

// Frozen are the processes that stand still by our doing, without repetition. Who keeps them over
// a restart can give them to ThawXDP.
func (r XDPReport) Frozen() (all []FrozenProcess) {
	for _, s := range r.Sockets {
		for _, h := range s.Holders {
			if !slices.Contains(all, h) {
				all = append(all, h)
			}
		}
	}
	return all
}

// Unstopped says, for people, which sockets may still send.
func (r XDPReport) Unstopped() (gaps []string) {
	for _, s := range r.Sockets {
		if s.Why != "" {
			gaps = append(gaps, fmt.Sprintf("AF_XDP socket %d on device %d: %s", s.Inode, s.Device, s.Why))
		}
	}
	if r.Unknown {
		gaps = append(gaps, fmt.Sprintf("AF_XDP sockets beyond the first %d", maxXDPSockets))
	}
	return gaps
}

func hasXDPSockets() bool {
	spec, err := btf.LoadKernelSpec()
	var xdp *btf.Struct
	return err == nil && spec.TypeByName("xdp_sock", &xdp) == nil
}

// CutXDP cuts what no hook of a device sees: AF_XDP. From here on nobody can give a socket
// the rings without which it cannot send. Of those that have them already, nothing in the
// kernel takes one off its device but the end of the device or of the socket; so whoever
// holds one that could send is stopped (SIGSTOP), which ReleaseXDP undoes. It can be
// called again and again, as Follow does, and its report is always of all. It may be
// called only while the level is not CutNone.
func (c *Cut) CutXDP() (XDPReport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return XDPReport{}, ErrCutClosed
	}
	if c.Level() == CutNone {
		return XDPReport{}, errors.New("cutting AF_XDP: the host is not cut: call Set first")
	}
	if c.collection.Programs[bpf.CutProgListXdp] == nil {
		return XDPReport{}, nil // this kernel has none
	}
	if c.options == nil && c.cgroup != "" {
		l, err := link.AttachCgroup(link.CgroupOptions{
			Path: c.cgroup, Attach: ebpf.AttachCGroupSetsockopt, Program: c.collection.Programs[bpf.CutProgCutSetsockopt],
		})
		if err != nil {
			return XDPReport{}, fmt.Errorf("attaching %s: %w", bpf.CutProgCutSetsockopt, err)
		}
		c.options = l
	}
	if !c.xdpCut.Swap(true) {
		select {
		case c.kick <- struct{}{}: // Follow looks more often from here on
		default:
		}
	}
	report, err := c.xdpSenders()
	if err != nil {
		return report, err
	}
	for i := range report.Sockets {
		c.stopSocket(&report.Sockets[i])
	}
	c.xdp = report
	return report, nil
}

func (c *Cut) xdpIsCut() bool { return c.xdpCut.Load() && c.Level() != CutNone }

// xdpSenders lists the sockets that could send, and who holds each.
func (c *Cut) xdpSenders() (report XDPReport, err error) {
	err = c.inside(func() error {
		_, err := c.collection.Programs[bpf.CutProgListXdp].Run(&ebpf.RunOptions{})
		return err
	})
	if err != nil {
		return report, fmt.Errorf("listing AF_XDP sockets: %w", err)
	}
	count := atomic.LoadUint32((*uint32)(unsafe.Pointer(&c.page[xdpSocketsOffset])))
	report.Unknown = count > maxXDPSockets
	zeroCopy := false
	for i := range min(count, maxXDPSockets) {
		var s xdpHolder
		if err := c.collection.Maps[bpf.CutMapXdpSockets].Lookup(i, &s); err != nil {
			return report, fmt.Errorf("reading AF_XDP sockets: %w", err)
		}
		if c.couldSend(s.Flags) {
			report.Sockets = append(report.Sockets, XDPSocket{
				Inode: s.Inode, Device: s.Device, Queue: s.Queue, ZeroCopy: s.Flags&xdpZeroCopy != 0,
			})
			zeroCopy = zeroCopy || s.Flags&xdpZeroCopy != 0
		}
	}
	if len(report.Sockets) == 0 && !report.Unknown {
		return report, nil
	}
	holders, err := c.xdpHolders(bpf.CutProgXdpHolders)
	if err != nil {
		return report, err
	}
	// A mapping without a descriptor cannot ask the kernel to send, but a driver that
	// reads the ring by itself need not be asked.
	if zeroCopy {
		mappers, err := c.xdpHolders(bpf.CutProgXdpMappers)
		if err != nil {
			return report, err
		}
		holders = append(holders, mappers...)
	}
	for _, h := range holders {
		if !c.couldSend(h.Flags) {
			continue
		}
		i := slices.IndexFunc(report.Sockets, func(s XDPSocket) bool { return s.Inode == h.Inode })
		if i < 0 { // it came since the list was made
			report.Sockets = append(report.Sockets, XDPSocket{
				Inode: h.Inode, Device: h.Device, Queue: h.Queue, ZeroCopy: h.Flags&xdpZeroCopy != 0,
			})
			i = len(report.Sockets) - 1
		}
		name := FrozenProcess{PID: h.PID, Start: h.Start, Comm: unix.ByteSliceToString(h.Comm[:])}
		if s := &report.Sockets[i]; !slices.Contains(s.Holders, name) {
			s.Holders = append(s.Holders, name)
		}
	}
	return report, nil
}

// couldSend: where new rings are not refused, any socket could be given one.
func (c *Cut) couldSend(flags uint16) bool { return flags&xdpSends != 0 || c.options == nil }

func (c *Cut) xdpHolders(program string) (all []xdpHolder, err error) {
	raw, err := iterate(c.collection.Programs[program])
	if err != nil {
		return nil, fmt.Errorf("looking for who holds AF_XDP sockets: %w", err)
	}
	for size := int(unsafe.Sizeof(xdpHolder{})); len(raw) >= size; raw = raw[size:] {
		var h xdpHolder
		if err := binary.Read(bytes.NewReader(raw[:size]), binary.NativeEndian, &h); err != nil {
			return nil, fmt.Errorf("looking for who holds AF_XDP sockets: %w", err)
		}
		all = append(all, h)
	}
	return all, nil
}

// stopSocket stops all who hold the socket, and says in it when they are not.
func (c *Cut) stopSocket(s *XDPSocket) {
	if len(s.Holders) == 0 {
		s.Why = "no process holds it: it is on its way between two, or registered with io_uring"
	}
	for _, h := range s.Holders {
		if err := c.freeze(h); err != nil {
			s.Why = err.Error()
		}
	}
}

// pidfd is a process that was stopped.
type pidfd struct {
	fd      int
	already bool // by somebody else, before: it is not ours to let go on
}

func (p *pidfd) close() error { return unix.Close(p.fd) }

// freeze stops a process, or makes sure that it still stands.
func (c *Cut) freeze(name FrozenProcess) (err error) {
	if name.PID == 1 || name.PID == c.self {
		return fmt.Errorf("it is held by %s, process %d, which is not stopped", name.Comm, name.PID)
	}
	p := c.frozen[name]
	if p == nil {
		if p, err = openProcess(name); err != nil {
			return err
		}
		state, err := stateOf(name.PID)
		if err != nil {
			return errors.Join(err, p.close())
		}
		p.already = isStopped(state)
		c.frozen[name] = p
	}
	deadline := time.Now().Add(stopPatience)
	for {
		state, err := stateOf(name.PID)
		switch {
		case err != nil || strings.ContainsRune("ZX", rune(state)):
			return nil // it has ended, and its socket with it
		case isStopped(state):
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s, process %d, does not stop", name.Comm, name.PID)
		}
		if err := unix.PidfdSendSignal(p.fd, unix.SIGSTOP, nil, 0); err != nil {
			if errors.Is(err, unix.ESRCH) {
				return nil
			}
			return fmt.Errorf("stopping %s, process %d: %w", name.Comm, name.PID, err)
		}
		time.Sleep(stopPoll)
	}
}

// openProcess gets hold of a process and makes sure that it is the one that is meant.
func openProcess(name FrozenProcess) (*pidfd, error) {
	fd, err := unix.PidfdOpen(int(name.PID), 0)
	if err != nil {
		return nil, fmt.Errorf("getting hold of %s, process %d: %w", name.Comm, name.PID, err)
	}
	start, err := startTicks(name.PID)
	// /proc counts in hundredths of a second, rounded down.
	if err == nil && start != name.Start/uint64(10*time.Millisecond) {
		err = errors.New("it has ended and another has its number")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("getting hold of %s, process %d: %w", name.Comm, name.PID, err), unix.Close(fd))
	}
	return &pidfd{fd: fd}, nil
}

func isStopped(state byte) bool { return state == 'T' || state == 't' }

// stateOf is the letter of proc_pid_stat(5), T only when every thread stands.
func stateOf(pid uint32) (byte, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, fmt.Errorf("reading the threads of process %d: %w", pid, err)
	}
	state := byte('Z')
	for _, task := range tasks {
		fields, err := statFields(fmt.Sprintf("/proc/%d/task/%s/stat", pid, task.Name()))
		if err != nil || strings.ContainsAny(fields[0], "ZX") {
			continue // that thread has ended
		}
		if state = fields[0][0]; !isStopped(state) {
			return state, nil
		}
	}
	return state, nil
}

// startTicks is when a process began, in hundredths of a second since boot.
func startTicks(pid uint32) (uint64, error) {
	fields, err := statFields(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// statFields are those after the name, which may hold anything: the state is the first.
func statFields(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	const needed = 20
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < needed {
		return nil, fmt.Errorf("reading %s: it has %d fields", path, len(fields))
	}
	return fields, nil
}

// ReleaseXDP lets those go on that CutXDP stopped, and new sockets have rings again. It is
// idempotent.
func (c *Cut) ReleaseXDP() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrCutClosed
	}
	c.xdpCut.Store(false)
	c.xdp = XDPReport{}
	var errs []error
	if c.options != nil {
		errs = append(errs, c.options.Close())
		c.options = nil
	}
	for name, p := range c.frozen {
		if !p.already {
			errs = append(errs, thaw(name, p))
		}
		errs = append(errs, p.close())
		delete(c.frozen, name)
	}
	return errors.Join(errs...)
}

func thaw(name FrozenProcess, p *pidfd) error {
	if err := unix.PidfdSendSignal(p.fd, unix.SIGCONT, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("letting %s, process %d, go on: %w", name.Comm, name.PID, err)
	}
	return nil
}

// ThawXDP lets processes go on that a Cut of an earlier run stopped. One that has ended is
// no error.
func ThawXDP(processes []FrozenProcess) error {
	var errs []error
	for _, name := range processes {
		p, err := openProcess(name)
		if err != nil {
			continue // it has ended, and whoever has its number now is another
		}
		errs = append(errs, thaw(name, p), p.close())
	}
	return errors.Join(errs...)
}
