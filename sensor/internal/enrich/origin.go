package enrich

import (
	"slices"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// A server forks for a connection soon after it accepted it. Accepts and forks of
// one process are paired first in, first out, by their own times: they come
// through different rings, so either may be read first.
const (
	pairWithin = uint64(5e9) // ns between accept and fork; beyond it they have nothing to do with each other
	// maxUnpaired bounds what waits for its counterpart in one process: a burst of
	// connections to a forking server.
	maxUnpaired = 64
)

type accepted struct {
	flow *event.Flow
	at   uint64
}

type forked struct {
	child event.ProcessKey
	at    uint64
}

// takeAccepted gives the oldest connection accepted before now that nobody serves.
func (n *node) takeAccepted(now uint64) *event.Flow {
	for len(n.unpaired) > 0 && n.unpaired[0].at+pairWithin < now {
		n.unpaired = n.unpaired[1:]
	}
	if len(n.unpaired) == 0 || n.unpaired[0].at > now {
		return nil
	}
	flow := n.unpaired[0].flow
	n.unpaired = n.unpaired[1:]
	return flow
}

func (n *node) forgetAccepted(id event.FlowID) {
	n.unpaired = slices.DeleteFunc(n.unpaired, func(a accepted) bool { return a.flow.ID == id })
}

// forgetAbove takes a connection from the processes above n, one of which listened for it.
func (n *node) forgetAbove(id event.FlowID) {
	const generations = 8
	for i, a := 0, n.parent; a != nil && i < generations; i, a = i+1, a.parent {
		a.forgetAccepted(id)
	}
}

// pairFork gives the child the connection that its parent accepted for it, or
// remembers the fork for an accept that is still under way.
func (e *Enricher) pairFork(parent, child *node, at uint64) {
	if flow := parent.takeAccepted(at); flow != nil {
		e.noteForking(parent.proc.Image)
		child.serve(flow)
		return
	}
	if len(parent.forks) >= maxUnpaired {
		parent.forks = parent.forks[1:]
	}
	parent.forks = append(parent.forks, forked{child.proc.Key, at})
}

// pairAccepted is pairFork seen from the other ring.
func (e *Enricher) pairAccepted(n *node, flow *event.Flow, at uint64) {
	for len(n.forks) > 0 && n.forks[0].at+pairWithin < e.last {
		n.forks = n.forks[1:]
	}
	for i, f := range n.forks {
		if f.at < at || f.at > at+pairWithin {
			continue
		}
		n.forks = slices.Delete(n.forks, i, i+1)
		e.noteForking(n.proc.Image)
		if child := e.tree.nodes[f.child]; child != nil {
			child.serve(flow)
		}
		return
	}
	if len(n.unpaired) >= maxUnpaired {
		n.unpaired = n.unpaired[1:]
	}
	n.unpaired = append(n.unpaired, accepted{flow, at})
}

// serve makes n the root of the session that came by flow, for all below it that
// belong to no session of their own.
func (n *node) serve(flow *event.Flow) {
	inherited := n.proc.Origin
	n.replace(func(p *event.Process) { p.Origin, p.Anchor = flow, p.Key })
	n.spread(inherited, flow, n.proc.Key, n.proc, 0)
}

func (n *node) spread(from, to *event.Flow, anchor event.ProcessKey, parent *event.Process, depth int) {
	if depth > maxDepth {
		return
	}
	for _, c := range n.children {
		if c.proc.Origin != from {
			continue
		}
		c.replace(func(p *event.Process) {
			p.Origin, p.Anchor = to, anchor
			if p.Parent != nil && p.Parent.Key == parent.Key {
				up := *p.Parent
				up.Origin, up.Anchor = to, anchor
				up.Parent = parent.Parent
				p.Parent = &up
			}
		})
		c.spread(from, to, anchor, c.proc, depth+1)
	}
}
