package ruleset

import (
	"bytes"
	"maps"
	"slices"
)

// How a set that is pushed goes out.
const (
	GoesByRings = "rings"
	GoesAtOnce  = "at-once"
)

// Difference is what the rules of a set are to those of one before: of each kind the rules by
// their ids, and how many there were.
type Difference struct {
	Added, Changed, Removed []Rule
	Was                     int
}

// Shrinks says whether more than a fifth of the rules goes: a folder that was not whole, or a
// wrong one, looks like that.
func (d *Difference) Shrinks() bool { return len(d.Removed)*5 > d.Was }

// Compare says what changes for a sensor that had the rules of old and gets those of next. A rule
// that no sensor uses is none; one that moved to another file is the same.
func Compare(old, next []File) *Difference {
	was, is := texts(old), texts(next)
	d := &Difference{Was: len(was)}
	for _, id := range slices.Sorted(maps.Keys(is)) {
		before, had := was[id]
		switch {
		case !had:
			d.Added = append(d.Added, is[id].Rule)
		case before.text != is[id].text:
			d.Changed = append(d.Changed, is[id].Rule)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(was)) {
		if _, stays := is[id]; !stays {
			d.Removed = append(d.Removed, was[id].Rule)
		}
	}
	return d
}

type written struct {
	Rule
	text string
}

// texts are the rules that sensors would use, by id, each with its own document as written.
func texts(files []File) map[string]written {
	raw := make(map[string][][]byte, len(files))
	for _, f := range files {
		raw[f.Path] = bytes.Split(f.Raw, []byte("\n"))
	}
	out := map[string]written{}
	for _, r := range Lint(files).Rules {
		var text []byte
		lines := raw[r.Path]
		for _, line := range lines[min(max(r.Line-1, 0), len(lines)):] {
			if bytes.HasPrefix(line, []byte("---")) {
				break
			}
			text = append(append(text, bytes.TrimRight(line, " \t\r")...), '\n')
		}
		out[r.ID] = written{r, string(bytes.TrimSpace(text))}
	}
	return out
}
