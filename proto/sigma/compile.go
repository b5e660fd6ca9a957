package sigma

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

type expression interface{ eval(Record) bool }

// An empty allOf always holds, an empty anyOf never.
type (
	allOf   []expression
	anyOf   []expression
	notOf   struct{ inner expression }
	atLeast struct {
		least int
		of    []expression
	}
)

func (e allOf) eval(r Record) bool {
	for _, x := range e {
		if !x.eval(r) {
			return false
		}
	}
	return true
}

func (e anyOf) eval(r Record) bool {
	for _, x := range e {
		if x.eval(r) {
			return true
		}
	}
	return false
}

func (e notOf) eval(r Record) bool { return !e.inner.eval(r) }

func (e atLeast) eval(r Record) bool {
	have := 0
	for i, x := range e.of {
		if x.eval(r) {
			have++
		}
		if have >= e.least {
			return true
		}
		if have+len(e.of)-i-1 < e.least {
			return false
		}
	}
	return false
}

// Compile makes a rule ready for each kind of record that it is about. The error is
// an *Error; with Unsupported it is that of the kind of record that came nearest.
func Compile(rule *Rule, schema Schema) ([]*Matcher, error) { return compileIn(rule, schema, nil) }

// CompileWithin is Compile for a rule that nobody has signed: its regular expressions have at
// most so many instructions, those for all kinds of records together.
func CompileWithin(rule *Rule, schema Schema, instructions int) ([]*Matcher, error) {
	return compileIn(rule, schema, &instructions)
}

func compileIn(rule *Rule, schema Schema, room *int) ([]*Matcher, error) {
	var compiled []*Matcher
	var nearest error
	for i := range schema {
		source := &schema[i]
		if !rule.about(source) {
			continue
		}
		m, err := compileFor(rule, source, room)
		var refused *Error
		switch {
		case err == nil:
			compiled = append(compiled, m)
		case errors.As(err, &refused) && refused.Unsupported:
			if nearest == nil {
				nearest = err
			}
		default:
			return nil, err
		}
	}
	switch {
	case len(compiled) > 0:
		return compiled, nil
	case nearest != nil:
		return nil, nearest
	}
	return nil, &Error{Path: rule.Path, Msg: fmt.Sprintf("logsource category %q, product %q, service %q is not watched by this sensor",
		rule.Category, rule.Product, rule.Service), Unsupported: true}
}

func (r *Rule) about(s *Source) bool {
	if r.Product != "" && !strings.EqualFold(r.Product, "linux") || r.Product == "" && r.Category == "" && r.Service == "" {
		return false
	}
	return r.Service == s.Service && (r.Category == "" || r.Category == s.Category)
}

func compileFor(rule *Rule, source *Source, room *int) (*Matcher, error) {
	c := &compiler{rule: rule, source: source, room: room, done: map[string]compiledSearch{}}
	var any anyOf
	for _, text := range rule.condition {
		tree, err := parseCondition(text.text, rule)
		if err != nil {
			return nil, &Error{Path: rule.Path, Line: text.line, Msg: "condition: " + err.Error()}
		}
		e, err := c.condition(tree)
		if err != nil {
			return nil, err
		}
		if c.tests > maxTests {
			return nil, &Error{Path: rule.Path, Line: text.line, Msg: fmt.Sprintf("condition: needs more than %d comparisons", maxTests)}
		}
		any = append(any, e)
	}
	e := simplify(any)
	if isNever(e) {
		why := c.lacks
		if why == nil {
			return nil, &Error{Path: rule.Path, Msg: "condition: can never hold"}
		}
		return nil, why
	}
	return &Matcher{Rule: rule, Of: source.Of, Partial: c.lacks != nil, lacks: c.lacks, expr: e, source: source}, nil
}

type compiler struct {
	rule   *Rule
	source *Source
	done   map[string]compiledSearch
	tests  int
	room   *int // instructions that are left; nil: no bound
	// lacks is the first search that this kind of record can never fulfil.
	lacks *Error
}

type compiledSearch struct {
	expr  expression
	tests int
}

func (c *compiler) refuse(line int, unsupported bool, format string, args ...any) error {
	return &Error{Path: c.rule.Path, Line: line, Msg: fmt.Sprintf(format, args...), Unsupported: unsupported}
}

func (c *compiler) condition(t *condition) (expression, error) {
	if t.op == 0 {
		return c.search(t.name)
	}
	kids := make([]expression, 0, len(t.kids))
	for _, kid := range t.kids {
		e, err := c.condition(kid)
		if err != nil {
			return nil, err
		}
		kids = append(kids, e)
	}
	switch {
	case t.op == '!':
		return notOf{kids[0]}, nil
	case t.op == '&' || t.op == '#' && t.least == len(kids):
		return allOf(kids), nil
	case t.op == '|' || t.least == 1:
		return anyOf(kids), nil
	}
	return atLeast{t.least, kids}, nil
}

func (c *compiler) search(name string) (expression, error) {
	done, ok := c.done[name]
	if !ok {
		before := c.tests
		var any anyOf
		for _, items := range c.rule.searches[name].any {
			var all allOf
			for _, i := range items {
				e, err := c.item(i)
				if err != nil {
					return nil, err
				}
				all = append(all, e)
			}
			any = append(any, all)
		}
		done = compiledSearch{simplify(any), c.tests - before}
		c.done[name] = done
		return done.expr, nil
	}
	c.tests += done.tests
	return done.expr, nil
}

// possible is e, or what never holds when the field cannot hold any such value.
func (c *compiler) possible(i item, field int, e expression) expression {
	values, closed := c.source.Values[field]
	one, ok := e.(interface{ one(string) bool })
	if !closed || !ok {
		return e
	}
	t, isText := e.(text)
	for _, v := range values {
		if isText && !t.cased {
			v = fold(v)
		}
		if one.one(v) {
			return e
		}
	}
	if c.lacks == nil {
		var want []string
		for _, v := range i.values {
			want = append(want, v.text)
		}
		c.lacks = &Error{Path: c.rule.Path, Line: i.line, Unsupported: true,
			Msg: fmt.Sprintf("%s: no record of this sensor holds %s", i.field, strings.Join(want, ", "))}
	}
	return anyOf{}
}

func isNever(e expression) bool  { x, ok := e.(anyOf); return ok && len(x) == 0 }
func isAlways(e expression) bool { x, ok := e.(allOf); return ok && len(x) == 0 }

// simplify flattens lists, drops what never or always holds, and puts cheap tests first:
// an expression has no effects, so that order is free.
func simplify(e expression) expression {
	switch e := e.(type) {
	case notOf:
		inner := simplify(e.inner)
		switch {
		case isNever(inner):
			return allOf{}
		case isAlways(inner):
			return anyOf{}
		}
		return notOf{inner}
	case allOf:
		var flat allOf
		for _, x := range e {
			x = simplify(x)
			if isNever(x) {
				return anyOf{}
			}
			if inner, ok := x.(allOf); ok {
				flat = append(flat, inner...)
				continue
			}
			flat = append(flat, x)
		}
		if len(flat) == 1 {
			return flat[0]
		}
		slices.SortStableFunc(flat, func(a, b expression) int { return cmp.Compare(cost(a), cost(b)) })
		return flat
	case anyOf:
		var flat anyOf
		for _, x := range e {
			x = simplify(x)
			if isAlways(x) {
				return allOf{}
			}
			if inner, ok := x.(anyOf); ok {
				flat = append(flat, inner...)
				continue
			}
			flat = append(flat, x)
		}
		if len(flat) == 1 {
			return flat[0]
		}
		slices.SortStableFunc(flat, func(a, b expression) int { return cmp.Compare(cost(a), cost(b)) })
		return flat
	case atLeast:
		least := atLeast{e.least, nil}
		for _, x := range e.of {
			x = simplify(x)
			switch {
			case isAlways(x):
				least.least--
			case !isNever(x):
				least.of = append(least.of, x)
			}
		}
		switch {
		case least.least <= 0:
			return allOf{}
		case least.least > len(least.of):
			return anyOf{}
		case least.least == len(least.of):
			return simplify(allOf(least.of))
		case least.least == 1:
			return simplify(anyOf(least.of))
		}
		return least
	}
	return e
}

// cost orders tests by what they roughly take.
func cost(e expression) int {
	sum := 0
	switch e := e.(type) {
	case allOf:
		for _, x := range e {
			sum += cost(x)
		}
	case anyOf:
		for _, x := range e {
			sum += cost(x)
		}
	case atLeast:
		for _, x := range e.of {
			sum += cost(x)
		}
	case notOf:
		return cost(e.inner)
	case text:
		switch e.shape {
		case shapeEqual, shapePrefix, shapeSuffix, shapeAny:
			return 1
		case shapeContains:
			return 4
		}
		return 10
	case matches:
		return 40
	case existence:
		return 1
	default:
		return 8
	}
	return sum
}
