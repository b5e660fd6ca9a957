package baseline

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure the counts of what is known go up once in a while and whole, and what is new,
// or becomes known, with the next summary.
func TestKnownCountsAreToldSeldom(t *testing.T) {
	c := &clock{epoch}
	cfg := config(c)
	cfg.TellKnownEvery = time.Hour
	b := open(t, filepath.Join(t.TempDir(), "b.db"), cfg)
	harvest := func() (all map[event.BehaviourKey]event.BehaviourDelta) {
		all = map[event.BehaviourKey]event.BehaviourDelta{}
		for _, d := range b.Harvest(c.now, event.Health{}, nil).Deltas {
			all[d.Key] = d
		}
		return all
	}
	key := b.Observe(exec(c.now, "/bin/sh", "/bin/ls")).Behaviour.Key
	seen := uint64(1)
	var told uint64
	// Each window's count goes up while it is not known, and that it became known.
	for window := range 3 {
		d := harvest()[key]
		if told += d.Count; told != seen || d.Known {
			t.Errorf("window %d: told %d of %d, known %v", window, told, seen, d.Known)
		}
		c.now = c.now.Add(time.Minute)
		b.Observe(exec(c.now, "/bin/sh", "/bin/ls"))
		seen++
	}
	d := harvest()[key]
	if told += d.Count; told != seen || !d.Known {
		t.Fatalf("told %d of %d, known %v", told, seen, d.Known)
	}
	for range 119 {
		c.now = c.now.Add(30 * time.Second)
		b.Observe(exec(c.now, "/bin/sh", "/bin/ls"))
		seen++
		if d, early := harvest()[key]; early {
			t.Fatalf("told %d again at %s", d.Count, c.now)
		}
	}
	fresh := b.Observe(exec(c.now, "/bin/sh", "/bin/new")).Behaviour.Key
	c.now = c.now.Add(30 * time.Second)
	all := harvest()
	if told += all[key].Count; told != seen || all[fresh].Count != 1 {
		t.Errorf("after an hour: told %d of %d, and of the new one %+v", told, seen, all[fresh])
	}
}

// Ensure a table that is nearly full does not wait: what is told can be evicted.
func TestFullTableTellsAtOnce(t *testing.T) {
	c := &clock{epoch}
	cfg := config(c)
	cfg.TellKnownEvery, cfg.MaxBehaviours, cfg.KnownWindows = time.Hour, 4, 1
	b := open(t, filepath.Join(t.TempDir(), "b.db"), cfg)
	images := []string{"/bin/a", "/bin/b", "/bin/c"}
	for range 3 {
		for _, image := range images {
			b.Observe(exec(c.now, "/bin/sh", image))
		}
		c.now = c.now.Add(time.Minute)
		if n := len(b.Harvest(c.now, event.Health{}, nil).Deltas); n != len(images) {
			t.Errorf("told %d of %d at %s", n, len(images), c.now)
		}
	}
}
