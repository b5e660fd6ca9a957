package spool_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// record carries its name so that what comes out can be told apart.
func record(name string, size int) *sensorv1.Record {
	return &sensorv1.Record{Time: 1, Body: &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{
		Storyline: name, Process: &sensorv1.Process{Cwd: make([]byte, size)},
	}}}
}

func name(r *sensorv1.Record) string { return r.GetFlowNote().GetStoryline() }

func open(t testing.TB, dir string, cfg spool.Config) *spool.Spool {
	t.Helper()
	if cfg.KernelBoot == "" {
		cfg.KernelBoot = "boot-1"
	}
	s, err := spool.Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t testing.TB, s *spool.Spool, critical bool, names ...string) {
	t.Helper()
	for _, n := range names {
		if err := s.Append(record(n, 10), critical); err != nil {
			t.Fatal(err)
		}
	}
}

// drain takes all that is there without waiting, in batches of limit.
func drain(t testing.TB, s *spool.Spool, limit int) (names []string, boot []byte, last uint64) {
	t.Helper()
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		b, prev, recs, err := s.Next(over, limit)
		if err != nil {
			return names, boot, last
		}
		if string(b) == string(boot) && prev != last {
			t.Fatalf("batch follows %d, the one before ended with %d", prev, last)
		}
		boot, last = b, recs[len(recs)-1].GetSequence()
		for _, r := range recs {
			if r.GetSequence() <= prev {
				t.Fatalf("sequence %d after %d", r.GetSequence(), prev)
			}
			prev = r.GetSequence()
			names = append(names, name(r))
		}
	}
}

func expect(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// Ensure records of both classes come in the order of Append, once, and again after Rewind.
func TestOrderAndRewind(t *testing.T) {
	s := open(t, t.TempDir(), spool.Config{})
	put(t, s, false, "a", "b")
	put(t, s, true, "c")
	put(t, s, false, "d")
	got, boot, last := drain(t, s, 2)
	expect(t, "first", got, "a", "b", "c", "d")
	got, _, _ = drain(t, s, 2)
	expect(t, "once", got)
	s.Rewind(boot, 2)
	got, _, _ = drain(t, s, 9)
	expect(t, "after rewind", got, "c", "d")
	if err := s.Acknowledge(boot, 3); err != nil {
		t.Fatal(err)
	}
	if string(s.Restart()) != string(boot) {
		t.Error("Restart names another stream")
	}
	got, _, _ = drain(t, s, 9)
	expect(t, "after acknowledge", got, "d")
	if err := s.Acknowledge(boot, last); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Records != 0 || len(st.Dropped) != 0 || st.DiskError != nil {
		t.Errorf("stats: %+v", st)
	}
}

// Ensure Next waits, and ends with its context and with the spool.
func TestNextBlocks(t *testing.T) {
	s := open(t, t.TempDir(), spool.Config{})
	got := make(chan string)
	go func() {
		defer close(got)
		for {
			_, _, recs, err := s.Next(context.Background(), 10)
			if errors.Is(err, spool.ErrClosed) {
				return
			}
			for _, r := range recs {
				got <- name(r)
			}
		}
	}()
	for _, n := range []string{"a", "b", "c"} {
		put(t, s, false, n)
		if g := <-got; g != n {
			t.Fatalf("got %q, want %q", g, n)
		}
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, more := <-got; more {
		t.Error("a record after Close")
	}
	if err := s.Append(record("x", 1), false); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("Append after Close: %v", err)
	}
}

// Ensure a restart continues the stream, a new kernel boot and a lost spool begin one.
func TestStreams(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, spool.Config{})
	put(t, s, false, "a", "b", "c")
	_, boot1, _ := drain(t, s, 9)
	if err := errors.Join(s.Acknowledge(boot1, 2), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, spool.Config{})
	put(t, s, false, "d")
	_, prev, recs, err := s.Next(t.Context(), 9)
	if err != nil || prev != 2 || len(recs) != 2 || recs[1].GetSequence() != 4 {
		t.Fatalf("after restart: prev %d, %d records, %v", prev, len(recs), err)
	}
	if err := errors.Join(s.Acknowledge(boot1, 4), s.Close()); err != nil {
		t.Fatal(err)
	}
	// all acknowledged: only the position file knows that 4 was given
	s = open(t, dir, spool.Config{})
	put(t, s, false, "e")
	boot, prev, recs, err := s.Next(t.Context(), 9)
	if err != nil || string(boot) != string(boot1) || prev != 4 || recs[0].GetSequence() != 5 {
		t.Fatalf("after all was acknowledged: prev %d, %v, %v", prev, recs, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, spool.Config{KernelBoot: "boot-2"})
	put(t, s, false, "f")
	boot, prev, recs, err = s.Next(t.Context(), 9)
	if err != nil || string(boot) != string(boot1) || prev != 4 || len(recs) != 1 || name(recs[0]) != "e" {
		t.Fatalf("the old boot's rest: prev %d, %v, %v", prev, recs, err)
	}
	boot, prev, recs, err = s.Next(t.Context(), 9)
	if err != nil || string(boot) == string(boot1) || prev != 0 || recs[0].GetSequence() != 1 || name(recs[0]) != "f" {
		t.Fatalf("the new boot: prev %d, %v, %v", prev, recs, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, spool.Config{KernelBoot: "boot-2"})
	if again := s.Restart(); string(again) == string(boot) {
		t.Error("a lost spool continued its stream")
	}
}

// Ensure nobody else can use the directory meanwhile.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, spool.Config{})
	if _, err := spool.Open(dir, spool.Config{}); !errors.Is(err, spool.ErrInUse) {
		t.Errorf("got %v, want %v", err, spool.ErrInUse)
	}
}

// Ensure each class has its own bound and the oldest go first, counted exactly.
func TestBound(t *testing.T) {
	s := open(t, t.TempDir(), spool.Config{MaxBytes: 256 << 10, Create: createUnsynced})
	put(t, s, true, "first finding")
	const n = 2000
	for i := range n {
		if err := s.Append(record(fmt.Sprint(i), 300), false); err != nil {
			t.Fatal(err)
		}
	}
	st := s.Stats()
	if st.Bytes > 256<<10+8<<10 {
		t.Errorf("%d bytes are kept", st.Bytes)
	}
	got, _, _ := drain(t, s, 100)
	if got[0] != "first finding" {
		t.Errorf("bulk pushed out a critical record: %v", got[0])
	}
	for i, g := range got[1:] {
		if want := fmt.Sprint(n - len(got) + 1 + i); g != want {
			t.Fatalf("record %d: got %s, want %s", i, g, want)
		}
	}
	if lost := st.Dropped["full:bulk"]; lost == 0 || int(lost) != n-len(got)+1 || len(st.Dropped) != 1 {
		t.Errorf("dropped %v, %d of %d came out", st.Dropped, len(got)-1, n)
	}
	for i := range n {
		if err := s.Append(record(fmt.Sprint(i), 300), true); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.Dropped["full:critical"] == 0 {
		t.Errorf("critical records have no bound: %+v", st)
	}
	if l := s.Losses(); len(l) != 2 || l[0].Where != "spool" || l[0].Cause != "full:bulk" {
		t.Errorf("losses: %+v", l)
	}
	if err := s.Append(record("huge", spool.MaxRecord), true); !errors.Is(err, spool.ErrTooLarge) || s.Stats().Dropped["too-large"] != 1 {
		t.Errorf("huge: %v", err)
	}
}

// Ensure damage costs only the damaged records, counted once.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, spool.Config{})
	for i := range 10 {
		put(t, s, false, fmt.Sprint(i))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		damage  func([]byte) []byte
		want    int
		dropped map[string]uint64
	}{
		{"torn tail", func(b []byte) []byte { return b[:len(b)-7] }, 9, map[string]uint64{"torn": 1}},
		{"a bit in the middle", func(b []byte) []byte { b[len(b)/2] ^= 4; return b }, 9, map[string]uint64{"damaged": 1}},
		{"header", func(b []byte) []byte { b[3] ^= 4; return b }, 10, map[string]uint64{}},
		{"a zeroed block", func(b []byte) []byte { clear(b[len(b)/4 : len(b)/2]); return b }, -1, nil},
		{"only the header left", func(b []byte) []byte { return b[:44] }, 0, map[string]uint64{"torn": 10}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := copyDir(t, dir)
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(files[0])), tt.damage(append([]byte(nil), whole...)), 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir, spool.Config{})
			got, _, _ := drain(t, s, 100)
			dropped := s.Stats().Dropped
			if tt.want < 0 {
				if dropped["damaged"] < 2 || len(got)+int(dropped["damaged"]) != 10 {
					t.Errorf("%d came out, dropped %v", len(got), dropped)
				}
			} else if len(got) != tt.want || dropped["torn"] != tt.dropped["torn"] || dropped["damaged"] != tt.dropped["damaged"] {
				t.Errorf("%d came out, dropped %v; want %d, %v", len(got), dropped, tt.want, tt.dropped)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, spool.Config{})
			if again := s.Stats().Dropped; again["torn"]+again["damaged"] != 0 {
				t.Errorf("counted again: %v", again)
			}
			again, boot, last := drain(t, s, 100)
			if len(again) != len(got) {
				t.Errorf("%d came out the second time", len(again))
			}
			// What was lost may have been sent: its sequence must not come again.
			if dropped["torn"]+dropped["damaged"] > 0 {
				put(t, s, false, "next")
				if _, fresh, first := drain(t, s, 100); string(fresh) == string(boot) || first != 1 {
					t.Errorf("the damaged stream goes on after %d with %d", last, first)
				}
			}
		})
	}
}

// Ensure records that the coordinator has are not called lost when they go.
func TestBoundSparesAcknowledged(t *testing.T) {
	s := open(t, t.TempDir(), spool.Config{MaxBytes: 256 << 10, Create: createUnsynced})
	fill := func(n int) {
		for range n {
			if err := s.Append(record("x", 300), false); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(5)
	_, boot, last := drain(t, s, 100)
	if err := s.Acknowledge(boot, last); err != nil {
		t.Fatal(err)
	}
	const n = 2000
	fill(n)
	kept, _, _ := drain(t, s, 100)
	if st := s.Stats(); int(st.Dropped["full:bulk"]) != n-len(kept) {
		t.Errorf("dropped %v, %d of %d came out", st.Dropped, len(kept), n)
	}
}

// Ensure a coordinator that has more than the spool gave does not make it lose what follows.
func TestRestoredCopy(t *testing.T) {
	s := open(t, t.TempDir(), spool.Config{})
	put(t, s, false, "a", "b")
	boot := s.Restart()
	s.Rewind(boot, 50)
	put(t, s, false, "c")
	got, now, _ := drain(t, s, 9)
	expect(t, "records", got, "a", "b", "c")
	if string(now) == string(boot) {
		t.Error("they went out under sequences that the coordinator already has")
	}
}

func copyDir(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}
