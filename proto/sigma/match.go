package sigma

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type existence struct {
	field int
	want  bool
}

func (e existence) eval(r Record) bool { return (len(r.Field(e.field)) > 0) == e.want }

type inNetwork struct {
	field  int
	prefix netip.Prefix
}

func (e inNetwork) eval(r Record) bool { return some(r.Field(e.field), e.one) }

func (e inNetwork) one(v string) bool {
	addr, err := netip.ParseAddr(v)
	return err == nil && e.prefix.Contains(addr.Unmap().WithZone(""))
}

func some(values []string, one func(string) bool) bool { return slices.ContainsFunc(values, one) }

// compares a number; what is none is neither less nor more.
type compares struct {
	field int
	op    string // lt lte gt gte
	with  float64
}

func (e compares) eval(r Record) bool { return some(r.Field(e.field), e.one) }

func (e compares) one(v string) bool {
	n, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return false
	}
	switch e.op {
	case "lt":
		return n < e.with
	case "lte":
		return n <= e.with
	case "gt":
		return n > e.with
	}
	return n >= e.with
}

// refers compares a field with another one of the same record.
type refers struct {
	field, other int
	op           string // "", contains, startswith, endswith
	cased        bool
}

func (e refers) eval(r Record) bool {
	values := r.Folded
	if e.cased {
		values = r.Field
	}
	for _, v := range values(e.field) {
		for _, w := range values(e.other) {
			if e.holds(v, w) {
				return true
			}
		}
	}
	return false
}

func (e refers) holds(v, w string) bool {
	switch e.op {
	case "contains":
		return strings.Contains(v, w)
	case "startswith":
		return strings.HasPrefix(v, w)
	case "endswith":
		return strings.HasSuffix(v, w)
	}
	return v == w
}

type matches struct {
	field    int
	re       *regexp.Regexp
	literals []string // one of them is in every match; see literalsOf
	folded   []string // the same of folded texts, where letters' case keeps literals from being told
}

func (e matches) eval(r Record) bool {
	if len(e.folded) > 0 && !some(r.Folded(e.field), func(v string) bool { return holdsOne(v, e.folded) }) {
		return false
	}
	for _, v := range r.Field(e.field) {
		if e.one(v) {
			return true
		}
	}
	return false
}

func (e matches) one(v string) bool { return e.mayMatch(v) && e.re.MatchString(v) }

// part of a glob: a literal, one character (?; a byte where there is no UTF-8) or any
// number of them (*).
type part struct {
	literal   string
	one, many bool
}

var glob0 = []part{{many: true}}

// parseGlob reads Sigma's escapes: a backslash protects *, ? and a backslash,
// and is itself before anything else.
func parseGlob(s string) []part {
	var parts []part
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			parts = append(parts, part{literal: literal.String()})
			literal.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s) && (s[i+1] == '*' || s[i+1] == '?' || s[i+1] == '\\'):
			i++
			literal.WriteByte(s[i])
		case c == '*':
			flush()
			parts = append(parts, part{many: true})
		case c == '?':
			flush()
			parts = append(parts, part{one: true})
		default:
			literal.WriteByte(c)
		}
	}
	flush()
	return parts
}

// Fold lowers letters one by one, so that texts which differ in case alone become the
// same. Bytes that are no UTF-8, as those of a command line may be, stay as they are.
func Fold(s string) string {
	if IsFolded(s) {
		return s
	}
	return string(AppendFold(nil, s))
}

// IsFolded says that a text is as Fold would make it; it may say no where it is.
func IsFolded(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// AppendFold appends Fold(s).
func AppendFold(dst []byte, s string) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			dst = append(dst, c)
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			dst = append(dst, c)
		} else {
			dst = utf8.AppendRune(dst, canonical(r))
		}
		i += size
	}
	return dst
}

// canonical is the same for all letters that differ in case alone, as regular expressions
// see it too; ASCII's is lower case.
func canonical(r rune) rune {
	least := r
	for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
		least = min(least, other)
	}
	if least < utf8.RuneSelf {
		return unicode.ToLower(least)
	}
	return least
}

func fold(s string) string { return Fold(s) }

type shape uint8

const (
	shapeEqual shape = iota
	shapePrefix
	shapeSuffix
	shapeContains
	shapeAny
	shapeGlob
)

// text is a test of a field against a glob; the common forms need no glob.
type text struct {
	field   int
	cased   bool
	shape   shape
	literal string
	glob    []part
}

func newText(field int, glob []part, cased bool) expression {
	// Neighbouring stars are one.
	short := glob[:0:0]
	for _, p := range glob {
		if p.many && len(short) > 0 && short[len(short)-1].many {
			continue
		}
		if !cased {
			p.literal = fold(p.literal)
		}
		short = append(short, p)
	}
	t := text{field: field, cased: cased, shape: shapeGlob, glob: short}
	star := func(i int) bool { return i < len(short) && short[i].many }
	plain := func(i int) bool { return i < len(short) && !short[i].many && !short[i].one }
	switch {
	case len(short) == 0:
		t.shape = shapeEqual
	case len(short) == 1 && star(0):
		t.shape = shapeAny
	case len(short) == 1 && plain(0):
		t.shape, t.literal = shapeEqual, short[0].literal
	case len(short) == 2 && plain(0) && star(1):
		t.shape, t.literal = shapePrefix, short[0].literal
	case len(short) == 2 && star(0) && plain(1):
		t.shape, t.literal = shapeSuffix, short[1].literal
	case len(short) == 3 && star(0) && plain(1) && star(2):
		t.shape, t.literal = shapeContains, short[1].literal
	}
	if t.shape != shapeGlob {
		t.glob = nil // all of it is in the literal; a thousand of them are kept
	}
	return t
}

func (t text) eval(r Record) bool {
	values := r.Folded(t.field)
	if t.cased {
		values = r.Field(t.field)
	}
	for _, v := range values {
		if t.one(v) {
			return true
		}
	}
	return false
}

func (t text) one(v string) bool {
	switch t.shape {
	case shapeEqual:
		return v == t.literal
	case shapePrefix:
		return strings.HasPrefix(v, t.literal)
	case shapeSuffix:
		return strings.HasSuffix(v, t.literal)
	case shapeContains:
		return strings.Contains(v, t.literal)
	case shapeAny:
		return true
	}
	return globMatch(t.glob, v)
}

// globMatch goes back to the last star only, so it takes at most
// len(glob) × len(v) steps.
func globMatch(glob []part, v string) bool {
	i, pos := 0, 0
	starAt, starPos := -1, 0
	for {
		switch {
		case i == len(glob) && pos == len(v):
			return true
		case i < len(glob) && glob[i].many:
			if i == len(glob)-1 {
				return true
			}
			starAt, starPos = i, pos
			i++
			continue
		case i < len(glob) && glob[i].one && pos < len(v):
			i++
			pos += character(v[pos:])
			continue
		case i < len(glob) && !glob[i].one && strings.HasPrefix(v[pos:], glob[i].literal):
			pos += len(glob[i].literal)
			i++
			continue
		}
		if starAt < 0 || starPos >= len(v) {
			return false
		}
		starPos += character(v[starPos:])
		i, pos = starAt+1, starPos
		// Jump to where the literal after the star can be at all.
		if l := glob[i].literal; l != "" {
			next := strings.Index(v[pos:], l)
			if next < 0 {
				return false
			}
			pos += next
			starPos = pos
		}
	}
}

// character is how long the first one of a text is.
func character(v string) int {
	if v[0] < utf8.RuneSelf {
		return 1
	}
	_, size := utf8.DecodeRuneInString(v)
	return size
}
