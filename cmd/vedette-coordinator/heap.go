package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A session is some 45 KiB that live for days, and the runtime would let garbage grow to as
// much again before it collects. Collecting sooner costs processor, which a node has while
// sessions are merely held, and has not while thousands of them come back at once. So how
// soon is steered by what collecting costs.
const (
	heapEvery = 5 * time.Second
	// liveEvery is how often the percent follows what lives: a thousand sessions may have come.
	liveEvery = time.Second
	// heapMost and heapLeast bound the garbage, in percent of what lives: what a herd may
	// take, and where less saves little for much. Thousands of sessions that come at once lie
	// among the garbage of their handshakes, and leave holes in proportion to it when it goes
	// (a fifth of a session at 100, a tenth at 20): so it begins low.
	heapMost, heapFirst, heapLeast = 60, 20, 10
	// garbageLeast may be there whatever the percent: a node without many sessions would else
	// collect a few MiB again and again while it takes in what a few hosts send.
	garbageLeast = 16 << 20
	// Collecting may take this part of the processors; below the lesser it may take more.
	collectMost, collectLeast = 0.10, 0.02
	// What is free is given back when it is more than this part of what is used (a 25th), not
	// more often than freeEvery, and not in a herd: the runtime keeps it for long, a tenth for
	// ever, and giving it back is a whole collection.
	freeMost  = 25
	freeEvery = 20 * time.Second
)

// heapPercent is the next bound of garbage when collecting took this part of the processors.
func heapPercent(percent int, share float64) int {
	switch {
	case share > collectMost:
		return min(heapMost, percent*2)
	case share < collectLeast:
		return max(heapLeast, percent*3/4)
	}
	return percent
}

// allowed is the percent that is set: never less garbage than garbageLeast.
func allowed(percent int, live uint64) int {
	return max(percent, int(100*garbageLeast/max(live, garbageLeast/4))) //nolint:gosec // at most 400
}

// keepHeapSmall runs until ctx ends. Who set GOGC keeps what was set.
func keepHeapSmall(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	ticks := time.NewTicker(liveEvery)
	defer ticks.Stop()
	last, percent, set, freed := collected(), heapFirst, 0, time.Now()
	for tick := 1; ; tick++ {
		heap := heapNow()
		if next := allowed(percent, heap.live); next != set {
			set = next
			debug.SetGCPercent(set)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		if tick%int(heapEvery/liveEvery) != 0 {
			continue
		}
		now := collected()
		share := 0.0
		if all := now.all - last.all; all > 0 { // neither moves but at a collection
			share = (now.collecting - last.collecting) / all
		}
		last = now
		percent = heapPercent(percent, share)
		if share < collectMost/2 && heap.free > heap.used/freeMost && time.Since(freed) >= freeEvery {
			debug.FreeOSMemory()
			freed = time.Now()
		}
	}
}

// heap is what the runtime knows of it, in bytes: what lived at the last collection, what
// is in use, garbage and holes with it, and what is free and not given back.
type heap struct{ live, used, free uint64 }

func heapNow() heap {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	value := func(i int) uint64 {
		if samples[i].Value.Kind() != metrics.KindUint64 {
			return 0
		}
		return samples[i].Value.Uint64()
	}
	return heap{live: value(0), used: value(1) + value(2), free: value(3)}
}

// processors is what the runtime knows of the processors' time, in seconds.
type processors struct{ collecting, all float64 }

// collected leaves out what is collected by processors that have nothing else to do.
func collected() (p processors) {
	samples := []metrics.Sample{
		{Name: "/cpu/classes/total:cpu-seconds"}, {Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/gc/mark/idle:cpu-seconds"},
	}
	metrics.Read(samples)
	value := func(i int) float64 {
		if samples[i].Value.Kind() != metrics.KindFloat64 {
			return 0
		}
		return samples[i].Value.Float64()
	}
	return processors{collecting: value(1) - value(2), all: value(0)}
}
