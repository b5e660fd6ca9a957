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
		{"nothing to do", 100, 0, 75},
		{"as little as may be", heapLeast, 0, heapLeast},
		{"as it should be", 40, 0.02, 40},
		{"thousands come back", 40, 0.2, 80},
		{"no more than the runtime's own", 80, 0.2, heapMost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := heapPercent(tt.percent, tt.share); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

// Ensure the runtime tells what is asked of it: without, every share would be zero.
func TestCollected(t *testing.T) {
	runtime.GC() // the figures move with a collection
	if p := collected(); p.all <= 0 || p.collecting < 0 || p.collecting > p.all {
		t.Errorf("the runtime tells %+v", p)
	}
}
