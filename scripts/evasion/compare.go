package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// shown is how many of what is wrong are shown.
const shown = 3

// verdict is what came of a technique.
type verdict struct {
	wrong    int
	examples []string
	remark   string
}

// tally holds what happened against what was told of it. A fact is a subject and
// what is said of it: a process and the program that it became, a port and who
// connected from it. Each that happened must be told as often as it happened.
type tally[S, C cmp.Ordered] struct {
	balance map[fact[S, C]]int // happened minus told; what is even is gone
}

type fact[S, C cmp.Ordered] struct {
	subject S
	claim   C
}

func newTally[S, C cmp.Ordered]() *tally[S, C] {
	return &tally[S, C]{balance: map[fact[S, C]]int{}}
}

func (t *tally[S, C]) happened(subject S, claim C) { t.add(fact[S, C]{subject, claim}, 1) }

func (t *tally[S, C]) told(subject S, claim C) { t.add(fact[S, C]{subject, claim}, -1) }

func (t *tally[S, C]) add(f fact[S, C], n int) {
	if n += t.balance[f]; n == 0 {
		delete(t.balance, f)
	} else {
		t.balance[f] = n
	}
}

// verdict counts what is uneven. What is told wrongly of a subject is one mistake,
// though one fact is missing then and another is told that never was.
func (t *tally[S, C]) verdict() verdict {
	facts := slices.SortedFunc(maps.Keys(t.balance), func(a, b fact[S, C]) int {
		return cmp.Or(cmp.Compare(a.subject, b.subject), cmp.Compare(a.claim, b.claim))
	})
	var v verdict
	for len(facts) > 0 {
		subject := facts[0].subject
		missing, untrue, text := 0, 0, fmt.Sprintf("%v:", subject)
		for ; len(facts) > 0 && facts[0].subject == subject; facts = facts[1:] {
			if n := t.balance[facts[0]]; n > 0 {
				missing += n
				text += fmt.Sprintf(" not told %d× [%v]", n, facts[0].claim)
			} else {
				untrue -= n
				text += fmt.Sprintf(" told but untrue %d× [%v]", -n, facts[0].claim)
			}
		}
		v.wrong += max(missing, untrue)
		if len(v.examples) < shown {
			v.examples = append(v.examples, text)
		}
	}
	return v
}

// naming holds names against what they name: the same thing always has the same
// name, and no two things share one.
type naming struct {
	nameOf, thingOf map[string]string
	verdict         verdict
}

func newNaming() *naming {
	return &naming{nameOf: map[string]string{}, thingOf: map[string]string{}}
}

// called tells that a thing was called by a name.
func (n *naming) called(thing, name string) {
	before, known := n.nameOf[thing]
	other, taken := n.thingOf[name]
	switch {
	case name == "":
		n.blame("%s has no name", thing)
	case known && before != name:
		n.blame("%s is called %s and %s", thing, before, name)
	case taken && other != thing:
		n.blame("%s and %s are both called %s", other, thing, name)
	}
	n.nameOf[thing], n.thingOf[name] = name, thing
}

func (n *naming) blame(format string, args ...any) {
	n.verdict.wrong++
	if len(n.verdict.examples) < shown {
		n.verdict.examples = append(n.verdict.examples, fmt.Sprintf(format, args...))
	}
}

// and joins the verdicts of two looks at one technique.
func (v verdict) and(other verdict) verdict {
	v.wrong += other.wrong
	v.examples = append(v.examples, other.examples...)
	v.examples = v.examples[:min(len(v.examples), shown)]
	return v
}
