package sigma

import (
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxLiterals bounds the alternatives that are looked for before an expression runs.
const maxLiterals = 8

// literalsOf are texts of which one is in every match of a pattern; none when that
// cannot be told. Looking for them is many times cheaper than running the
// expression, which nearly never matches.
func literalsOf(pattern string) []string {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil // the caller has compiled it and told
	}
	return required(re.Simplify(), false)
}

// foldedLiteralsOf are the same for folded texts.
func foldedLiteralsOf(pattern string) []string {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil
	}
	return required(re.Simplify(), true)
}

func required(re *syntax.Regexp, folded bool) []string {
	switch re.Op {
	case syntax.OpLiteral:
		// An invalid byte matches as U+FFFD without being its text.
		if re.Flags&syntax.FoldCase != 0 && !folded || slices.Contains(re.Rune, utf8.RuneError) {
			return nil
		}
		if folded {
			return []string{fold(string(re.Rune))}
		}
		return []string{string(re.Rune)}
	case syntax.OpCapture, syntax.OpPlus:
		return required(re.Sub[0], folded)
	case syntax.OpRepeat:
		if re.Min > 0 {
			return required(re.Sub[0], folded)
		}
	case syntax.OpConcat:
		var best []string
		for _, sub := range re.Sub {
			if these := required(sub, folded); shortest(these) > shortest(best) {
				best = these
			}
		}
		return best
	case syntax.OpAlternate:
		var all []string
		for _, sub := range re.Sub {
			these := required(sub, folded)
			if these == nil || len(all)+len(these) > maxLiterals {
				return nil
			}
			all = append(all, these...)
		}
		return all
	}
	return nil
}

func shortest(texts []string) int {
	if len(texts) == 0 {
		return 0
	}
	n := len(texts[0])
	for _, t := range texts {
		n = min(n, len(t))
	}
	return n
}

// mayMatch is the cheap test before the expression.
func (e matches) mayMatch(v string) bool {
	for _, l := range e.literals {
		if strings.Contains(v, l) {
			return true
		}
	}
	return len(e.literals) == 0
}
