package ruleset_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/proto/ruleset"
)

func written(name, level string) string {
	return fmt.Sprintf("title: %[1]s\nid: 11111111-2222-4333-8444-5555555555%[1]s\nlevel: %[2]s\nlogsource: {category: process_creation, product: linux}\n"+
		"detection: {s: {Image|endswith: /odd%[1]s}, condition: s}\n", name, level)
}

// Ensure two sets are compared rule by rule, whatever files they are in.
func TestCompare(t *testing.T) {
	files := func(texts ...string) (out []ruleset.File) {
		for i, text := range texts {
			out = append(out, ruleset.File{Path: fmt.Sprintf("f%d.yml", i), Raw: []byte(text)})
		}
		return out
	}
	unsupported := strings.Replace(written("03", "low"), "Image|", "Colour|", 1)
	old := files(written("01", "low")+"---\n"+written("02", "low"), written("03", "low"), written("04", "low"), written("05", "low"))
	for name, tt := range map[string]struct {
		next    []ruleset.File
		want    string
		shrinks bool
	}{
		"the same":               {old, "", false},
		"in other files":         {files(written("05", "low"), written("04", "low")+"---\n"+written("03", "low")+"\n\n---\n# the first\n"+written("02", "low"), written("01", "low")), "", false},
		"one is new":             {append(files(written("06", "low"), written("07", "low")), ruleset.File{Path: "all.yml", Raw: []byte(strings.Join([]string{written("01", "low"), written("02", "low"), written("03", "low"), written("04", "low"), written("05", "low")}, "---\n"))}), "+06+07", false},
		"the second of a file":   {files(written("01", "low")+"---\n"+written("02", "high"), written("03", "low"), written("04", "low"), written("05", "low")), "~02", false},
		"one of five goes":       {old[:3], "-05", false},
		"two of five go":         {old[:2], "-04-05", true},
		"all go":                 {nil, "-01-02-03-04-05", true},
		"one that is not used":   {files(written("01", "low")+"---\n"+written("02", "low"), unsupported, written("04", "low"), written("05", "low")), "-03", false},
		"one goes, another does": {files(written("01", "low")+"---\n"+written("02", "low"), written("03", "low"), written("04", "high"), written("06", "low")), "+06~04-05", false},
	} {
		d := ruleset.Compare(old, tt.next)
		got := ""
		for _, some := range []struct {
			mark  string
			rules []ruleset.Rule
		}{{"+", d.Added}, {"~", d.Changed}, {"-", d.Removed}} {
			for _, r := range some.rules {
				got += some.mark + r.ID[len(r.ID)-2:]
			}
		}
		if got != tt.want || d.Shrinks() != tt.shrinks || d.Was != 5 {
			t.Errorf("%s: %q, shrinks %t, of %d; want %q, %t, of 5", name, got, d.Shrinks(), d.Was, tt.want, tt.shrinks)
		}
	}
	if d := ruleset.Compare(nil, old); d.Shrinks() || len(d.Added) != 5 || d.Was != 0 {
		t.Errorf("the first set: %+v", d)
	}
}
