package sigma

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

type expression interface{ eval(Record) bool }

type (
	allOf []expression
	anyOf []expression
	notOf struct{ inner expression }
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

// Compile makes a rule ready to match records of its category. The error is an *Error.
func Compile(rule *Rule, schema Schema) (*Matcher, error) {
	fields, ok := schema[rule.Category]
	if !ok || (rule.Product != "" && rule.Product != "linux") || rule.Service != "" {
		return nil, &Error{Path: rule.Path, Msg: fmt.Sprintf("logsource category %q, product %q, service %q is not watched by this sensor",
			rule.Category, rule.Product, rule.Service), Unsupported: true}
	}
	c := &compiler{rule: rule, fields: fields, done: map[string]expression{}}
	var any anyOf
	for _, text := range rule.condition {
		tree, err := parseCondition(text.text, rule)
		if err != nil {
			return nil, &Error{Path: rule.Path, Line: text.line, Msg: err.Error()}
		}
		e, err := c.condition(tree)
		if err != nil {
			return nil, err
		}
		any = append(any, e)
	}
	if len(any) == 1 {
		return &Matcher{rule, any[0]}, nil
	}
	return &Matcher{rule, any}, nil
}

type compiler struct {
	rule   *Rule
	fields map[string]int
	done   map[string]expression
}

func (c *compiler) refuse(line int, unsupported bool, format string, args ...any) error {
	return &Error{Path: c.rule.Path, Line: line, Msg: fmt.Sprintf(format, args...), Unsupported: unsupported}
}

func (c *compiler) condition(t *condition) (expression, error) {
	if t.op == 0 {
		return c.search(t.name)
	}
	left, err := c.condition(t.left)
	if err != nil {
		return nil, err
	}
	if t.op == '!' {
		return notOf{left}, nil
	}
	right, err := c.condition(t.right)
	if err != nil {
		return nil, err
	}
	if t.op == '&' {
		return join[allOf](left, right), nil
	}
	return join[anyOf](left, right), nil
}

// join keeps "a and b and c" one flat list.
func join[T interface {
	~[]expression
	expression
}](left, right expression) expression {
	if l, ok := left.(T); ok {
		return append(l[:len(l):len(l)], right)
	}
	return T{left, right}
}

func (c *compiler) search(name string) (expression, error) {
	if e, ok := c.done[name]; ok {
		return e, nil
	}
	s := c.rule.searches[name]
	if s.keywords {
		return nil, c.refuse(s.line, true, "%s: bare words need a log line, which this category has not", name)
	}
	var any anyOf
	for _, items := range s.any {
		var all allOf
		for _, i := range items {
			e, err := c.item(i)
			if err != nil {
				return nil, err
			}
			all = append(all, e)
		}
		if len(all) == 1 {
			any = append(any, all[0])
			continue
		}
		any = append(any, all)
	}
	var e expression = any
	if len(any) == 1 {
		e = any[0]
	}
	c.done[name] = e
	return e, nil
}

func (c *compiler) item(i item) (expression, error) {
	number, ok := c.fields[i.field]
	if !ok {
		return nil, c.refuse(i.line, true, "field %q is not known for category %s", i.field, c.rule.Category)
	}
	var all, cased bool
	op, flags := "", ""
	for _, m := range i.modifiers {
		switch m {
		case "all":
			all = true
		case "cased":
			cased = true
		case "contains", "startswith", "endswith", "re", "cidr", "exists":
			if op != "" {
				return nil, c.refuse(i.line, false, "%s: modifiers %s and %s exclude each other", i.field, op, m)
			}
			op = m
		case "i", "m", "s":
			if op != "re" {
				return nil, c.refuse(i.line, false, "%s: modifier %s belongs after re", i.field, m)
			}
			flags += m
		default:
			return nil, c.refuse(i.line, true, "%s: modifier %q is not known", i.field, m)
		}
	}
	if all && len(i.values) < 2 && op != "exists" {
		// The specification wants a list; a single value means the same either way.
		all = false
	}
	var tests []expression
	for _, v := range i.values {
		t, err := c.test(i, number, op, flags, cased, v)
		if err != nil {
			return nil, err
		}
		tests = append(tests, t)
	}
	if len(tests) == 1 {
		return tests[0], nil
	}
	if all {
		return allOf(tests), nil
	}
	return anyOf(tests), nil
}

func (c *compiler) test(i item, number int, op, flags string, cased bool, v value) (expression, error) {
	switch {
	case op == "exists":
		if v.kind != valueBool {
			return nil, c.refuse(v.line, false, "%s|exists: want true or false", i.field)
		}
		return existence{number, v.text == "true"}, nil
	case v.kind == valueNull:
		if op != "" {
			return nil, c.refuse(max(v.line, i.line), false, "%s|%s: null cannot be searched for", i.field, op)
		}
		return notOf{nonEmpty{number}}, nil
	case op == "cidr":
		prefix, err := netip.ParsePrefix(strings.TrimSpace(v.text))
		if err != nil {
			return nil, c.refuse(v.line, false, "%s|cidr: %q is not a network", i.field, v.text)
		}
		return inNetwork{number, prefix.Masked()}, nil
	case op == "re":
		if len(v.text) > maxPattern {
			return nil, c.refuse(v.line, false, "%s|re: longer than %d bytes", i.field, maxPattern)
		}
		pattern := v.text
		if flags != "" {
			pattern = "(?" + flags + ")" + pattern
		}
		re, err := regexp.Compile(pattern)
		if err != nil {
			return nil, c.refuse(v.line, true, "%s|re: %v", i.field, err)
		}
		return matches{number, re, literalsOf(pattern)}, nil
	}
	glob := parseGlob(v.text)
	switch op {
	case "contains":
		glob = slices.Concat(glob0, glob, glob0)
	case "startswith":
		glob = slices.Concat(glob, glob0)
	case "endswith":
		glob = slices.Concat(glob0, glob)
	}
	return newText(number, glob, cased), nil
}
