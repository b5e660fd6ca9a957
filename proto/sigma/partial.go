package sigma

// certainty is what part of a record says about a rule.
type certainty uint8

const (
	open  certainty = iota // it depends on the rest
	never                  // no record with these fields matches
	always
)

// Fields is a set of field numbers below 128.
type Fields [maxField / 64]uint64

// FieldsOf makes a set.
func FieldsOf(numbers ...int) (set Fields) {
	for _, n := range numbers {
		set[n/64] |= 1 << (n % 64)
	}
	return set
}

// With adds fields.
func (f Fields) With(numbers ...int) Fields { return f.and(FieldsOf(numbers...)) }

// Without removes fields.
func (f Fields) Without(numbers ...int) Fields {
	other := FieldsOf(numbers...)
	for i := range f {
		f[i] &^= other[i]
	}
	return f
}

func (f Fields) and(other Fields) Fields {
	for i := range f {
		f[i] |= other[i]
	}
	return f
}

func (f Fields) covers(other Fields) bool {
	for i := range f {
		if other[i]&^f[i] != 0 {
			return false
		}
	}
	return true
}

// Excluded says that a rule matches no record whose known fields are those of r,
// whatever its other fields hold; r is asked for known fields only. So the answer
// may be kept for all records that have these in common.
func (m *Matcher) Excluded(r Record, known Fields) bool {
	return decide(m.expr, r, known) == never
}

// Decide says what part of a record tells: that the rule matches whatever the other fields
// hold, that it does not, or neither.
func (m *Matcher) Decide(r Record, known Fields) (matches, certain bool) {
	is := decide(m.expr, r, known)
	return is == always, is != open
}

func decide(e expression, r Record, known Fields) certainty {
	switch e := e.(type) {
	case allOf:
		all := always
		for _, x := range e {
			switch decide(x, r, known) {
			case never:
				return never
			case open:
				all = open
			}
		}
		return all
	case anyOf:
		some := never
		for _, x := range e {
			switch decide(x, r, known) {
			case always:
				return always
			case open:
				some = open
			}
		}
		return some
	case atLeast:
		sure, possible := 0, 0
		for _, x := range e.of {
			switch decide(x, r, known) {
			case always:
				sure++
			case open:
				possible++
			}
		}
		switch {
		case sure >= e.least:
			return always
		case sure+possible < e.least:
			return never
		}
		return open
	case notOf:
		switch decide(e.inner, r, known) {
		case never:
			return always
		case always:
			return never
		}
		return open
	case test:
		if !known.covers(e.about()) {
			return open
		}
		if e.eval(r) {
			return always
		}
		return never
	}
	return open
}

// test is an expression about fields themselves.
type test interface {
	expression
	about() Fields
}

func (e existence) about() Fields { return FieldsOf(e.field) }
func (e inNetwork) about() Fields { return FieldsOf(e.field) }
func (e matches) about() Fields   { return FieldsOf(e.field) }
func (e compares) about() Fields  { return FieldsOf(e.field) }
func (e refers) about() Fields    { return FieldsOf(e.field, e.other) }
func (t text) about() Fields      { return FieldsOf(t.field) }
