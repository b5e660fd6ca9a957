package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// poller waits for either ring, or for stop. It waits by the runtime's own poller:
// in a blocking system call the reader would hold a processor of the runtime, whose
// monitor then looks every 20 µs whether to take it away, at several times the CPU
// of everything that the reader does.
type poller struct {
	epoll      *os.File // of the rings and event, itself watched by the runtime
	raw        syscall.RawConn
	event      int
	awake      []byte // one page: struct reader of bpf/include/maps.h
	until      *uint64
	harvesting func(fd uintptr) bool // kept, so that a wait allocates nothing
	err        error                 // of harvesting
}

// readerReads is READER_READS of bpf/include/maps.h.
const readerReads = ^uint64(0)

func newPoller(reader *ebpf.Map, rings ...*ring) (_ *poller, err error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating epoll: %w", err)
	}
	// Non-blocking, which for an epoll instance means nothing, is what makes the
	// runtime watch a descriptor.
	if err := unix.SetNonblock(epoll, true); err != nil {
		return nil, errors.Join(fmt.Errorf("preparing epoll: %w", err), unix.Close(epoll))
	}
	p := &poller{epoll: os.NewFile(uintptr(epoll), "epoll"), event: -1}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.raw, err = p.epoll.SyscallConn(); err != nil {
		return nil, fmt.Errorf("watching epoll: %w", err)
	}
	p.harvesting = p.harvest
	if p.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("creating eventfd: %w", err)
	}
	for _, fd := range append([]int{p.event}, fds(rings)...) {
		interest := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if fd != p.event {
			// Edges: what was left unread on purpose must not wake at once again.
			interest.Events |= unix.EPOLLET
		}
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &interest); err != nil {
			return nil, fmt.Errorf("watching ring: %w", err)
		}
	}
	if p.awake, err = unix.Mmap(reader.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("mapping reader's state: %w", err)
	}
	p.until = (*uint64)(unsafe.Pointer(&p.awake[0]))
	return p, nil
}

func fds(rings []*ring) (out []int) {
	for _, r := range rings {
		out = append(out, r.fd)
	}
	return out
}

// comes tells the programs until when (CLOCK_BOOTTIME) nobody need wake the
// reader; 0: from now on an exec must.
func (p *poller) comes(until uint64) { atomic.StoreUint64(p.until, until) }

// is tells the programs who the sensor is.
func (p *poller) is(pid uint32) {
	const at = 8 // offsetof(struct reader, pid), checked by the layout test
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&p.awake[at])), pid)
}

// wait returns when a ring woke, wake was called, or after d.
func (p *poller) wait(d time.Duration) error {
	if err := p.epoll.SetReadDeadline(time.Now().Add(d)); err != nil {
		return fmt.Errorf("waiting for rings: %w", err)
	}
	p.err = nil
	if err := p.raw.Read(p.harvesting); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("waiting for rings: %w", err)
	}
	return p.err
}

// harvest takes what is ready, without waiting; false: nothing.
func (p *poller) harvest(fd uintptr) bool {
	var ready [4]unix.EpollEvent
	n, err := unix.EpollWait(int(fd), ready[:], 0)
	if err != nil && !errors.Is(err, unix.EINTR) {
		p.err = fmt.Errorf("waiting for rings: %w", err)
		return true
	}
	for _, e := range ready[:max(n, 0)] {
		if int(e.Fd) == p.event {
			var eight [8]byte
			_, _ = unix.Read(p.event, eight[:]) // only empties it
		}
	}
	return n > 0
}

// wake ends a wait from any goroutine.
func (p *poller) wake() error {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	if _, err := unix.Write(p.event, one[:]); err != nil {
		return fmt.Errorf("waking reader: %w", err)
	}
	return nil
}

func (p *poller) close() error {
	errs := []error{p.epoll.Close()}
	if p.event >= 0 {
		errs = append(errs, unix.Close(p.event))
	}
	if p.awake != nil {
		errs = append(errs, unix.Munmap(p.awake))
		p.awake = nil
	}
	return errors.Join(errs...)
}
