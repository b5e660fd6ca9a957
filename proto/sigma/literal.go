package sigma

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxLiterals bounds the alternatives that are looked for before an expression runs.
const maxLiterals = 96

// enough letters tell a text from what is always there; of texts that long, fewer are sooner looked for.
const enough = 5

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

func matchesOf(field int, re *regexp.Regexp, pattern string) matches {
	e := matches{field: field, re: re, literals: literalsOf(pattern)}
	if e.literals == nil {
		e.folded = foldedLiteralsOf(pattern)
	}
	return e
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
		var best, run []string
		for _, sub := range re.Sub {
			if these := required(sub, folded); tellsMore(these, best) {
				best = these
			}
			// base(64|32) is one of two texts, not base and something.
			if run = joined(run, whole(sub, folded)); tellsMore(run, best) {
				best = run
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
			for _, one := range these {
				if !holdsOne(one, all) { // else what it holds is found first
					all = append(all, one)
				}
			}
		}
		return all
	}
	return nil
}

// maxWhole bounds the texts that a part of an expression may be.
const maxWhole = 16

// whole are all texts that an expression matches, nil where they are not few.
func whole(re *syntax.Regexp, folded bool) (all []string) {
	switch re.Op {
	case syntax.OpLiteral:
		return required(re, folded)
	case syntax.OpCapture:
		return whole(re.Sub[0], folded)
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			these := whole(sub, folded)
			if these == nil || len(all)+len(these) > maxWhole {
				return nil
			}
			all = append(all, these...)
		}
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			these := whole(sub, folded)
			if these == nil || len(all)*len(these) > maxWhole {
				return nil
			}
			all = joined(all, these)
		}
	}
	return all
}

// joined are the texts of one part followed by those of the next; without a next nothing, and of too many the next alone.
func joined(one, next []string) (all []string) {
	if len(one) == 0 || len(one)*len(next) > maxWhole {
		return next
	}
	for _, a := range one {
		for _, b := range next {
			all = append(all, a+b)
		}
	}
	return all
}

func tellsMore(these, best []string) bool {
	a, b := min(shortest(these), enough), min(shortest(best), enough)
	return a > b || a == b && a > 0 && len(these) < len(best)
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
	return len(e.literals) == 0 || holdsOne(v, e.literals)
}

func holdsOne(v string, literals []string) bool {
	for _, l := range literals {
		if strings.Contains(v, l) {
			return true
		}
	}
	return false
}
