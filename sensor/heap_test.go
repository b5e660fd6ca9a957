package sensor

import (
	"runtime"
	"testing"
	"time"
)

// Ensure garbage is at most twice what lives, at most garbageMost when that is less, and half of
// what lives in any case: else a large baseline would be collected all the time.
func TestPercentFor(t *testing.T) {
	for _, tt := range []struct {
		live uint64
		want int
	}{{0, 200}, {1 << 20, 200}, {5 << 20, 200}, {8 << 20, 125}, {10 << 20, 100}, {20 << 20, 50}, {200 << 20, 50}} {
		if got := percentFor(tt.live); got != tt.want {
			t.Errorf("%d MiB: %d %%, want %d", tt.live>>20, got, tt.want)
		}
	}
}

// Ensure each collection is noticed, not only the first.
func TestAfterEachCollection(t *testing.T) {
	noticed := make(chan struct{}, 100)
	afterEachCollection(func() {
		select {
		case noticed <- struct{}{}:
		default:
		}
	})
	for i := range 3 {
		runtime.GC()
		select {
		case <-noticed:
		case <-time.After(10 * time.Second):
			t.Fatalf("collection %d was not noticed", i+1)
		}
	}
}
