package spool_test

import (
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/spool"
)

// Ensure a cluster that has lost what it acknowledged gets what is still held, and that
// the rest is counted as lost: once, over sessions and restarts, and never silently.
func TestForgotten(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, spool.Config{MaxBytes: 1 << 20})
	// Large enough that acknowledged segments are removed.
	for range 20 {
		if err := s.Append(record("old", 16<<10), false); err != nil {
			t.Fatal(err)
		}
	}
	_, boot, _ := drain(t, s, 100)
	if err := s.Acknowledge(boot, 20); err != nil {
		t.Fatal(err)
	}
	put(t, s, false, "new")
	lost := func(s *spool.Spool) uint64 { return s.Stats().Dropped["forgotten"] }
	s.Restart()
	s.Rewind(boot, 20)
	if lost(s) != 0 {
		t.Fatalf("before anything was forgotten: %d", lost(s))
	}
	// Restored to entry 5: what lies beyond and is gone here too is lost.
	s.Restart()
	s.Rewind(boot, 5)
	first, last := drainFrom(t, s, 5)
	got := lost(s)
	if got == 0 || got+uint64(len(first))-1 != 15 || first[len(first)-1] != "new" || last != 21 {
		t.Fatalf("lost %d of 15, handed out %v to %d", got, first, last)
	}
	// The session breaks before the ack, again and again.
	for range 3 {
		s.Restart()
		s.Rewind(boot, 5)
	}
	if lost(s) != got {
		t.Errorf("counted again: %d after %d", lost(s), got)
	}
	want := event.Loss{Where: "spool", Cause: "forgotten", Count: got}
	if losses := s.Losses(); len(losses) != 1 || losses[0] != want {
		t.Errorf("told: got %v, want %v", losses, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, spool.Config{MaxBytes: 1 << 20})
	s.Restart()
	s.Rewind(boot, 5)
	again, _ := drainFrom(t, s, 5)
	if lost(s) != 0 || len(again) != len(first) {
		t.Errorf("after a restart: lost %d more, handed out %v", lost(s), again)
	}
	if err := s.Acknowledge(boot, 21); err != nil {
		t.Fatal(err)
	}
	put(t, s, false, "next")
	s.Restart()
	names, _, _ := drain(t, s, 10)
	expect(t, "afterwards", names, "next")
}

// drainFrom is drain, after a Rewind to prev.
func drainFrom(t testing.TB, s *spool.Spool, prev uint64) (names []string, last uint64) {
	t.Helper()
	_, before, recs, err := s.Next(t.Context(), 1)
	if err != nil || before != prev {
		t.Fatalf("the batch follows %d, %v, want %d", before, err, prev)
	}
	rest, _, last := drain(t, s, 100)
	return append([]string{name(recs[0])}, rest...), max(last, recs[0].GetSequence())
}
