package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
)

// Ensure a node that stops waits for nothing that is long for a large state, that nothing of
// it is taken for damage, and that what is short goes on.
func TestInterrupt(t *testing.T) {
	db := tagged(t, "a")
	sights(t, db, 1, testEvery/2)
	var whole bytes.Buffer
	if err := db.Snapshot(&whole); err != nil {
		t.Fatal(err)
	}
	db.Interrupt()
	if err := db.CheckWhole(); err != nil {
		t.Error(err)
	}
	sights(t, db, testEvery/2, 2*testEvery) // closes a window
	db.checks.wg.Wait()
	all := db.Checks()
	if len(all) != 2 {
		t.Fatalf("%d checks, want those of the whole state and of a window", len(all))
	}
	for _, check := range all {
		if check.Slice != nil {
			t.Errorf("window %x: the rows were read", check.Window)
		}
	}
	if err := errors.Join(db.Broken(), db.CheckError()); err != nil {
		t.Errorf("taken for damage: %v", err)
	}
	if err := db.Snapshot(io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("a snapshot is written: %v", err)
	}
	if staged, err := db.Stage(bytes.NewReader(whole.Bytes())); !errors.Is(err, context.Canceled) {
		t.Errorf("a snapshot is staged: %v, %v", staged, err)
	}
	if got := db.AppliedIndex(); got != 2*testEvery-1 {
		t.Errorf("entries are applied to %d", got)
	}
}

// Ensure SQLite's own check, the longest of all, ends with its context.
func TestSoundEnds(t *testing.T) {
	db := tagged(t, "a")
	sights(t, db, 1, 100)
	ctx, cancel := context.WithCancel(t.Context())
	if err := sound(ctx, db.writer); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := sound(ctx, db.writer); !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
}
