package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// errBroken: the positions in a ring cannot be; the mapping or the kernel is broken.
var errBroken = errors.New("ring buffer is inconsistent")

// The kernel's notation of a record (include/uapi/linux/bpf.h): eight bytes of
// header whose first four are the length and two flags.
const (
	ringHeader  = 8
	ringBusy    = 1 << 31
	ringDiscard = 1 << 30
)

// ring reads a BPF ring buffer without copying. Own, because one goroutine has to
// read two rings in a fixed order and must know where one ended before it reads
// the other (see Source.Run).
type ring struct {
	fd       int
	mask     uint64
	consumer []byte // one page, ours to write
	producer []byte // one page and the data, twice in a row
	data     []byte
	consumed *uint64
	produced *uint64
}

func openRing(m *ebpf.Map) (*ring, error) {
	page := os.Getpagesize()
	size := int(m.MaxEntries())
	consumer, err := unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping ring positions: %w", err)
	}
	// The kernel maps the data twice so that a record never wraps.
	producer, err := unix.Mmap(m.FD(), int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mapping ring data: %w", err), unix.Munmap(consumer))
	}
	return &ring{
		fd:       m.FD(),
		mask:     uint64(size - 1),
		consumer: consumer,
		producer: producer,
		data:     producer[page:],
		consumed: (*uint64)(unsafe.Pointer(&consumer[0])),
		produced: (*uint64)(unsafe.Pointer(&producer[0])),
	}, nil
}

func (r *ring) close() error {
	if r.consumer == nil {
		return nil
	}
	err := errors.Join(unix.Munmap(r.consumer), unix.Munmap(r.producer))
	r.consumer, r.producer, r.data = nil, nil, nil
	return err
}

// position is up to where it was read.
func (r *ring) position() uint64 { return atomic.LoadUint64(r.consumed) }

// end is the position after the last record that was begun.
func (r *ring) end() uint64 { return atomic.LoadUint64(r.produced) }

// What peek found at a ring's reading position.
type peeked int

const (
	nothing peeked = iota // no record before the end
	busy                  // a record that is still being written
	found
)

// peek is the next record before end, and where the one after it begins. The
// bytes are the ring's own: they hold until advance.
func (r *ring) peek(end uint64) (raw []byte, next uint64, state peeked, err error) {
	position := r.position()
	for position < end {
		at := position & r.mask
		header := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.data[at])))
		if header&ringBusy != 0 {
			return nil, 0, busy, nil
		}
		length := uint64(header &^ ringDiscard)
		next = position + (ringHeader+length+7)&^7
		if next > end {
			return nil, 0, nothing, fmt.Errorf("%w: record of %d bytes at %d, end %d", errBroken, length, position, end)
		}
		if header&ringDiscard == 0 {
			return r.data[at+ringHeader : at+ringHeader+length : at+ringHeader+length], next, found, nil
		}
		position = next
		r.advance(position)
	}
	return nil, 0, nothing, nil
}

// advance gives what was read back to the kernel.
func (r *ring) advance(to uint64) { atomic.StoreUint64(r.consumed, to) }

// merge hands the records of both rings to each in the order of their times,
// which must not keep the bytes. It stops early, and says so, at a critical
// record that is still being written: what is younger waits for it.
func merge(critical, bulk *ring, criticalEnd, bulkEnd uint64, each func(raw []byte)) (done bool, err error) {
	for {
		c, cNext, cState, err := critical.peek(criticalEnd)
		if err != nil {
			return false, fmt.Errorf("reading critical ring: %w", err)
		}
		if cState == busy {
			return false, nil
		}
		b, bNext, bState, err := bulk.peek(bulkEnd)
		if err != nil {
			return false, fmt.Errorf("reading bulk ring: %w", err)
		}
		switch {
		case cState == nothing && bState != found:
			return true, nil
		case bState != found || cState == found && recordTime(c) <= recordTime(b):
			each(c)
			critical.advance(cNext)
		default:
			each(b)
			bulk.advance(bNext)
		}
	}
}

// recordTime is a record's event_head.time; a record too short for one goes first
// and is counted as malformed.
func recordTime(raw []byte) uint64 {
	const at = 8 // offsetof(struct event_head, time), checked by the layout test
	if len(raw) < at+8 {
		return 0
	}
	return binary.LittleEndian.Uint64(raw[at:])
}

// poller waits for either ring, or for stop.
type poller struct {
	epoll, event int
}

func newPoller(rings ...*ring) (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating epoll: %w", err)
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("creating eventfd: %w", err), unix.Close(epoll))
	}
	p := &poller{epoll: epoll, event: event}
	for _, fd := range append([]int{event}, fds(rings)...) {
		interest := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if fd != event {
			// Edges: what was left unread on purpose must not wake at once again.
			interest.Events |= unix.EPOLLET
		}
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &interest); err != nil {
			return nil, errors.Join(fmt.Errorf("watching ring: %w", err), p.close())
		}
	}
	return p, nil
}

func fds(rings []*ring) (out []int) {
	for _, r := range rings {
		out = append(out, r.fd)
	}
	return out
}

// wait returns when a ring woke, wake was called, or after milliseconds.
func (p *poller) wait(milliseconds int) error {
	var ready [4]unix.EpollEvent
	n, err := unix.EpollWait(p.epoll, ready[:], milliseconds)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("waiting for rings: %w", err)
	}
	for _, e := range ready[:n] {
		if int(e.Fd) == p.event {
			var eight [8]byte
			_, _ = unix.Read(p.event, eight[:]) // only empties it
		}
	}
	return nil
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
	return errors.Join(unix.Close(p.epoll), unix.Close(p.event))
}
