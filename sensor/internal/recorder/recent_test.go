package recorder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// filled is a folder of several segments, records a second apart.
func filled(t *testing.T, records int) (dir string, c *clocks) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "recorder")
	c = newClocks()
	cfg := c.config()
	cfg.MaxBytes = MinBytes
	r := Open(dir, cfg)
	for i := range records {
		p := process(uint32(i%50 + 100))
		p.Argv = append(p.Argv, fmt.Sprintf("%x%x%x", i*7919, i*104729, i*1299709))
		r.Record(&event.Exec{Header: event.Header{Time: c.boot, Process: p.Key}, Path: []byte(p.Image), ArgvHash: uint64(i) * 2654435761}, p, nil)
		c.pass(time.Second)
		if i%512 == 0 {
			if err := r.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(segments(t, dir)); n < 3 {
		t.Fatalf("%d segments, want some", n)
	}
	return dir, c
}

// Ensure the newest segment comes first, nothing is missing and each record is the same.
func TestRecent(t *testing.T) {
	dir, _ := filled(t, 12000)
	want, _ := all(t, dir)
	var got []*Record
	reached, err := Recent(t.Context(), dir, time.Time{}, time.Time{}, nil, func(r *Record) error {
		got = append(got, r)
		return nil
	})
	if err != nil || reached.Damaged != 0 {
		t.Fatalf("%v, %+v", err, reached)
	}
	turns := 0
	for i := 1; i < len(got); i++ {
		if got[i].Time.Before(got[i-1].Time) {
			turns++
		}
	}
	if turns != len(segments(t, dir))-1 || !got[0].Time.After(want[len(want)/2].Time) {
		t.Errorf("%d turns back in time, %d segments; begins at %s", turns, len(segments(t, dir)), got[0].Time)
	}
	if !reached.Oldest.Equal(want[0].Time) || !reached.Covered.Equal(want[0].Time) {
		t.Errorf("reached %+v, the oldest is %s", reached, want[0].Time)
	}
	slices.SortStableFunc(got, func(a, b *Record) int { return a.Time.Compare(b.Time) })
	slices.SortStableFunc(want, func(a, b *Record) int { return a.Time.Compare(b.Time) })
	if diff := cmp.Diff(want, got, cmp.AllowUnexported()); diff != "" {
		t.Errorf("(-read +recent):\n%.2000s", diff)
	}
}

// Ensure who asks for a span does not read all, and who stops early is told how far it was.
func TestRecentSpan(t *testing.T) {
	dir, c := filled(t, 12000)
	since := c.wall.Add(-10 * time.Minute)
	read := 0
	reached, err := Recent(t.Context(), dir, since, time.Time{}, nil, func(*Record) error { read++; return nil })
	if err != nil || !reached.Covered.Equal(since) || read < 600 || read > 9000 {
		t.Errorf("%v, %+v, %d records read", err, reached, read)
	}
	last := time.Time{}
	reached, err = Recent(t.Context(), dir, time.Time{}, time.Time{}, nil, func(r *Record) error {
		if r.Time.Before(last) { // the second segment
			return ErrStop
		}
		last = r.Time
		return nil
	})
	if err != nil || reached.Covered.IsZero() || !reached.Covered.After(reached.Oldest) {
		t.Errorf("%v, %+v", err, reached)
	}
	reached, err = Recent(t.Context(), dir, time.Time{}, time.Time{}, nil, func(*Record) error { return ErrStop })
	if err != nil || !reached.Covered.IsZero() || reached.Oldest.IsZero() {
		t.Errorf("%v, %+v", err, reached)
	}
	boom := errors.New("boom")
	if _, err = Recent(t.Context(), dir, time.Time{}, time.Time{}, nil, func(*Record) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	if _, err = Recent(t.Context(), filepath.Join(dir, "none"), time.Time{}, time.Time{}, nil, nil); !errors.Is(err, ErrNone) {
		t.Errorf("got %v", err)
	}
}

// Ensure what is damaged is passed over and counted, wherever it lies.
func TestRecentDamaged(t *testing.T) {
	dir, _ := filled(t, 6000)
	want, _ := all(t, dir)
	path := segments(t, dir)[1]
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{len(data) / 3, len(data) / 2} {
		data[at] ^= 0x55
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	read := uint64(0)
	reached, err := Recent(t.Context(), dir, time.Time{}, time.Time{}, nil, func(*Record) error { read++; return nil })
	if err != nil || reached.Damaged == 0 || read+reached.Damaged != uint64(len(want)) {
		t.Errorf("%v: %d read, %d damaged, of %d", err, read, reached.Damaged, len(want))
	}
}

// Ensure a record tells the rules what its event told them.
func TestObservation(t *testing.T) {
	c := newClocks()
	dir := filepath.Join(t.TempDir(), "recorder")
	r := Open(dir, c.config())
	p := process(42)
	p.Parent.Image = "/usr/sbin/nginx"
	head := event.Header{Time: c.boot, Process: p.Key, Parent: p.Parent.Key, UID: p.UID}
	events := []event.Event{
		&event.Exec{Header: head, Path: []byte(p.Image), Filename: []byte("./x"), SetID: true},
		&event.File{Header: head, Op: event.FileRename, Class: event.FilePersistence, Path: []byte("/etc/a"), Target: []byte("/etc/b\xff"), Mode: 0o104755, Owner: 5, Result: -13},
		&event.Privilege{Header: head, Operation: event.OpPtrace, Call: "ptrace", Command: 16, Target: event.ProcessKey{PID: 9, Start: 99}, Result: -1,
			UIDBefore: 1000, CapsBefore: 1, Caps: 3, Name: []byte("x"), Claimed: [][]byte{[]byte("y")}, Gained: true},
		&event.DNS{Header: head, Name: "a.example", Response: true, RCode: 3, CNAMEs: []string{"b.example"}},
		&event.Socket{Header: head, Family: event.FamilyPacket, Type: event.SocketTypeRaw, Protocol: 3, Errno: 1},
		&event.Login{Header: head, User: "alice", Via: "sshd", Terminal: "pts/1"},
	}
	for _, ev := range events {
		r.Record(ev, p, nil)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	var got []*event.Observation
	records, _ := all(t, dir)
	for _, record := range records {
		if o := record.Observation(record.Process.Process(p.Parent), nil); o != nil {
			got = append(got, o)
		}
	}
	if len(got) != len(events) {
		t.Fatalf("%d of %d", len(got), len(events))
	}
	if image := records[1].Text(AttrParentImage); image != "/usr/sbin/nginx" {
		t.Errorf("the parent of an exec: %q", image)
	}
	for i, o := range got {
		if o.Process.Image != p.Image || o.Process.Parent.Image != "/usr/sbin/nginx" || o.Process.Anchor != p.Anchor || o.Event.Head().Process != p.Key {
			t.Errorf("%T: %+v", events[i], o.Process)
		}
	}
	exec, file, privilege := got[0].Event.(*event.Exec), got[1].Event.(*event.File), got[2].Event.(*event.Privilege)
	dns, socket, login := got[3].Event.(*event.DNS), got[4].Event.(*event.Socket), got[5].Event.(*event.Login)
	if string(exec.Filename) != "./x" || !exec.SetID || len(exec.Argv) != 3 {
		t.Errorf("exec: %+v", exec)
	}
	if file.Op != event.FileRename || file.Class != event.FilePersistence || string(file.Target) != "/etc/b\xff" || file.Mode != 0o104755 || file.Owner != 5 || file.Result != -13 {
		t.Errorf("file: %+v", file)
	}
	if privilege.Operation != event.OpPtrace || privilege.Command != 16 || privilege.Target.Start != 99 || privilege.Result != -1 || privilege.Caps != 3 ||
		string(privilege.Name) != "x" || len(privilege.Claimed) != 1 || !privilege.Gained {
		t.Errorf("privilege: %+v", privilege)
	}
	if dns.Name != "a.example" || !dns.Response || dns.RCode != 3 || len(dns.CNAMEs) != 1 {
		t.Errorf("dns: %+v", dns)
	}
	if socket.Family != event.FamilyPacket || socket.Type != event.SocketTypeRaw || socket.Errno != 1 {
		t.Errorf("socket: %+v", socket)
	}
	if login.User != "alice" || login.Via != "sshd" || login.Terminal != "pts/1" || login.End {
		t.Errorf("login: %+v", login)
	}
}
