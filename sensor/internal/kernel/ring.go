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

// maxRecord is whole pages that hold the longest record, an exec with all its
// strings (struct exec_space).
const maxRecord = 16 << 10

// ring reads a BPF ring buffer without copying. Own, because one goroutine has to
// read two rings in a fixed order and must know where one ended before it reads
// the other (see Source.Run).
type ring struct {
	fd       int
	mask     uint64
	consumer []byte // one page, ours to write
	producer []byte // one page, the data, and the data's beginning once more
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
	// The kernel would map the data twice in a row, so that a record never wraps. All
	// of it counts as ours, so that the second time is cut to what a record can need.
	producer, err := unix.Mmap(m.FD(), int64(page), page+size+min(maxRecord, size), unix.PROT_READ, unix.MAP_SHARED)
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
		if next > end || length > maxRecord-ringHeader {
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

// merge hands the records of both rings to each in the order of their turns,
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
		case bState != found || cState == found && recordTurn(c) <= recordTurn(b):
			each(c)
			critical.advance(cNext)
		default:
			each(b)
			bulk.advance(bNext)
		}
	}
}

// recordTurn is when a record is to be handed on: its event_head.time, and lag after it. A record
// too short for them goes first and is counted as malformed.
func recordTurn(raw []byte) uint64 {
	const ( // offsetof(struct event_head, …), checked by the contract's test
		atTime, atLag = 8, 68
		lagShift      = 10
	)
	if len(raw) < atLag+4 {
		return 0
	}
	return binary.LittleEndian.Uint64(raw[atTime:]) + uint64(binary.LittleEndian.Uint32(raw[atLag:]))<<lagShift
}
