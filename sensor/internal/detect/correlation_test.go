package detect

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

func withRules(t *testing.T, text string, change ...func(*Config)) *Engine {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "r.yml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return engine(t, append(change, func(c *Config) { c.RulesDir = dir })...)
}

const stepRules = `title: Looks at who is there
name: looks
level: informational
logsource: {category: process_creation, product: linux}
detection: {s: {Image|endswith: [/id, /whoami]}, condition: s}
---
title: Packs
name: packs
logsource: {category: process_creation, product: linux}
detection: {s: {Image|endswith: /tar}, condition: s}
---
title: Sends
name: sends
logsource: {category: network_connection, product: linux}
detection: {s: {Initiated: true}, f: {DestinationIp|cidr: 10.0.0.0/8}, condition: s and not f}
---
`

// Ensure a correlation over a storyline joins what its processes do, whatever they are, and
// nothing of another one.
func TestCorrelationOfStoryline(t *testing.T) {
	e := withRules(t, stepRules+`title: Looked, packed and sent
id: 11111111-2222-4333-8444-555555555555
description: Somebody takes something away. More.
level: high
tags: [attack.t1560.001]
correlation:
  type: temporal_ordered
  rules: [looks, packs, sends]
  group-by: [vedette.Storyline]
  timespan: 10m
`)
	if len(e.Rejected()) > 0 {
		t.Fatal(e.Rejected())
	}
	h := newHost()
	session := func() *event.Process { return h.process(h.process(nil, "/usr/sbin/sshd"), "/usr/bin/bash", "-bash") }
	mine, other := session(), session()
	v := event.Verdict{Tracked: true, Known: true}
	var found []*event.Finding
	see := func(o *event.Observation) {
		findings, _ := e.Evaluate(o, v)
		found = append(found, findings...)
		// Whatever a step of it matches must come again.
		if len(findings) == 0 && !strings.HasSuffix(o.Process.Image, "/curl") && e.Settled(o, v) {
			t.Errorf("%s is kept back", o.Process.Image)
		}
	}
	see(h.exec(h.process(mine, "/usr/bin/id", "id")))
	see(h.exec(h.process(other, "/usr/bin/tar", "tar", "cf", "x", "y")))
	see(h.open(h.process(other, "/usr/bin/curl", "curl"), event.Outbound, "192.0.2.1:443"))
	see(h.exec(h.process(mine, "/usr/bin/tar", "tar", "cf", "x", "y")))
	see(h.open(h.process(mine, "/usr/bin/curl", "curl"), event.Outbound, "10.0.0.2:443"))
	if len(found) > 0 {
		t.Fatalf("too early: %+v", found[0])
	}
	see(h.open(h.process(mine, "/usr/bin/curl", "curl"), event.Outbound, "192.0.2.1:443"))
	if len(found) != 1 {
		t.Fatalf("%d findings", len(found))
	}
	f := found[0]
	want := "It is the last of 3 steps, one after the other, within a second, for vedette.Storyline " + storyline(mine) + ". Somebody takes something away."
	if f.RuleID != "11111111-2222-4333-8444-555555555555" || f.Severity != event.High || f.Storyline != storyline(mine) ||
		strings.Join(f.Techniques, " ") != "T1560.001" || !strings.Contains(f.Reason, want) || f.Process.Image != "/usr/bin/curl" {
		t.Errorf("got %+v", f)
	}
}

// Ensure what correlations use is told by itself only where one says so; the built-in rules
// always are.
func TestCorrelationGenerates(t *testing.T) {
	count := func(generate, rules string) string {
		return stepRules + "title: Much\nname: much\ncorrelation: {type: event_count, rules: [" + rules + "], group-by: [User], timespan: 1m, condition: {gte: 2}, generate: " + generate + "}\n"
	}
	builtin := "" // the id of a built-in rule that a shell of a web server fulfils
	h := newHost()
	web := func() *event.Observation {
		return h.exec(h.process(h.process(nil, "/usr/sbin/nginx"), "/usr/bin/dash", "sh", "-c", "id"))
	}
	if findings, _ := engine(t).Evaluate(web(), learning); len(findings) == 1 {
		builtin = findings[0].RuleID
	} else {
		t.Fatal("no built-in rule for it")
	}
	for _, tt := range []struct {
		generate, rules, image string
		want                   string
	}{
		{"false", "packs", "/usr/bin/tar", "Much"},
		{"true", "packs", "/usr/bin/tar", "Packs,Packs,Much"},
		{"false", "looks, packs", "/usr/bin/id", "Much"}, // below the lowest level by itself
		{"true", "looks, packs", "/usr/bin/id", "Much"},
		{"false", "'" + builtin + "'", "", "A network service started a shell,A network service started a shell,Much"},
		{"false", "packs, nothing", "/usr/bin/tar", "Packs,Packs"}, // who is refused silences nobody
	} {
		e := withRules(t, count(tt.generate, tt.rules))
		if refused := len(e.Rejected()) > 0; refused != strings.Contains(tt.rules, "nothing") {
			t.Errorf("%s: %v", tt.rules, e.Rejected())
		}
		var got []string
		for range 2 {
			o := web()
			if tt.image != "" {
				o = h.exec(h.process(nil, tt.image, tt.image))
			}
			findings, _ := e.Evaluate(o, learning)
			for _, f := range findings {
				got = append(got, f.Title)
			}
		}
		titles := strings.Split(tt.want, ",")
		if tt.image == "" && len(got) == 3 { // whatever the built-in rule is called
			titles[0], titles[1] = got[0], got[0]
		}
		if strings.Join(got, ",") != strings.Join(titles, ",") {
			t.Errorf("generate %s, rules %s: got %q, want %q", tt.generate, tt.rules, got, tt.want)
		}
	}
}

// Ensure a count that must stay low is judged when its window is over, by a later event of
// any kind, and is told of who did it.
func TestCorrelationOfQuiet(t *testing.T) {
	e := withRules(t, stepRules+"title: Only once\ncorrelation: {type: event_count, rules: packs, group-by: [vedette.Storyline], timespan: 1h, condition: {lte: 1}}\n")
	h := newHost()
	v := event.Verdict{Tracked: true, Known: true}
	p := h.process(h.process(nil, "/usr/sbin/cron"), "/usr/bin/tar", "tar")
	if findings, _ := e.Evaluate(h.exec(p), v); len(findings) > 0 {
		t.Fatalf("too early: %+v", findings[0])
	}
	h.now = h.now.Add(time.Hour)
	findings, _ := e.Evaluate(h.exec(h.process(nil, "/usr/bin/true", "true")), v)
	if len(findings) != 1 || findings[0].Process != p || findings[0].Title != "Only once" {
		t.Errorf("got %+v", findings)
	}
	if s := e.Stats().Correlations; s.Hits != 1 || s.Groups != 0 {
		t.Errorf("%+v", s)
	}
}
