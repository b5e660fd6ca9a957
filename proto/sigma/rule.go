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
	"path"
	"strings"
)

// Bounds of a rule file; a rule beyond them is an attack or a mistake.
const (
	maxFile      = 256 << 10
	maxDocuments = 64             // rules in one file
	maxValues    = 4096           // values in one rule
	maxValue     = 4096           // bytes of one value
	maxPattern   = 1024           // bytes of one regular expression
	maxProgram   = 1024           // instructions that it compiles to: each is a step for each byte
	maxWritten   = 4 * maxProgram // of them by its text, which may be simplified yet
	maxWildcards = 64             // * and ? in one value
	maxVariants  = 256            // texts that one value stands for (windash, base64offset)
	maxDepth     = 32             // nesting of YAML and of conditions
	maxTokens    = 512            // of a condition
	maxTests     = 16384          // of a condition with all that it refers to, as often as it does
	maxField     = 128            // numbers of fields, see Fields
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

// Header is what rules of every kind say of themselves.
type Header struct {
	Path        string
	Line        int    // where its document begins
	ID          string // UUID, lower case; "" when it has none
	Name        string // what correlations may call it
	Title       string
	Description string
	Status      string
	Level       string // informational low medium high critical; medium when unsaid
	Tags        []string
	// Unsaid: the rule has no level of its own.
	Unsaid bool
}

// Rule is a parsed rule about one record.
type Rule struct {
	Header
	Category string
	Product  string
	Service  string

	searches  map[string]search
	order     []string // names of searches as written
	condition []conditionText
}

type conditionText struct {
	text string
	line int
}

// search is one named block below detection: one of its maps must hold, all of the map's items.
type search struct {
	line int
	any  [][]item
}

// item is one field with its values; without a field, bare words.
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

// IDOf is what a rule's findings name it by: its id, or what stands for it.
func IDOf(h *Header) string {
	if h.ID != "" {
		return h.ID
	}
	if h.Name != "" {
		return h.Name
	}
	return strings.TrimSuffix(path.Base(h.Path), path.Ext(h.Path))
}

// Techniques are the ATT&CK ids among the tags, in ATT&CK's own spelling.
func (h *Header) Techniques() []string {
	var ids []string
	for _, tag := range h.Tags {
		id, ok := strings.CutPrefix(strings.ToLower(tag), "attack.t")
		if !ok || len(id) < 4 || strings.Trim(id, "0123456789.") != "" {
			continue
		}
		ids = append(ids, "T"+id)
	}
	return ids
}

// Source is what rules of one log source find in one kind of record.
type Source struct {
	// Of is the kind of record, by the caller's name for it.
	Of string
	// Category and Service are the rule's log source. A rule that names neither is about
	// every Source without a Service.
	Category, Service string
	// Fields are the names that rules use, each with its number in a Record, below 128.
	Fields map[string]int
	// Text are the fields that bare words are looked for in.
	Text []int
	// Values are the fields that can hold nothing but these values, as they can be none.
	// A rule that needs another can never match, and is refused with that reason.
	Values map[int][]string
}

// Schema is all that there is to match.
type Schema []Source

// Record gives the values of an event's fields.
type Record interface {
	// Field returns the values of a field: none when the event does not have it.
	Field(number int) []string
	// Folded is Field, each value as Fold makes it.
	Folded(number int) []string
}

// Matcher is a compiled rule for one kind of record.
type Matcher struct {
	Rule *Rule
	Of   string
	// Partial: some of its searches need what this kind of record never holds; others may match.
	Partial bool
	lacks   *Error
	expr    expression
	source  *Source
}

// Match says whether the record fulfils the rule's condition.
func (m *Matcher) Match(r Record) bool { return m.expr.eval(r) }
