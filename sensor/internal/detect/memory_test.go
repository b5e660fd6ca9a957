package detect

import (
	"strconv"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure what was done is known until so many other things were done after it, and no longer.
func TestOnce(t *testing.T) {
	const limit = 100
	o := newOnce(limit)
	key := func(i int) tellKey {
		return tellKey{what: "rule", who: event.ProcessKey{PID: 1}, peer: strconv.Itoa(i)}
	}
	for i := range 10 * limit {
		if !o.first(key(i)) {
			t.Fatalf("%d is taken for another", i)
		}
		if i >= limit-1 && o.first(key(i-limit+1)) {
			t.Fatalf("%d is forgotten, with %d others after it", i-limit+1, limit-1)
		}
	}
	if len(o.done) != limit || len(o.ring) != limit {
		t.Errorf("%d and %d are kept, want %d", len(o.done), len(o.ring), limit)
	}
	if !o.first(key(0)) {
		t.Error("what was done long ago is still kept")
	}
}
