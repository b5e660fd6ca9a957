package baseline

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that what the kernel counts is counted as if it had been observed, also over
// a restart, and that only what is known may be kept back.
func TestKeptCounts(t *testing.T) {
	c := &clock{epoch}
	path := filepath.Join(t.TempDir(), "b.db")
	b := open(t, path, config(c))
	key := b.Observe(exec(c.now, "/bin/sh", "/bin/ls")).Behaviour.Key
	if b.Keep(7, key) {
		t.Error("what was seen once may be kept back")
	}
	for range 4 {
		c.now = c.now.Add(time.Minute)
		b.Observe(exec(c.now, "/bin/sh", "/bin/ls"))
	}
	if !b.Keep(7, key) || !b.Keep(8, key) {
		t.Fatal("a known behaviour may not be kept back")
	}
	b.Harvest(c.now, event.Health{}, nil)
	b.Count(7, 1000, c.now.Add(time.Second))
	b.Count(8, 1, c.now)
	c.now = c.now.Add(time.Minute)
	s := b.Harvest(c.now, event.Health{}, nil)
	if len(s.Deltas) != 1 || s.Deltas[0].Count != 1001 || s.Deltas[0].Key != key {
		t.Errorf("harvested %+v, want 1001", s.Deltas)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, path, config(c))
	if v := b.Observe(exec(c.now, "/bin/sh", "/bin/ls")); v.Seen != 1006 || !v.Known {
		t.Errorf("after a restart %+v, want 1006 times", v)
	}
	b.Count(7, 5, c.now)
	if s := b.Harvest(c.now, event.Health{}, nil); len(s.Losses) != 1 || s.Losses[0].Count != 5 {
		t.Errorf("counts for a key that nobody kept: losses %+v, want 5", s.Losses)
	}
}

// Ensure that a behaviour that the kernel counts for is not evicted, and can be again
// when it does no more.
func TestKeptStays(t *testing.T) {
	c := &clock{epoch}
	cfg := config(c)
	cfg.MaxBehaviours = 1
	b := open(t, filepath.Join(t.TempDir(), "b.db"), cfg)
	var key event.BehaviourKey
	for range 5 {
		key = b.Observe(exec(c.now, "/bin/sh", "/bin/ls")).Behaviour.Key
		c.now = c.now.Add(time.Minute)
	}
	if !b.Keep(7, key) {
		t.Fatal("not kept")
	}
	b.Harvest(c.now, event.Health{}, nil)
	b.Observe(exec(c.now, "/bin/sh", "/bin/other"))
	if b.Kept() != 1 || b.entries[key] == nil {
		t.Fatal("it was evicted")
	}
	b.Unkeep(7)
	b.Observe(exec(c.now, "/bin/sh", "/bin/other"))
	if b.entries[key] != nil {
		t.Error("it stays although the kernel counts for it no more")
	}
}
