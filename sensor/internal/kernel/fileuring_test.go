package kernel

import (
	"errors"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// uring is as much of io_uring as one request at a time takes.
type fileRing struct {
	fd             int
	sq, cq, sqes   []byte
	sqTail, cqTail *uint32
	sqMask         uint32
	sqArray        []uint32
	cqes           uint32
	polled         bool
}

// The parts of the ABI that are used (include/uapi/linux/io_uring.h).
const (
	uringSQPoll    = 2
	uringAsync     = 1 << 4
	uringFixedFile = 1
	uringOpenat    = 18
	uringWrite     = 23
	uringUnlink    = 36
	uringGetEvents = 1
	uringWakeup    = 2
)

func newURing(t *testing.T, flags uint32) *fileRing {
	t.Helper()
	p := uringParams{flags: flags, idle: 1000}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		t.Skipf("SKIP: needs io_uring: %v", errno)
	}
	r := &fileRing{fd: int(fd), polled: flags&uringSQPoll != 0, sqMask: p.sqEntries - 1, cqes: p.cq.cqes}
	var errs [3]error
	r.sq, errs[0] = unix.Mmap(r.fd, 0, int(p.sq.array+p.sqEntries*4), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	r.cq, errs[1] = unix.Mmap(r.fd, 0x8000000, int(p.cq.cqes+p.cqEntries*16), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	r.sqes, errs[2] = unix.Mmap(r.fd, 0x10000000, int(p.sqEntries*64), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	must(t, errors.Join(errs[:]...))
	r.sqTail = (*uint32)(unsafe.Pointer(&r.sq[p.sq.tail]))
	r.cqTail = (*uint32)(unsafe.Pointer(&r.cq[p.cq.tail]))
	r.sqArray = unsafe.Slice((*uint32)(unsafe.Pointer(&r.sq[p.sq.array])), p.sqEntries)
	t.Cleanup(func() {
		_ = unix.Munmap(r.sq)
		_ = unix.Munmap(r.cq)
		_ = unix.Munmap(r.sqes)
		_ = unix.Close(r.fd)
	})
	return r
}

// do makes one request, waits for its end and returns its result.
func (r *fileRing) do(t *testing.T, op, flags uint8, addr unsafe.Pointer, length, opFlags uint32, more ...func(sqe []byte)) int32 {
	t.Helper()
	at := *r.sqTail & r.sqMask
	sqe := r.sqes[at*64 : at*64+64]
	clear(sqe)
	sqe[0], sqe[1] = op, flags
	*(*int32)(unsafe.Pointer(&sqe[4])) = unix.AT_FDCWD
	*(*uint64)(unsafe.Pointer(&sqe[16])) = uint64(uintptr(addr))
	*(*uint32)(unsafe.Pointer(&sqe[24])) = length
	*(*uint32)(unsafe.Pointer(&sqe[28])) = opFlags
	for _, change := range more {
		change(sqe)
	}
	r.sqArray[at] = at
	before := atomic.LoadUint32(r.cqTail)
	atomic.StoreUint32(r.sqTail, *r.sqTail+1)
	enter := uint32(uringGetEvents)
	if r.polled {
		enter |= uringWakeup
	}
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 1, 1, uintptr(enter), 0, 0); errno != 0 {
		t.Fatalf("io_uring_enter: %v", errno)
	}
	runtime.KeepAlive(addr)
	// The completion's place; nothing was taken from the queue.
	cqe := r.cq[r.cqes+(before&(uint32(len(r.cq))/16-1))%16*16:]
	return *(*int32)(unsafe.Pointer(&cqe[8]))
}

// Ensure that opens by io_uring are told, with their owner: carried out at once, by a
// worker, and by the kernel's polling thread.
func TestFilesOpenedByURing(t *testing.T) {
	for name, tt := range map[string]struct {
		setup uint32
		flags uint8
	}{"inline": {0, 0}, "worker": {0, uringAsync}, "sqpoll": {uringSQPoll, 0}} {
		t.Run(name, func(t *testing.T) {
			f := openFiles(t)
			if !f.features.URing {
				t.Skip("SKIP: needs a kernel whose io_uring requests say what they were (5.19)")
			}
			r := newURing(t, tt.setup)
			path := append([]byte(f.file), 0)
			created := append([]byte(f.tree+"/made"), 0)
			r.do(t, uringOpenat, tt.flags, unsafe.Pointer(&path[0]), 0, unix.O_WRONLY)
			e := f.told(event.FileWrite, f.file, "")
			r.do(t, uringOpenat, tt.flags, unsafe.Pointer(&created[0]), 0o600, unix.O_WRONLY|unix.O_CREAT)
			c := f.told(event.FileCreate, f.tree+"/made", "")
			for _, e := range []*event.File{e, c} {
				if e.Process.PID != uint32(os.Getpid()) || !e.URing {
					t.Errorf("%v by pid %d, by io_uring %v", e.Op, e.Process.PID, e.URing)
				}
			}
			if f.features.Changes != ChangesEverywhere {
				return
			}
			r.do(t, uringUnlink, tt.flags, unsafe.Pointer(&created[0]), 0, 0)
			first(f.watch, "a removal by io_uring", func(e *event.File) bool {
				return e.Op == event.FileUnlink && e.URing && string(e.Path) == f.tree+"/made" && e.Process.PID == uint32(os.Getpid())
			})
		})
	}
}

// Ensure that a write is seen through a descriptor of the ring's own, the open of which
// was not told.
func TestFileInARingsOwnTable(t *testing.T) {
	f := openFiles(t)
	if f.features.Changes != ChangesEverywhere {
		t.Skip("SKIP: needs a kernel that tells each move of a change time (6.13)")
	}
	r := newURing(t, 0)
	slots := [1]int32{-1}
	const registerFiles = 2
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), registerFiles, uintptr(unsafe.Pointer(&slots)), 1, 0, 0); errno != 0 {
		t.Fatalf("registering files: %v", errno)
	}
	path, text := append([]byte(f.file), 0), []byte("x")
	if got := r.do(t, uringOpenat, 0, unsafe.Pointer(&path[0]), 0, unix.O_WRONLY, func(sqe []byte) {
		sqe[44] = 1 // file_index: the first slot
	}); got != 0 {
		t.Fatalf("opening into the table: %d", got)
	}
	r.do(t, uringWrite, uringFixedFile, unsafe.Pointer(&text[0]), 1, 0, func(sqe []byte) {
		clear(sqe[4:8]) // the first slot
	})
	first(f.watch, "the write", func(e *event.File) bool {
		return e.Op == event.FileChange && e.URing && string(e.Path) == f.file && e.Process.PID == uint32(os.Getpid())
	})
}

// Ensure that a write is seen through a descriptor that no open was seen of: here one
// that is older than the sensor.
func TestWriteThroughOlderDescriptor(t *testing.T) {
	needKernel(t)
	dir := t.TempDir()
	file, err := os.Create(dir + "/file")
	must(t, err)
	defer file.Close()
	w := open(t, Config{Watch: []WatchPath{{Path: dir + "/"}}})
	if w.features.Changes != ChangesEverywhere {
		t.Skip("SKIP: needs a kernel that tells each move of a change time (6.13)")
	}
	_, err = file.WriteString("x")
	must(t, err)
	first(w, "the write", func(e *event.File) bool { return e.Op == event.FileWrite && string(e.Path) == dir+"/file" })
}
