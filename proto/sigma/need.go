package sigma

import (
	"path"
	"slices"
	"strings"
)

// atom is a text that a field must have in it, begin with, end with or be, after folding.
type atom struct {
	field   int
	shape   shape // shapeEqual, shapePrefix, shapeSuffix or shapeContains
	literal string
}

// maxAtoms bounds what one rule is found by; a rule that needs one of more texts is always tried.
const maxAtoms = 1024

// needed are atoms of which one holds in every record that fulfils e; none when that cannot
// be told. Of several such sets it is the one that an ordinary record is the least likely to
// have one of, which often says how likely.
func (s *Source) needed(e expression) (atoms []atom, often float64) {
	switch e := e.(type) {
	case allOf:
		for _, x := range e {
			if these, likely := s.needed(x); len(these) > 0 && (atoms == nil || likely < often) {
				atoms, often = these, likely
			}
		}
	case anyOf:
		return s.union(e)
	case atLeast:
		return s.union(e.of)
	case text:
		return s.neededOf(e)
	case matches:
		for _, l := range foldedLiteralsOf(e.re.String()) {
			a := atom{e.field, shapeContains, l}
			if len(l) < minInner {
				return nil, 0
			}
			atoms, often = append(atoms, a), often+s.often(a)
		}
	}
	return atoms, often
}

func (s *Source) union(list []expression) (atoms []atom, often float64) {
	for _, x := range list {
		these, likely := s.needed(x)
		if len(these) == 0 || len(atoms)+len(these) > maxAtoms {
			return nil, 0
		}
		atoms, often = append(atoms, these...), often+likely
	}
	return atoms, often
}

func (s *Source) neededOf(t text) ([]atom, float64) {
	a := atom{t.field, t.shape, fold(t.literal)}
	switch t.shape {
	case shapeAny:
		return nil, 0
	case shapeGlob:
		a.shape = shapeContains
		for _, p := range t.glob {
			if len(p.literal) > len(a.literal) {
				a.literal = fold(p.literal)
			}
		}
	}
	if a.literal == "" && a.shape != shapeEqual || a.shape == shapeContains && len(a.literal) < minInner {
		return nil, 0
	}
	return []atom{a}, s.often(a)
}

// ordinary is what records are full of; what is in it tells little.
const ordinary = ` /usr/bin/ /usr/sbin/ /usr/lib/ /usr/lib64/ /usr/libexec/ /usr/local/bin/ /usr/share/ /etc/ /home/ /var/lib/ /var/log/ /var/cache/
 /tmp/ /opt/ /run/ /proc/self/ /sys/ /dev/null /root/ /bin/ /sbin/ bash dash sh python3 perl http:// https:// --no- --config= .conf .log .service
 .so. systemd -c -- 0.0.0.0 127.0.0.1 2>&1 true false tcp write create execve syscall path -i -o -f -l -r -n -e -p localhost version `

// busy are the programs that a host starts all the time.
var busy = []string{"sh", "bash", "dash", "zsh", "python", "python3", "perl", "cat", "grep", "sed", "awk", "find", "ls", "systemctl"}

// often guesses in how many of an ordinary host's records an atom holds.
func (s *Source) often(a atom) float64 {
	l := a.literal
	if _, closed := s.Values[a.field]; closed { // one of a few words, some of which each record has
		return 1
	}
	if a.shape == shapeEqual || a.shape == shapeSuffix {
		if slices.Contains(busy, path.Base(l)) {
			return 0.1
		}
	}
	if len(l) > 0 && strings.Contains(ordinary, l) {
		return 0.3
	}
	switch {
	case a.shape == shapeEqual && strings.Contains(l, "/"):
		return 0.001
	case a.shape == shapeEqual: // one of some words, perhaps
		return 0.01
	case len(l) >= 8:
		return 0.002
	case len(l) >= 4:
		return 0.005
	case len(l) == 3:
		return 0.02
	}
	return 0.1
}
