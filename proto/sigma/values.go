package sigma

import (
	"encoding/base64"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// modifiers are what a field's name says of its values.
type modifiers struct {
	op                  string // "", contains, startswith, endswith, re, cidr, exists, lt, lte, gt, gte
	flags               string // of re
	all, cased, neq     bool
	windash, fieldref   bool
	encoding            string // utf16le, utf16be, utf16: before it is encoded
	base64, base64inner bool   // base64, base64offset
}

// laterModifiers are those of the specification that no field here has a use for.
var laterModifiers = []string{"minute", "hour", "day", "week", "month", "year"}

func (c *compiler) modifiers(i item) (m modifiers, err error) {
	name := i.field
	if name == "" {
		name = "bare words"
	}
	for n, word := range i.modifiers {
		switch word {
		case "all":
			m.all = true
		case "cased":
			m.cased = true
		case "neq":
			m.neq = true
		case "windash":
			m.windash = true
		case "fieldref":
			m.fieldref = true
		case "contains", "startswith", "endswith", "re", "cidr", "exists", "lt", "lte", "gt", "gte":
			if m.op != "" {
				return m, c.refuse(i.line, false, "%s: modifiers %s and %s exclude each other", name, m.op, word)
			}
			m.op = word
		case "i", "m", "s":
			if m.op != "re" {
				return m, c.refuse(i.line, false, "%s: modifier %s belongs after re", name, word)
			}
			m.flags += word
		case "wide", "utf16le", "utf16be", "utf16":
			if n+1 >= len(i.modifiers) || !strings.HasPrefix(i.modifiers[n+1], "base64") {
				return m, c.refuse(i.line, false, "%s: modifier %s belongs before base64 or base64offset", name, word)
			}
			m.encoding = word
		case "base64":
			m.base64 = true
		case "base64offset":
			m.base64inner = true
		case "expand":
			return m, c.refuse(i.line, true, "%s: placeholders are not filled in here; write their values out in place of expand", name)
		default:
			if slices.Contains(laterModifiers, word) {
				return m, c.refuse(i.line, true, "%s: modifier %s needs a field that holds a date, which there is none of", name, word)
			}
			return m, c.refuse(i.line, false, "%s: modifier %q is not one of Sigma's", name, word)
		}
	}
	return m, c.compatible(i, name, m)
}

// compatible refuses what would have to be evaluated as something else.
func (c *compiler) compatible(i item, name string, m modifiers) error {
	textual := m.op == "" || m.op == "contains" || m.op == "startswith" || m.op == "endswith"
	encoded := m.base64 || m.base64inner
	switch {
	case m.base64 && m.base64inner:
		return c.refuse(i.line, false, "%s: base64 and base64offset exclude each other", name)
	case !textual && (encoded || m.windash || m.fieldref || m.cased && m.op != "re"):
		return c.refuse(i.line, false, "%s: modifier %s takes its values as they are; leave the other modifiers out", name, m.op)
	case m.fieldref && (encoded || m.windash):
		return c.refuse(i.line, false, "%s: fieldref names a field, which cannot be encoded", name)
	case i.field == "" && (m.fieldref || m.neq || !textual && m.op != "re"):
		return c.refuse(i.line, false, "bare words take no modifiers but all, re and those of text; name a field")
	}
	return nil
}

// item compiles a field with its values.
func (c *compiler) item(i item) (expression, error) {
	m, err := c.modifiers(i)
	if err != nil {
		return nil, err
	}
	fields := c.source.Text
	if i.field == "" {
		if len(fields) == 0 {
			return nil, c.refuse(i.line, true, "bare words need a log line, which records of category %s have not; name a field", c.source.Of)
		}
		if m.op == "" {
			m.op = "contains"
		}
	} else {
		number, ok := c.source.Fields[i.field]
		if !ok {
			return nil, c.refuse(i.line, true, "field %q is not known for category %s", i.field, c.source.Of)
		}
		if number < 0 || number >= maxField {
			return nil, c.refuse(i.line, true, "field %q has a number that cannot be", i.field)
		}
		fields = []int{number}
	}
	var tests []expression
	for _, v := range i.values {
		var any anyOf
		for _, field := range fields {
			t, err := c.test(i, field, m, v)
			if err != nil {
				return nil, err
			}
			any = append(any, t)
		}
		var e expression = any
		if m.neq {
			e = notOf{e}
		}
		tests = append(tests, e)
	}
	c.tests += len(tests) * len(fields)
	if m.all || m.neq { // "is neither": each of a list would else be refuted by another
		return simplify(allOf(tests)), nil
	}
	return simplify(anyOf(tests)), nil
}

func (c *compiler) test(i item, field int, m modifiers, v value) (expression, error) {
	line := max(v.line, i.line)
	name := strings.Join(append([]string{i.field}, i.modifiers...), "|")
	switch {
	case m.op == "exists":
		if v.kind != valueBool {
			return nil, c.refuse(line, false, "%s: want true or false", name)
		}
		return existence{field, v.text == "true"}, nil
	case v.kind == valueNull:
		if len(i.modifiers) > 0 && (len(i.modifiers) != 1 || !m.all && !m.neq) {
			return nil, c.refuse(line, false, "%s: null cannot be searched for; quote it, or leave the modifiers out", name)
		}
		return existence{field, false}, nil
	case m.fieldref:
		other, ok := c.source.Fields[v.text]
		if !ok || other < 0 || other >= maxField {
			return nil, c.refuse(line, true, "%s: field %q is not known for category %s", name, v.text, c.source.Of)
		}
		return refers{field, other, m.op, m.cased}, nil
	}
	switch m.op {
	case "cidr":
		prefix, err := parsePrefix(v.text)
		if err != nil {
			return nil, c.refuse(line, false, "%s: %q is not a network; want 192.0.2.0/24 or the like", name, v.text)
		}
		return c.possible(i, field, inNetwork{field, prefix}), nil
	case "lt", "lte", "gt", "gte":
		n, err := strconv.ParseFloat(v.text, 64)
		if err != nil || n != n {
			return nil, c.refuse(line, false, "%s: %q is not a number", name, v.text)
		}
		return c.possible(i, field, compares{field, m.op, n}), nil
	case "re":
		re, pattern, err := c.pattern(line, name, m.flags, v.text)
		if err != nil {
			return nil, err
		}
		return c.possible(i, field, matchesOf(field, re, pattern)), nil
	}
	globs, err := c.globs(line, name, m, v.text)
	if err != nil {
		return nil, err
	}
	var any anyOf
	for _, glob := range globs {
		switch m.op {
		case "contains":
			glob = slices.Concat(glob0, glob, glob0)
		case "startswith":
			glob = slices.Concat(glob, glob0)
		case "endswith":
			glob = slices.Concat(glob0, glob)
		}
		any = append(any, c.possible(i, field, newText(field, glob, m.cased)))
	}
	c.tests += len(any) - 1
	return simplify(any), nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	text = strings.TrimSpace(text)
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr.Unmap().WithZone("").Prefix(addr.Unmap().BitLen())
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return prefix, err
	}
	return prefix.Masked(), nil
}

// pattern compiles a regular expression whose match takes time linear in the text, with a
// bounded factor.
func (c *compiler) pattern(line int, name, flags, pattern string) (*regexp.Regexp, string, error) {
	if len(pattern) > maxPattern {
		return nil, "", c.refuse(line, false, "%s: longer than %d bytes", name, maxPattern)
	}
	if flags != "" {
		pattern = "(?" + flags + ")" + pattern
	}
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, "", c.refuse(line, true, "%s: %v; only expressions that take linear time are evaluated (RE2: no look-around, no back-references)", name, err)
	}
	tooLarge := func() error {
		return c.refuse(line, false, "%s: compiles to more than %d steps; use fewer or smaller repetitions", name, maxProgram)
	}
	if written(parsed) > maxWritten {
		return nil, "", tooLarge()
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(program.Inst) > maxProgram {
		return nil, "", tooLarge()
	}
	if c.room != nil {
		if *c.room -= len(program.Inst); *c.room < 0 {
			return nil, "", c.refuse(line, false, "%s: its regular expressions together compile to too many steps; use fewer, or smaller repetitions", name)
		}
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, "", c.refuse(line, true, "%s: %v", name, err)
	}
	return re, pattern, nil
}

// written is about how many instructions a pattern becomes at least, without making them:
// repetitions multiply.
func written(re *syntax.Regexp) int {
	size := 1
	if re.Op == syntax.OpLiteral {
		size = len(re.Rune)
	}
	for _, sub := range re.Sub {
		size = min(size+written(sub), maxWritten+1)
	}
	if re.Op == syntax.OpRepeat {
		size *= max(re.Min, re.Max, 1)
	}
	return min(size, maxWritten+1)
}

// globs are the texts that a value stands for.
func (c *compiler) globs(line int, name string, m modifiers, text string) ([][]part, error) {
	glob := parseGlob(text)
	wild := 0
	for _, p := range glob {
		if p.one || p.many {
			wild++
		}
	}
	if wild > maxWildcards {
		return nil, c.refuse(line, false, "%s: more than %d wildcards in one value", name, maxWildcards)
	}
	globs := [][]part{glob}
	if m.windash {
		if globs = windash(glob); globs == nil {
			return nil, c.refuse(line, false, "%s: stands for more than %d texts; use fewer dashes", name, maxVariants)
		}
	}
	if !m.base64 && !m.base64inner {
		return globs, nil
	}
	var encoded [][]part
	for _, g := range globs {
		if len(g) != 1 || g[0].literal == "" {
			return nil, c.refuse(line, false, "%s: wildcards and empty texts cannot be encoded; protect * and ? by a backslash", name)
		}
		plain := encode(g[0].literal, m.encoding)
		if m.base64 {
			encoded = append(encoded, []part{{literal: base64.StdEncoding.EncodeToString(plain)}})
			continue
		}
		for _, inner := range innerBase64(plain) {
			if inner != "" {
				encoded = append(encoded, []part{{literal: inner}})
			}
		}
	}
	if len(encoded) == 0 || len(encoded) > maxVariants {
		return nil, c.refuse(line, false, "%s: stands for %d texts; want 1 to %d", name, len(encoded), maxVariants)
	}
	return encoded, nil
}

func encode(text, encoding string) []byte {
	if encoding == "" {
		return []byte(text)
	}
	var out []byte
	if encoding == "utf16" {
		out = append(out, 0xff, 0xfe)
	}
	for _, unit := range utf16.Encode([]rune(text)) {
		if encoding == "utf16be" {
			out = append(out, byte(unit>>8), byte(unit))
			continue
		}
		out = append(out, byte(unit), byte(unit>>8))
	}
	return out
}

// innerBase64 are the characters that any base64 text has in it which encodes something
// with plain in it, by where plain begins within a group of three bytes.
func innerBase64(plain []byte) (texts []string) {
	for before := range 3 {
		text := base64.StdEncoding.EncodeToString(append(make([]byte, before), plain...))
		// A character that holds bits of a neighbour says nothing of plain.
		from := (before*8 + 5) / 6
		to := (before + len(plain)) * 8 / 6
		texts = append(texts, text[from:max(from, to)])
	}
	return texts
}

var dashes = []string{"-", "/", "\u2013", "\u2014", "\u2015"}

// windash puts each kind of dash where an option begins: at a dash or slash that does not
// follow a word's character and that one follows. None when there are too many.
func windash(glob []part) [][]part {
	globs := [][]part{nil}
	for n, p := range glob {
		pieces := []string{""}
		if p.literal == "" {
			for i := range globs {
				globs[i] = append(globs[i], p)
			}
			continue
		}
		for i, r := range p.literal {
			width := utf8.RuneLen(r)
			if r == utf8.RuneError {
				_, width = utf8.DecodeRuneInString(p.literal[i:])
			}
			before, _ := utf8.DecodeLastRuneInString(p.literal[:i])
			after, _ := utf8.DecodeRuneInString(p.literal[i+width:])
			option := (r == '-' || r == '/') && isWord(after) && (i > 0 && !isWord(before) || i == 0 && (n == 0 || !glob[n-1].one))
			if !option {
				for j := range pieces {
					pieces[j] += p.literal[i : i+width]
				}
				continue
			}
			if len(pieces)*len(dashes) > maxVariants {
				return nil
			}
			var more []string
			for _, piece := range pieces {
				for _, dash := range dashes {
					more = append(more, piece+dash)
				}
			}
			pieces = more
		}
		if len(globs)*len(pieces) > maxVariants {
			return nil
		}
		var more [][]part
		for _, g := range globs {
			for _, piece := range pieces {
				more = append(more, append(g[:len(g):len(g)], part{literal: piece}))
			}
		}
		globs = more
	}
	return globs
}

func isWord(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }
