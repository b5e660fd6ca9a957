package sigma

import (
	"net/netip"
	"regexp"
	"strings"
)

type existence struct {
	field int
	want  bool
}

func (e existence) eval(r Record) bool { return (len(r.Field(e.field)) > 0) == e.want }

type nonEmpty struct{ field int }

func (e nonEmpty) eval(r Record) bool {
	for _, v := range r.Field(e.field) {
		if v != "" {
			return true
		}
	}
	return false
}

type inNetwork struct {
	field  int
	prefix netip.Prefix
}

func (e inNetwork) eval(r Record) bool {
	for _, v := range r.Field(e.field) {
		if addr, err := netip.ParseAddr(v); err == nil && e.prefix.Contains(addr.Unmap().WithZone("")) {
			return true
		}
	}
	return false
}

type matches struct {
	field    int
	re       *regexp.Regexp
	literals []string // one of them is in every match; see literalsOf
}

func (e matches) eval(r Record) bool {
	for _, v := range r.Field(e.field) {
		if e.mayMatch(v) && e.re.MatchString(v) {
			return true
		}
	}
	return false
}

// part of a glob: a literal, one character (?) or any number of them (*).
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

// fold lowers ASCII letters only: the bytes of a command line need not be UTF-8,
// and must not be changed by looking at them.
func fold(s string) string {
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if b[j] >= 'A' && b[j] <= 'Z' {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// Fold is the folding that Record.Folded must do.
func Fold(s string) string { return fold(s) }

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
			pos++
			continue
		case i < len(glob) && !glob[i].one && strings.HasPrefix(v[pos:], glob[i].literal):
			pos += len(glob[i].literal)
			i++
			continue
		}
		if starAt < 0 || starPos >= len(v) {
			return false
		}
		starPos++
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
