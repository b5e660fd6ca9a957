// Package ruleset is sets of detection rules as operators handle them: checked before they
// go out, signed in versions, and verified by each sensor.
//
// Invariant: a set is in force on a host only as an operator signed it for this cluster, and
// never after a newer one was, but that the newer one itself names what it goes back to.
package ruleset

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/proto/taxonomy"
)

// Bounds of a set. It travels as one message of at most 1 MiB, beside the one that it goes back to.
const (
	MaxFiles = 2000
	MaxBytes = 448 << 10
	maxPath  = 256
)

// File is a file of rules; Path is relative, with slashes.
type File struct {
	Path string
	Raw  []byte
}

// Weight says what a Note is.
type Weight string

// Weights, the gravest first.
const (
	Refused     Weight = "refused"     // malformed; no sensor takes it
	Unsupported Weight = "unsupported" // well formed; needs what no sensor supplies
	Warning     Weight = "warning"     // taken, but somebody will miss something
	Hint        Weight = "hint"        // taken; what it costs, or does not cover
)

// Note is one thing to say of a rule.
type Note struct {
	Path   string
	Line   int // 0: the whole file
	Rule   string
	Weight Weight
	What   string
	Advice string
}

// Rule is a rule that sensors would use.
type Rule struct {
	sigma.Header
	ID string // what findings name it by
	// Kinds are the records that it is tried on; none of a correlation.
	Kinds       []string
	Matchers    []*sigma.Matcher
	Correlation *sigma.Correlation
}

// Report is what came of looking at files.
type Report struct {
	Rules []Rule
	Notes []Note
}

// Worst counts notes by weight.
func (r *Report) Worst() map[Weight]int {
	count := map[Weight]int{}
	for _, n := range r.Notes {
		count[n.Weight]++
	}
	return count
}

// Lint parses and compiles files as a sensor does. Correlations that refer to rules which
// are built into sensors are told as unsupported: those are not known here.
func Lint(files []File) *Report {
	r := &Report{}
	ids := map[string]string{}
	var correlations []*sigma.Correlation
	var matchers []*sigma.Matcher
	for _, f := range files {
		parsed, refused := sigma.ParseFile(f.Path, f.Raw)
		for _, err := range refused {
			r.refuse(err, "")
		}
		for _, rule := range parsed.Rules {
			compiled, err := sigma.Compile(rule, taxonomy.Schema)
			if err != nil {
				r.refuse(err, rule.Title)
				continue
			}
			if !r.claim(ids, &rule.Header) {
				continue
			}
			r.header(&rule.Header)
			r.compiled(rule, compiled)
			matchers = append(matchers, compiled...)
		}
		for _, c := range parsed.Correlations {
			if r.claim(ids, &c.Header) {
				correlations = append(correlations, c)
			}
		}
	}
	used, refused := sigma.NewCorrelator(sigma.DefaultCorrelatorLimits, matchers, correlations)
	for _, err := range refused {
		r.refuse(err, "")
	}
	for _, c := range used.Correlations() {
		r.header(&c.Header)
		r.Rules = append(r.Rules, Rule{Header: c.Header, ID: sigma.IDOf(&c.Header), Correlation: c})
	}
	slices.SortStableFunc(r.Notes, func(a, b Note) int {
		if a.Path != b.Path {
			return strings.Compare(a.Path, b.Path)
		}
		return a.Line - b.Line
	})
	return r
}

func (r *Report) refuse(err error, title string) {
	n := Note{Rule: title, Weight: Refused, What: err.Error()}
	var at *sigma.Error
	if errors.As(err, &at) {
		n.Path, n.Line, n.What = at.Path, at.Line, at.Msg
		if at.Unsupported {
			n.Weight = Unsupported
		}
	}
	n.Advice = advice(n)
	r.Notes = append(r.Notes, n)
}

// advice says what to do, where the reason does not say it itself.
func advice(n Note) string {
	switch {
	case strings.Contains(n.What, "is not known for category"):
		return "use a field that docs/rules.md lists for this category, or another category"
	case strings.Contains(n.What, "is not watched by this sensor"):
		return "use a category or service that docs/rules.md lists"
	case strings.Contains(n.What, "no record of this sensor holds"):
		return "no event can match it; leave it out, or look for what docs/rules.md says these records hold"
	case strings.Contains(n.What, "is the name or id of no rule"):
		return "put the rule into the same set, or mind that one built into sensors is not known here"
	case n.Weight == Unsupported:
		return "sensors leave the rule out, and say so; the others are used"
	case strings.HasPrefix(n.What, "YAML:"), strings.HasPrefix(n.What, "reading YAML"):
		return "mend the YAML; the whole file is left out"
	}
	return "mend it: no sensor takes it as it is"
}

func (r *Report) claim(ids map[string]string, h *sigma.Header) bool {
	id := sigma.IDOf(h)
	if other, taken := ids[id]; taken {
		r.note(h, h.Line, Refused, fmt.Sprintf("id %s is that of a rule in %s too", id, other), "give it an id of its own (uuidgen)")
		return false
	}
	ids[id] = h.Path
	return true
}

func (r *Report) note(h *sigma.Header, line int, w Weight, what, advice string) {
	r.Notes = append(r.Notes, Note{Path: h.Path, Line: line, Rule: h.Title, Weight: w, What: what, Advice: advice})
}

// header says what people who get its findings will miss.
func (r *Report) header(h *sigma.Header) {
	if h.ID == "" {
		r.note(h, h.Line, Warning, "has no id", "give it a UUID: without one its findings are named by its name or file")
	}
	if h.Unsaid {
		r.note(h, h.Line, Warning, "has no level, and is taken for medium", "say level: informational, low, medium, high or critical")
	}
	if len(h.Techniques()) == 0 {
		r.note(h, h.Line, Warning, "has no ATT&CK technique among its tags", "tag it, such as attack.t1059.004: coverage and campaigns go by it")
	}
	for _, tag := range h.OddTags() {
		r.note(h, h.Line, Warning, fmt.Sprintf("tag %q is no tactic, technique, group or software of ATT&CK by its form", tag), "write attack.t1059.004, or attack.execution")
	}
	if strings.TrimSpace(h.Description) == "" {
		r.note(h, h.Line, Hint, "has no description", "its first sentence is in each finding's reason")
	}
}

func (r *Report) compiled(rule *sigma.Rule, compiled []*sigma.Matcher) {
	out := Rule{Header: rule.Header, ID: sigma.IDOf(&rule.Header), Matchers: compiled}
	var slow []string
	partial := 0
	for _, m := range compiled {
		out.Kinds = append(out.Kinds, m.Of)
		if !m.Prefiltered() {
			slow = append(slow, m.Of)
		}
		if m.Partial {
			partial++
		}
	}
	if len(slow) > 0 {
		r.note(&rule.Header, rule.Line, Hint, "is tried at each event of "+strings.Join(slow, ", ")+": no text is known that must be there",
			"add what must be there, such as the end of an image or two letters of a command line")
	}
	if lacks := compiled[0].Lacks(); lacks != nil && partial == len(compiled) {
		r.note(&rule.Header, lacks.Line, Warning, "a part can never match: "+lacks.Msg, "the other parts are used")
	}
	r.Rules = append(r.Rules, out)
}

// CheckFiles says why files make no set that can be signed; rules in them are not looked at.
func CheckFiles(files []File) error {
	total := 0
	seen := map[string]bool{}
	for _, f := range files {
		switch {
		case f.Path == "" || len(f.Path) > maxPath || path.Clean(f.Path) != f.Path || path.IsAbs(f.Path) || strings.HasPrefix(f.Path, "../") || strings.ContainsFunc(f.Path, odd):
			return fmt.Errorf("%w: the file name %q", ErrInvalid, f.Path)
		case seen[f.Path]:
			return fmt.Errorf("%w: %s is there twice", ErrInvalid, f.Path)
		}
		seen[f.Path] = true
		total += len(f.Raw)
	}
	switch {
	case len(files) > MaxFiles:
		return fmt.Errorf("%w: %d files, at most %d are taken", ErrInvalid, len(files), MaxFiles)
	case total > MaxBytes:
		return fmt.Errorf("%w: %d bytes of rules, at most %d are taken", ErrInvalid, total, MaxBytes)
	}
	return nil
}

func odd(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }
