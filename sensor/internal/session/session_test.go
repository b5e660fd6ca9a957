package session

import (
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

func TestMain(m *testing.M) {
	if os.Getenv("VEDETTE_TEST_WORLD") != "" {
		os.Exit(world())
	}
	goleak.VerifyTestMain(m)
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// line is a record as login programs write it.
func line(kind uint16, pid uint32, terminal, user, host string, at time.Time, addr []byte) []byte {
	raw := make([]byte, recordSize)
	binary.LittleEndian.PutUint16(raw, kind)
	binary.LittleEndian.PutUint32(raw[4:], pid)
	copy(raw[8:40], terminal)
	copy(raw[44:76], user)
	copy(raw[76:332], host)
	binary.LittleEndian.PutUint32(raw[340:], uint32(at.Unix()))
	copy(raw[348:364], addr)
	return raw
}

// tracker has a wtmp of its own and a /proc that is empty.
func tracker(t *testing.T, pids ...uint32) (*Tracker, func(...[]byte)) {
	t.Helper()
	dir := t.TempDir()
	wtmp := filepath.Join(dir, "wtmp")
	old := line(userProcess, 1, "tty1", "before", "", noon, nil)
	if err := os.WriteFile(wtmp, old, 0o600); err != nil {
		t.Fatal(err)
	}
	tr := New(Config{Wtmp: wtmp, Proc: dir, Now: func() time.Time { return noon }, Find: func(pid uint32) (event.ProcessKey, bool) {
		for _, p := range pids {
			if p == pid {
				return event.ProcessKey{PID: pid, Start: uint64(pid) * 10}, true
			}
		}
		return event.ProcessKey{}, false
	}})
	return tr, func(lines ...[]byte) {
		t.Helper()
		f, err := os.OpenFile(wtmp, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, l := range lines {
			if _, err := f.Write(l); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func shell(session uint32) (*event.Exec, *event.Observation) {
	monitor := &event.Process{Key: event.ProcessKey{PID: 20, Start: 200}, Image: "/usr/lib/openssh/sshd-session"}
	p := &event.Process{
		Key: event.ProcessKey{PID: 30, Start: 300}, Parent: monitor, Image: "/usr/bin/bash", UID: 1000, User: "alice", SessionID: session,
		Origin: &event.Flow{Remote: netip.MustParseAddrPort("192.0.2.7:5000")}, Anchor: monitor.Key,
	}
	ev := &event.Exec{Header: event.Header{Process: p.Key, Parent: monitor.Key}, LoginUID: 1000, SessionID: session}
	return ev, &event.Observation{Event: ev, Time: noon, Process: p, Before: monitor}
}

// Ensure that a login is told once, with what the kernel, the connection and wtmp know,
// and its end when its first process ends.
func TestLogin(t *testing.T) {
	tr, write := tracker(t)
	write(line(userProcess, 20, "pts/4", "alice", "client.example", noon, []byte{192, 0, 2, 99}))
	ev, o := shell(5)
	got := tr.Observe(ev, o)
	want := event.Login{
		Header: ev.Header, User: "alice", LoginUID: 1000, SessionID: 5, Terminal: "pts/4", Via: "sshd",
		Source: netip.MustParseAddrPort("192.0.2.7:5000"), Host: "client.example",
	}
	if len(got) != 1 || *got[0] != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	if again := tr.Observe(ev, o); again != nil {
		t.Errorf("told again: %+v", again[0])
	}
	const sentence = "alice logged in through sshd from 192.0.2.7:5000 on pts/4 at 2026-03-01T12:00:00Z."
	if text := tr.Evidence(o.Process); text != sentence {
		t.Errorf("evidence %q", text)
	}
	if text := tr.Evidence(&event.Process{SessionID: event.NoSession}); text != "" {
		t.Errorf("evidence for another: %q", text)
	}
	tr.look()
	tr.look() // the record is told by the kernel's login already
	write(line(deadProcess, 20, "pts/4", "", "", noon, nil))
	tr.look()
	tr.look()
	exit := &event.Exit{Header: event.Header{Process: event.ProcessKey{PID: 20, Start: 200}, Time: 9}}
	got = tr.Observe(exit, nil)
	if len(got) != 1 || !got[0].End || got[0].SessionID != 5 || got[0].Time != 9 {
		t.Errorf("end %+v", got)
	}
	if again := tr.Observe(exit, nil); again != nil {
		t.Errorf("ended again: %+v", again)
	}
}

// Ensure that what is in no session, or in one that began before, is no login.
func TestNoLogin(t *testing.T) {
	dir := t.TempDir()
	for pid, id := range map[string]string{"1": "4294967295", "12": "7\n", "13": "3", "x": "99", "14": "bad"} {
		if err := os.MkdirAll(filepath.Join(dir, pid), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, pid, "sessionid"), []byte(id), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tr := New(Config{Proc: dir, Wtmp: filepath.Join(dir, "none")})
	for session, want := range map[uint32]int{event.NoSession: 0, 3: 0, 7: 0, 8: 1} {
		ev, o := shell(session)
		tr.Observe(ev, o)
		tr.look()
		if got := tr.Observe(&event.Fork{}, nil); got != nil {
			t.Errorf("session %d is told before its record could come", session)
		}
		tr.look()
		if got := tr.Observe(&event.Fork{}, nil); len(got) != want {
			t.Errorf("session %d: %d logins", session, len(got))
		}
	}
}

// Ensure that a login of which the kernel says nothing is told from wtmp, after the
// kernel had its time, with its end, and not when no such process lives.
func TestLoginByFile(t *testing.T) {
	tr, write := tracker(t, 40)
	write(line(userProcess, 40, "tty2", "bob", "", noon, make([]byte, 16)), line(userProcess, 41, "tty3", "ghost", "", noon, nil),
		line(userProcess, 40, "tty9", "old", "", noon.Add(-time.Hour), nil), []byte("torn"))
	tr.look()
	if got := tr.Observe(&event.Exit{}, nil); got != nil {
		t.Errorf("told at once: %+v", got[0])
	}
	tr.look()
	got := tr.Observe(&event.Exit{}, nil)
	if len(got) != 1 || got[0].User != "bob" || got[0].Terminal != "tty2" || got[0].Process.Start != 400 || got[0].Source.IsValid() || got[0].End {
		t.Fatalf("got %+v", got)
	}
	child := &event.Process{Key: event.ProcessKey{PID: 50}, SessionID: event.NoSession, Parent: &event.Process{Key: got[0].Process}}
	if text := tr.Evidence(child); !strings.HasPrefix(text, "bob logged in through utmp on tty2") {
		t.Errorf("evidence %q", text)
	}
	write(make([]byte, recordSize-len("torn"))) // the torn record is whole now, and nonsense
	write(line(deadProcess, 40, "tty2", "", "", noon, nil))
	tr.look()
	tr.look()
	if got := tr.Observe(&event.Exit{}, nil); len(got) != 1 || !got[0].End || got[0].User != "bob" {
		t.Errorf("end %+v", got)
	}
}

// Ensure that a file that is cut short, replaced, gone or no file is followed and hurts nobody.
func TestFileChanges(t *testing.T) {
	dir := t.TempDir()
	f := file{path: filepath.Join(dir, "wtmp")}
	look := func(want int) {
		t.Helper()
		got, err := f.look()
		if err != nil || len(got) != want {
			t.Errorf("%d records, %v; want %d", len(got), err, want)
		}
	}
	write := func(n int) {
		t.Helper()
		if err := os.WriteFile(f.path, make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	look(0)
	write(2 * recordSize)
	look(2)
	write(recordSize)
	look(1)
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	look(0)
	write(maxLook + 3*recordSize + 7)
	look(maxLook / recordSize)
	look(3)
	look(0)
	if err := os.Rename(f.path, f.path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(f.path+".1", f.path); err != nil {
		t.Fatal(err)
	}
	if _, err := f.look(); err == nil {
		t.Error("a link is followed")
	}
	f.path = dir
	if _, err := f.look(); err == nil {
		t.Error("a folder is read")
	}
}

// Ensure that the sessions that are remembered are bounded.
func TestManySessions(t *testing.T) {
	tr, _ := tracker(t)
	for i := range uint32(maxSessions + 10) {
		ev, o := shell(i + 1)
		tr.Observe(ev, o)
	}
	if len(tr.sessions) != maxSessions {
		t.Errorf("%d sessions", len(tr.sessions))
	}
}

// FuzzParse: any bytes are records or nothing.
func FuzzParse(f *testing.F) {
	f.Add(line(userProcess, 1, "pts/0", "root", "host", noon, []byte{10, 0, 0, 1}))
	f.Add(line(deadProcess, 1<<31, strings.Repeat("t", 40), strings.Repeat("\xff", 40), strings.Repeat("h", 300), noon, netip.MustParseAddr("2001:db8::1").AsSlice()))
	f.Fuzz(func(t *testing.T, raw []byte) {
		records := parse(raw)
		if len(records) != len(raw)/recordSize {
			t.Fatalf("%d records of %d bytes", len(records), len(raw))
		}
		tr := &Tracker{cfg: Config{Find: func(pid uint32) (event.ProcessKey, bool) { return event.ProcessKey{PID: pid}, pid != 0 }}}
		for _, r := range records {
			if len(r.terminal) > 32 || len(r.user) > 32 || len(r.host) > 256 {
				t.Fatalf("%+v", r)
			}
			tr.tell(r)
		}
		for _, s := range tr.sessions {
			_ = tr.Evidence(&event.Process{Key: s.Process})
		}
		if len(tr.pending) > maxPending || len(tr.sessions) > maxSessions {
			t.Fatal("a bound does not hold")
		}
	})
}
