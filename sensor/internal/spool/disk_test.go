package spool_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/spool"
)

// disk is a Create whose files fail on demand, keeping half of what is written then.
type disk struct {
	mu    sync.Mutex
	write error
	sync  error
	syncs int
}

func (d *disk) set(write, sync error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.write, d.sync = write, sync
}

func (d *disk) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs
}

func (d *disk) create(path string) (spool.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	return &diskFile{File: f, disk: d}, err
}

type diskFile struct {
	*os.File
	disk *disk
}

func (f *diskFile) Write(p []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.write != nil {
		n, _ := f.File.Write(p[:len(p)/2])
		return n, f.disk.write
	}
	return f.File.Write(p)
}

func (f *diskFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.syncs++
	if f.disk.sync != nil {
		return f.disk.sync
	}
	return f.File.Sync()
}

// Ensure a full or broken disk loses nothing while memory lasts, says so, and
// that the spool finds back to the disk by itself.
func TestDiskFails(t *testing.T) {
	for _, tt := range []struct {
		name        string
		write, sync error
		critical    bool
	}{
		{"full", syscall.ENOSPC, nil, false},
		{"full, critical", syscall.ENOSPC, nil, true},
		{"broken", syscall.EIO, syscall.EIO, false},
		{"sync fails", nil, syscall.EIO, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, d := t.TempDir(), new(disk)
				s := open(t, dir, spool.Config{Create: d.create})
				put(t, s, false, "a")
				put(t, s, true, "b")
				d.set(tt.write, tt.sync)
				put(t, s, tt.critical, "c", "d")
				if err := s.Stats().DiskError; err == nil {
					t.Error("the error is not surfaced")
				}
				got, _, _ := drain(t, s, 9)
				expect(t, "while it fails", got, "a", "b", "c", "d")
				s.Restart()
				<-time.After(5 * time.Second) // the retries run, in synctest's time
				if s.Stats().DiskError == nil {
					t.Error("a failing disk was taken for good")
				}
				put(t, s, tt.critical, "e")
				d.set(nil, nil)
				<-time.After(2 * time.Second)
				if err := s.Stats().DiskError; err != nil {
					t.Errorf("still failing: %v", err)
				}
				put(t, s, false, "f")
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, dir, spool.Config{})
				got, _, _ = drain(t, s, 9)
				expect(t, "after a restart", got, "a", "b", "c", "d", "e", "f")
				if dropped := s.Stats().Dropped; dropped["damaged"]+dropped["torn"] != 0 {
					t.Errorf("dropped %v", dropped)
				}
				_ = s.Close()
			})
		})
	}
}

// Ensure memory is bounded too, bulk goes first, and every record lost is counted.
func TestMemoryBound(t *testing.T) {
	d := new(disk)
	s := open(t, t.TempDir(), spool.Config{Create: d.create, MaxMemory: 4 << 10})
	d.set(syscall.ENOSPC, nil)
	put(t, s, true, "finding")
	for i := range 100 {
		if err := s.Append(record(fmt.Sprint(i), 100), false); err != nil {
			t.Fatal(err)
		}
	}
	got, _, _ := drain(t, s, 1000)
	if got[0] != "finding" || got[len(got)-1] != "99" {
		t.Errorf("kept %v", got)
	}
	if st := s.Stats(); st.Bytes > 5<<10 || int(st.Dropped["disk-error:bulk"]) != 101-len(got) {
		t.Errorf("%+v with %d kept", st, len(got))
	}
}

// Ensure a stream that failed in memory is never continued by a later process
// that does not know what memory had given.
func TestNoSequenceTwice(t *testing.T) {
	dir, d := t.TempDir(), new(disk)
	s := open(t, dir, spool.Config{Create: d.create})
	put(t, s, true, "a")
	d.set(syscall.ENOSPC, nil)
	put(t, s, true, "b")
	got, lost, last := drain(t, s, 9)
	expect(t, "records", got, "a", "b")
	// The disk is well again before the spool has tried, and takes a position.
	d.set(nil, nil)
	put(t, s, true, "b2")
	if err := s.Acknowledge(lost, last); err != nil {
		t.Fatal(err)
	}
	if s.Stats().DiskError == nil {
		t.Fatal("it tried too early for this test")
	}
	crashed := copyDir(t, dir)
	s2 := open(t, crashed, spool.Config{})
	put(t, s2, true, "c")
	for {
		over, cancel := context.WithCancel(t.Context())
		cancel()
		boot, _, _, err := s2.Next(over, 1)
		if err != nil {
			break
		}
		if string(boot) == string(lost) {
			t.Error("the stream that died with memory is used again")
		}
	}
}

// Ensure one sync serves many bulk records, and a critical one does not wait.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		s := open(t, t.TempDir(), spool.Config{Create: d.create})
		before := d.count()
		for range 100 {
			put(t, s, false, "x")
		}
		synctest.Wait()
		if d.count() != before {
			t.Errorf("%d syncs before the delay", d.count()-before)
		}
		<-time.After(200 * time.Millisecond)
		synctest.Wait()
		if d.count() != before+1 {
			t.Errorf("%d syncs for a hundred bulk records", d.count()-before)
		}
		put(t, s, true, "y")
		if d.count() != before+2 {
			t.Errorf("Append of a critical record returned after %d syncs, want 2", d.count()-before)
		}
		_ = s.Close()
	})
}

// Ensure what was written is handed out though somebody removed the folder since, also when the
// spool has noticed that its disk fails.
func TestFolderRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := open(t, dir, spool.Config{})
	put(t, s, true, "a", "b", "c")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	put(t, s, true, "d")
	boot, _, one, err := s.Next(t.Context(), 1)
	if err != nil || len(one) != 1 || name(one[0]) != "a" {
		t.Fatalf("%v, %v", one, err)
	}
	_ = s.Acknowledge(boot, one[0].GetSequence()) // the position cannot be written: it turns to memory
	put(t, s, true, "e")
	var rest []string
	for len(rest) < 4 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, _, more, err := s.Next(ctx, 10)
		cancel()
		if err != nil {
			t.Fatalf("after %q: %v; lost %v", rest, err, s.Losses())
		}
		for _, r := range more {
			rest = append(rest, name(r))
		}
	}
	expect(t, "the rest", rest, "b", "c", "d", "e")
}
