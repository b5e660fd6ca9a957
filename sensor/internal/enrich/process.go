package enrich

import (
	"slices"
	"unique"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// kernelKey is who acts when no process does: the idle task and soft interrupts.
var kernelKey = event.ProcessKey{}

// shared keeps one copy of strings that thousands of processes have in common.
func shared(s string) string { return unique.Make(s).Value() }

// Seed builds the tree of what runs now. Events that were already observed win.
func (e *Enricher) Seed(tasks []Task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	byKey := make(map[event.ProcessKey]*Task, len(tasks))
	for i := range tasks {
		byKey[tasks[i].Key] = &tasks[i]
	}
	now := e.cfg.Boottime()
	e.last = max(e.last, now)
	for i := range tasks {
		e.seed(&tasks[i], byKey, now, 0)
	}
}

// seed adds a task below its parent, which is added first.
func (e *Enricher) seed(t *Task, byKey map[event.ProcessKey]*Task, now uint64, depth int) *node {
	if n := e.tree.nodes[t.Key]; n != nil || depth > maxDepth {
		return n
	}
	var parent *node
	if t.Parent != kernelKey && t.Parent != t.Key {
		if pt := byKey[t.Parent]; pt != nil {
			parent = e.seed(pt, byKey, now, depth+1)
		} else {
			parent = e.adopt(t.Parent, now)
		}
	}
	p := e.fromProc(t.Key, t.Comm)
	p.UID = t.UID
	p.User = e.users.name(t.UID, now)
	if !t.InScope {
		p.Traits = addTrait(p.Traits, event.TraitOutsideScope)
	}
	e.place(p, t.CgroupID)
	n := e.insert(p, parent, t.CgroupID, now)
	e.wantHash(n.proc, false)
	return n
}

// insert links a process into the tree and decides which storyline it belongs to.
func (e *Enricher) insert(p *event.Process, parent *node, cgroup uint64, now uint64) *node {
	p.StartTime = e.wall(p.Key.Start)
	if parent != nil {
		p.Parent = parent.proc
		if p.Origin == nil {
			p.Origin = parent.proc.Origin
		}
	}
	p.Anchor = anchorOf(p)
	n := e.tree.add(p, parent, now)
	n.cgroup = cgroup
	return n
}

// anchorOf: a storyline begins below PID 1, below the kernel's threads, below
// the edge of the scope, and with each accepted session.
func anchorOf(p *event.Process) event.ProcessKey {
	up := p.Parent
	switch {
	case up == nil, up.Key.PID <= 2, slices.Contains(up.Traits, event.TraitOutsideScope), slices.Contains(up.Traits, event.TraitUnseen):
		return p.Key
	case p.Origin != nil && p.Origin != up.Origin:
		return p.Key
	}
	return up.Anchor
}

// ensure finds the process of an event, or builds it from what the event and
// /proc say: the sensor may have come after it, or its fork was lost.
func (e *Enricher) ensure(h *event.Header) *node {
	if n := e.tree.nodes[h.Process]; n != nil {
		n.seen = h.Time
		return n
	}
	var p *event.Process
	if h.Process == kernelKey {
		p = &event.Process{Image: "kernel"}
		return e.insert(p, nil, 0, h.Time)
	}
	parent := e.parent(h, h.Time)
	p = e.fromProc(h.Process, comm(h.Comm[:]))
	p.UID = h.UID
	p.User = e.users.name(h.UID, h.Time)
	e.place(p, h.CgroupID)
	n := e.insert(p, parent, h.CgroupID, h.Time)
	e.wantHash(n.proc, false)
	return n
}

func (e *Enricher) parent(h *event.Header, now uint64) *node {
	if h.Parent == kernelKey || h.Parent == h.Process {
		return nil
	}
	return e.adopt(h.Parent, now)
}

// adopt makes a node for a process that is only known by its key. What lies above
// it is read from /proc and held by its Parent chain alone: /proc tells starts to
// 10 ms, too coarse to be a key.
func (e *Enricher) adopt(key event.ProcessKey, now uint64) *node {
	if n := e.tree.nodes[key]; n != nil {
		return n
	}
	p := e.fromProc(key, "")
	if e.cfg.Scoped {
		p.Traits = addTrait(p.Traits, event.TraitOutsideScope)
	}
	stat, ok := readStat(e.cfg.Proc, key.PID)
	if !ok || !stat.startIs(key.Start) {
		p.Traits = addTrait(p.Traits, event.TraitUnseen)
		return e.insert(p, nil, 0, now)
	}
	var parent *node
	if up := e.tree.byPID[stat.ppid]; up != nil && stat.ppid != 0 {
		parent = up
	}
	n := e.insert(p, parent, 0, now)
	if parent == nil {
		n.proc.Parent = e.above(stat.ppid, 0)
		n.proc.Anchor = anchorOf(n.proc)
	}
	return n
}

// above reads the chain from pid upward; these snapshots are in no map.
func (e *Enricher) above(pid uint32, depth int) *event.Process {
	if pid == 0 || depth > keepDepth {
		return nil
	}
	if n := e.tree.byPID[pid]; n != nil {
		return n.proc
	}
	stat, ok := readStat(e.cfg.Proc, pid)
	if !ok {
		return nil
	}
	p := e.fromProc(event.ProcessKey{PID: pid, Start: stat.startNanos()}, stat.comm)
	p.StartTime = e.wall(p.Key.Start)
	if e.cfg.Scoped {
		p.Traits = addTrait(p.Traits, event.TraitOutsideScope)
	}
	p.Parent = e.above(stat.ppid, depth+1)
	p.Anchor = p.Key
	return p
}

// place fills where a process belongs: cgroup, unit, container.
func (e *Enricher) place(p *event.Process, cgroup uint64) {
	p.Cgroup = e.cgroups.path(cgroup, p.Key.PID)
	path := p.Cgroup
	if path == "/" || path == "" {
		// A hybrid machine may keep containers in the v1 hierarchies alone.
		if e.cgroups.hybrid && p.ImageID.MountNS != 0 && p.ImageID.MountNS != e.cgroups.ownMountNS {
			path = e.cgroups.legacyPath(p.Key.PID)
		}
	}
	p.Container, p.Unit = shared(containerOf(path)), shared(unitOf(path))
}

// exec replaces a process's image. Before is what it was; for a process that was
// never seen that is its parent's image, which every fork starts as.
func (e *Enricher) exec(ev *event.Exec) (before, after *event.Process) {
	h := &ev.Header
	n := e.tree.nodes[h.Process]
	if n == nil {
		parent := e.parent(h, h.Time)
		seed := &event.Process{Key: h.Process}
		if parent != nil {
			inherited := *parent.proc
			inherited.Key, inherited.Exited = h.Process, false
			inherited.Traits = slices.DeleteFunc(slices.Clone(inherited.Traits), func(t string) bool {
				return t == event.TraitOutsideScope || t == event.TraitUnseen
			})
			seed = &inherited
		}
		n = e.insert(seed, parent, h.CgroupID, h.Time)
	}
	n.seen = h.Time
	before = n.proc
	p := &event.Process{
		Key: before.Key, Parent: before.Parent, StartTime: before.StartTime,
		Image: shared(string(ev.Path)), ImageID: ev.Image,
		Argv: argv(ev.Argv), ArgvBytes: ev.ArgvBytes, ArgvTruncated: ev.ArgvTruncated,
		UID: h.UID, User: e.users.name(h.UID, h.Time), LoginUID: ev.LoginUID, SessionID: ev.SessionID,
		Origin: before.Origin, Anchor: before.Anchor,
	}
	if p.Image == "" {
		p.Image = shared(string(ev.Filename))
	}
	p.Cwd = e.cwdOf(ev, before)
	if h.CgroupID == n.cgroup && before.Cgroup != "" && ev.Image.MountNS == before.ImageID.MountNS {
		p.Cgroup, p.Unit, p.Container = before.Cgroup, before.Unit, before.Container
	} else {
		e.place(p, h.CgroupID)
		n.cgroup = h.CgroupID
	}
	p.Interpreter, p.Script = scriptOf(string(ev.Interpreter), string(ev.Filename), p.Image, p.Argv)
	p.Interpreter = shared(p.Interpreter)
	p.Traits = imageTraits(p.Image, ev.Image, ev.SetID)
	if p.Origin == nil {
		// A server that becomes the program it serves by (nc -e) execs with the connection in hand.
		if flow := n.takeAccepted(h.Time); flow != nil {
			p.Origin, p.Anchor = flow, p.Key
		}
	}
	if state := e.wantHash(p, false); state != nil && state.ok {
		p.SHA256, p.Hashed = state.sum, true // before anybody else has it: no copy as hashed makes
	}
	n.proc = p
	return before, p
}

// fork adds the child as a copy of its parent.
func (e *Enricher) fork(ev *event.Fork) {
	parent := e.ensure(&ev.Header)
	if ev.Child == ev.Process {
		return
	}
	child := e.tree.nodes[ev.Child]
	if child == nil {
		child = e.born(parent, ev.Child, parent.cgroup, ev.Time)
	}
	e.pairFork(parent, child, ev.Time)
}

// born adds a child as a copy of its parent.
func (e *Enricher) born(parent *node, key event.ProcessKey, cgroup, now uint64) *node {
	p := *parent.proc
	p.Key, p.Exited = key, false
	p.Traits = slices.DeleteFunc(slices.Clone(p.Traits), func(t string) bool {
		return t == event.TraitOutsideScope || t == event.TraitUnseen || t == event.TraitSetID
	})
	return e.insert(&p, parent, cgroup, now)
}

func (e *Enricher) exit(ev *event.Exit) {
	// A process of which nothing else was seen is not worth a node.
	if n := e.tree.nodes[ev.Process]; n != nil {
		n.seen = ev.Time
		e.tree.end(n, ev.Time)
	}
}

func (e *Enricher) flowOpen(ev *event.FlowOpen) (*event.Process, *event.Flow) {
	n := e.ensure(&ev.Header)
	flow := &event.Flow{
		ID: ev.Flow, Proto: ev.Proto, Dir: ev.Dir, Local: ev.Local, Remote: ev.Remote,
		Name: e.names.of(ev.Remote.Addr(), ev.Process, ev.Time), Opened: e.wall(ev.Time), Failed: ev.Failed,
	}
	if flow.Name != "" {
		if len(e.flows) >= e.cfg.MaxNames {
			for id := range e.flows { // any one: its close is told without the name
				delete(e.flows, id)
				break
			}
		}
		e.flows[ev.Flow] = flow.Name
	}
	if ev.Accepted {
		n.forgetAbove(ev.Flow)
	}
	if ev.Dir == event.Inbound && !ev.Failed && ev.Process != kernelKey {
		e.pairAccepted(n, flow, ev.Time)
	}
	return e.hashed(n), flow
}

func (e *Enricher) flowClose(ev *event.FlowClose) (*event.Process, *event.Flow) {
	n := e.ensure(&ev.Header)
	name, open := e.flows[ev.Flow]
	if open {
		delete(e.flows, ev.Flow)
	} else {
		name = e.names.of(ev.Remote.Addr(), ev.Process, ev.Time)
	}
	n.forgetAccepted(ev.Flow)
	return e.hashed(n), &event.Flow{
		ID: ev.Flow, Proto: ev.Proto, Dir: ev.Dir, Local: ev.Local, Remote: ev.Remote, Name: name,
		BytesIn: ev.BytesIn, BytesOut: ev.BytesOut, Opened: e.wall(ev.Opened), Closed: e.wall(ev.Time),
	}
}

func argv(raw [][]byte) []string {
	out := make([]string, len(raw))
	for i, a := range raw {
		out[i] = string(a)
	}
	return out
}

func comm(raw []byte) string {
	if i := slices.Index(raw, 0); i >= 0 {
		raw = raw[:i]
	}
	return string(raw)
}
