package enrich

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// Ensure images are hashed by what was executed, and not by what lies there now.
func TestHash(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("SKIP: needs sleep")
	}
	raw, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "prog")
	if err := os.WriteFile(path, raw, 0o700); err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, func(c *Config) { c.Boottime = nil })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	_, k := start(t, path, "300")
	// Replaced at its path: the process still runs the old file.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("something else"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.Seed([]Task{{Key: k, InScope: true}})
	if traits := m.Process(k).Traits; slices.Contains(traits, event.TraitDeleted) {
		t.Errorf("an upgraded program is said to have started deleted: %v", traits)
	}
	p := m.WithHashes(t.Context(), m.Process(k))
	if !p.Hashed || p.SHA256 != sha256.Sum256(raw) {
		t.Fatalf("hashed %v: got %x", p.Hashed, p.SHA256)
	}
	if again := m.Process(k); !again.Hashed {
		t.Error("the tree did not learn the hash")
	}

	// A file that is not the executed one has no hash; it is waited for at most 500 ms.
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	wrong := event.ImageID{Device: kernelDevice(st.Dev), Inode: st.Ino, Change: changeTime(&st) - 1, Size: uint64(st.Size), NLink: 1}
	begin := time.Now()
	q := m.WithHashes(t.Context(), &event.Process{Key: key(1), Image: path, ImageID: wrong})
	if q.Hashed || time.Since(begin) > 2*time.Second {
		t.Errorf("hashed %v after %v", q.Hashed, time.Since(begin))
	}
	right := wrong
	right.Change++
	if q := m.WithHashes(t.Context(), &event.Process{Key: key(1), Image: path, ImageID: right}); !q.Hashed || q.SHA256 != sha256.Sum256([]byte("something else")) {
		t.Errorf("by path: hashed %v", q.Hashed)
	}
	m.cfg.MaxHashBytes = 5
	if _, err := m.hashPath(t.Context(), path, right); !errors.Is(err, errTooLarge) {
		t.Errorf("too large: got %v", err)
	}
	if err := m.cfg.withDefaults().MaxHashBytes; err != 5 {
		t.Errorf("a set bound was changed to %d", err)
	}
	if m.WithHashes(t.Context(), nil) != nil {
		t.Error("nil became somebody")
	}
}

// Ensure the event path never waits for hashing.
func TestHashQueueFull(t *testing.T) {
	m := newMachine(t, func(c *Config) { c.HashQueue = 2 })
	for i := range uint64(10) {
		m.Observe(&event.Exec{Header: m.head(key(1), event.ProcessKey{}), Path: []byte("/x"), Image: event.ImageID{Inode: i + 1, NLink: 1}})
	}
	if s := m.Stats(); s.HashDropped != 8 {
		t.Errorf("dropped %d, want 8", s.HashDropped)
	}
}

// Ensure a finding does not wait for a hash that does not come.
func TestHashWaitBounded(t *testing.T) {
	m := newMachine(t) // Run is not running
	done := make(chan *event.Process)
	go func() {
		done <- m.WithHashes(t.Context(), &event.Process{Key: key(1), Image: "/x", ImageID: event.ImageID{Inode: 1}})
	}()
	select {
	case p := <-done:
		if p.Hashed {
			t.Error("hashed by nobody")
		}
	case <-time.After(slow.Deadline(5 * time.Second)):
		t.Fatal("still waiting")
	}
}
