package consensus

import (
	"slices"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
)

// Ensure a node takes itself for wrong only when a majority of all members agrees on
// something else, at the same window, of the same program.
func TestCompare(t *testing.T) {
	at := func(window uint64, tag, chain, slice string) store.Check {
		return store.Check{Window: window, Tag: tag, Chain: []byte(chain), Slice: []byte(slice)}
	}
	own := []store.Check{at(1, "v1", "a", "s"), at(2, "v1", "b", "t")}
	for name, c := range map[string]struct {
		members int
		others  map[string][]store.Check
		want    *difference
		settled bool
	}{
		"nobody said anything": {3, nil, nil, false},
		"all agree":            {3, map[string][]store.Check{"n2": own, "n3": {at(2, "v1", "b", "t")}}, nil, false},
		"two of three agree on another chain": {3, map[string][]store.Check{"n2": {at(2, "v1", "x", "t")}, "n3": {at(2, "v1", "x", "t")}},
			&difference{2, "chain", []string{"n2", "n3"}, true}, false},
		"on other rows": {3, map[string][]store.Check{"n3": {at(1, "v1", "a", "x")}, "n2": {at(1, "v1", "a", "x")}},
			&difference{1, "slice", []string{"n2", "n3"}, true}, false},
		"one of three differs, the other agrees": {3, map[string][]store.Check{"n2": {at(2, "v1", "x", "t")}, "n3": own},
			&difference{2, "chain", []string{"n2"}, false}, true},
		"one of three differs, the other is away": {3, map[string][]store.Check{"n2": {at(2, "v1", "x", "t")}},
			&difference{2, "chain", []string{"n2"}, false}, false},
		"all three differ": {3, map[string][]store.Check{"n2": {at(2, "v1", "x", "t")}, "n3": {at(2, "v1", "y", "t")}},
			&difference{2, "chain", []string{"n2", "n3"}, false}, false},
		"two nodes":          {2, map[string][]store.Check{"n2": {at(1, "v1", "a", "x")}}, &difference{1, "slice", []string{"n2"}, false}, false},
		"two of five":        {5, map[string][]store.Check{"n2": {at(2, "v1", "x", "t")}, "n3": {at(2, "v1", "x", "t")}}, &difference{2, "chain", []string{"n2", "n3"}, false}, false},
		"another program":    {3, map[string][]store.Check{"n2": {at(2, "v2", "x", "y")}, "n3": {at(2, "v2", "x", "y")}}, nil, false},
		"another window":     {3, map[string][]store.Check{"n2": {at(3, "v1", "x", "y")}, "n3": {at(3, "v1", "x", "y")}}, nil, false},
		"nothing to compare": {3, map[string][]store.Check{"n2": {at(2, "v1", "", "")}, "n3": {at(2, "v1", "", "")}}, nil, false},
		"a certain one comes before one that is not": {3, map[string][]store.Check{"n2": {at(1, "v1", "x", "s"), at(2, "v1", "b", "y")}, "n3": {at(1, "v1", "a", "s"), at(2, "v1", "b", "y")}},
			&difference{2, "slice", []string{"n2", "n3"}, true}, false},
	} {
		got := compare(own, c.others, c.members)
		if (got == nil) != (c.want == nil) || got != nil && (got.window != c.want.window || got.what != c.want.what || got.certain != c.want.certain || !slices.Equal(got.others, c.want.others)) {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
			continue
		}
		if got != nil && !got.certain && settled(got, own, c.others, c.members) != c.settled {
			t.Errorf("%s: settled is %v", name, !c.settled)
		}
	}
}
