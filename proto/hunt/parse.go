package hunt

import (
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// Parse reads an expression. Its errors are *Error.
func Parse(text string) (*Expr, error) {
	if len(text) > MaxExpression {
		return nil, &Error{Text: text, Offset: MaxExpression, Message: "the expression has more than 16 KiB"}
	}
	if !utf8.ValidString(text) {
		at := strings.IndexFunc(text, func(r rune) bool { return r == utf8.RuneError })
		return nil, &Error{Text: text, Offset: max(at, 0), Message: `this is no UTF-8: write other bytes as \xNN`}
	}
	p := &parser{lexer: lexer{text: text}}
	if err := p.advance(); err != nil {
		return nil, err
	}
	return p.hunt()
}

type parser struct {
	lexer
	token    token
	kind     Kind
	depth    int
	terms    int
	values   int
	patterns int
	program  int
}

func (p *parser) advance() (err error) {
	p.token, err = p.next()
	return err
}

// is tells a word of the language, however it is written; AND is "and".
func (p *parser) is(word string) bool {
	return p.token.kind == tokenWord && strings.EqualFold(p.token.text, word)
}

func (p *parser) sign(s string) bool { return p.token.kind == tokenSign && p.token.text == s }

func (p *parser) hunt() (*Expr, error) {
	e := &Expr{text: p.text}
	words := strings.Join(kindWords(), ", ")
	for _, known := range kinds {
		if known.kind != Other && p.is(known.word) {
			e.kind = known.kind
		}
	}
	switch {
	case p.token.kind == tokenEnd:
		return nil, p.wrong(p.token.at, `nothing is asked: write for example process where image endswith "/nc"; kinds are %s`, words)
	case e.kind == 0:
		return nil, p.wrong(p.token.at, `%s is no kind of event: begin with one of %s, as in process where image endswith "/nc"`, p.token.shown(), words)
	}
	p.kind = e.kind
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.token.kind == tokenEnd {
		return e, nil
	}
	if !p.is("where") {
		return nil, p.wrong(p.token.at, `write "where" after %q, or nothing for all of them`, e.kind)
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	var err error
	if e.root, err = p.or(); err != nil {
		return nil, err
	}
	if p.token.kind != tokenEnd {
		if p.sign(")") {
			return nil, p.wrong(p.token.at, "this closes no parenthesis")
		}
		return nil, p.wrong(p.token.at, `write "and" or "or" before %s`, p.token.shown())
	}
	return e, nil
}

func (p *parser) or() (node, error) {
	return p.list("or", p.and, func(all []node) node { return anyOf(all) })
}

func (p *parser) and() (node, error) {
	return p.list("and", p.not, func(all []node) node { return allOf(all) })
}

func (p *parser) list(word string, one func() (node, error), join func([]node) node) (node, error) {
	first, err := one()
	if err != nil {
		return nil, err
	}
	all := []node{first}
	for p.is(word) {
		if err := p.advance(); err != nil {
			return nil, err
		}
		next, err := one()
		if err != nil {
			return nil, err
		}
		all = append(all, next)
	}
	if len(all) == 1 {
		return first, nil
	}
	return join(all), nil
}

func (p *parser) not() (node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.wrong(p.token.at, "more than %d levels of parentheses and not", maxDepth)
	}
	defer func() { p.depth-- }()
	switch {
	case p.is("not"):
		if err := p.advance(); err != nil {
			return nil, err
		}
		inner, err := p.not()
		return negated{inner}, err
	case p.sign("("):
		opened := p.token.at
		if err := p.advance(); err != nil {
			return nil, err
		}
		inner, err := p.or()
		if err != nil {
			return nil, err
		}
		if !p.sign(")") {
			return nil, p.wrong(p.token.at, `write ")" or "and" or "or" here: a parenthesis was opened at character %d`, opened+1)
		}
		return inner, p.advance()
	}
	return p.term()
}

func (p *parser) term() (node, error) {
	if p.token.kind != tokenWord {
		return nil, p.wrong(p.token.at, `a field comes here, as in image == "/usr/bin/nc", not %s`, p.token.shown())
	}
	if p.terms++; p.terms > maxTerms {
		return nil, p.wrong(p.token.at, "more than %d comparisons", maxTerms)
	}
	f, known := byName[strings.ToLower(p.token.text)]
	if !known {
		hint := "'vedette hunt --fields' lists them"
		if near := nearest(strings.ToLower(p.token.text)); near != "" {
			hint = "is " + near + " meant? " + hint
		}
		return nil, p.wrong(p.token.at, "%s is no field: %s", p.token.shown(), hint)
	}
	if fields[f].kinds&p.kind == 0 {
		names := strings.Join(kindNames(fields[f].kinds), ", ")
		return nil, p.wrong(p.token.at, "%s events do not tell %s: ask for %s, or for any", p.kind, f, names)
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	return p.comparison(f)
}

// operators by the form of the field that they are for.
var operators = [...]string{
	Texts: `==, !=, startswith, endswith, contains, matches or in ("…", "…")`, Numbers: "==, !=, <, <=, >, >= or in (…)",
	Addresses: `==, != or in ("10.0.0.0/8", "…")`, Flags: "== true or == false",
}

func (p *parser) comparison(f Field) (node, error) {
	operator := strings.ToLower(p.token.text)
	at := p.token.at
	if p.token.kind == tokenSign && (operator == "(" || operator == ")" || operator == ",") || p.token.kind == tokenString || p.token.kind == tokenNumber || p.token.kind == tokenEnd {
		return nil, p.wrong(at, "%s is compared by %s", f, operators[fields[f].form])
	}
	if operator == "in" {
		if err := p.advance(); err != nil {
			return nil, err
		}
		return p.inList(f)
	}
	if !allowed(fields[f].form, operator) {
		return nil, p.wrong(at, "%s is compared by %s, not by %s", f, operators[fields[f].form], p.token.shown())
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	value := p.token
	n, err := p.compare(f, operator, value)
	if err != nil {
		return nil, err
	}
	return n, p.advance()
}

func allowed(form Form, operator string) bool {
	switch operator {
	case "==", "!=":
		return true
	case "startswith", "endswith", "contains", "matches":
		return form == Texts
	case "<", "<=", ">", ">=":
		return form == Numbers
	}
	return false
}

// compare makes the comparison of a field with one value.
func (p *parser) compare(f Field, operator string, v token) (node, error) {
	if p.values++; p.values > maxValues {
		return nil, p.wrong(v.at, "more than %d values", maxValues)
	}
	var n node
	switch fields[f].form {
	case Texts:
		if v.kind != tokenString {
			return nil, p.wrong(v.at, "%s is a text and wants one in double quotes, not %s", f, v.shown())
		}
		if operator == "matches" {
			return p.pattern(f, v)
		}
		n = texts{f, operator, v.text}
	case Numbers:
		if v.kind != tokenNumber {
			return nil, p.wrong(v.at, "%s is a number and wants one, without quotes, not %s", f, v.shown())
		}
		n = numbers{f, operator, v.number}
	case Addresses:
		prefix, ok := parsePrefix(v.text)
		if v.kind != tokenString || !ok {
			return nil, p.wrong(v.at, `%s wants an address or a prefix in double quotes, "192.0.2.7" or "10.0.0.0/8", not %s`, f, v.shown())
		}
		n = within{f, prefix}
		if operator == "!=" {
			n = outside{f, prefix}
		}
		return n, nil
	default:
		truth := v.kind == tokenWord && (strings.EqualFold(v.text, "true") || strings.EqualFold(v.text, "false"))
		if !truth {
			return nil, p.wrong(v.at, "%s is true or false, without quotes, not %s", f, v.shown())
		}
		n = numbers{f, "==", 0}
		if strings.EqualFold(v.text, "true") == (operator == "==") {
			n = numbers{f, "==", 1}
		}
	}
	return n, nil
}

func parsePrefix(s string) (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(s); err == nil {
		addr = addr.Unmap().WithZone("")
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), true
}

func (p *parser) pattern(f Field, v token) (node, error) {
	if p.patterns++; p.patterns > maxPatterns {
		return nil, p.wrong(v.at, "more than %d patterns", maxPatterns)
	}
	if len(v.text) > maxPattern {
		return nil, p.wrong(v.at, "the pattern has more than %d bytes", maxPattern)
	}
	parsed, err := syntax.Parse(v.text, syntax.Perl)
	if err != nil {
		return nil, p.wrong(v.at, "the pattern is none of RE2's: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	if p.program += written(parsed); p.program > maxProgram {
		return nil, p.wrong(v.at, "the patterns are too large when their repetitions are written out")
	}
	re, err := regexp.Compile(v.text)
	if err != nil {
		return nil, p.wrong(v.at, "the pattern is none of RE2's: %s", err)
	}
	return pattern{f, re}, nil
}

// written is about how many instructions a pattern becomes: repetitions multiply.
func written(re *syntax.Regexp) int {
	size := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		size = min(size+written(sub), maxProgram+1)
	}
	if re.Op == syntax.OpRepeat {
		size *= max(re.Min, re.Max, 1)
	}
	return min(size, maxProgram+1)
}

func (p *parser) inList(f Field) (node, error) {
	if !p.sign("(") {
		return nil, p.wrong(p.token.at, `values stand in parentheses after "in": in ("a", "b")`)
	}
	if fields[f].form == Flags {
		return nil, p.wrong(p.token.at, "%s is compared by %s", f, operators[Flags])
	}
	var all []node
	for {
		if err := p.advance(); err != nil {
			return nil, err
		}
		one, err := p.compare(f, "==", p.token)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
		if err := p.advance(); err != nil {
			return nil, err
		}
		switch {
		case p.sign(","):
		case p.sign(")"):
			return oneOf(f, all), p.advance()
		default:
			return nil, p.wrong(p.token.at, `write "," or ")" here, not %s`, p.token.shown())
		}
	}
}
