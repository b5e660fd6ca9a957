package sigma

import (
	"fmt"
	"path"
	"strings"
)

// condition is the tree of a condition before its searches are compiled.
type condition struct {
	op    byte // '&' '|' '!' or 0 for a search
	left  *condition
	right *condition
	name  string
}

type conditionParser struct {
	tokens []string
	next   int
	rule   *Rule
}

// parseCondition reads
//
//	or   = and { "or" and }
//	and  = not { "and" not }
//	not  = "not" not | "(" or ")" | ("1"|"any"|"all") "of" ("them"|NAME|GLOB) | NAME
func parseCondition(text string, rule *Rule) (*condition, error) {
	tokens := strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ", "|", " | ").Replace(text))
	if len(tokens) == 0 {
		return nil, fmt.Errorf("is empty")
	}
	if len(tokens) > maxTokens {
		return nil, fmt.Errorf("has more than %d words", maxTokens)
	}
	p := &conditionParser{tokens: tokens, rule: rule}
	c, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.next < len(p.tokens) {
		return nil, fmt.Errorf("unexpected %q", p.tokens[p.next])
	}
	return c, nil
}

func (p *conditionParser) peek() string {
	if p.next < len(p.tokens) {
		return strings.ToLower(p.tokens[p.next])
	}
	return ""
}

func (p *conditionParser) or(depth int) (*condition, error) {
	left, err := p.and(depth)
	for err == nil && p.peek() == "or" {
		p.next++
		var right *condition
		right, err = p.and(depth)
		left = &condition{op: '|', left: left, right: right}
	}
	return left, err
}

func (p *conditionParser) and(depth int) (*condition, error) {
	left, err := p.not(depth)
	for err == nil && p.peek() == "and" {
		p.next++
		var right *condition
		right, err = p.not(depth)
		left = &condition{op: '&', left: left, right: right}
	}
	return left, err
}

func (p *conditionParser) not(depth int) (*condition, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("is nested deeper than %d", maxDepth)
	}
	if p.next >= len(p.tokens) {
		return nil, fmt.Errorf("ends where a search is expected")
	}
	word := p.tokens[p.next]
	p.next++
	switch lower := strings.ToLower(word); lower {
	case "not":
		inner, err := p.not(depth + 1)
		return &condition{op: '!', left: inner}, err
	case "(":
		inner, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.peek() != ")" {
			return nil, fmt.Errorf("lacks a closing parenthesis")
		}
		p.next++
		return inner, nil
	case ")", "and", "or", "|":
		return nil, fmt.Errorf("unexpected %q", word)
	case "1", "any", "all":
		if p.peek() == "of" {
			p.next++
			return p.of(lower == "all")
		}
	}
	if _, ok := p.rule.searches[word]; !ok {
		return nil, fmt.Errorf("names %q, which detection does not have", word)
	}
	return &condition{name: word}, nil
}

func (p *conditionParser) of(all bool) (*condition, error) {
	if p.next >= len(p.tokens) {
		return nil, fmt.Errorf("ends after \"of\"")
	}
	pattern := p.tokens[p.next]
	p.next++
	if strings.ContainsAny(pattern, `[\`) {
		return nil, fmt.Errorf("odd name %q", pattern)
	}
	op := byte('|')
	if all {
		op = '&'
	}
	var c *condition
	for _, name := range p.rule.order {
		match := name == pattern
		if strings.EqualFold(pattern, "them") {
			match = !strings.HasPrefix(name, "_")
		} else if ok, err := path.Match(pattern, name); err == nil && ok {
			match = true
		}
		if !match {
			continue
		}
		one := &condition{name: name}
		if c == nil {
			c = one
		} else {
			c = &condition{op: op, left: c, right: one}
		}
	}
	if c == nil {
		return nil, fmt.Errorf("names %q, which detection does not have", pattern)
	}
	return c, nil
}
