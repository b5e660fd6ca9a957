package enrich

import (
	"slices"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

func (m *machine) introduce(process, parent event.ProcessKey, execKey uint64) {
	h := m.head(process, parent)
	m.Observe(&event.Introduction{Header: h, ExecKey: execKey, ExecTime: h.Time - 1})
}

// Ensure that a process whose fork and exec the kernel kept back is told as the first
// one was that ran the same.
func TestIntroduced(t *testing.T) {
	m := newMachine(t)
	m.exec(key(1), event.ProcessKey{}, "/usr/sbin/cron", "cron")
	m.fork(key(1), key(2))
	first := m.exec(key(2), key(1), "/bin/sh", "sh", "-c", "job")
	ev := first.Event.(*event.Exec)
	ev.Key = 42
	if !m.Remember(ev) {
		t.Fatal("there is no room")
	}
	m.exit(key(2))

	m.introduce(key(3), key(1), 42) // sh -c job again, kept back
	m.introduce(key(4), key(3), 0)  // its child
	o := m.exec(key(4), key(3), "/usr/bin/curl", "curl", "x")
	sh := o.Process.Parent
	if sh == nil || sh.Image != "/bin/sh" || !slices.Equal(sh.Argv, []string{"sh", "-c", "job"}) {
		t.Fatalf("parent is %+v", sh)
	}
	if sh.Parent == nil || sh.Parent.Key != key(1) || o.Process.Anchor != first.Process.Anchor {
		t.Errorf("the line is %+v, storyline %v, want that of the first, %v", sh.Parent, o.Process.Anchor, first.Process.Anchor)
	}
	if o.Before == nil || o.Before.Image != "/bin/sh" {
		t.Errorf("before the exec it was %+v", o.Before)
	}
	m.Forget(42)
	m.introduce(key(5), key(1), 42) // forgotten, and ended before /proc could be asked
	if p := m.Process(key(5)); p == nil || p.Parent == nil || p.Parent.Key != key(1) {
		t.Errorf("a forgotten one is %+v", p)
	}
}

// Ensure that a session is joined to its connection also when the kernel told the fork
// late, and that such a server is known for it.
func TestIntroducedSession(t *testing.T) {
	m := newMachine(t)
	server := m.exec(key(1), event.ProcessKey{}, "/usr/sbin/sshd", "sshd").Process
	if m.ForksForConnections(server) {
		t.Error("it did not fork yet")
	}
	at := m.now
	accepted := m.accept(key(1), "192.0.2.7:40000", at)
	child := event.ProcessKey{PID: key(2).PID, Start: at + 1e6}
	m.now += 60 * second
	m.introduce(child, key(1), 0)
	o := m.exec(child, key(1), "/bin/bash", "-bash")
	if o.Process.Origin != accepted.Flow {
		t.Errorf("origin %+v, want the accepted flow", o.Process.Origin)
	}
	if !m.ForksForConnections(server) {
		t.Error("a server that forked for a connection is not known for it")
	}
}
