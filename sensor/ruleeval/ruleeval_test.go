package ruleeval

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mappedTarget is how many of the 210 Linux rules the sensor's events must be enough for.
const mappedTarget = 190

// Ensure that the rules of the ecosystem find their fields in what the sensor sees, and that
// each which does has its two events. What is not mapped is printed with its reason.
func TestEcosystem(t *testing.T) {
	dir := os.Getenv("VEDETTE_SIGMA_DIR")
	if dir == "" {
		dir = "../../../shared/eval/sigma"
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("SKIP: needs the Sigma rules at %s (set VEDETTE_SIGMA_DIR)", dir)
	}
	r, err := Run(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range r.Wrong {
		t.Error(err)
	}
	for _, reason := range slices.Sorted(maps.Keys(r.Unmapped)) {
		t.Logf("%4d not mapped: %s\n\t%s", len(r.Unmapped[reason]), reason, strings.Join(r.Unmapped[reason], "\n\t"))
	}
	t.Logf("%d of %d mapped (target %d); of them %d by bare words in our events' texts, %d whose other branches match, %d about auditd's PATH, of which the sensor has no reads",
		r.Mapped, r.Files, mappedTarget, r.Words, r.Partial, r.Reads)
	if r.Files == 0 || r.Compiled != r.Files {
		t.Errorf("%d of %d files compile", r.Compiled, r.Files)
	}
	if r.Files == 210 && r.Mapped < mappedTarget {
		t.Errorf("%d rules are mapped, want %d", r.Mapped, mappedTarget)
	}
	if r.Theirs.Used != r.Mapped || r.Theirs.Positive != r.Mapped || r.Theirs.Negative != r.Mapped {
		t.Errorf("%d mapped: %+v", r.Mapped, r.Theirs)
	}
}

// Ensure what is wrong in itself, what the sensor lacks and what it has are told apart, and
// that its own rules all have their events.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"good.yml":   "title: Good\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image|endswith: /xyz}, condition: s}\nlevel: low\n",
		"lacks.yml":  "title: Lacks\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {NoSuchField: x}, condition: s}\nlevel: low\n",
		"wrong.yml":  "title: Wrong\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: x}, condition: s and}\nlevel: low\n",
		"net.yml":    "title: Net\nlogsource: {product: linux, category: network_connection}\ndetection: {s: {DestinationIp|cidr: zz}, condition: s}\nlevel: low\n",
		"absent.yml": "title: Absent\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: x}, condition: other}\nlevel: low\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Run(dir)
	if err != nil {
		t.Fatal(err)
	}
	if r.Files != 5 || r.Parsed != 3 || r.Compiled != 2 || len(r.Wrong) != 3 || r.Mapped != 1 || len(r.Unmapped) != 1 {
		t.Errorf("%+v", r)
	}
	if want := (Tried{Rules: r.Theirs.Rules, Used: 1, Positive: 1, Negative: 1}); r.Theirs.Used != 1 || r.Theirs.Positive != 1 || r.Theirs.Negative != 1 {
		t.Errorf("%+v, want %+v", r.Theirs, want)
	}
	if o := r.Ours; o.Rules < 40 || o.Used != o.Rules || o.Positive != o.Rules || o.Negative != o.Rules {
		t.Errorf("the sensor's own: %+v", o)
	}
	if r.PerEvent <= 0 || r.OwnPerEvent <= 0 {
		t.Errorf("%v and %v an event", r.PerEvent, r.OwnPerEvent)
	}
}
