package sigma

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// condition is the tree of a condition before its searches are compiled.
type condition struct {
	op   byte // '&' '|' '!', '#': least of kids, or 0 for a search
	kids []*condition
	// least is how many must hold.
	least int
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
//	not  = "not" not | "(" or ")" | (NUMBER|"any"|"all") "of" ("them"|NAME|GLOB) | NAME
func parseCondition(text string, rule *Rule) (*condition, error) {
	tokens := strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ", "|", " | ").Replace(text))
	if len(tokens) == 0 {
		return nil, fmt.Errorf("is empty; name a search")
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

func (p *conditionParser) or(depth int) (*condition, error) { return p.list(depth, "or", '|', p.and) }

func (p *conditionParser) and(depth int) (*condition, error) {
	return p.list(depth, "and", '&', p.not)
}

// list reads one or more of next with word between them.
func (p *conditionParser) list(depth int, word string, op byte, next func(int) (*condition, error)) (*condition, error) {
	first, err := next(depth)
	if err != nil || p.peek() != word {
		return first, err
	}
	all := &condition{op: op, kids: []*condition{first}}
	for p.peek() == word {
		p.next++
		one, err := next(depth)
		if err != nil {
			return nil, err
		}
		all.kids = append(all.kids, one)
	}
	return all, nil
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
		return &condition{op: '!', kids: []*condition{inner}}, err
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
	default:
		if p.peek() != "of" {
			break
		}
		if lower == "any" {
			lower = "1"
		}
		n, err := strconv.Atoi(lower)
		switch {
		case lower == "all":
			n = 0
		case err != nil || n < 1:
			return nil, fmt.Errorf("%q before \"of\": want a number from 1 on, any or all", word)
		}
		p.next++
		return p.of(n)
	}
	if _, ok := p.rule.searches[word]; !ok {
		return nil, fmt.Errorf("names %q, which detection does not have", word)
	}
	return &condition{name: word}, nil
}

// of reads what stands after "of"; least 0: all.
func (p *conditionParser) of(least int) (*condition, error) {
	if p.next >= len(p.tokens) {
		return nil, fmt.Errorf("ends after \"of\"; name searches, or them")
	}
	pattern := p.tokens[p.next]
	p.next++
	if strings.ContainsAny(pattern, `[\`) {
		return nil, fmt.Errorf("odd name %q", pattern)
	}
	c := &condition{op: '#', least: least}
	for _, name := range p.rule.order {
		match := name == pattern
		if strings.EqualFold(pattern, "them") {
			match = !strings.HasPrefix(name, "_")
		} else if ok, err := path.Match(pattern, name); err == nil && ok {
			match = true
		}
		if match {
			c.kids = append(c.kids, &condition{name: name})
		}
	}
	switch {
	case len(c.kids) == 0:
		return nil, fmt.Errorf("names %q, which detection does not have", pattern)
	case least > len(c.kids):
		return nil, fmt.Errorf("wants %d of %s, of which there are %d", least, pattern, len(c.kids))
	case least == 0:
		c.least = len(c.kids)
	}
	return c, nil
}

// aggregates says whether a condition is of the form that correlation rules replaced.
func aggregates(text string) bool {
	_, after, found := strings.Cut(text, "|")
	if !found {
		return false
	}
	word, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	word, _, _ = strings.Cut(strings.ToLower(word), "(")
	switch word {
	case "count", "min", "max", "avg", "sum", "near":
		return true
	}
	return false
}
