package enrich

import (
	"container/list"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// maxDepth bounds a Parent chain. A program that forks and lets the parent die,
// for ever, would otherwise hold every one of its past lives in memory.
const maxDepth = 96

// keepDepth is how many nearest ancestors stay when a chain is cut; the
// storyline's root is kept above them.
const keepDepth = 32

// node is a process's place in the tree. Its proc is replaced, never changed.
type node struct {
	proc     *event.Process
	parent   *node // nil at the edge, or when the parent was let go
	children map[event.ProcessKey]*node
	depth    int
	cgroup   uint64
	// unpaired are accepted flows that no fork serves yet, oldest first; forks are
	// children that serve none yet. See origin.go.
	unpaired []accepted
	forks    []forked
	ended    uint64 // boot time of the exit, 0 while it lives
	place    *list.Element
	seen     uint64 // boot time of the last event
}

// size is about what a node holds in memory beyond shared strings.
func (n *node) size() int { return 512 + int(min(n.proc.ArgvBytes, 4096)) }

type tree struct {
	nodes map[event.ProcessKey]*node
	byPID map[uint32]*node // who has the PID now
	// exited are the ended, in the order of their ends.
	exited      *list.List
	exitedBytes int

	maxLiving, maxExited, maxExitedBytes int
	keep                                 uint64
	evictedLiving                        uint64
}

func newTree(cfg Config) tree {
	return tree{
		nodes:     map[event.ProcessKey]*node{},
		byPID:     map[uint32]*node{},
		exited:    list.New(),
		maxLiving: cfg.MaxProcesses, maxExited: cfg.MaxExited, maxExitedBytes: cfg.MaxExitedBytes,
		keep: uint64(cfg.KeepExited), //nolint:gosec // positive by withDefaults
	}
}

// add puts a new process below parent (nil: at the edge).
func (t *tree) add(p *event.Process, parent *node, now uint64) *node {
	if old := t.byPID[p.Key.PID]; old != nil && old.proc.Key != p.Key {
		// The PID has a new owner, so the exit of the last one was lost.
		t.end(old, now)
	}
	if len(t.nodes)-t.exited.Len() >= t.maxLiving {
		t.evictLiving()
	}
	n := &node{proc: p, parent: parent, seen: now}
	if parent != nil {
		n.depth = parent.depth + 1
		if parent.children == nil {
			parent.children = map[event.ProcessKey]*node{}
		}
		parent.children[p.Key] = n
	}
	if n.depth > maxDepth {
		p.Parent = cutChain(p.Parent)
		n.depth = keepDepth + 1
	}
	t.nodes[p.Key] = n
	t.byPID[p.Key.PID] = n
	return n
}

// cutChain copies the nearest ancestors and ends the chain at the storyline's root.
func cutChain(p *event.Process) *event.Process {
	chain := []*event.Process{p}
	chain = append(chain, p.Ancestors(1<<20)...)
	root := chain[len(chain)-1]
	for _, a := range chain {
		if a.Key == p.Anchor {
			root = a
		}
	}
	top := *root
	top.Parent = nil
	next := &top
	for i := min(keepDepth, len(chain)) - 1; i >= 0; i-- {
		c := *chain[i]
		c.Parent = next
		next = &c
	}
	return next
}

// end marks a process as exited and lets the oldest exited ones go.
func (t *tree) end(n *node, now uint64) {
	if n.ended != 0 {
		return
	}
	n.ended = max(now, 1)
	gone := *n.proc
	gone.Exited = true
	n.proc = &gone
	n.unpaired, n.forks = nil, nil
	if t.byPID[n.proc.Key.PID] == n {
		delete(t.byPID, n.proc.Key.PID)
	}
	n.place = t.exited.PushBack(n)
	t.exitedBytes += n.size()
	t.trim(now)
}

// trim drops ended processes: past their time when nobody living descends from
// them, past the bounds in any case.
func (t *tree) trim(now uint64) {
	// Ancestors of the living go to the back once per pass, so a pass is bounded.
	for i := t.exited.Len(); i > 0; i-- {
		n := t.exited.Front().Value.(*node) //nolint:forcetypeassert // only nodes are in it
		over := t.exited.Len() > t.maxExited || t.exitedBytes > t.maxExitedBytes
		old := n.ended+t.keep < now
		if !over && !old {
			return
		}
		if len(n.children) > 0 && !over {
			t.exited.MoveToBack(n.place)
			n.ended = now
			continue
		}
		t.drop(n)
	}
}

// drop removes a node; its children keep their Parent chain.
func (t *tree) drop(n *node) {
	key := n.proc.Key
	delete(t.nodes, key)
	if t.byPID[key.PID] == n {
		delete(t.byPID, key.PID)
	}
	if n.place != nil {
		t.exited.Remove(n.place)
		t.exitedBytes -= n.size()
		n.place = nil
	}
	if n.parent != nil {
		delete(n.parent.children, key)
	}
	for _, c := range n.children {
		c.parent = nil
	}
}

// evictLiving drops the living process that was silent the longest, out of a
// bounded sample: an exact order would cost every event for a case that only a
// fork bomb reaches.
func (t *tree) evictLiving() {
	const sample = 64
	var oldest *node
	looked := 0
	for _, n := range t.nodes {
		if n.ended != 0 {
			continue
		}
		if oldest == nil || n.seen < oldest.seen {
			oldest = n
		}
		if looked++; looked == sample {
			break
		}
	}
	if oldest != nil {
		t.drop(oldest)
		t.evictedLiving++
	}
}

// replace gives a node a changed process and tells those below it that share the change.
func (n *node) replace(change func(*event.Process)) {
	p := *n.proc
	change(&p)
	n.proc = &p
}

// reconcile marks processes as ended that /proc no longer shows: their exit was lost.
func (e *Enricher) reconcile() {
	alive, err := listPIDs(e.cfg.Proc)
	if err != nil {
		e.cfg.Logger.Warn("listing processes", "error", err)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.cfg.Boottime()
	const settle = uint64(10 * time.Second)
	for pid, n := range e.tree.byPID {
		if !alive[pid] && n.seen+settle < now && pid != 0 {
			e.tree.end(n, now)
		}
	}
	e.tree.trim(now)
}
