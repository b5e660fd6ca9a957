package output

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Safe renders s so that a terminal prints it and does nothing else: what is not
// printable becomes \n, \t, \xNN, \uNNNN or \UNNNNNNNN. That includes ESC, the C1
// controls, and the marks that turn the direction of writing, which can make a
// harmless name of a hostile one.
func Safe(s string) string {
	if printable(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += size
	}
	return b.String()
}

func printable(s string) bool {
	for i, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return false
			}
		}
	}
	return true
}

// Lossless turns bytes of a kernel (paths, arguments) into a string that a JSON or
// YAML document can hold, and from which Bytes gets the same bytes back: a byte
// that is not part of valid UTF-8 is written \xNN (lower-case hexadecimal), and a
// backslash is written \x5c where the text would otherwise read as such an escape.
func Lossless(raw []byte) string {
	if utf8.Valid(raw) && !strings.Contains(string(raw), `\x`) {
		return string(raw)
	}
	var b strings.Builder
	for i := 0; i < len(raw); {
		if escape(raw[i:]) {
			b.WriteString(`\x5c`)
			i++
			continue
		}
		r, size := utf8.DecodeRune(raw[i:])
		if r == utf8.RuneError && size == 1 {
			fmt.Fprintf(&b, `\x%02x`, raw[i])
		} else {
			b.Write(raw[i : i+size])
		}
		i += size
	}
	return b.String()
}

// Bytes is the inverse of Lossless.
func Bytes(s string) []byte {
	raw := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		if escape([]byte(s[i:min(i+4, len(s))])) {
			raw = append(raw, unhex(s[i+2])<<4|unhex(s[i+3]))
			i += 4
			continue
		}
		raw = append(raw, s[i])
		i++
	}
	return raw
}

// escape says whether raw starts with \xNN.
func escape(raw []byte) bool {
	return len(raw) >= 4 && raw[0] == '\\' && raw[1] == 'x' && isHex(raw[2]) && isHex(raw[3])
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'a' + 10
}

// Command renders an argument vector as a person would type it, on one line.
func Command(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = quote(a)
	}
	return strings.Join(words, " ")
}

const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-"

func quote(a string) string {
	if a != "" && strings.Trim(a, plain) == "" {
		return a
	}
	if strings.ContainsFunc(a, func(r rune) bool { return r > unicode.MaxASCII }) && !strings.ContainsAny(a, " \t\n'\"\\$`|&;<>()*?[]{}!#~") {
		return a
	}
	return "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
}
