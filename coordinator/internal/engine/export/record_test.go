package export

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func anIncident() store.ChangedIncident {
	return store.ChangedIncident{Index: 7, At: epoch.UnixNano(), N: 1, Incident: &raftv1.Incident{Id: "inc-1", Status: "open", Severity: "high", Title: "t", Hosts: []string{"h-1"},
		Timeline: []*raftv1.TimelineEntry{{Time: 1, Host: "h-1", Finding: "f-1", Text: "x"}}, Edges: []*raftv1.Edge{{From: "a", To: "b", Kind: "flow"}}, Findings: []string{"f-1"}}}
}

// Ensure the keys are those that docs/cli.md and docs/export.md name, so that what scripts
// rely on is written down.
func TestKeys(t *testing.T) {
	var known []string
	for _, path := range []string{"../../../../docs/cli.md", "../../../../docs/export.md"} {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		known = append(known, regexp.MustCompile("`[a-z0-9_]+`").FindAllString(string(raw), -1)...)
	}
	words := strings.Join(known, " ")
	f := aFinding("f-1", epoch)
	f.Origin = aFlow
	for _, make := range []func() (Record, error){
		func() (Record, error) {
			return ofFinding("c-1", &operatorv1.FindingRow{Host: "h-1", HostName: "web1", Finding: f})
		},
		func() (Record, error) { return ofIncident("c-1", anIncident()) },
		func() (Record, error) { return ofAudit("c-1", &operatorv1.AuditEntry{Index: 3, Hash: []byte{1, 2}}) },
		func() (Record, error) {
			return ofFlow("c-1", &store.NumberedFlow{N: 4, FlowRow: store.FlowRow{Host: "h-1", Note: &sensorv1.FlowNote{Flow: aFlow, Process: f.GetProcess()}}})
		},
	} {
		r, err := make()
		if err != nil {
			t.Fatal(err)
		}
		var all any
		if err := json.Unmarshal(r.JSON, &all); err != nil {
			t.Fatal(err)
		}
		keys(all, func(key string) {
			if !strings.Contains(words, "`"+key+"`") {
				t.Errorf("%s: no page says what %q is", r.ID, key)
			}
		})
	}
}

func keys(v any, say func(string)) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			say(key)
			keys(value, say)
		}
	case []any:
		for _, value := range v {
			keys(value, say)
		}
	}
}

// Ensure bytes that are no text survive, and that what is too large goes without its lists
// and says so.
func TestRecords(t *testing.T) {
	f := aFinding("f-1", epoch)
	r, err := ofFinding("c-1", &operatorv1.FindingRow{Host: "h-1", HostName: "web1", Finding: f})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"id":"finding/f-1"`, `"type":"finding"`, `"image":"/bin/sh\\xff"`, `"time":"2023-11-14T22:13:20Z"`, `"incident":null`, `"truncated":false`, `"local":"10.0.0.1:50000"`} {
		if !strings.Contains(string(r.JSON), want) {
			t.Errorf("no %s in %s", want, r.JSON)
		}
	}
	if got := lossless([]byte("a\\x41\xffé\\")); got != `a\x5cx41\xffé\` {
		t.Errorf("lossless: %q", got)
	}
	f.Process.Argv = [][]byte{[]byte(strings.Repeat("x", maxRecord))}
	if r, err = ofFinding("c-1", &operatorv1.FindingRow{Host: "h-1", Finding: f}); err != nil || len(r.JSON) > maxRecord || !strings.Contains(string(r.JSON), `"truncated":true`) || !strings.Contains(string(r.JSON), "/bin/sh") {
		t.Errorf("a large finding has %d bytes, %v", len(r.JSON), err)
	}
	in := anIncident()
	in.Timeline[0].Text = strings.Repeat("x", maxRecord)
	if r, err = ofIncident("c-1", in); err != nil || len(r.JSON) > maxRecord || len(in.GetTimeline()) != 1 {
		t.Errorf("a large incident has %d bytes, %v", len(r.JSON), err)
	}
	in.Title = strings.Repeat("x", maxRecord)
	if r, err = ofIncident("c-1", in); err != nil || len(r.JSON) > maxRecord || !strings.Contains(string(r.JSON), `"incident":null`) {
		t.Errorf("a hopeless incident has %d bytes, %v", len(r.JSON), err)
	}
}
