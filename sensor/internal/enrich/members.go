package enrich

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Member is a living process and the cgroup that it is in, below the v2 mount.
type Member struct {
	Key    event.ProcessKey
	Cgroup string
}

// Storyline are the living processes whose storyline has this root.
func (e *Enricher) Storyline(anchor event.ProcessKey) []Member {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.members(func(n *node) bool { return n.proc.Anchor == anchor })
}

// Descendants are a process and all that came of it and lives, those too whose
// parents have ended.
func (e *Enricher) Descendants(of event.ProcessKey) []Member {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.members(func(n *node) bool {
		for p := n.proc; p != nil; p = p.Parent {
			if p.Key == of {
				return true
			}
		}
		return false
	})
}

// members are asked for often and by few: a pass over all that lives is some ten
// thousand comparisons.
func (e *Enricher) members(is func(*node) bool) (all []Member) {
	for _, n := range e.tree.byPID {
		if n.ended == 0 && is(n) {
			all = append(all, Member{Key: n.proc.Key, Cgroup: n.proc.Cgroup})
		}
	}
	return all
}

// Resolved are the addresses that a name, or one below it, was resolved to here.
func (e *Enricher) Resolved(of string) (addresses []netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for addr, el := range e.names.by {
		if slices.ContainsFunc(el.Value.(*address).names, func(n name) bool { //nolint:forcetypeassert // only addresses are in it
			return n.text == of || strings.HasSuffix(n.text, "."+of)
		}) {
			addresses = append(addresses, addr)
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return addresses
}
