package hunt

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Record is what an expression is matched with. What it does not tell has no values.
type Record interface {
	Kind() Kind
	// Texts appends the values of a field of form Texts.
	Texts(f Field, out []string) []string
	// Number is the value of a field of form Numbers or Flags (0 and 1).
	Number(f Field) (value uint64, ok bool)
	// Addresses appends the values of a field of form Addresses.
	Addresses(f Field, out []netip.Addr) []netip.Addr
}

// Matcher matches one record after another. It is for one goroutine.
type Matcher struct {
	expr      *Expr
	texts     []string
	addresses []netip.Addr
}

// Matcher makes one.
func (e *Expr) Matcher() *Matcher { return &Matcher{expr: e} }

// Match says whether a record is what is asked for.
func (m *Matcher) Match(r Record) bool {
	return r.Kind()&m.expr.kind != 0 && (m.expr.root == nil || m.expr.root.match(m, r))
}

type node interface {
	match(m *Matcher, r Record) bool
	uses(is func(Field) bool) bool
}

type (
	allOf   []node
	anyOf   []node
	negated struct{ of node }
	texts   struct {
		field    Field
		operator string
		value    string
	}
	textSet struct {
		field  Field
		values map[string]bool
	}
	numbers struct {
		field    Field
		operator string
		value    uint64
	}
	numberSet struct {
		field  Field
		values map[uint64]bool
	}
	within struct {
		field  Field
		prefix netip.Prefix
	}
	outside struct {
		field  Field
		prefix netip.Prefix
	}
	pattern struct {
		field Field
		re    *regexp.Regexp
	}
)

// oneOf makes lists of texts and numbers, which may be long, cost one look.
func oneOf(f Field, all []node) node {
	switch all[0].(type) {
	case texts:
		set := textSet{f, make(map[string]bool, len(all))}
		for _, n := range all {
			set.values[n.(texts).value] = true
		}
		return set
	case numbers:
		set := numberSet{f, make(map[uint64]bool, len(all))}
		for _, n := range all {
			set.values[n.(numbers).value] = true
		}
		return set
	}
	return anyOf(all)
}

func (n allOf) match(m *Matcher, r Record) bool {
	for _, one := range n {
		if !one.match(m, r) {
			return false
		}
	}
	return true
}

func (n anyOf) match(m *Matcher, r Record) bool {
	for _, one := range n {
		if one.match(m, r) {
			return true
		}
	}
	return false
}

func (n negated) match(m *Matcher, r Record) bool { return !n.of.match(m, r) }

func (n texts) match(m *Matcher, r Record) bool {
	m.texts = r.Texts(n.field, m.texts[:0])
	switch n.operator {
	case "!=":
		return len(m.texts) > 0 && !slices.Contains(m.texts, n.value)
	case "==":
		return slices.Contains(m.texts, n.value)
	}
	for _, v := range m.texts {
		var found bool
		switch n.operator {
		case "startswith":
			found = strings.HasPrefix(v, n.value)
		case "endswith":
			found = strings.HasSuffix(v, n.value)
		case "contains":
			found = strings.Contains(v, n.value)
		}
		if found {
			return true
		}
	}
	return false
}

func (n textSet) match(m *Matcher, r Record) bool {
	m.texts = r.Texts(n.field, m.texts[:0])
	return slices.ContainsFunc(m.texts, func(v string) bool { return n.values[v] })
}

func (n pattern) match(m *Matcher, r Record) bool {
	m.texts = r.Texts(n.field, m.texts[:0])
	return slices.ContainsFunc(m.texts, n.re.MatchString)
}

func (n numbers) match(_ *Matcher, r Record) bool {
	v, ok := r.Number(n.field)
	if !ok {
		return false
	}
	switch n.operator {
	case "==":
		return v == n.value
	case "!=":
		return v != n.value
	case "<":
		return v < n.value
	case "<=":
		return v <= n.value
	case ">":
		return v > n.value
	}
	return v >= n.value
}

func (n numberSet) match(_ *Matcher, r Record) bool {
	v, ok := r.Number(n.field)
	return ok && n.values[v]
}

func (n within) match(m *Matcher, r Record) bool {
	m.addresses = r.Addresses(n.field, m.addresses[:0])
	return slices.ContainsFunc(m.addresses, func(a netip.Addr) bool { return n.prefix.Contains(plain(a)) })
}

func (n outside) match(m *Matcher, r Record) bool {
	m.addresses = r.Addresses(n.field, m.addresses[:0])
	return len(m.addresses) > 0 && !slices.ContainsFunc(m.addresses, func(a netip.Addr) bool { return n.prefix.Contains(plain(a)) })
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func (n allOf) uses(is func(Field) bool) bool {
	return slices.ContainsFunc(n, func(one node) bool { return one.uses(is) })
}

func (n anyOf) uses(is func(Field) bool) bool {
	return slices.ContainsFunc(n, func(one node) bool { return one.uses(is) })
}
func (n negated) uses(is func(Field) bool) bool   { return n.of.uses(is) }
func (n texts) uses(is func(Field) bool) bool     { return is(n.field) }
func (n textSet) uses(is func(Field) bool) bool   { return is(n.field) }
func (n numbers) uses(is func(Field) bool) bool   { return is(n.field) }
func (n numberSet) uses(is func(Field) bool) bool { return is(n.field) }
func (n within) uses(is func(Field) bool) bool    { return is(n.field) }
func (n outside) uses(is func(Field) bool) bool   { return is(n.field) }
func (n pattern) uses(is func(Field) bool) bool   { return is(n.field) }
