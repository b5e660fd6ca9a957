package recorder

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// small records a few blocks, each with a process of its own and one of an earlier block.
func small(t *testing.T, dir string, c *clocks, blocks int) {
	t.Helper()
	r := Open(dir, c.config())
	for i := range blocks {
		c.pass(time.Second)
		p := process(uint32(i) + 10)
		r.Record(exit(c, p.Key.PID, int32(i)), p, nil)
		old := process(10)
		r.Record(exit(c, old.Key.PID, int32(i)), old, nil)
		if err := r.flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// ends returns where each block of a segment ends.
func ends(data []byte) (all []int) {
	off := fileHeader
	scan(data, func(_ header, payload []byte) bool {
		off += blockHeader + len(payload)
		all = append(all, off)
		return true
	})
	return all
}

// Ensure a segment that ends anywhere gives all that is whole in it, and that a
// recorder goes on behind that and says what happened.
func TestTornTail(t *testing.T) {
	c := newClocks()
	whole := t.TempDir()
	small(t, whole, c, 4)
	path := segments(t, whole)[0]
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wholeRecords, _ := all(t, whole)
	borders := ends(data)
	for size := range data {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), data[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		blocks := 0
		for _, end := range borders {
			if end <= size {
				blocks++
			}
		}
		want := 0
		if blocks > 0 {
			want = 1 + 2*blocks // with the start in the first one
		}
		want = min(want, len(wholeRecords))
		records, stats := all(t, dir)
		if len(records) != want || stats.Damaged != 0 {
			t.Fatalf("%d of %d bytes: got %d records, %+v, want %d", size, len(data), len(records), stats, want)
		}
		r := Open(dir, c.config())
		if blocks > 0 && total(t, dir) != int64(borders[blocks-1]) {
			t.Fatalf("%d of %d bytes: cut to %d, want %d", size, len(data), total(t, dir), borders[blocks-1])
		}
		if err := errors.Join(r.flush(), r.disk.seal()); err != nil { // Close without fsync, 2,000 times
			t.Fatal(err)
		}
		records, stats = all(t, dir)
		if got, expect := types(records[want:]), "sensor-unclean-stop sensor-start"; got != expect || stats.Damaged != 0 {
			t.Fatalf("%d of %d bytes: behind the tail: got %q, %+v, want %q", size, len(data), got, stats, expect)
		}
		torn := size > fileHeader && !slices.Contains(borders, size)
		if got := len(r.Losses()) > 0; got != torn && size > fileHeader {
			t.Fatalf("%d of %d bytes: told as a torn tail: %v, want %v", size, len(data), got, torn)
		}
	}
}

// Ensure a flipped byte costs no record but those of its block, and these are counted.
func TestFlippedBytes(t *testing.T) {
	c := newClocks()
	dir := t.TempDir()
	small(t, dir, c, 5)
	path := segments(t, dir)[0]
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := all(t, dir)
	borders := ends(data)
	for at := fileHeader; at < len(data)-sealSize; at++ {
		broken := bytes.Clone(data)
		broken[at] ^= 0x41
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		hit := slices.IndexFunc(borders, func(end int) bool { return at < end })
		lost := 2
		if hit == 0 || hit == len(borders)-1 {
			lost = 3 // with the start; the stop is in a block of its own
		}
		if hit == len(borders)-1 {
			lost = 1
		}
		got, stats := all(t, dir)
		if len(got) != len(want)-lost || stats.Damaged != uint64(lost) {
			t.Fatalf("byte %d, block %d: got %d records, %+v, want %d and %d damaged", at, hit, len(got), stats, len(want)-lost, lost)
		}
		for _, r := range got {
			if r.Type == "exit" && r.Process.Key.PID == 0 {
				t.Fatalf("byte %d: a record without its process: %+v", at, r)
			}
		}
	}
}

// Ensure a segment of which nothing is left hides neither the older nor the newer ones.
func TestRuinedSegment(t *testing.T) {
	c := newClocks()
	dir := t.TempDir()
	small(t, dir, c, 2)
	before, _ := all(t, dir)
	ruin := filepath.Join(dir, segmentName(2))
	if err := os.WriteFile(ruin, bytes.Repeat([]byte("ruin"), 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	small(t, dir, c, 2)
	after, stats := all(t, dir)
	if stats.Damaged != 0 || len(after) != 2*len(before)+1 {
		t.Errorf("got %q, %+v", types(after), stats)
	}
	if got := len(segments(t, dir)); got != 3 {
		t.Errorf("got %d segments, want 3", got)
	}
}

// Ensure a restart goes on in the same segment, so that many restarts are not many files.
func TestRestarts(t *testing.T) {
	c := newClocks()
	dir := t.TempDir()
	for range 20 {
		small(t, dir, c, 1)
	}
	records, stats := all(t, dir)
	if got := len(segments(t, dir)); got != 1 || stats.Damaged != 0 || len(records) != 20*4 {
		t.Errorf("got %d segments, %d records, %+v", got, len(records), stats)
	}
	for _, r := range records {
		if r.Type == "exit" && !r.Process.Described {
			t.Errorf("not described: %+v", r)
		}
	}
}

const onTmpfs = "VEDETTE_TEST_SMALL_TMPFS"

// Ensure a full disk pauses the recording, is counted exactly, and that the
// recording goes on by itself. The disk is a tmpfs of 1 MiB that only a child of
// this test sees.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv(onTmpfs); dir != "" {
		fullDisk(t, dir)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs CAP_SYS_ADMIN to mount a tmpfs (run as root)")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), onTmpfs+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func fullDisk(t *testing.T, mount string) {
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(mount, "filler")
	if err := os.WriteFile(filler, make([]byte, 900<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newClocks()
	dir := filepath.Join(mount, "recorder")
	r := Open(dir, c.config())
	sent, first := uint64(0), uint32(2)
	record := func(n int) {
		for range n {
			c.pass(time.Microsecond)
			p := process(uint32(sent)%200 + first)
			r.Record(exit(c, p.Key.PID, int32(sent)), p, nil)
			sent++
		}
	}
	var err error
	for round := 0; err == nil; round++ {
		if round > 1000 {
			t.Fatal("the disk never got full")
		}
		record(1000)
		err = r.flush()
	}
	record(500) // while paused
	paused := r.Losses()
	if len(paused) != 1 || paused[0].Cause != "disk-full" || paused[0].Count < 501 {
		t.Fatalf("losses: %+v", paused)
	}
	fill(t, filepath.Join(mount, "rest"))
	r.resume()
	first = 1000 // what is described now is lost, and is to be described again
	record(1500) // some full blocks and one that is not
	if r.flush() == nil {
		t.Fatal("written to a full disk")
	}
	if got := r.Losses()[0].Count - paused[0].Count; got != 1500 {
		t.Fatalf("got %d more lost, want 1500", got)
	}
	paused = r.Losses()

	// From here on as in life: Run fails again, pauses, and takes it up again.
	r.resume()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { r.Run(done); close(ended) }()
	for lost(r, "disk-full") == paused[0].Count { // what finds no room until Run comes is lost as well
		record(1)
		runtime.Gosched()
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		before := lost(r)
		record(1)
		if lost(r) == before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("recording did not go on")
		}
		runtime.Gosched()
	}
	close(done)
	<-ended
	r.NoteLosses(r.Losses())
	gone := lost(r)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	records, stats := all(t, dir)
	exits := strings.Count(types(records), "exit")
	if stats.Damaged != 0 || uint64(exits)+gone != sent {
		t.Errorf("%d recorded, %d lost, %d sent, %+v", exits, gone, sent, stats)
	}
	for _, rec := range records {
		if rec.Type == "exit" && !rec.Process.Described {
			t.Fatalf("not described: %+v", rec)
		}
	}
	if told := records[len(records)-2]; told.Type != TypeLoss || attr(told, "cause").Text != "disk-full" {
		t.Errorf("not told: %+v", told)
	}
}

// lost is what was not recorded, by any of these causes; none: by any at all.
func lost(r *Recorder, causes ...string) (sum uint64) {
	for _, l := range r.Losses() {
		if len(causes) == 0 || slices.Contains(causes, l.Cause) {
			sum += l.Count
		}
	}
	return sum
}

// fill takes what is left of a disk.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for page := make([]byte, 4096); ; {
		if _, err := f.Write(page); errors.Is(err, unix.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// Ensure segments that the ring drops under a reader are not called damaged.
func TestRingMovesUnderReader(t *testing.T) {
	c := newClocks()
	dir := t.TempDir()
	cfg := c.config()
	cfg.MaxBytes = MinBytes
	r := Open(dir, cfg)
	for i := range 40_000 {
		p := process(uint32(i)%3000 + 2)
		r.Record(exit(c, p.Key.PID, int32(i)), p, nil)
		if i%400 == 0 {
			if err := r.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	paths := segments(t, dir)
	if len(paths) < 4 {
		t.Fatalf("got %d segments, want some", len(paths))
	}
	n := 0
	stats, err := Read(t.Context(), dir, time.Time{}, time.Time{}, func(*Record) error {
		if n++; n == 1 {
			return errors.Join(os.Remove(paths[1]), os.Remove(paths[2]))
		}
		return nil
	})
	if err != nil || stats.Damaged != 0 || n < 1000 {
		t.Errorf("got %d records, %+v, %v", n, stats, err)
	}
}

// Ensure a recorder whose folder cannot be made yet takes it up when it can.
func TestFolderComesLater(t *testing.T) {
	c := newClocks()
	parent := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(parent, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "recorder")
	r := Open(dir, c.config())
	r.Record(exit(c, 1, 0), nil, nil)
	if r.flush() == nil {
		t.Fatal("no error")
	}
	if got := r.Losses(); len(got) != 1 || got[0].Cause != "write-failed" || got[0].Count != 2 {
		t.Errorf("losses: %+v, want the start and the exit", got)
	}
	if err := os.Remove(parent); err != nil {
		t.Fatal(err)
	}
	r.resume()
	r.Record(exit(c, 2, 0), nil, nil)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if records, _ := all(t, dir); types(records) != "exit sensor-stop" {
		t.Errorf("got %q", types(records))
	}
}

// Ensure a reader beside the writer sees a run of what was recorded, in order and
// without damage, whenever it looks, and while the ring moves on.
func TestReadWhileWriting(t *testing.T) {
	c := newClocks()
	dir := t.TempDir()
	cfg := c.config()
	cfg.MaxBytes = MinBytes
	r := Open(dir, cfg)
	ctx, stop := context.WithCancel(t.Context())
	written := make(chan error, 1)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			c.pass(time.Millisecond)
			p := process(uint32(i)%2000 + 2)
			r.Record(exit(c, p.Key.PID, int32(i)), p, nil)
			if i%100 == 0 {
				if err := r.flush(); err != nil {
					written <- err
					return
				}
			}
		}
		written <- r.Close()
	}()
	read := 0
	for looks := 0; looks < 20 || read < 50_000; looks++ {
		last := int64(-1)
		stats, err := Read(t.Context(), dir, time.Time{}, time.Time{}, func(rec *Record) error {
			if rec.Type != "exit" {
				return nil
			}
			code := int64(attr(rec, "code").Uint)
			if code <= last || !rec.Process.Described || rec.Process.Key.PID != uint32(code)%2000+2 {
				t.Errorf("event %d after %d: %+v", code, last, rec.Process)
				return ErrStop
			}
			last = code
			read++
			return nil
		})
		if err != nil || stats.Damaged != 0 {
			t.Fatalf("look %d: %+v, %v", looks, stats, err)
		}
	}
	stop()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
}
