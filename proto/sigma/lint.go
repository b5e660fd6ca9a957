package sigma

import (
	"slices"
	"strings"
)

// Prefiltered says whether texts are known of which one must be in a record for m to match.
// A rule that has none is tried at each event of its kind.
func (m *Matcher) Prefiltered() bool {
	atoms, _ := m.source.needed(m.expr)
	return len(atoms) > 0
}

// Lacks is the first search that this kind of record can never fulfil, though others may
// match; nil when all can.
func (m *Matcher) Lacks() *Error { return m.lacks }

// Service is the log source's, where the rule is about a service.
func (m *Matcher) Service() string { return m.source.Service }

// NameOf is what a field is called: by the rule, or else by its kind of record.
func (m *Matcher) NameOf(field int) string {
	for _, name := range m.Rule.order {
		for _, items := range m.Rule.searches[name].any {
			for _, i := range items {
				if n, ok := m.source.Fields[i.field]; ok && n == field {
					return i.field
				}
			}
		}
	}
	first := ""
	for name, n := range m.source.Fields {
		if n == field && (first == "" || name < first) {
			first = name
		}
	}
	return first
}

// tactics are ATT&CK's, as tags name them: of Enterprise, with - or _ for a space.
var tactics = []string{
	"reconnaissance", "resource-development", "initial-access", "execution", "persistence", "privilege-escalation",
	"defense-evasion", "credential-access", "discovery", "lateral-movement", "collection", "command-and-control",
	"exfiltration", "impact",
}

// OddTags are those in ATT&CK's namespace that are no tactic, technique, group or software
// by their form.
func (h *Header) OddTags() (odd []string) {
	for _, tag := range h.Tags {
		word, ok := strings.CutPrefix(strings.ToLower(tag), "attack.")
		if ok && !isAttack(word) {
			odd = append(odd, tag)
		}
	}
	return odd
}

func isAttack(word string) bool {
	if slices.Contains(tactics, strings.ReplaceAll(word, "_", "-")) {
		return true
	}
	id, sub, hasSub := strings.Cut(word, ".")
	if len(id) != 5 || !digits(id[1:]) {
		return false
	}
	switch id[0] {
	case 't':
		return !hasSub || len(sub) == 3 && digits(sub)
	case 'g', 's':
		return !hasSub
	}
	return false
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
