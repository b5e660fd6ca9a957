package kernel

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
)

// knownGrace is how long after a key was taken out its counter may still grow: a
// program that had looked it up ends within microseconds.
const knownGrace = 500 * time.Millisecond

// checkBatch is how many entries one system call copies out: more than any bucket of
// the table holds.
const checkBatch = 2048

// knownCount is struct known_count of bpf/include/maps.h.
type knownCount struct {
	key   uint64
	count uint64
	last  uint64 // CLOCK_BOOTTIME, ns
}

// knownTable is what the kernel keeps back, by behaviour key, with exact counts.
// It is guarded by Source.mu.
type knownTable struct {
	keys   *ebpf.Map
	mapped []byte
	counts []knownCount

	index    map[uint64]uint32
	slots    []knownSlot
	free     []uint32
	retiring []retiredSlot // taken out, last count not yet read
	hand     uint32        // where the search for a key to take out goes on
}

type knownSlot struct {
	key  uint64 // 0: free
	told uint64 // of its count, what Harvest handed out
}

type retiredSlot struct {
	slot uint32
	key  uint64
	at   time.Time
}

func openKnown(keys, counts *ebpf.Map) (*knownTable, error) {
	room := counts.MaxEntries()
	size := (int(room)*int(unsafe.Sizeof(knownCount{})) + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1)
	mapped, err := unix.Mmap(counts.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the counts of what is known: %w", err)
	}
	t := &knownTable{
		keys: keys, mapped: mapped,
		counts: unsafe.Slice((*knownCount)(unsafe.Pointer(&mapped[0])), room),
		index:  map[uint64]uint32{},
	}
	return t, nil
}

func (t *knownTable) close() error {
	if t == nil || t.mapped == nil {
		return nil
	}
	err := unix.Munmap(t.mapped)
	t.mapped, t.counts = nil, nil
	return err
}

// slot gives an unused index; false: there is none.
func (t *knownTable) slot() (uint32, bool) {
	if n := len(t.free); n > 0 {
		slot := t.free[n-1]
		t.free = t.free[:n-1]
		return slot, true
	}
	if len(t.slots) < len(t.counts) {
		t.slots = append(t.slots, knownSlot{})
		return uint32(len(t.slots) - 1), true
	}
	return 0, false
}

// put makes a key known.
func (t *knownTable) put(key uint64) error {
	if _, is := t.index[key]; is {
		return nil
	}
	slot, ok := t.slot()
	if !ok {
		return ErrKnownFull
	}
	// All of it before the kernel can count: what it counts between would be lost.
	t.slots[slot] = knownSlot{key: key, told: atomic.LoadUint64(&t.counts[slot].count)}
	atomic.StoreUint64(&t.counts[slot].key, key)
	if err := t.keys.Put(key, slot); err != nil {
		t.free = append(t.free, slot)
		return fmt.Errorf("making a behaviour known to the kernel: %w", err)
	}
	t.index[key] = slot
	return nil
}

// take makes a key unknown again; its count is still handed out, after the grace.
func (t *knownTable) take(key uint64, now time.Time) error {
	slot, is := t.index[key]
	if !is {
		return nil
	}
	if err := t.keys.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("making a behaviour unknown to the kernel: %w", err)
	}
	delete(t.index, key)
	t.retiring = append(t.retiring, retiredSlot{slot, key, now})
	return nil
}

// harvest hands out what was counted since it last did, and whose last count that was.
func (t *knownTable) harvest(now time.Time, each func(key, count, last uint64), gone func(key uint64)) {
	tell := func(slot uint32, key uint64) {
		c, s := &t.counts[slot], &t.slots[slot]
		count := atomic.LoadUint64(&c.count)
		if count != s.told {
			each(key, count-s.told, atomic.LoadUint64(&c.last))
			s.told = count
		}
	}
	// In the order of the array, which a cache likes; what is retiring lies among them
	// and is told as it counts.
	for slot := range t.slots {
		if key := t.slots[slot].key; key != 0 {
			tell(uint32(slot), key)
		}
	}
	kept := t.retiring[:0]
	for _, r := range t.retiring {
		if now.Sub(r.at) < knownGrace {
			kept = append(kept, r)
			continue
		}
		tell(r.slot, r.key)
		t.slots[r.slot] = knownSlot{}
		t.free = append(t.free, r.slot)
		if _, again := t.index[r.key]; !again {
			gone(r.key)
		}
	}
	t.retiring = kept
}

// stale names the keys that were not seen for the longest, of a bounded sample, so that
// there is room for n more.
func (t *knownTable) stale(n int) (keys []uint64) {
	const sample = 8 // for each
	for range n {
		var oldest uint64
		var at uint64
		for looked := 0; looked < sample && len(t.slots) > 0; looked++ {
			t.hand = (t.hand + 1) % uint32(len(t.slots))
			s := t.slots[t.hand]
			if _, is := t.index[s.key]; s.key == 0 || !is {
				continue
			}
			if last := atomic.LoadUint64(&t.counts[t.hand].last); oldest == 0 || last < at {
				oldest, at = s.key, last
			}
		}
		if oldest != 0 {
			keys = append(keys, oldest)
		}
	}
	return keys
}

// ErrKnownFull: the kernel's table of what is known has no room; Stale names what may go.
var ErrKnownFull = errors.New("the kernel's table of known behaviours is full")

// Know makes the kernel keep back, and count, events of this key from now on.
func (s *Source) Know(key uint64) error {
	return s.withKnown(func(t *knownTable) error { return t.put(key) })
}

// Unknow takes keys back: such events are told again. What was counted of them until
// now is handed out by a later Harvest.
func (s *Source) Unknow(keys ...uint64) error {
	return s.withKnown(func(t *knownTable) error {
		var problems []error
		for _, key := range keys {
			problems = append(problems, t.take(key, time.Now()))
		}
		return errors.Join(problems...)
	})
}

// UnknowAll takes every key back, and returns them.
func (s *Source) UnknowAll() (keys []uint64, err error) {
	err = s.withKnown(func(t *knownTable) error {
		for key := range t.index {
			keys = append(keys, key)
		}
		for _, key := range keys {
			if err := t.take(key, time.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	return keys, err
}

// Stale names up to n known keys that were not seen for long.
func (s *Source) Stale(n int) (keys []uint64) {
	_ = s.withKnown(func(t *knownTable) error { keys = t.stale(n); return nil }) // closed: none
	return keys
}

// Harvest hands out how often each known behaviour was seen since the last Harvest and
// when it was last, by CLOCK_BOOTTIME, and then the keys that were taken back and count
// no more. Counts are exact: none is told twice or not at all, also of keys that were
// taken back. It stops nothing in the kernel. The functions must not call the Source.
func (s *Source) Harvest(each func(key, count, last uint64), gone func(key uint64)) error {
	return s.withKnown(func(t *knownTable) error { t.harvest(time.Now(), each, gone); return nil })
}

// Known is how many behaviours the kernel keeps back.
func (s *Source) Known() (n int) {
	_ = s.withKnown(func(t *knownTable) error { n = len(t.index); return nil })
	return n
}

func (s *Source) withKnown(do func(*knownTable) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.known == nil {
		return ErrClosed
	}
	return do(s.known)
}

// checkKnown compares the kernel's table with what was put into it, which only somebody
// else's bpf(2) can make differ, and puts it right; it returns how many entries did.
func (s *Source) checkKnown() (wrong int, err error) {
	err = s.withKnown(func(t *knownTable) error {
		found := 0
		var foreign []uint64
		keys, slots := make([]uint64, checkBatch), make([]uint32, checkBatch)
		for cursor, end := (ebpf.MapBatchCursor{}), false; !end; {
			n, err := t.keys.BatchLookup(&cursor, keys, slots, nil)
			end = errors.Is(err, ebpf.ErrKeyNotExist)
			if err != nil && !end {
				return fmt.Errorf("reading what the kernel knows: %w", err)
			}
			for i, key := range keys[:n] {
				if own, is := t.index[key]; is && own == slots[i] {
					found++
				} else {
					foreign = append(foreign, key)
				}
			}
		}
		wrong = len(foreign) + len(t.index) - found
		if wrong == 0 {
			return nil
		}
		for _, key := range foreign {
			if err := t.keys.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("taking out a foreign key: %w", err)
			}
		}
		for key, slot := range t.index {
			if err := t.keys.Put(key, slot); err != nil {
				return fmt.Errorf("putting back a key: %w", err)
			}
		}
		return nil
	})
	return wrong, err
}

// knownMaps are the tables as the collection has them.
func knownMaps(c *ebpf.Collection) (keys, counts *ebpf.Map) {
	return c.Maps[bpf.VedetteMapKnown], c.Maps[bpf.VedetteMapKnownCounts]
}
