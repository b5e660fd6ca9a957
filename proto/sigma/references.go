package sigma

import (
	"fmt"
	"strings"
)

// names finds what a correlation refers to.
type names map[string]*named

// named is what has a name or an id: the matchers of a rule, or a correlation.
type named struct {
	header      *Header
	matchers    []*Matcher
	correlation *Correlation
	ambiguous   bool
}

func newNames(rules []*Matcher, correlations []*Correlation) names {
	n := names{}
	byRule := map[*Rule]*named{}
	for _, m := range rules {
		target := byRule[m.Rule]
		if target == nil {
			target = &named{header: &m.Rule.Header}
			byRule[m.Rule] = target
			n.put(target)
		}
		target.matchers = append(target.matchers, m)
	}
	for _, c := range correlations {
		n.put(&named{header: &c.Header, correlation: c})
	}
	return n
}

func (n names) put(target *named) {
	for _, name := range []string{target.header.ID, target.header.Name} {
		if name == "" {
			continue
		}
		if other, taken := n[name]; taken && other != target {
			n[name] = &named{header: target.header, ambiguous: true}
			continue
		}
		n[name] = target
	}
}

func (n names) find(reference string) (*named, error) {
	target, ok := n[reference]
	if !ok {
		target, ok = n[strings.ToLower(reference)] // an id
	}
	switch {
	case !ok:
		return nil, fmt.Errorf("%q is the name or id of no rule that is used here", reference)
	case target.ambiguous:
		return nil, fmt.Errorf("%q is the name of more than one rule; refer to it by its id", reference)
	}
	return target, nil
}

// inOrder sorts correlations so that what one refers to comes before it. Those on a cycle
// are refused, with the way round.
func (n names) inOrder(correlations []*Correlation, refuse func(error)) (ordered []*Correlation) {
	const (
		unseen = iota
		open
		done
		cyclic
	)
	state := map[*Correlation]int{}
	var path []*Correlation
	var visit func(c *Correlation) bool
	visit = func(c *Correlation) bool {
		switch state[c] {
		case open:
			from := len(path) - 1
			for path[from] != c {
				from--
			}
			var way []string
			for _, p := range append(path[from:len(path):len(path)], c) {
				way = append(way, fmt.Sprintf("%q", p.Title))
			}
			refuse(&Error{Path: c.Path, Line: c.Line, Msg: "rules: refers to itself: " + strings.Join(way, " → ")})
			return false
		case done, cyclic:
			return state[c] == done
		}
		state[c] = open
		path = append(path, c)
		good := true
		for _, reference := range c.Rules {
			if target, err := n.find(reference); err == nil && target.correlation != nil && !visit(target.correlation) {
				if good && state[target.correlation] == cyclic {
					refuse(&Error{Path: c.Path, Line: c.lines[reference], Msg: "rules: " + reference + " refers to itself"})
				}
				good = false
			}
		}
		path = path[:len(path)-1]
		if !good {
			state[c] = cyclic
			return false
		}
		state[c] = done
		ordered = append(ordered, c)
		return true
	}
	for _, c := range correlations {
		visit(c)
	}
	return ordered
}
