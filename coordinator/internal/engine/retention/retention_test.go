package retention

import (
	"strings"
	"testing"
	"time"
)

// Ensure history begins when all nodes have one version, and not before: an older one would stop.
func TestBeginsTogether(t *testing.T) {
	l := newLog(t, 1)
	e := newEngine(t, l, Keep{})
	for _, tt := range []struct {
		version string
		begun   bool
	}{{"v1", false}, {"", false}, {"v2", true}, {"v1", true}} { // once begun it goes on
		l.version = tt.version
		if err := e.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if began, err := l.db.HistoryBegan(t.Context()); err != nil || (began != 0) != tt.begun {
			t.Errorf("beside a node of version %q history began at %d, %v", tt.version, began, err)
		}
	}
	before := l.index
	l.now = l.now.Add(time.Minute)
	if err := e.step(t.Context()); err != nil || l.index != before {
		t.Errorf("%d entries without anything that is due, %v", l.index-before, err)
	}
}

// Ensure limits that would take what engines need, or that mistake a unit, are refused by their key.
func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		keep Keep
		says string
	}{
		{Keep{}, ""},
		{DefaultKeep(), ""},
		{shortest, ""},
		{Keep{Findings: time.Hour}, "retention.findings: 1h0m0s is not within 48h0m0s"},
		{Keep{Flows: 47 * time.Hour}, "retention.flows"},
		{Keep{Incidents: -1}, "retention.incidents"},
		{Keep{Operations: aDay}, "retention.operations"},
		{Keep{Losses: 1}, "retention.losses"},
		{Keep{Behaviours: 90 * time.Second}, "retention.behaviours"},
		{Keep{Minutes: time.Minute}, "retention.minutes"},
		{Keep{Hours: time.Hour}, "retention.hours"},
		{Keep{Days: 2 * longest}, "retention.days"},
		{Keep{MaxGiB: -1}, "retention.max_gib: -1"},
	} {
		switch err := tt.keep.Validate(); {
		case tt.says == "" && err != nil:
			t.Errorf("%+v: %v", tt.keep, err)
		case tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)):
			t.Errorf("%+v: %v, want it to say %q", tt.keep, err, tt.says)
		}
	}
}
