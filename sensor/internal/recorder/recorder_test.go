package recorder

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What is recorded is in the file after promised; slack is what a machine that runs
// many tests may take from us.
const promised, slack = time.Second, time.Second

var bootID = [16]byte{0xb0, 1}

// clocks are a machine's two clocks.
type clocks struct {
	boot uint64
	wall time.Time
}

func (c *clocks) now() time.Time   { return c.wall }
func (c *clocks) boottime() uint64 { return c.boot }

func newClocks() *clocks {
	return &clocks{boot: 1_000_000_000_000, wall: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
}

func (c *clocks) pass(d time.Duration) {
	c.boot += uint64(d)
	c.wall = c.wall.Add(d)
}

func (c *clocks) config() Config {
	return Config{Boot: bootID, Version: "v1", Now: c.now, Boottime: c.boottime}
}

func process(pid uint32) *event.Process {
	return &event.Process{
		Key: event.ProcessKey{PID: pid, Start: uint64(pid) * 1000}, Parent: &event.Process{Key: event.ProcessKey{PID: 1, Start: 7}},
		Image: "/usr/bin/prog\xff", Argv: []string{"prog", fmt.Sprint(pid), "\xfe"}, ArgvBytes: 99, ArgvTruncated: true,
		UID: 1000, User: "alice", LoginUID: 1000, Cwd: "/home/alice", Unit: "x.service", Container: "c1",
		Interpreter: "/bin/sh", Script: "./s.sh", Traits: []string{"memfd"}, Hashed: true, SHA256: [32]byte{1},
		Anchor: event.ProcessKey{PID: 900, Start: 5},
	}
}

func exit(c *clocks, pid uint32, code int32) *event.Exit {
	return &event.Exit{Header: event.Header{Time: c.boot, Process: event.ProcessKey{PID: pid, Start: uint64(pid) * 1000}}, Code: code}
}

// all reads what is in dir.
func all(t *testing.T, dir string) ([]*Record, Stats) {
	t.Helper()
	var records []*Record
	stats, err := Read(t.Context(), dir, time.Time{}, time.Time{}, func(r *Record) error {
		records = append(records, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return records, stats
}

func types(records []*Record) string {
	var names []string
	for _, r := range records {
		names = append(names, r.Type)
	}
	return strings.Join(names, " ")
}

func segments(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func total(t *testing.T, dir string) (sum int64) {
	t.Helper()
	for _, path := range segments(t, dir) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	return sum
}

func attr(r *Record, name string) Attr {
	for _, a := range r.Attrs {
		if a.Name == name {
			return a
		}
	}
	return Attr{}
}

// Ensure each type of event comes back as it went in, with who did it.
func TestRoundTrip(t *testing.T) {
	c := newClocks()
	dir := filepath.Join(t.TempDir(), "recorder")
	r := Open(dir, c.config())
	p := process(42)
	head := event.Header{Time: c.boot + 5, Process: p.Key, UID: 1000, NetNS: 4}
	local, remote := netip.MustParseAddrPort("10.0.0.1:4444"), netip.MustParseAddrPort("[2001:db8::1]:443")
	flow := &event.Flow{Proto: 6, Local: local, Remote: remote, Name: "c2.example", BytesIn: 1, BytesOut: 2, Failed: true}
	for _, ev := range []event.Event{
		&event.Exec{Header: head, Filename: []byte("./p\xff"), Path: []byte("/p"), Image: event.ImageID{Inode: 9}, LoginUID: 3, SetID: true},
		&event.Fork{Header: head, Child: event.ProcessKey{PID: 43, Start: 44}},
		&event.FlowOpen{Header: head, Flow: event.FlowID{Cookie: 8}, Proto: 6, Local: local, Remote: remote},
		&event.FlowClose{Header: head, Proto: 6, Local: local, Remote: remote, BytesIn: 1, Opened: c.boot, PacketsIn: 3},
		&event.DNS{Header: head, Response: true, Name: "a.example", Type: 28, Addrs: []netip.Addr{remote.Addr()}, CNAMEs: []string{"b.example"}, Local: local, Remote: remote},
		&event.Exit{Header: head, Code: 3, Signal: 9},
		strange{&head},
	} {
		f := flow
		if _, opens := ev.(*event.FlowOpen); !opens {
			f = nil
		}
		r.Record(ev, p, f)
	}
	r.Record(&event.Exit{Header: event.Header{Time: c.boot + 1, Process: event.ProcessKey{PID: 5, Start: 6}, Comm: [16]byte{'x'}}}, nil, nil)
	r.NoteLosses([]event.Loss{{Where: "ring", Cause: "full", Count: 3}})
	r.NoteLosses([]event.Loss{{Where: "ring", Cause: "full", Count: 5}})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	records, stats := all(t, dir)
	if got, want := types(records), "sensor-start exec fork flow-open flow-close dns exit other exit loss loss sensor-stop"; got != want || stats.Damaged != 0 {
		t.Fatalf("got %q, %+v, want %q", got, stats, want)
	}
	want := &Process{
		Key: p.Key, Described: true, Parent: event.ProcessKey{PID: 1, Start: 7}, Image: p.Image, Argv: p.Argv, ArgvBytes: 99,
		ArgvTruncated: true, UID: 1000, LoginUID: 1000, User: "alice", Cwd: p.Cwd, Unit: p.Unit, Container: "c1",
		Interpreter: p.Interpreter, Script: p.Script, Traits: p.Traits, SHA256: string(p.SHA256[:]),
	}
	for _, rec := range records[1:8] {
		if diff := cmp.Diff(want, rec.Process); diff != "" {
			t.Errorf("%s: process (-want +got):\n%s", rec.Type, diff)
		}
		if rec.Storyline != p.Anchor || rec.BootNs != c.boot+5 || !rec.Time.Equal(c.wall.Add(5)) || rec.Boot != bootID {
			t.Errorf("%s: %+v", rec.Type, rec)
		}
	}
	exec := records[1]
	if attr(exec, "filename").Text != "./p\xff" || attr(exec, "inode").Uint != 9 || attr(exec, "set_id").Kind != KindTrue || attr(exec, "login_uid").Uint != 3 {
		t.Errorf("exec: %+v", exec.Attrs)
	}
	if attr(records[2], "child_pid").Uint != 43 || attr(records[2], "child_start").Uint != 44 {
		t.Errorf("fork: %+v", records[2].Attrs)
	}
	compare := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if diff := cmp.Diff(flow, records[3].Flow, compare, cmp.Comparer(func(a, b event.FlowID) bool { return true })); diff != "" {
		t.Errorf("flow (-want +got):\n%s", diff)
	}
	if f := records[4].Flow; f == nil || f.BytesIn != 1 || f.Remote != remote || attr(records[4], "duration_ns").Uint != 5 {
		t.Errorf("flow-close: %+v %+v", f, records[4].Attrs)
	}
	if d := records[5]; d.Flow == nil || d.Flow.Proto != 17 || cmp.Diff(attr(d, "addresses").List, []string{"2001:db8::1"}) != "" || attr(d, "query").Text != "a.example" {
		t.Errorf("dns: %+v", d)
	}
	if e := records[6]; attr(e, "code").Uint != 3 || attr(e, "signal").Uint != 9 {
		t.Errorf("exit: %+v", e.Attrs)
	}
	if !strings.Contains(attr(records[7], "event").Text, "strange") {
		t.Errorf("other: %+v", records[7].Attrs)
	}
	if e := records[8]; e.Process == nil || e.Process.Described || e.Process.Key.PID != 5 || attr(e, "comm").Text != "x" || e.BootNs != c.boot+1 {
		t.Errorf("exit of an unknown process: %+v", e)
	}
	if attr(records[9], "count").Uint != 3 || attr(records[10], "count").Uint != 2 || attr(records[10], "where").Text != "ring" {
		t.Errorf("losses: %+v %+v", records[9].Attrs, records[10].Attrs)
	}
}

type strange struct{ head *event.Header }

func (s strange) Head() *event.Header { return s.head }

// Ensure files are for root alone.
func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "recorder")
	if err := Open(dir, newClocks().config()).Close(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, segments(t, dir)[0]: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: got %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
}

// Ensure a step of the time of day loses nothing and changes no order.
func TestClockJump(t *testing.T) {
	c := newClocks()
	dir := t.TempDir()
	r := Open(dir, c.config())
	first := c.wall
	for i, step := range []time.Duration{0, -48 * time.Hour, 96 * time.Hour} {
		c.wall = c.wall.Add(step)
		c.pass(time.Second)
		r.Record(exit(c, 1, int32(i)), nil, nil)
		if err := r.flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	records, _ := all(t, dir)
	if got, want := types(records), "sensor-start exit exit exit sensor-stop"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := 1; i < len(records); i++ {
		if records[i].BootNs < records[i-1].BootNs {
			t.Errorf("record %d before %d", i, i-1)
		}
	}
	if got, want := records[2].Time, first.Add(2*time.Second-48*time.Hour); !got.Equal(want) {
		t.Errorf("after the step: got %s, want %s", got, want)
	}
	// What is asked by time finds the record of two days before in between.
	found := 0
	if _, err := Read(t.Context(), dir, first.Add(-49*time.Hour), first.Add(-47*time.Hour), func(r *Record) error {
		if r.Time.Before(first.Add(-47 * time.Hour)) {
			found++
		}
		return nil
	}); err != nil || found != 1 {
		t.Errorf("by time: got %d, %v, want 1", found, err)
	}
}

// Ensure a segment that was ended by will is passed over when nothing in it is asked for.
func TestTimeSkipsSegments(t *testing.T) {
	c := newClocks()
	dir := t.TempDir()
	if err := Open(dir, c.config()).Close(); err != nil {
		t.Fatal(err)
	}
	read := func(from, to time.Time) (n int) {
		if _, err := Read(t.Context(), dir, from, to, func(*Record) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if got := read(c.wall.Add(time.Second), time.Time{}) + read(time.Time{}, c.wall.Add(-time.Second)); got != 0 {
		t.Errorf("beside it: got %d records, want 0", got)
	}
	if got := read(c.wall.Add(-time.Second), c.wall.Add(time.Second)); got != 2 {
		t.Errorf("around it: got %d records, want 2", got)
	}
}

// Ensure the ring keeps to its bound and drops the oldest whole.
func TestRingBound(t *testing.T) {
	c := newClocks()
	dir := t.TempDir()
	cfg := c.config()
	cfg.MaxBytes = MinBytes
	r := Open(dir, cfg)
	const events = 200_000
	for i := range events {
		c.pass(time.Millisecond)
		p := process(uint32(i)%3000 + 2)
		r.Record(exit(c, p.Key.PID, int32(i&0x7fffffff)), p, nil)
		if i%400 == 0 {
			if err := r.flush(); err != nil {
				t.Fatal(err)
			}
			if i%4000 == 0 {
				if got := total(t, dir); got > MinBytes {
					t.Fatalf("after %d events: %d bytes, want at most %d", i, got, MinBytes)
				}
			}
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if got := total(t, dir); got > MinBytes || got < MinBytes/2 {
		t.Errorf("got %d bytes, want nearly %d", got, MinBytes)
	}
	if losses := r.Losses(); losses != nil {
		t.Errorf("losses: %+v", losses)
	}
	records, stats := all(t, dir)
	if stats.Damaged != 0 || len(records) < 1000 {
		t.Fatalf("%d records, %+v", len(records), stats)
	}
	next := uint64(events) - uint64(len(records)) + 1 // sensor-stop is one of them
	for _, rec := range records[:len(records)-1] {
		if got := attr(rec, "code").Uint; got != next || !rec.Process.Described {
			t.Fatalf("got event %d, described %v, want %d described", got, rec.Process.Described, next)
		}
		next++
	}
}

// Ensure processes that act on and on are described again where the ring has dropped
// what described them, and what became of one, under the same key, as itself.
func TestLongLives(t *testing.T) {
	c := newClocks()
	dir := t.TempDir()
	cfg := c.config()
	cfg.MaxBytes = MinBytes
	r := Open(dir, cfg)
	first, second := process(7), process(8)
	third := process(7)
	third.Image = "/usr/bin/other"
	actors := []*event.Process{first, second, third, second, first, third}
	path := make([]byte, 1000) // random, so that little fills the ring
	for i := range 60_000 {
		c.pass(time.Millisecond)
		p := actors[i%len(actors)]
		_, _ = rand.Read(path)
		r.Record(&event.File{Header: event.Header{Time: c.boot, Process: p.Key}, Path: path, Inode: uint64(i)}, p, nil)
		if i%40 == 0 {
			if err := r.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	records, stats := all(t, dir)
	if stats.Damaged != 0 || len(records) < 100 || types(records[:1]) == "sensor-start" {
		t.Fatalf("%d records, %+v", len(records), stats)
	}
	for _, rec := range records[:len(records)-1] {
		i := attr(rec, "inode").Uint
		want := actors[i%uint64(len(actors))]
		if got := rec.Process; !got.Described || got.Key != want.Key || got.Image != want.Image {
			t.Fatalf("event %d: got %+v, want %+v", i, got, want)
		}
	}
}

// Ensure what finds no room is counted, to the last event, and told as a record.
func TestQueueFull(t *testing.T) {
	c := newClocks()
	dir := t.TempDir()
	r := Open(dir, c.config())
	const events = 200_000
	for i := range events {
		r.Record(exit(c, 1, int32(i)), nil, nil)
	}
	lost := r.Losses()
	if len(lost) != 1 || lost[0].Cause != "queue-full" || lost[0].Where != "recorder" {
		t.Fatalf("losses: %+v", lost)
	}
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	r.NoteLosses(lost)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	records, _ := all(t, dir)
	exits := strings.Count(types(records), "exit")
	if uint64(exits)+lost[0].Count != events {
		t.Errorf("%d recorded and %d lost, want %d together", exits, lost[0].Count, events)
	}
	if told := records[len(records)-2]; told.Type != TypeLoss || attr(told, "count").Uint != lost[0].Count {
		t.Errorf("told: %+v", told)
	}
}

// Ensure a record larger than the bound is counted and hurts no other.
func TestTooLarge(t *testing.T) {
	c := newClocks()
	dir := t.TempDir()
	r := Open(dir, c.config())
	huge := process(7)
	head := event.Header{Time: c.boot, Process: huge.Key}
	long := strings.Repeat("x", maxText)
	names := []string{long, long, long, long, long, long, long, long, long}
	r.Record(&event.DNS{Header: head, Response: true, CNAMEs: names}, huge, nil)
	r.Record(&event.Exit{Header: head}, huge, nil)
	if got := r.Losses(); len(got) != 1 || got[0].Cause != "too-large" || got[0].Count != 1 {
		t.Errorf("losses: %+v", got)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	records, _ := all(t, dir)
	if got := types(records); got != "sensor-start exit sensor-stop" || !records[1].Process.Described {
		t.Errorf("got %q", got)
	}
}

// Ensure Run writes within a second, and a Recorder that is not there does nothing.
func TestRunFlushes(t *testing.T) {
	dir := t.TempDir()
	r := Open(dir, Config{Boot: bootID})
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() { r.Run(done); close(ended) }()
	began := time.Now()
	r.Record(exit(newClocks(), 1, 0), nil, nil)
	for {
		if records, _ := all(t, dir); len(records) == 2 {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("not written in 10 s")
		}
		runtime.Gosched()
	}
	if took := time.Since(began); took > promised+slack {
		t.Errorf("written after %s, want at most %s", took, promised)
	}
	close(done)
	<-ended
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r.Record(exit(newClocks(), 1, 0), nil, nil)

	var none *Recorder
	none.Record(exit(newClocks(), 1, 0), nil, nil)
	none.NoteLosses([]event.Loss{{Count: 1}})
	none.Run(nil)
	if none.Losses() != nil || none.Close() != nil {
		t.Error("a nil Recorder is not silent")
	}
}

// Ensure an interrupted reading ends.
func TestReadStops(t *testing.T) {
	dir := t.TempDir()
	if err := Open(dir, newClocks().config()).Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, dir, time.Time{}, time.Time{}, func(*Record) error { return nil }); err == nil {
		t.Error("no error")
	}
	n := 0
	if _, err := Read(t.Context(), dir, time.Time{}, time.Time{}, func(*Record) error { n++; return ErrStop }); err != nil || n != 1 {
		t.Errorf("got %d, %v", n, err)
	}
}
