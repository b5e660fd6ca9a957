package main

import (
	"slices"

	"github.com/vedette-edr/vedette/proto/drill"
)

// techniqueLabel is "T1059.004 Command and Scripting Interpreter: Unix Shell", or the id alone.
// Ids of older editions keep theirs and have the name that the technique has now.
func techniqueLabel(id string) string {
	if t, ok := drill.ByID(drill.Current(id)); ok {
		return id + " " + t.Name()
	}
	return id
}

// byTactic orders techniques by the matrix, each under the first of its tactics; those of no
// known tactic are last, under "".
func byTactic(ids []string) (order []string, of map[string][]string) {
	of = map[string][]string{}
	for _, id := range ids {
		title := ""
		if t, ok := drill.ByID(drill.Current(id)); ok {
			if in := t.In(); len(in) > 0 {
				title = drill.TacticTitle(in[0])
			}
		}
		of[title] = append(of[title], id)
	}
	for _, tactic := range append(slices.Clone(drill.Tactics()), "") {
		title := tactic
		if tactic != "" {
			title = drill.TacticTitle(tactic)
		}
		if len(of[title]) > 0 {
			order = append(order, title)
		}
	}
	return order, of
}
