package baseline

import (
	"slices"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Keep notes that the kernel counts some of a behaviour's events itself, under a key of
// its own: one behaviour has many, because the kernel tells addresses and arguments
// apart that are one behaviour here. False: the behaviour is not known, or keeps to its
// hours by now, so that its events must still be told.
func (b *Baseline) Keep(kernel uint64, key event.BehaviourKey) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[key]
	if e == nil || !e.known || e.timed() {
		return false
	}
	if _, kept := b.kept[kernel]; !kept {
		b.kept[kernel] = e
		e.kept++
	}
	return true
}

// Unkeep ends that; the kernel's last count was handed to Count before.
func (b *Baseline) Unkeep(kernel uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.kept[kernel]; e != nil {
		e.kept--
		delete(b.kept, kernel)
	}
}

// Count adds what the kernel counted of a behaviour since it last said so, as if each
// event had been observed; last is the latest one's time. It teaches as they would:
// what is suspect is never kept back.
func (b *Baseline) Count(kernel, n uint64, last time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.kept[kernel]
	if e == nil {
		b.losses["kept-unknown"] += n
		return
	}
	b.tick(last)
	e.count += n
	e.pending += n
	e.last = max(e.last, last.UnixNano())
	b.changed[e] = struct{}{}
	b.dirty[e.key] = struct{}{}
	if !e.known || b.pausedAt(b.lastTick) {
		return // unlearnt meanwhile: these are the last that the kernel counted
	}
	b.touched[e] = event.ProcessKey{} // by whom, the kernel did not say: by nobody suspect
}

// Kept is how many of the kernel's keys count for behaviours here.
func (b *Baseline) Kept() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.kept)
}

// KeptTimed are the kernel's keys that count for behaviours which have come to keep to their
// hours since they were kept: a nightly one is known some nights before its hours say
// anything. It looks at those that were given an hour since it was asked last.
func (b *Baseline) KeptTimed() (keys []uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	timed := make(map[*entry]bool)
	for key, e := range b.kept {
		if e.rehoured {
			e.rehoured = false
			timed[e] = e.timed()
		}
		if timed[e] {
			keys = append(keys, key)
		}
	}
	return keys
}

// KeptOf are the kernel's keys that count for behaviours of these kinds.
func (b *Baseline) KeptOf(kinds ...event.BehaviourKind) (keys []uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, e := range b.kept {
		if slices.Contains(kinds, e.kind) {
			keys = append(keys, key)
		}
	}
	return keys
}
