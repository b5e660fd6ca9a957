package hunt

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokenEnd    tokenKind = iota
	tokenWord             // a field or a word of the language
	tokenString           // in quotes
	tokenNumber
	tokenSign // == != < <= > >= ( ) ,
)

type token struct {
	kind   tokenKind
	at     int
	text   string // as it is meant: of a string without quotes
	number uint64
}

// shown is a token as messages name it.
func (t token) shown() string {
	switch t.kind {
	case tokenEnd:
		return "the end"
	case tokenString:
		return Quote(cutTo(t.text, 40))
	}
	return strconv.Quote(cutTo(t.text, 40))
}

func cutTo(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// lexer cuts an expression into tokens.
type lexer struct {
	text string
	at   int
}

func (l *lexer) wrong(at int, format string, args ...any) error {
	return &Error{Text: l.text, Offset: at, Message: fmt.Sprintf(format, args...)}
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '.' || c >= '0' && c <= '9'
}

func (l *lexer) next() (token, error) {
	for l.at < len(l.text) && strings.IndexByte(" \t\r\n", l.text[l.at]) >= 0 {
		l.at++
	}
	from := l.at
	if from == len(l.text) {
		return token{kind: tokenEnd, at: from}, nil
	}
	c := l.text[from]
	switch {
	case c == '"':
		return l.quoted()
	case c == '\'':
		return token{}, l.wrong(from, `texts stand in double quotes: "…" (and the whole expression in single ones, for the shell)`)
	case c >= '0' && c <= '9':
		return l.number()
	case isWord(c):
		for l.at < len(l.text) && isWord(l.text[l.at]) {
			l.at++
		}
		return token{kind: tokenWord, at: from, text: l.text[from:l.at]}, nil
	}
	for _, sign := range []string{"==", "!=", "<=", ">=", "<", ">", "(", ")", ","} {
		if strings.HasPrefix(l.text[from:], sign) {
			l.at += len(sign)
			return token{kind: tokenSign, at: from, text: sign}, nil
		}
	}
	r, _ := utf8.DecodeRuneInString(l.text[from:])
	switch r {
	case '=', ':':
		return token{}, l.wrong(from, `write == to compare`)
	case '&', '|':
		return token{}, l.wrong(from, `write "and" or "or" between comparisons`)
	case '!':
		return token{}, l.wrong(from, `write "not" before a comparison, or != between field and value`)
	}
	return token{}, l.wrong(from, "%q has no meaning here; texts stand in double quotes", r)
}

// number is decimal, 0x or 0o, and may end in a unit of bytes: 10k, 5M.
func (l *lexer) number() (token, error) {
	from := l.at
	for l.at < len(l.text) && isWord(l.text[l.at]) {
		l.at++
	}
	word := l.text[from:l.at]
	digits, shift := word, 0
	if !strings.HasPrefix(word, "0x") {
		for suffix, by := range map[string]int{"k": 10, "K": 10, "M": 20, "G": 30} {
			if cut, found := strings.CutSuffix(word, suffix); found {
				digits, shift = cut, by
			}
		}
	}
	v, err := strconv.ParseUint(digits, 0, 64)
	if err != nil || v<<shift>>shift != v {
		if strings.Count(word, ".") > 1 {
			return token{}, l.wrong(from, "addresses stand in double quotes: %s", Quote(word))
		}
		return token{}, l.wrong(from, "%s is no number: write 443, 0x1f, 0o4755 or 10M", strconv.Quote(cutTo(word, 40)))
	}
	return token{kind: tokenNumber, at: from, text: word, number: v << shift}, nil
}

func (l *lexer) quoted() (token, error) {
	from := l.at
	var b strings.Builder
	for i := from + 1; i < len(l.text); i++ {
		switch c := l.text[i]; c {
		case '"':
			l.at = i + 1
			return token{kind: tokenString, at: from, text: b.String()}, nil
		case '\\':
			i++
			if i == len(l.text) {
				return token{}, l.wrong(from, "the text has no closing quote")
			}
			switch l.text[i] {
			case '"', '\\':
				b.WriteByte(l.text[i])
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'x':
				if i+2 >= len(l.text) {
					return token{}, l.wrong(i-1, `\x needs two hex digits`)
				}
				v, err := strconv.ParseUint(l.text[i+1:i+3], 16, 8)
				if err != nil {
					return token{}, l.wrong(i-1, `\x needs two hex digits`)
				}
				b.WriteByte(byte(v))
				i += 2
			default:
				return token{}, l.wrong(i-1, `write \" for a quote, \\ for a backslash, \n, \t or \xNN; a pattern's backslash is doubled: "\\d+"`)
			}
		default:
			b.WriteByte(c)
		}
	}
	return token{}, l.wrong(from, "the text has no closing quote")
}

// Quote writes a text as an expression has it, whatever its bytes.
func Quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == utf8.RuneError && size == 1, !strconv.IsPrint(r):
			for _, c := range []byte(s[i : i+size]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		default:
			b.WriteRune(r)
		}
		i += size
	}
	b.WriteByte('"')
	return b.String()
}
