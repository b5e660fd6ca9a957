package main

import (
	"runtime"
	"testing"
)

// Ensure that less garbage is let be while collecting is cheap, and more when it is not.
func TestHeapPercent(t *testing.T) {
	for _, tt := range []struct {
		name    string
		percent int
		share   float64
		want    int
	}{
		{"nothing to do", 60, 0, 45},
		{"as little as may be", heapLeast, 0, heapLeast},
		{"as it should be", 40, 0.05, 40},
		{"thousands come back", 25, 0.2, 50},
		{"no more than that", 50, 0.2, heapMost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := heapPercent(tt.percent, tt.share); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

// Ensure that a small heap is not collected all the time, and a large one by the percent.
func TestAllowedGarbage(t *testing.T) {
	for _, tt := range []struct {
		name    string
		percent int
		live    uint64
		want    int
	}{
		{"nothing collected yet", heapFirst, 0, 400},
		{"an idle node", heapFirst, 8 << 20, 200},
		{"thousands of sessions", heapFirst, 160 << 20, heapFirst},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := allowed(tt.percent, tt.live); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
	runtime.GC()
	if h := heapNow(); h.live == 0 || h.used < h.live/2 {
		t.Errorf("the runtime tells %+v", h)
	}
}

// Ensure the runtime tells what is asked of it: without, every share would be zero.
func TestCollected(t *testing.T) {
	runtime.GC() // the figures move with a collection
	if p := collected(); p.all <= 0 || p.collecting < 0 || p.collecting > p.all {
		t.Errorf("the runtime tells %+v", p)
	}
}
