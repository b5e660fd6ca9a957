package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A session is some 70 KiB that live for days, and the runtime would let garbage grow to as
// much again before it collects. Collecting sooner costs processor, which a node has while
// sessions are merely held, and has not while thousands of them come back at once. So how
// soon is steered by what collecting costs.
const (
	heapEvery = 5 * time.Second
	// heapMost and heapLeast bound the garbage, in percent of what lives: the runtime's own
	// choice, and where less saves little for much. Thousands of sessions that come at once
	// lie among the garbage of their handshakes, and leave holes as large as that when it
	// goes: so it begins low.
	heapMost, heapFirst, heapLeast = 100, 40, 20
	// Collecting may take this part of the processors; below the lesser it may take more.
	collectMost, collectLeast = 0.04, 0.015
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

// keepHeapSmall runs until ctx ends. Who set GOGC keeps what was set.
func keepHeapSmall(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	ticks := time.NewTicker(heapEvery)
	defer ticks.Stop()
	last, percent := collected(), heapFirst
	debug.SetGCPercent(percent)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		now := collected()
		share := 0.0
		if all := now.all - last.all; all > 0 { // neither moves but at a collection
			share = (now.collecting - last.collecting) / all
		}
		last = now
		if next := heapPercent(percent, share); next != percent {
			percent = next
			debug.SetGCPercent(percent)
		}
	}
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
