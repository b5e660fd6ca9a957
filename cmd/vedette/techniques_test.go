package main

import (
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/proto/drill"
)

// Ensure every technique of a built-in rule has a name and a tactic.
func TestRulesNameTechniques(t *testing.T) {
	rules := os.DirFS("../../sensor/rules")
	files, err := fs.Glob(rules, "*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no rules: %v", err)
	}
	tag := regexp.MustCompile(`(?i)attack\.(t[0-9]{4}(?:\.[0-9]{3})?)`)
	for _, file := range files {
		raw, err := fs.ReadFile(rules, file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range tag.FindAllStringSubmatch(string(raw), -1) {
			id := strings.ToUpper(found[1])
			if known, ok := drill.ByID(drill.Current(id)); !ok || len(known.In()) == 0 {
				t.Errorf("%s names %s, which ATT&CK has not for Linux", file, id)
			}
		}
	}
}

func TestTechniqueLabels(t *testing.T) {
	for id, want := range map[string]string{
		"T1071.004": "T1071.004 Application Layer Protocol: DNS",
		"T1562.001": "T1562.001 Disable or Modify Tools",
		"T9999":     "T9999",
	} {
		if got := techniqueLabel(id); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	order, of := byTactic([]string{"T9999", "T1021.004", "T1059", "T1562.001"})
	if want := []string{"Execution", "Defense Impairment", "Lateral Movement", ""}; !slices.Equal(order, want) || of[""][0] != "T9999" {
		t.Errorf("got %q, %v", order, of)
	}
}
