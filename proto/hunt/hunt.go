// Package hunt is the language of hunts: what an operator asks of the flight recorders
// of many hosts. The CLI parses an expression to say what is wrong with it, a sensor to
// answer it.
//
//	process where image endswith "/nc" and parent.image endswith "/nginx"
//
// Its one idea: an expression comes from outside, so what it can cost is fixed when it is
// parsed. Length, depth, comparisons and patterns have bounds, patterns are of RE2 (linear
// time), and matching takes no memory that the record does not have already.
//
// A comparison with something that the record does not tell is false, != included; "not"
// in front of it makes that true.
package hunt

import (
	"fmt"
	"strings"
)

// Version is the newest form of a question that this package knows (Hello.questions).
const Version = 1

// Bounds of an expression.
const (
	MaxExpression = 16 << 10 // bytes
	maxDepth      = 64
	maxTerms      = 512      // comparisons
	maxValues     = 4096     // in all lists
	maxPatterns   = 64       // of matches
	maxPattern    = 1 << 10  // bytes of one
	maxProgram    = 16 << 10 // instructions of all patterns, about
)

// Kind is what a record tells of.
type Kind uint16

// Kinds. Other is what only "any" finds: ends of processes, tampering, the recorder's own.
const (
	Process Kind = 1 << iota
	Network
	DNS
	File
	Privilege
	Login
	Other
	Any = Process | Network | DNS | File | Privilege | Login | Other
)

// kinds in the order in which they are told to people.
var kinds = []struct {
	kind Kind
	word string
}{
	{Process, "process"}, {Network, "network"}, {DNS, "dns"}, {File, "file"}, {Privilege, "privilege"}, {Login, "login"}, {Any, "any"}, {Other, "other"},
}

// String implements fmt.Stringer; "" for what is no single kind.
func (k Kind) String() string {
	for _, known := range kinds {
		if known.kind == k {
			return known.word
		}
	}
	return ""
}

// kindWords are what may be asked for.
func kindWords() (words []string) {
	for _, known := range kinds {
		if known.kind != Other {
			words = append(words, known.word)
		}
	}
	return words
}

// Error says where an expression cannot be understood and what to write.
type Error struct {
	Text    string // the expression
	Offset  int    // in bytes
	Message string
}

// Error implements error, on one line.
func (e *Error) Error() string {
	return fmt.Sprintf("at character %d: %s", len([]rune(e.Text[:min(e.Offset, len(e.Text))]))+1, e.Message)
}

// Caret is the line of the expression that is wrong, and below it a mark at the place.
func (e *Error) Caret() string {
	at := min(e.Offset, len(e.Text))
	from := strings.LastIndexByte(e.Text[:at], '\n') + 1
	line, _, _ := strings.Cut(e.Text[from:], "\n")
	var b strings.Builder
	for _, r := range line {
		b.WriteRune(visible(r))
	}
	b.WriteByte('\n')
	for range e.Text[from:at] {
		b.WriteByte(' ')
	}
	return b.String() + "^"
}

func visible(r rune) rune {
	if r == '\t' {
		return ' '
	}
	return r
}

// Expr is a parsed expression. It may be used by several goroutines.
type Expr struct {
	kind Kind
	root node // nil: every record of the kind
	text string
}

// Kind is what it asks for.
func (e *Expr) Kind() Kind { return e.kind }

// String is the expression as it was written.
func (e *Expr) String() string { return e.text }

// Storyline is the one that all records are of which it finds; "" when they may be of others.
func (e *Expr) Storyline() string {
	all, ok := e.root.(allOf)
	if !ok {
		all = allOf{e.root}
	}
	for _, n := range all {
		if is, ok := n.(texts); ok && is.field == Storyline && is.operator == "==" {
			return is.value
		}
	}
	return ""
}

// NeedsParent says whether it looks at what the record's process descends from.
func (e *Expr) NeedsParent() bool {
	return e.root != nil && e.root.uses(func(f Field) bool { return fields[f].parent })
}
