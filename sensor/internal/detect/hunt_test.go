package detect

import (
	"slices"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const netcatRule = `
title: Netcat by a web server
logsource: {category: process_creation, product: linux}
detection:
  selection:
    Image|endswith: /nc
    ParentImage|endswith: /nginx
  known:
    vedette.Known: true
  condition: selection and not known
level: high
`

// Ensure a rule finds in what was recorded what it would have found, and says of which
// fields it has to do without.
func TestHuntRule(t *testing.T) {
	h, err := NewHunt(netcatRule)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(h.Untold, []string{"vedette.Known"}) {
		t.Errorf("untold: %v", h.Untold)
	}
	nginx := &event.Process{Image: "/usr/sbin/nginx"}
	exec := func(image string, parent *event.Process) *event.Observation {
		return &event.Observation{Event: &event.Exec{}, Process: &event.Process{Image: image, Parent: parent}}
	}
	for _, tt := range []struct {
		o    *event.Observation
		want bool
	}{
		{exec("/usr/bin/nc", nginx), true}, {exec("/usr/bin/NC", nginx), true}, {exec("/usr/bin/nc", nil), false}, {exec("/usr/bin/ncat", nginx), false},
		{&event.Observation{Event: &event.File{Op: event.FileWrite}, Process: &event.Process{Image: "/usr/bin/nc", Parent: nginx}}, false},
		{&event.Observation{Event: &event.Exit{}, Process: &event.Process{Image: "/usr/bin/nc", Parent: nginx}}, false},
	} {
		if got := h.Match(tt.o); got != tt.want {
			t.Errorf("%T %s: got %v", tt.o.Event, tt.o.Process.Image, got)
		}
	}
}

// Ensure what a hunt cannot do with a rule is said.
func TestHuntRuleRefused(t *testing.T) {
	for want, text := range map[string]string{
		"counts events":     strings.Replace(netcatRule, "level", "name: y\nlevel", 1) + "---\ntitle: z\ncorrelation: {type: event_count, rules: [y], group-by: [Image], timespan: 1m, condition: {gte: 5}}\n",
		"detection":         "title: x\nlogsource: {category: process_creation, product: linux}\n",
		"2 rules":           netcatRule + "\n---" + netcatRule,
		"bytes":             strings.Repeat("#", maxHuntRule+1),
		"EventID":           "title: x\nlogsource: {category: process_creation, product: linux}\ndetection: {s: {EventID: 1}, condition: s}\n",
		"is not watched by": "title: x\nlogsource: {product: windows}\ndetection: {s: {Image: x}, condition: s}\n",
	} {
		if _, err := NewHunt(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	for text, want := range map[string]bool{"session: x": false, "ses: 4": true, "\"ses\": 4": true, "- ses|contains: 4": true, "yes: ses ": false, "uses: ses": false} {
		if got := namesField(text, "ses"); got != want {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

// Ensure what a hunt's regular expressions cost together has a bound, however small each is.
func TestHuntRuleIsBounded(t *testing.T) {
	head := "title: x\nlogsource: {category: process_creation, product: linux}\ndetection:\n  s:\n    CommandLine|re:\n"
	if _, err := NewHunt(head + strings.Repeat("      - a{900}b\n", 10) + "  condition: s\n"); err != nil {
		t.Error(err)
	}
	if _, err := NewHunt(head + strings.Repeat("      - a{900}b\n", 100) + "  condition: s\n"); err == nil || !strings.Contains(err.Error(), "together") {
		t.Errorf("100 large expressions: %v", err)
	}
}
