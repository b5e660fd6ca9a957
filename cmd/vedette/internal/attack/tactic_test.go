package attack

import (
	"slices"
	"testing"
)

// Ensure every technique that has a name has a tactic of the matrix.
func TestNamesHaveTactics(t *testing.T) {
	for id := range names {
		if !slices.Contains(Tactics, Tactic(id)) {
			t.Errorf("%s: tactic %q", id, Tactic(id))
		}
	}
	order, of := ByTactic([]string{"T9999", "T1021.004", "T1059"})
	if want := []string{"Execution", "Lateral Movement", ""}; !slices.Equal(order, want) || of[""][0] != "T9999" {
		t.Errorf("got %q, %v", order, of)
	}
}
