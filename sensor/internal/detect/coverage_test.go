package detect

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/proto/taxonomy"
)

// ecosystem is where rules of the ecosystem lie, as data; "" and a skip when they do not.
func ecosystem(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("VEDETTE_SIGMA_DIR")
	if dir == "" {
		dir = "../../../../shared/eval/sigma"
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("SKIP: needs the Sigma rules at %s (set VEDETTE_SIGMA_DIR)", dir)
	}
	return dir
}

// parseAll reads all rules below a directory.
func parseAll(t testing.TB, files fs.FS) (rules []*sigma.Rule) {
	t.Helper()
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yml" {
			return err
		}
		raw, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		file, refused := sigma.ParseFile(path, raw)
		for _, err := range refused {
			t.Error(err)
		}
		rules = append(rules, file.Rules...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// mappedTarget is how many of the 210 Linux rules the sensor's events must be enough for.
const mappedTarget = 190

// Ensure that the rules of the ecosystem find their fields in what the sensor sees. What is
// not mapped is printed with its reason.
func TestCoverage(t *testing.T) {
	rules := parseAll(t, os.DirFS(ecosystem(t)))
	mapped, words, partial, reads := map[string]int{}, 0, 0, 0
	why := map[string][]string{}
	total := 0
	for _, r := range rules {
		source := "category " + r.Category
		switch {
		case r.Service != "":
			source = "service " + r.Service
		case r.Category == "":
			source = "bare words, any log of Linux"
		}
		matchers, err := sigma.Compile(r, taxonomy.Schema)
		if err != nil {
			var refused *sigma.Error
			if !errors.As(err, &refused) || !refused.Unsupported {
				t.Error(err)
				continue
			}
			reason := refused.Msg
			if r.Service != "" && r.Service != "auditd" {
				reason = "a log file's text, which the sensor does not read"
			}
			why[reason] = append(why[reason], source+": "+r.Title)
			continue
		}
		total++
		mapped[source]++
		if r.Category == "" && r.Service == "" {
			words++
		}
		if !slices.ContainsFunc(matchers, func(m *sigma.Matcher) bool { return !m.Partial }) {
			partial++
		}
		if strings.Contains(r.Path, "/path/") {
			reads++
		}
	}
	for _, source := range sorted(mapped) {
		t.Logf("%4d mapped: %s", mapped[source], source)
	}
	for _, reason := range sorted(why) {
		t.Logf("%4d not mapped: %s", len(why[reason]), reason)
		for _, title := range why[reason] {
			t.Logf("                   %s", title)
		}
	}
	t.Logf("%d of %d mapped (target %d); of them %d by bare words in our events' texts, %d whose other branches match, %d about auditd's PATH, of which the sensor has no reads",
		total, len(rules), mappedTarget, words, partial, reads)
	if len(rules) == 210 && total < mappedTarget {
		t.Errorf("%d rules are mapped, want %d", total, mappedTarget)
	}
}

func sorted[V any](m map[string]V) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
