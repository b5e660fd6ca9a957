package enrich

import (
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	// maxTemplates bounds the execs that the kernel keeps back: each is remembered
	// whole, some 700 bytes, so that a process that runs it can be told as it is.
	maxTemplates = 8192
	// maxForking bounds the remembered images of servers that fork for connections.
	maxForking = 256
)

// Remember keeps an exec that the kernel is about to keep back, by its key; false: there
// is no room, and it must still be told.
func (e *Enricher) Remember(ev *event.Exec) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, is := e.templates[ev.Key]; !is && len(e.templates) >= maxTemplates {
		return false
	}
	e.templates[ev.Key] = ev
	return true
}

// Forget ends that.
func (e *Enricher) Forget(key uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.templates, key)
}

// ForksForConnections tells whether a program was seen to fork for a connection that
// it accepted: its connections and forks have to be told, since they join a session's
// processes to whence it came.
func (e *Enricher) ForksForConnections(p *event.Process) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, is := e.forking[p.Image]
	return is
}

func (e *Enricher) noteForking(image string) {
	if len(e.forking) < maxForking {
		e.forking[image] = struct{}{}
	}
}

// introduce makes a process known that was forked, and perhaps executed something, in
// the kernel's silence: the fork and the exec are done now as they were then.
func (e *Enricher) introduce(ev *event.Introduction) {
	n := e.tree.nodes[ev.Process]
	if n == nil {
		parent := e.parent(&ev.Header, ev.Process.Start)
		if parent == nil {
			e.ensure(&ev.Header)
			return
		}
		n = e.born(parent, ev.Process, ev.CgroupID, ev.Process.Start)
		e.pairFork(parent, n, ev.Process.Start)
	}
	if ev.ExecKey == 0 {
		return
	}
	template := e.templates[ev.ExecKey]
	if template == nil {
		e.reread(n, ev)
		return
	}
	exec := *template
	exec.Time, exec.Process, exec.TID, exec.UID = ev.ExecTime, ev.Process, ev.Process.PID, ev.UID
	exec.Parent, exec.CgroupID, exec.NetNS = ev.Parent, ev.CgroupID, ev.NetNS
	e.exec(&exec)
}

// reread asks /proc what a process runs whose exec is remembered no more.
func (e *Enricher) reread(n *node, ev *event.Introduction) {
	p := e.fromProc(ev.Process, "")
	if p.Image == "" {
		return // it has ended: what it was before is all that is known
	}
	before := n.proc
	p.Parent, p.StartTime, p.Origin, p.Anchor = before.Parent, before.StartTime, before.Origin, before.Anchor
	p.UID, p.User = ev.UID, e.users.name(ev.UID, ev.Time)
	e.place(p, ev.CgroupID)
	n.proc, n.cgroup = p, ev.CgroupID
	e.wantHash(p, false)
}
