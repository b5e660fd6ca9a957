package sigma

import (
	"errors"
	"maps"
	"net/netip"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Example is a record that was made up for a rule: the values of fields by their numbers.
type Example map[int][]string

// Field implements Record.
func (e Example) Field(n int) []string { return e[n] }

// Folded implements Record.
func (e Example) Folded(n int) (folded []string) {
	for _, v := range e[n] {
		folded = append(folded, Fold(v))
	}
	return folded
}

// ErrNoExample says that no record was found within the bounds of the search; the rule may
// contradict itself.
var ErrNoExample = errors.New("no example was found")

// maxAttempts bounds the search for an example.
const maxAttempts = 50000

// Examples makes up a record that the rule must match and one that it must not, which
// differs from the first in as little as the condition allows. A field that holds one value
// in the real world has one here; only fields of a few words may have several. What is
// given is so in every record of the kind.
func (m *Matcher) Examples(given Example) (match, miss Example, err error) {
	g := &generator{source: m.source, given: given, wishes: map[int][]wish{}}
	found := g.fulfil(m.expr, true, func() bool {
		match = g.values()
		return m.expr.eval(match)
	})
	if !found {
		return nil, nil, ErrNoExample
	}
	g = &generator{source: m.source, given: given, wishes: map[int][]wish{}, near: match}
	found = g.fulfil(m.expr, false, func() bool {
		miss = maps.Clone(match)
		maps.Copy(miss, g.values())
		return !m.expr.eval(miss)
	})
	if !found {
		return match, nil, ErrNoExample
	}
	return match, miss, nil
}

// wish is a test that a field's value must pass, or must not.
type wish struct {
	test expression
	want bool
}

type generator struct {
	source   *Source
	given    Example
	wishes   map[int][]wish
	made     map[int][]string
	near     Example
	attempts int
}

func (g *generator) values() Example {
	out := Example{}
	maps.Copy(out, g.given)
	for field := range g.wishes {
		if len(g.wishes[field]) > 0 {
			out[field] = g.made[field]
		}
	}
	return out
}

// fulfil tries the ways to make e hold, or fail, until then says that one is good.
func (g *generator) fulfil(e expression, want bool, then func() bool) bool {
	if g.attempts++; g.attempts > maxAttempts {
		return false
	}
	switch e := e.(type) {
	case notOf:
		return g.fulfil(e.inner, !want, then)
	case allOf:
		if want {
			return g.all(e, true, then)
		}
		return g.any(e, false, then)
	case anyOf:
		if want {
			return g.any(e, true, then)
		}
		return g.all(e, false, then)
	case atLeast:
		if want {
			return g.some(e.of, e.least, true, then)
		}
		return g.some(e.of, len(e.of)-e.least+1, false, then)
	case refers:
		other := "same"
		if !want {
			other = "different"
		}
		return g.all([]expression{newText(e.field, parseGlob("same"), true), newText(e.other, parseGlob(other), true)}, true, then)
	case test:
		for field := range maxField {
			if e.about().covers(FieldsOf(field)) {
				return g.wish(field, wish{e, want}, then)
			}
		}
	}
	return false
}

func (g *generator) all(list []expression, want bool, then func() bool) bool {
	if len(list) == 0 {
		return then()
	}
	return g.fulfil(list[0], want, func() bool { return g.all(list[1:], want, then) })
}

func (g *generator) any(list []expression, want bool, then func() bool) bool {
	return slices.ContainsFunc(list, func(e expression) bool { return g.fulfil(e, want, then) })
}

func (g *generator) some(list []expression, n int, want bool, then func() bool) bool {
	switch {
	case n == 0:
		return then()
	case n > len(list):
		return false
	}
	return g.fulfil(list[0], want, func() bool { return g.some(list[1:], n-1, want, then) }) ||
		g.some(list[1:], n, want, then)
}

func (g *generator) wish(field int, w wish, then func() bool) bool {
	if _, given := g.given[field]; given {
		return w.test.eval(g.given) == w.want && then()
	}
	before, made := g.wishes[field], g.made
	defer func() { g.wishes[field], g.made = before, made }()
	g.wishes[field] = append(slices.Clip(before), w)
	for values := range g.candidates(field) {
		if g.attempts++; g.attempts > maxAttempts {
			return false
		}
		record := Example{field: values}
		if slices.ContainsFunc(g.wishes[field], func(w wish) bool { return w.test.eval(record) != w.want }) {
			continue
		}
		g.made = maps.Clone(made)
		if g.made == nil {
			g.made = map[int][]string{}
		}
		g.made[field] = values
		return then()
	}
	return false
}

// candidates are values that the wishes for a field suggest.
func (g *generator) candidates(field int) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		if domain, closed := g.source.Values[field]; closed {
			for _, v := range domain {
				if !yield([]string{v}) {
					return
				}
			}
			_ = yield(domain) && yield(nil)
			return
		}
		wanted := slices.ContainsFunc(g.wishes[field], func(w wish) bool { return w.want })
		if g.near == nil && !wanted && !yield(nil) {
			return
		}
		old := g.near[field]
		for _, like := range alike(old, g.wishes[field]) {
			if !yield([]string{like}) {
				return
			}
		}
		for _, v := range old { // as it was, but for a little
			for _, changed := range []string{v, v + "x", "x" + v, strings.TrimRight(v, "x") + ".x"} {
				if !yield([]string{changed}) {
					return
				}
			}
			for i := range v {
				if !yield([]string{v[:i] + "~" + v[i:]}) {
					return
				}
			}
		}
		for _, text := range composed(g.wishes[field]) {
			if strings.TrimSpace(text) != "" && !yield([]string{text}) {
				return
			}
		}
		_ = yield([]string{"example"}) && yield([]string{"0"}) && yield(nil) && yield([]string{""})
	}
}

// alike are other addresses where there is one, and other numbers.
func alike(old []string, wishes []wish) []string {
	isNetwork := func(w wish) bool { _, ok := w.test.(inNetwork); return ok }
	isNumber := func(w wish) bool { _, ok := w.test.(compares); return ok }
	network, number := slices.ContainsFunc(wishes, isNetwork), slices.ContainsFunc(wishes, isNumber)
	for _, v := range old {
		_, err := netip.ParseAddr(v)
		network = network || err == nil
		_, err = strconv.Atoi(v)
		number = number || err == nil
	}
	switch {
	case network:
		return []string{"198.51.100.7", "10.0.0.1", "127.0.0.1", "2001:db8::1", "fe80::1"}
	case number:
		return []string{"4321", "1", "0", "65000"}
	}
	return nil
}

// composed are texts that begin, end and go on as wished.
func composed(wishes []wish) (texts []string) {
	begin, end := "", ""
	var inner []string
	for _, w := range wishes {
		if !w.want {
			continue
		}
		switch e := w.test.(type) {
		case text:
			switch e.shape {
			case shapeEqual:
				texts = append(texts, e.literal)
			case shapePrefix:
				if len(e.literal) > len(begin) {
					begin = e.literal
				}
			case shapeSuffix:
				if len(e.literal) > len(end) {
					end = e.literal
				}
			case shapeContains:
				inner = append(inner, e.literal)
			case shapeGlob:
				sample := e.sample()
				switch {
				case !e.glob[0].many && !e.glob[len(e.glob)-1].many:
					texts = append(texts, sample)
				case !e.glob[0].many:
					begin = sample
				case !e.glob[len(e.glob)-1].many:
					end = sample
				default:
					inner = append(inner, sample)
				}
			}
		case matches:
			for _, sample := range samples(e) {
				texts = append(texts, sample)
				inner = append(inner, sample)
			}
		case inNetwork:
			texts = append(texts, e.prefix.Addr().String())
			if next := e.prefix.Addr().Next(); e.prefix.Contains(next) {
				texts = append(texts, next.String())
			}
		case compares:
			for _, n := range []float64{e.with, e.with + 1, e.with - 1} {
				texts = append(texts, strconv.FormatFloat(n, 'f', -1, 64))
			}
		}
	}
	back := slices.Clone(inner)
	slices.Reverse(back)
	for _, between := range []string{" ", "", "/", "-", "x", "_0", ". "} {
		for _, order := range [][]string{inner, back} {
			middle := strings.Join(order, between)
			texts = append(texts, begin+middle+end, begin+between+middle+between+end)
			if strings.HasSuffix(begin, end) {
				texts = append(texts, begin)
			}
			if strings.HasSuffix(middle, end) {
				texts = append(texts, begin+middle)
			}
			if strings.HasPrefix(middle, begin) {
				texts = append(texts, middle+end)
			}
		}
	}
	return texts
}

// sample is a text that fits.
func (t text) sample() string {
	if t.shape != shapeGlob {
		return t.literal
	}
	var s strings.Builder
	for _, p := range t.glob {
		switch {
		case p.one:
			s.WriteByte('y')
		case !p.many:
			s.WriteString(p.literal)
		}
	}
	return s.String()
}

// maxSamples bounds the texts that are made up for one expression.
const maxSamples = 16

// samples are texts that fit an expression, one for each of its first alternatives.
func samples(e matches) (texts []string) {
	re, err := syntax.Parse(e.re.String(), syntax.Perl)
	if err != nil {
		return nil
	}
	for choice := range maxSamples {
		if s := sample(re, choice); !slices.Contains(texts, s) {
			texts = append(texts, s, " "+s+" ", "a"+s)
		}
	}
	return texts
}

func sample(re *syntax.Regexp, choice int) string {
	switch re.Op {
	case syntax.OpLiteral:
		return string(re.Rune)
	case syntax.OpCharClass:
		return string(oneOf(re.Rune, choice))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return "y"
	case syntax.OpCapture, syntax.OpPlus:
		return sample(re.Sub[0], choice)
	case syntax.OpStar, syntax.OpQuest:
		if choice%2 == 1 {
			return sample(re.Sub[0], choice/2)
		}
	case syntax.OpRepeat:
		return strings.Repeat(sample(re.Sub[0], choice), max(re.Min, min(1, re.Max)))
	case syntax.OpConcat:
		var s strings.Builder
		for _, sub := range re.Sub {
			s.WriteString(sample(sub, choice))
		}
		return s.String()
	case syntax.OpAlternate:
		return sample(re.Sub[choice%len(re.Sub)], choice/len(re.Sub))
	}
	return ""
}

// oneOf is a character of a class, one that is readable if there is any.
func oneOf(class []rune, choice int) rune {
	var fit []rune
	for r := rune(' '); r < unicode.MaxASCII; r++ {
		for i := 0; i < len(class); i += 2 {
			if r >= class[i] && r <= class[i+1] {
				fit = append(fit, r)
			}
		}
	}
	if len(fit) == 0 {
		if len(class) == 0 {
			return 'y'
		}
		return class[0]
	}
	return fit[choice*7%len(fit)]
}
