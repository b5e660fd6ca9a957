package kernel

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// knownGrace is how long after a key was taken out its counter may still grow: a
// program that had looked it up ends within microseconds.
const knownGrace = 500 * time.Millisecond

// Of struct known_set in bpf/include/maps.h.
const (
	knownWays      = 4
	knownLastShift = 30
)

// knownCount is struct known_count of bpf/include/maps.h. The kernel reads keys and
// writes the rest while this program does the other way round.
type knownCount struct {
	key   uint64 // 0: free
	count uint32 // turns over
	last  uint32 // CLOCK_BOOTTIME, ns >> knownLastShift
}

// knownTable is what the kernel keeps back, by behaviour key, with exact counts.
// It is guarded by Source.mu.
type knownTable struct {
	mapped []byte
	counts []knownCount // the kernel's, set after set

	index    map[uint64]uint32     // place of each key
	places   map[uint32]knownPlace // those that are not free
	retiring []retiredPlace        // taken out, last count not yet read
}

type knownPlace struct {
	key  uint64
	told uint32 // of its count, what Harvest handed out
}

type retiredPlace struct {
	place uint32
	key   uint64
	at    time.Time
}

func openKnown(m *ebpf.Map) (*knownTable, error) {
	room := int(m.MaxEntries()) * knownWays
	size := (room*int(unsafe.Sizeof(knownCount{})) + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1)
	mapped, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the table of what is known: %w", err)
	}
	return &knownTable{
		mapped: mapped,
		counts: unsafe.Slice((*knownCount)(unsafe.Pointer(&mapped[0])), room),
		index:  map[uint64]uint32{},
		places: map[uint32]knownPlace{},
	}, nil
}

func (t *knownTable) close() error {
	if t == nil || t.mapped == nil {
		return nil
	}
	err := unix.Munmap(t.mapped)
	t.mapped, t.counts = nil, nil
	return err
}

// sets are the places where the kernel looks for a key: the first of its set, and of
// its other one.
func (t *knownTable) sets(key uint64) [2]uint32 {
	mask := uint32(len(t.counts)/knownWays) - 1
	return [2]uint32{(uint32(key) & mask) * knownWays, (uint32(key>>32) & mask) * knownWays}
}

// room finds a free place for a key, in the emptier of its sets.
func (t *knownTable) room(key uint64) (place uint32, ok bool) {
	most := 0
	for _, set := range t.sets(key) {
		free, at := 0, uint32(0)
		for place := set; place < set+knownWays; place++ {
			if _, taken := t.places[place]; !taken {
				free, at = free+1, place
			}
		}
		if free > most {
			most, place = free, at
		}
	}
	return place, most > 0
}

// put makes a key known.
func (t *knownTable) put(key uint64) error {
	if _, is := t.index[key]; is {
		return nil
	}
	for i, r := range t.retiring {
		if r.key == key { // it counts on where it was
			t.retiring = slices.Delete(t.retiring, i, i+1)
			atomic.StoreUint64(&t.counts[r.place].key, key)
			t.index[key] = r.place
			return nil
		}
	}
	place, ok := t.room(key)
	if !ok {
		return ErrKnownFull
	}
	now, err := bootTime()
	if err != nil {
		return err
	}
	c := &t.counts[place]
	// Before the kernel can count: what it counts between would be lost.
	t.places[place] = knownPlace{key: key, told: atomic.LoadUint32(&c.count)}
	// Not as long unseen as who was here before.
	atomic.StoreUint32(&c.last, uint32(now>>knownLastShift))
	atomic.StoreUint64(&c.key, key)
	t.index[key] = place
	return nil
}

// take makes a key unknown again; its count is still handed out, after the grace.
func (t *knownTable) take(key uint64, now time.Time) {
	place, is := t.index[key]
	if !is {
		return
	}
	atomic.StoreUint64(&t.counts[place].key, 0)
	delete(t.index, key)
	t.retiring = append(t.retiring, retiredPlace{place, key, now})
}

// yield takes out the longest unseen of those that keep a key from a place.
func (t *knownTable) yield(key uint64, now time.Time) {
	var oldest uint64
	var at uint32
	for _, set := range t.sets(key) {
		for place := set; place < set+knownWays; place++ {
			held := t.places[place].key
			if own, is := t.index[held]; !is || own != place {
				return // it is free, or will be after its grace
			}
			if last := atomic.LoadUint32(&t.counts[place].last); oldest == 0 || last < at {
				oldest, at = held, last
			}
		}
	}
	t.take(oldest, now)
}

// harvest hands out what was counted since it last did, and whose last count that was.
func (t *knownTable) harvest(now time.Time, each func(key, count, last uint64), gone func(key uint64)) {
	tell := func(place uint32, key uint64) {
		c, p := &t.counts[place], t.places[place]
		count := atomic.LoadUint32(&c.count)
		if count != p.told {
			each(key, uint64(count-p.told), uint64(atomic.LoadUint32(&c.last))<<knownLastShift)
			p.told = count
			t.places[place] = p
		}
	}
	// What is retiring is among them and is told as it counts.
	for place, p := range t.places {
		tell(place, p.key)
	}
	kept := t.retiring[:0]
	for _, r := range t.retiring {
		if now.Sub(r.at) < knownGrace {
			kept = append(kept, r)
			continue
		}
		tell(r.place, r.key)
		delete(t.places, r.place)
		gone(r.key)
	}
	t.retiring = kept
}

// ErrKnownFull: the kernel's table of what is known has no room for a key; Yield makes it.
var ErrKnownFull = errors.New("the kernel's table of known behaviours has no room")

// Know makes the kernel keep back, and count, events of this key from now on.
func (s *Source) Know(key uint64) error {
	return s.withKnown(func(t *knownTable) error { return t.put(key) })
}

// Yield takes back the longest unseen of the keys that leave no room for this one, which
// can be made known when a Harvest has told that the other is gone.
func (s *Source) Yield(key uint64) error {
	return s.withKnown(func(t *knownTable) error { t.yield(key, time.Now()); return nil })
}

// Unknow takes keys back: such events are told again. What was counted of them until
// now is handed out by a later Harvest.
func (s *Source) Unknow(keys ...uint64) error {
	return s.withKnown(func(t *knownTable) error {
		for _, key := range keys {
			t.take(key, time.Now())
		}
		return nil
	})
}

// UnknowAll takes every key back, and returns them.
func (s *Source) UnknowAll() (keys []uint64, err error) {
	err = s.withKnown(func(t *knownTable) error {
		for key := range t.index {
			keys = append(keys, key)
		}
		for _, key := range keys {
			t.take(key, time.Now())
		}
		return nil
	})
	return keys, err
}

// Harvest hands out how often each known behaviour was seen since the last Harvest and
// when it was last, by CLOCK_BOOTTIME to about a second, and then the keys that were taken back and count
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
// else's bpf(2) can make differ, and puts it right; it returns how many places did.
func (s *Source) checkKnown() (wrong int, err error) {
	err = s.withKnown(func(t *knownTable) error {
		bad := map[uint32]uint64{} // what there should be, by place
		for place := range t.counts {
			key := atomic.LoadUint64(&t.counts[place].key)
			if key == 0 {
				continue
			}
			if own, is := t.index[key]; !is || own != uint32(place) {
				bad[uint32(place)] = 0 // foreign, or taken out and within its grace
			}
		}
		for key, place := range t.index {
			if atomic.LoadUint64(&t.counts[place].key) != key {
				bad[place] = key
			}
		}
		for place, key := range bad {
			atomic.StoreUint64(&t.counts[place].key, key)
		}
		wrong = len(bad)
		return nil
	})
	return wrong, err
}
