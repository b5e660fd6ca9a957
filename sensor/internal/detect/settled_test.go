package detect

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

func ruleDir(t *testing.T, category, fields string) string {
	t.Helper()
	dir := t.TempDir()
	text := "title: t\nid: 00000000-0000-4000-8000-000000000001\nlogsource: {category: " + category + ", product: linux}\n" +
		"detection:\n    selection:\n        " + fields + "\n    condition: selection\nlevel: high\n"
	if err := os.WriteFile(filepath.Join(dir, "r.yml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Ensure that the kernel is never told to keep back what a rule could still match.
func TestSettled(t *testing.T) {
	known := event.Verdict{Tracked: true, Known: true}
	for name, tt := range map[string]struct {
		category, fields string
		want             bool
	}{
		"a rule on another image":              {"process_creation", "Image: /bin/other", true},
		"arguments, which the key holds":       {"process_creation", "CommandLine|contains: evil", true},
		"the parent's arguments, held too":     {"process_creation", "ParentCommandLine|contains: evil", true},
		"a unit, which the key does not hold":  {"process_creation", "vedette.Unit: x.service", false},
		"whence the session came":              {"process_creation", "vedette.OriginIp: 192.0.2.1", false},
		"a unit of another image":              {"process_creation", "vedette.Unit: x.service\n        Image: /bin/other", true},
		"a pid":                                {"process_creation", "ProcessId: '12'", false},
		"a hash that is not yet known":         {"process_creation", "sha256: 'aa'", false},
		"a flow's peer, which the key holds":   {"network_connection", "DestinationIp: 192.0.2.9", true},
		"a flow's name, which it does not":     {"network_connection", "DestinationHostname|endswith: .evil.example", false},
		"a flow's user":                        {"network_connection", "User: www-data", false},
		"a flow's source port":                 {"network_connection", "SourcePort: 4444", false},
		"a flow's user at another port":        {"network_connection", "User: www-data\n        DestinationPort: 4444", true},
		"a file's name, which the key holds":   {"file_event", "TargetFilename: /etc/b", true},
		"who writes it":                        {"file_event", "User: www-data", false},
		"a library's name":                     {"image_load", "ImageLoaded: /lib/b.so", true},
		"who loads it, which the key does not": {"image_load", "Image: /bin/other", false},
		"what a privilege is about":            {"privilege", "vedette.Operation: ptrace", true},
		"who it is done to":                    {"privilege", "TargetImage: /bin/other", false},
		"a rule on look-ups, for an exec":      {"dns_query", "QueryName: x", true},
	} {
		h, e := newHost(), engine(t, func(c *Config) { c.RulesDir = ruleDir(t, tt.category, tt.fields) })
		if len(e.Rejected()) > 0 {
			t.Fatalf("%s: %v", name, e.Rejected())
		}
		p := h.process(h.process(nil, "/bin/sh", "sh"), "/bin/true", "true")
		o := h.exec(p)
		if tt.category == "network_connection" {
			o = h.open(h.process(nil, "/usr/bin/curl", "curl"), event.Outbound, "192.0.2.1:443")
		}
		switch tt.category {
		case "file_event":
			o.Event = &event.File{Header: event.Header{Process: p.Key}, Op: event.FileWrite, Path: []byte("/etc/a")}
		case "image_load":
			o.Event = &event.File{Header: event.Header{Process: p.Key}, Op: event.FileMapExec, Path: []byte("/lib/a.so")}
		case "privilege":
			o.Event = &event.Privilege{Header: event.Header{Process: p.Key}, Operation: event.OpMount}
		}
		if findings, _ := e.Evaluate(o, known); len(findings) > 0 {
			t.Fatalf("%s: found %+v", name, findings[0])
		}
		if got := e.Settled(o, known); got != tt.want {
			t.Errorf("%s: settled %v, want %v", name, got, tt.want)
		}
	}
}

// Ensure that a storyline with a finding keeps telling everything.
func TestSuspectIsNotSettled(t *testing.T) {
	known := event.Verdict{Tracked: true, Known: true}
	h, e := newHost(), engine(t)
	p := h.process(nil, "/bin/bash", "bash")
	o := h.exec(p)
	if !e.Settled(o, known) {
		t.Fatal("an ordinary exec is not settled")
	}
	bad := h.process(p, "memfd:x", "x")
	bad.Traits = []string{event.TraitMemFD}
	if findings, _ := e.Evaluate(h.exec(bad), learning); len(findings) == 0 {
		t.Fatal("nothing was found")
	}
	if e.Settled(h.exec(h.process(p, "/bin/true", "true")), known) {
		t.Error("an exec in a storyline with a finding is settled")
	}
	if e.Settled(h.exec(h.process(nil, "/bin/true", "true")), event.Verdict{Tracked: true, New: true}) {
		t.Error("what is new is settled")
	}
}
