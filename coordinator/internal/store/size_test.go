package store

import (
	"bytes"
	"crypto/rand"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

var sizeMiB = flag.Int("size-mib", 0, "size of the state that BenchmarkSnapshotSize copies and restores, and that TestFill makes, MiB")

// BenchmarkSnapshotSize prints what a snapshot of a large state and its restore take, in
// wall and processor time, and the longest time that an entry waited while it was written:
//
//	go test ./coordinator/internal/store -run NONE -bench SnapshotSize -benchtime 1x -size-mib 2048
func BenchmarkSnapshotSize(b *testing.B) {
	if *sizeMiB == 0 {
		b.Skip("no -size-mib")
	}
	dir := b.TempDir()
	db, err := Open(b.Context(), filepath.Join(dir, "a.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	index := uint64(0)
	write := func(rows, size int) {
		index++
		if err := db.Update(index, func(tx *Tx) error { return tx.ballast(rows, size, func() []byte { return randomBytes(16) }) }); err != nil {
			b.Fatal(err)
		}
	}
	for sizeOf(b, db.path) < int64(*sizeMiB)<<20 {
		write(2000, 512)
	}
	size := float64(sizeOf(b, db.path)) / (1 << 20)
	snap := filepath.Join(dir, "snap")
	for b.Loop() {
		quiet := slowest(write, func() { <-time.After(2 * time.Second) })
		began, used := time.Now(), processor()
		busy := slowest(write, func() {
			f, err := os.Create(snap)
			if err == nil {
				err = db.Snapshot(f)
			}
			if err = errors.Join(err, f.Close()); err != nil {
				b.Error(err)
			}
		})
		b.ReportMetric(size/time.Since(began).Seconds(), "snapshot-MiB/s")
		b.ReportMetric((processor()-used).Seconds()/size*1024, "snapshot+writes-cpu-s/GiB")
		b.ReportMetric(float64(quiet.Microseconds())/1000, "slowest-entry-quiet-ms")
		b.ReportMetric(float64(busy.Microseconds())/1000, "slowest-entry-snapshot-ms")
		other, err := Open(b.Context(), filepath.Join(dir, "b.db"), nil)
		if err != nil {
			b.Fatal(err)
		}
		raw, err := os.ReadFile(snap)
		if err != nil {
			b.Fatal(err)
		}
		began, used = time.Now(), processor()
		if err := other.Restore(io.NopCloser(bytes.NewReader(raw))); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(size/time.Since(began).Seconds(), "restore-MiB/s")
		b.ReportMetric((processor()-used).Seconds()/size*1024, "restore-cpu-s/GiB")
		b.ReportMetric(float64(len(raw))/(1<<20), "snapshot-MiB")
		_ = other.Close()
	}
}

// ballast stores behaviours of so many bytes each.
func (tx *Tx) ballast(rows, size int, key func() []byte) error {
	for range rows {
		// Half of it compresses, as behaviours do.
		subject := append(make([]byte, size/2), randomBytes(size/2)...)
		if _, err := tx.exec("INSERT INTO behaviours (key, kind, subject, object, first_seen, hosts) VALUES (?, 1, ?, ?, 1, 1)", key(), subject, []byte("x")); err != nil {
			return err
		}
	}
	return nil
}

// slowest writes small entries while fn runs, and returns the longest that one took.
func slowest(write func(rows, size int), fn func()) (longest time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	for {
		select {
		case <-done:
			return longest
		default:
		}
		began := time.Now()
		write(20, 100)
		longest = max(longest, time.Since(began))
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func sizeOf(t testing.TB, path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// processor is the processor time of this process.
func processor() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails for no one's own
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
