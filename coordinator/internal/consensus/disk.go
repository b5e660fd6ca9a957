package consensus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// stallAfter is how long a write may take before the disk counts as stalled. A leader
// whose disk stalls goes on sending heartbeats, which need no disk, so that nobody would
// take over; with an election after it, writes go on within 10 s of the stall's beginning.
const stallAfter = 4 * time.Second

// disk watches what raft and the state write.
type disk struct {
	// under are the beginnings of the writes that are under way, Unix ns of the monotonic
	// clock's base; 0 is none. One for the log and one for the state.
	log, state atomic.Int64
	base       time.Time

	mu   sync.Mutex
	fail error
	told chan struct{} // closed when fail is set
}

func newDisk() *disk { return &disk{base: time.Now(), told: make(chan struct{})} }

// begin notes that a write is under way until end is called.
func (d *disk) begin(which *atomic.Int64) (end func()) {
	which.Store(int64(time.Since(d.base)) + 1)
	return func() { which.Store(0) }
}

func (d *disk) stalled() bool {
	now := int64(time.Since(d.base))
	for _, which := range []*atomic.Int64{&d.log, &d.state} {
		if began := which.Load(); began != 0 && now-began > int64(stallAfter) {
			return true
		}
	}
	return false
}

func (d *disk) failed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fail
}

// broken notes that a write failed otherwise than for want of room. After a failed fsync
// the kernel takes the pages for written: a second one succeeds although the disk has
// nothing (https://lwn.net/Articles/752063/). So nothing is tried again in this process.
func (d *disk) broken(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		d.fail = fmt.Errorf("a write of the log failed (%w), and what the disk has of it is not known: look after the disk; the node stops, and reads again when it is started", err)
		close(d.told)
	}
}

// Failed is closed when this node's disk failed: whoever runs the node should end the
// process with Fit's error, and have it started again.
func (n *Node) Failed() <-chan struct{} { return n.disk.told }

// firm brings what an earlier process left of the log in the kernel's memory to the disk,
// and has it read from there. Otherwise entries that were written and never
// fsynced would count as stored, and pages whose fsync failed as what the disk has.
func firm(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("opening the log: %w", err)
		}
		err = f.Sync()
		const dontNeed = 4 // POSIX_FADV_DONTNEED
		_, _, _ = syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("writing what was left of the log: %w", err)
		}
	}
	return nil
}

// watchedLog is raft's log and its term and vote, watched.
type watchedLog struct {
	*wal.WAL
	disk *disk
}

// write runs one write, unless one failed before.
func (w *watchedLog) write(do func() error) error {
	if err := w.disk.failed(); err != nil {
		return err
	}
	end := w.disk.begin(&w.disk.log)
	defer end()
	err := do()
	if err != nil && !noRoom(err) && !errors.Is(err, wal.ErrClosed) {
		w.disk.broken(err)
	}
	return err
}

// noRoom says whether a write failed for want of room before it began. A fsync that fails
// so (a disk that has less than it claims) has failed as any other.
func noRoom(err error) bool {
	var at *fs.PathError
	if errors.As(err, &at) && at.Op == "sync" {
		return false
	}
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// StoreLog implements raft.LogStore.
func (w *watchedLog) StoreLog(log *raft.Log) error {
	return w.StoreLogs([]*raft.Log{log})
}

// StoreLogs implements raft.LogStore.
func (w *watchedLog) StoreLogs(logs []*raft.Log) error {
	for _, log := range logs {
		if err := sealEntry(log); err != nil {
			return err // what came is wrong, not this disk
		}
	}
	return w.write(func() error {
		if err := w.passGap(logs); err != nil {
			return err
		}
		return w.WAL.StoreLogs(logs)
	})
}

// passGap removes what is left of a log that ends before the entry that comes. Raft checks what
// it appends, so there is a snapshot between: one that was installed when the node died before
// the old log was removed. The library refuses a gap, at each start again.
func (w *watchedLog) passGap(logs []*raft.Log) error {
	first, err := w.FirstIndex()
	if err != nil {
		return err
	}
	last, err := w.LastIndex()
	if err != nil || last == 0 || len(logs) == 0 || logs[0].Index <= last+1 {
		return err
	}
	return w.WAL.DeleteRange(first, last)
}

// DeleteRange implements raft.LogStore.
func (w *watchedLog) DeleteRange(lowest, highest uint64) error {
	return w.write(func() error { return w.WAL.DeleteRange(lowest, highest) })
}

// Set implements raft.StableStore.
func (w *watchedLog) Set(key, value []byte) error {
	return w.write(func() error { return w.WAL.Set(key, value) })
}

// SetUint64 implements raft.StableStore.
func (w *watchedLog) SetUint64(key []byte, value uint64) error {
	return w.write(func() error { return w.WAL.SetUint64(key, value) })
}
