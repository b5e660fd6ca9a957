package sensor

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// A collection reads all that lives, some 6 MiB, whatever made it due; so garbage may be twice as
// much as that, and no more than garbageMost when more lives: while questions are answered in a
// storm it is the host's memory. The memory limit holds above it.
const (
	garbageMost        = 10 << 20
	gcPercent, gcLeast = 200, 50
)

// percentFor is the runtime's percent of garbage for so much that lives.
func percentFor(live uint64) int {
	return min(gcPercent, max(gcLeast, int(100*garbageMost/max(live, 1)))) //nolint:gosec // at most 10^9
}

var bounding sync.Once

// boundGarbage holds garbage to its bound from now on, for the process. What lives is known after
// each collection, and then it is looked at: between two nothing is done.
func boundGarbage() {
	bounding.Do(func() {
		debug.SetGCPercent(gcPercent)
		set := gcPercent
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		afterEachCollection(func() {
			metrics.Read(live)
			if live[0].Value.Kind() != metrics.KindUint64 {
				return
			}
			if next := percentFor(live[0].Value.Uint64()); next != set {
				set = next
				debug.SetGCPercent(next)
			}
		})
	})
}

// afterEachCollection calls f in the runtime's own goroutine for such things.
func afterEachCollection(f func()) {
	type unreachable struct{ self *byte } // with a pointer: what has none shares its memory with others
	runtime.SetFinalizer(&unreachable{new(byte)}, func(*unreachable) {
		afterEachCollection(f) // first: who hears of this one may begin the next
		f()
	})
}
