package sigma

import (
	"slices"
	"strings"
)

// logic reads temporal's condition in words: which of its rules are to be seen in one
// window, and which not.
func (p *parse) logic(c *Correlation) {
	if c.logic == "" {
		return
	}
	if c.Type != "temporal" {
		if slices.Contains(correlationTypes, c.Type) && c.Type != "temporal_ordered" {
			p.fail(c.logicLine, "condition: %s compares a count; want gte: 5 or the like", c.Type)
		}
		p.unsupported(c.logicLine, "condition: words belong to temporal; leave the condition out for all of the rules, one after the other")
	}
	named := &Rule{searches: map[string]search{}, order: c.Rules}
	for _, reference := range c.Rules {
		named.searches[reference] = search{}
	}
	tree, err := parseCondition(c.logic, named)
	if err != nil {
		p.fail(c.logicLine, "condition: %s", strings.ReplaceAll(err.Error(), "which detection does not have", "which rules does not list"))
	}
	said := map[string]bool{}
	tree.each(func(name string) { said[name] = true })
	for _, reference := range c.Rules {
		if !said[reference] {
			p.fail(c.logicLine, "condition: does not name %s, which rules lists", reference)
		}
	}
	if tree.over(func(string) bool { return false }) {
		p.fail(c.logicLine, "condition: holds where nothing is seen; name a rule that must be")
	}
	c.tree = tree
}

// each names the searches of a condition.
func (t *condition) each(tell func(string)) {
	if t.op == 0 {
		tell(t.name)
	}
	for _, kid := range t.kids {
		kid.each(tell)
	}
}

// over evaluates a condition by the names that hold.
func (t *condition) over(holds func(string) bool) bool {
	have := 0
	for _, kid := range t.kids {
		if kid.over(holds) {
			have++
		}
	}
	switch t.op {
	case 0:
		return holds(t.name)
	case '!':
		return have == 0
	case '&':
		return have == len(t.kids)
	case '|':
		return have > 0
	}
	return have >= t.least
}

// grows says that what holds goes on holding whatever else is seen.
func (t *condition) grows() bool {
	return t.op != '!' && !slices.ContainsFunc(t.kids, func(kid *condition) bool { return !kid.grows() })
}

// holds says whether what a group has seen fulfils the condition.
func (g *group) holds() bool {
	if g.of.tree == nil {
		return g.of.Correlation.holds(g.count)
	}
	return g.of.tree.over(func(name string) bool {
		place := digest{byte(slices.Index(g.of.Rules, name) + 1)} //nolint:gosec // maxReferences at most
		return slices.ContainsFunc(g.entries, func(e entry) bool { return e.what == place })
	})
}

// Condition is temporal's condition in words, where it has one.
func (c *Correlation) Condition() string { return c.logic }
