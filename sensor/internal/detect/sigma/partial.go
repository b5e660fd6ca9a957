package sigma

// certainty is what part of a record says about a rule.
type certainty uint8

const (
	open  certainty = iota // it depends on the rest
	never                  // no record with these fields matches
	always
)

// Fields is a set of field numbers below 64.
type Fields uint64

// FieldsOf makes a set.
func FieldsOf(numbers ...int) (set Fields) {
	for _, n := range numbers {
		set |= 1 << n
	}
	return set
}

func (f Fields) has(n int) bool { return n < 64 && f>>n&1 != 0 }

// Excluded says that a rule matches no record whose known fields are those of r,
// whatever its other fields hold; r is asked for known fields only. So the answer
// may be kept for all records that have these in common.
func (m *Matcher) Excluded(r Record, known Fields) bool {
	return decide(m.expr, r, known) == never
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
	case notOf:
		switch decide(e.inner, r, known) {
		case never:
			return always
		case always:
			return never
		}
		return open
	case test:
		if !known.has(e.about()) {
			return open
		}
		if e.eval(r) {
			return always
		}
		return never
	}
	return open
}

// test is an expression about one field.
type test interface {
	expression
	about() int
}

func (e existence) about() int { return e.field }
func (e nonEmpty) about() int  { return e.field }
func (e inNetwork) about() int { return e.field }
func (e matches) about() int   { return e.field }
func (t text) about() int      { return t.field }
