// Package sigma parses rules in the Sigma format as the ecosystem writes it and
// matches them against records. It knows nothing of processes or flows: a
// Schema says which fields a category has, a Record gives their values.
//
// Invariant: matching takes time linear in the record for every rule that
// compiles (literals, globs of bounded size, RE2), and a rule that cannot be
// evaluated exactly as written is refused with its file and line, never
// evaluated as something else.
package sigma

import (
	"fmt"
	"strings"
)

// Bounds of a rule file; a rule beyond them is an attack or a mistake.
const (
	maxFile    = 256 << 10
	maxValues  = 4096 // values in one rule
	maxValue   = 4096 // bytes of one value
	maxPattern = 1024 // bytes of one regular expression
	maxDepth   = 32   // nesting of YAML and of conditions
	maxTokens  = 512  // of a condition
)

// Error is why a rule was refused.
type Error struct {
	Path string
	Line int // 0: the whole file
	Msg  string
	// Unsupported: the rule is well formed, but needs a field or a modifier that
	// this sensor does not have.
	Unsupported bool
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.Path, e.Msg)
	}
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Msg)
}

// Rule is a parsed rule.
type Rule struct {
	Path        string
	ID          string // UUID; "" when the file has none
	Title       string
	Description string
	Status      string
	Level       string // informational low medium high critical; medium when unsaid
	Tags        []string
	Category    string
	Product     string
	Service     string

	searches  map[string]search
	order     []string // names of searches as written
	condition []conditionText
}

type conditionText struct {
	text string
	line int
}

// search is one named block below detection.
type search struct {
	line     int
	any      [][]item // maps: one of them must hold, all of its items
	keywords bool     // a list of bare words
}

// item is one field with its values.
type item struct {
	line      int
	field     string
	modifiers []string
	values    []value
}

type valueKind uint8

const (
	valueText valueKind = iota
	valueNumber
	valueBool
	valueNull
)

type value struct {
	kind valueKind
	text string
	line int
}

// Techniques are the ATT&CK ids among the tags, in ATT&CK's own spelling.
func (r *Rule) Techniques() []string {
	var ids []string
	for _, tag := range r.Tags {
		id, ok := strings.CutPrefix(strings.ToLower(tag), "attack.t")
		if !ok || len(id) < 4 || strings.Trim(id, "0123456789.") != "" {
			continue
		}
		ids = append(ids, "T"+id)
	}
	return ids
}

// Schema names the fields of each category: category → field → its number in a Record.
type Schema map[string]map[string]int

// Record gives the values of an event's fields.
type Record interface {
	// Field returns the values of a field: none when the event does not have it.
	Field(number int) []string
	// Folded is Field with ASCII letters in lower case.
	Folded(number int) []string
}

// Matcher is a compiled rule.
type Matcher struct {
	Rule *Rule
	expr expression
}

// Match says whether the record fulfils the rule's condition.
func (m *Matcher) Match(r Record) bool { return m.expr.eval(r) }
