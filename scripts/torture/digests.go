package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// told is what nodes said that their states were at some entries. All that speak of an entry
// must say the same, however often they crashed on the way.
type told struct {
	// several nodes spoke of so many entries, one node more than once of so many.
	several, again int
	differing      int
}

// digests reads it from the nodes' logs.
func (r *rig) digests() (told, error) {
	var logs []string
	for i := range nodes {
		raw, err := os.ReadFile(r.Members[id(i)].LogPath)
		if err != nil {
			return told{}, err
		}
		logs = append(logs, string(raw))
	}
	return compare(logs)
}

// compare takes one log for each node.
func compare(logs []string) (t told, err error) {
	said := map[string]map[string]bool{} // entry → digests
	speakers := map[string]int{}
	for _, log := range logs {
		mine := map[string]int{}
		for line := range strings.SplitSeq(log, "\n") {
			if !strings.Contains(line, `"state digest"`) {
				continue
			}
			index, digest := field(line, "index="), field(line, "digest=")
			if said[index] == nil {
				said[index] = map[string]bool{}
			}
			said[index][digest] = true
			mine[index]++
		}
		for index, times := range mine {
			speakers[index]++
			if times > 1 {
				t.again++
			}
		}
	}
	for index, digests := range said {
		if speakers[index] > 1 {
			t.several++
		}
		if len(digests) > 1 {
			t.differing++
			err = errors.Join(err, fmt.Errorf("entry %s has %d states", index, len(digests)))
		}
	}
	return t, err
}

// rows say that nothing differs, and that there was something to compare; after names the part.
func (t told) rows(after string) []figure.Row {
	return []figure.Row{
		figure.Exactly("states that differ at one entry"+after, float64(t.differing), 0, "", ""),
		figure.AtLeast("entries at which several nodes told their states"+after, float64(t.several), 1, "", fmt.Sprintf("%d times one told its own before and after it died", t.again)),
	}
}

func field(line, name string) string {
	_, rest, _ := strings.Cut(line, " "+name)
	value, _, _ := strings.Cut(rest, " ")
	return value
}
