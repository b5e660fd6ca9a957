package attack

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Ensure every technique of a built-in rule has a name.
func TestRulesHaveNames(t *testing.T) {
	rules, err := filepath.Glob("../../../../sensor/rules/*.yml")
	if err != nil || len(rules) == 0 {
		t.Fatalf("found no rules: %v", err)
	}
	tag := regexp.MustCompile(`(?i)attack\.(t[0-9]{4}(?:\.[0-9]{3})?)`)
	for _, rule := range rules {
		raw, err := os.ReadFile(rule)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range tag.FindAllStringSubmatch(string(raw), -1) {
			id := strings.ToUpper(found[1])
			if Label(id) == id {
				t.Errorf("%s names %s, which has no name here", filepath.Base(rule), id)
			}
		}
	}
}

func TestLabel(t *testing.T) {
	for id, want := range map[string]string{
		"T1071.004": "T1071.004 Application Layer Protocol: DNS",
		"T9999":     "T9999",
	} {
		if got := Label(id); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
