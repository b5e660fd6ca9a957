package netnstest

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	xdpFrames     = 64 // a power of two: ring and memory have the same number
	xdpFrameBytes = 4096
)

// XDP is a sender over an AF_XDP socket in copy mode, which hands frames to the
// device without the stack's transmit path.
type XDP struct {
	fd       int
	memory   []byte
	ring     []byte
	producer *uint32
	descs    []unix.XDPDesc
	next     uint32
}

// OpenXDP opens a sender on the first queue of a device of the namespace that the caller
// is in. It lives as long as its process: who holds one may be stopped.
func OpenXDP(index int) (*XDP, error) {
	x := &XDP{fd: -1}
	if err := x.open(index); err != nil {
		x.close()
		return nil, err
	}
	return x, nil
}

func (x *XDP) close() {
	if x.fd >= 0 {
		_ = unix.Close(x.fd)
	}
	if x.ring != nil {
		_ = unix.Munmap(x.ring)
	}
	if x.memory != nil {
		_ = unix.Munmap(x.memory)
	}
}

func (x *XDP) open(index int) (err error) {
	if x.fd, err = unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("opening: %w", err)
	}
	x.memory, err = unix.Mmap(-1, 0, xdpFrames*xdpFrameBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("mapping memory: %w", err)
	}
	region := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&x.memory[0]))), Len: uint64(len(x.memory)), Size: xdpFrameBytes}
	if err := x.set(unix.XDP_UMEM_REG, unsafe.Pointer(&region), unsafe.Sizeof(region)); err != nil {
		return fmt.Errorf("registering memory: %w", err)
	}
	for _, ring := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_TX_RING} {
		if err := unix.SetsockoptInt(x.fd, unix.SOL_XDP, ring, xdpFrames); err != nil {
			return fmt.Errorf("sizing ring %d: %w", ring, err)
		}
	}
	var offsets unix.XDPMmapOffsets
	size := uint32(unsafe.Sizeof(offsets))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(x.fd), unix.SOL_XDP, unix.XDP_MMAP_OFFSETS,
		uintptr(unsafe.Pointer(&offsets)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
		return fmt.Errorf("reading offsets: %w", errno)
	}
	length := int(offsets.Tx.Desc) + xdpFrames*int(unsafe.Sizeof(unix.XDPDesc{}))
	if x.ring, err = unix.Mmap(x.fd, unix.XDP_PGOFF_TX_RING, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return fmt.Errorf("mapping ring: %w", err)
	}
	x.producer = (*uint32)(unsafe.Pointer(&x.ring[offsets.Tx.Producer]))
	x.descs = unsafe.Slice((*unix.XDPDesc)(unsafe.Pointer(&x.ring[offsets.Tx.Desc])), xdpFrames)
	if err := unix.Bind(x.fd, &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(index)}); err != nil {
		return fmt.Errorf("binding: %w", err)
	}
	return nil
}

func (x *XDP) set(option int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(x.fd), unix.SOL_XDP, uintptr(option), uintptr(value), size, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// Send puts one frame on the device; at most xdpFrames in all, since nothing is
// taken back.
func (x *XDP) Send(frame []byte) error {
	if x.next == xdpFrames {
		return unix.ENOSPC
	}
	offset := x.next * xdpFrameBytes
	copy(x.memory[offset:], frame)
	x.descs[x.next] = unix.XDPDesc{Addr: uint64(offset), Len: uint32(len(frame))}
	x.next++
	atomic.StoreUint32(x.producer, x.next)
	return unix.Sendto(x.fd, nil, unix.MSG_DONTWAIT, nil)
}
