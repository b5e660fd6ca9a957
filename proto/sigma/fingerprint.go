package sigma

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// Fingerprint tells rules apart by what they match. Title, level and place in a file make
// no difference to it.
type Fingerprint [sha256.Size]byte

// printer hashes values so that no two lists of them look alike.
type printer struct{ h hash.Hash }

func (p printer) number(n int) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(n)) //nolint:gosec // only told apart
	p.h.Write(b[:])
}

func (p printer) texts(list ...string) {
	p.number(len(list))
	for _, s := range list {
		p.number(len(s))
		p.h.Write([]byte(s))
	}
}

func (p printer) sum() (f Fingerprint) { p.h.Sum(f[:0]); return f }

// Fingerprint is that of the log source, the searches and the conditions.
func (r *Rule) Fingerprint() Fingerprint {
	p := printer{sha256.New()}
	p.texts(r.Category, r.Product, r.Service)
	for _, c := range r.condition {
		p.texts(c.text)
	}
	for _, name := range r.order {
		p.texts(name)
		for _, items := range r.searches[name].any {
			p.number(len(items))
			for _, i := range items {
				p.texts(append([]string{i.field}, i.modifiers...)...)
				p.number(len(i.values))
				for _, v := range i.values {
					p.number(int(v.kind))
					p.texts(v.text)
				}
			}
		}
	}
	return p.sum()
}

// print is that of a correlation with all that it refers to.
func (c *Correlation) print(targets []Fingerprint) Fingerprint {
	p := printer{sha256.New()}
	p.texts(c.Type, c.logic)
	p.texts(c.Rules...)
	p.texts(c.GroupBy...)
	p.texts(c.Values...)
	p.number(int(c.Timespan))
	for _, b := range c.bounds {
		p.texts(b.op)
		p.number(b.n)
	}
	for _, a := range c.aliases {
		p.texts(a.name, a.rule, a.field)
	}
	for _, t := range targets {
		p.h.Write(t[:])
	}
	return p.sum()
}

// Adopt takes over what old remembers for correlations that are the same here, with the same
// rules below them, and all that it counted. What a changed one remembered is gone. old must
// not be used after.
func (c *Correlator) Adopt(old *Correlator) {
	c.now = max(c.now, old.now)
	c.stats = old.stats
	c.stats.Groups, c.stats.Entries = 0, 0
	here := map[Fingerprint]*correlating{}
	for _, of := range c.all {
		here[of.print] = of
	}
	for e := old.recent.Back(); e != nil; e = e.Prev() {
		g := e.Value.(*group)
		of := here[g.of.print]
		if of == nil {
			continue
		}
		key := groupKey{of.number, g.key.values}
		if _, taken := c.groups[key]; taken {
			continue
		}
		g.key, g.of = key, of
		g.recent = c.recent.PushFront(g)
		c.groups[key] = g
		c.stats.Groups++
		c.stats.Entries += len(g.entries)
		if g.due != nil {
			g.due = nil
			g.schedule()
		}
	}
}

// schedule puts a group among those whose windows end, the earliest in front.
func (g *group) schedule() {
	after := g.of.due.Back()
	for after != nil && after.Value.(*group).first > g.first {
		after = after.Prev()
	}
	if after == nil {
		g.due = g.of.due.PushFront(g)
		return
	}
	g.due = g.of.due.InsertAfter(g, after)
}
