package campaigneval

import (
	"os"
	"strings"
	"testing"
)

// Ensure a week of a small fleet of a development seed is at its figures: vedette-eval plays
// more of them, of other seeds.
func TestCampaignEvaluation(t *testing.T) {
	r, err := Run(t.Context(), Least, []uint64{1})
	if err != nil {
		t.Fatal(err)
	}
	if r.Engine.Attacks != 14 || r.Records < 1000 {
		t.Errorf("%d attacks in %d records: the week says nothing", r.Engine.Attacks, r.Records)
	}
	if r.Engine.Recall() < 0.95 || r.Engine.Precision() < 0.98 || r.Engine.False > 1 || r.Engine.Late > 0 {
		t.Errorf("%.2f joined, precision %.3f, %d false, %d late\n%s", r.Engine.Recall(), r.Engine.Precision(), r.Engine.False, r.Engine.Late, strings.Join(r.Why, "\n"))
	}
	if r.NeverSeen.Recall() >= r.Engine.Recall() && r.NeverSeen.False <= r.Engine.False {
		t.Errorf("the never-seen edge does as well: %.2f joined, %d false", r.NeverSeen.Recall(), r.NeverSeen.False)
	}
	if os.Getenv("VEDETTE_CAMPAIGNS_WHY") != "" {
		t.Log(strings.Join(r.Why, "\n"))
	}
}

// Ensure groups are counted as what they are: whole, parted, false, or of one host.
func TestScore(t *testing.T) {
	a := &attack{kind: "k", hosts: map[string]bool{"a": true, "b": true}}
	f := &fleet{attacks: []*attack{a}, owners: map[storyKey]*attack{{"a", "1"}: a, {"b", "1"}: a}}
	hosts := func(names string) map[string]bool {
		set := map[string]bool{}
		for _, n := range strings.Fields(names) {
			set[n] = true
		}
		return set
	}
	one, other := storyKey{"a", "1"}, storyKey{"b", "1"}
	for _, tt := range []struct {
		name                        string
		sets                        []group
		joined, named, right, wrong int
	}{
		{"whole", []group{{stories: []storyKey{one, other}, hosts: hosts("a b")}}, 1, 2, 2, 0},
		{"with another", []group{{stories: []storyKey{one, other, {"c", "1"}}, hosts: hosts("a b c")}}, 1, 3, 2, 0},
		{"false", []group{{stories: []storyKey{{"c", "1"}, {"d", "1"}}, hosts: hosts("c d")}}, 0, 0, 0, 1},
		{"parted", []group{{stories: []storyKey{one, {"c", "1"}}, hosts: hosts("a c")}, {stories: []storyKey{other, {"d", "1"}}, hosts: hosts("b d")}}, 0, 4, 2, 0},
		{"twice", []group{{stories: []storyKey{one, other}, hosts: hosts("a b")}, {stories: []storyKey{other, {"d", "1"}}, hosts: hosts("b d")}}, 0, 4, 3, 0},
		{"of one host", []group{{stories: []storyKey{one}, hosts: hosts("a")}}, 0, 0, 0, 0},
	} {
		s := f.score(tt.sets)
		if s.Attacks != 1 || s.Joined != tt.joined || s.Named != tt.named || s.Right != tt.right || s.False != tt.wrong {
			t.Errorf("%s: %+v", tt.name, s)
		}
	}
}
