package live

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/text"
	"pgregory.net/rapid"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func at(seconds int64) int64 {
	return time.Date(2026, 1, 31, 3, 0, 0, 0, time.UTC).UnixNano() + seconds*int64(time.Second)
}

func example(name string) *State {
	s := NewState()
	host := &operatorv1.Host{Id: "h-1", Name: name, State: "online", EventsLost: 3, Baseline: &sensorv1.BaselineState{Behaviours: 40, Known: 10, Confidence: 0.25, Learning: true}}
	s.Take(Snapshot{
		Status:     &operatorv1.GetStatusResponse{ClusterId: "c-1", LeaderId: "n1", Hosts: 2, Problems: []string{"Node n3 is away."}},
		Hosts:      []*operatorv1.Host{host, {Id: "h-2", Name: "app1", State: "silent", Isolation: "applied"}},
		Incidents:  []*raftv1.Incident{{Id: "inc-1", Status: "open", Severity: "high", Title: "Break-in at " + name, Hosts: []string{"h-1"}, LastSeen: at(3)}},
		Isolations: []*operatorv1.Isolation{{Id: "i", HostName: "app1", State: "applied", Action: "isolate", LeaseExpires: at(3600), Reason: name}},
		Behaviours: []*operatorv1.BehaviourRow{{Behaviour: &sensorv1.Behaviour{Key: []byte("k"), Kind: 2, Subject: []byte("/usr/bin/curl"), Object: []byte("out 10.0.0.9:443")}}},
	})
	summary := func(second int64, events uint64) *operatorv1.WatchResponse {
		return &operatorv1.WatchResponse{Time: at(second), Host: "h-1", HostName: name, Body: &operatorv1.WatchResponse_Summary{Summary: &sensorv1.Summary{
			NewBehaviours: []*sensorv1.Behaviour{{Key: fmt.Append(nil, second), Kind: 1, Subject: []byte("/bin/sh"), Object: []byte("/tmp/" + name)}},
			Deltas:        []*sensorv1.BehaviourDelta{{Key: []byte("k"), Count: 12}, {Key: []byte("unknown"), Count: 99}},
			Health:        &sensorv1.Health{EventsTotal: events, Baseline: host.GetBaseline()},
		}}}
	}
	s.Event(summary(0, 1000))
	s.Event(summary(10, 1500))
	s.Event(&operatorv1.WatchResponse{Time: at(11), Body: &operatorv1.WatchResponse_Finding{Finding: &operatorv1.FindingRow{
		HostName: name, Finding: &sensorv1.Finding{Id: "01F", Time: at(11), Severity: "high", Score: 82, Title: "Shell by " + name},
	}}})
	return s
}

func TestDraw(t *testing.T) {
	got := Draw(example("web1"), 110, 30, false)
	for _, want := range []string{
		"VEDETTE  cluster c-1, leader n1", "! Node n3 is away.",
		"  app1           silent", "isolation applied",
		"  web1           online     ███░░░░░░░  25% learns 10 of 40 · 50 ev/s · 3 lost",
		"new exec   /bin/sh → /tmp/web1", "flow   /usr/bin/curl → out 10.0.0.9:443  ×12",
		"03:00:11Z web1           high      82  Shell by web1  01F",
		"03:00:03Z high     1 hosts  Break-in at web1  inc-1",
		"isolate applied until 04:00:00Z · web1",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the screen lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "unknown") {
		t.Errorf("a behaviour without a name is shown:\n%s", got)
	}
	if strings.Index(got, "app1") > strings.Index(got, "web1 ") {
		t.Errorf("the silent host does not come first:\n%s", got)
	}
}

// Ensure a screen of any size shows what a hostile host sends as text, within its size.
func TestDrawFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		width, height := rapid.IntRange(0, 200).Draw(t, "width"), rapid.IntRange(0, 80).Draw(t, "height")
		name := rapid.StringOfN(rapid.Rune(), 0, 60, -1).Draw(t, "name") + "\x1b[2J\u009b\u202e\n"
		lines := strings.Split(Draw(example(name), width, height, false), "\n")
		if len(lines) > max(height, 1) {
			t.Fatalf("%d lines on a screen of %d", len(lines), height)
		}
		for _, line := range lines {
			if w := text.StringWidthWithoutEscSequences(line); w > max(width, minWidth) {
				t.Fatalf("a line of %d columns on a screen of %d: %q", w, width, line)
			}
			for _, r := range line {
				if !unicode.IsPrint(r) {
					t.Fatalf("%U reaches the screen: %q", r, line)
				}
			}
		}
	})
}

// Ensure what is remembered stays bounded however long one watches.
func TestStateIsBounded(t *testing.T) {
	s := NewState()
	for n := range 3 * maxActivity {
		s.Event(&operatorv1.WatchResponse{Body: &operatorv1.WatchResponse_HostChange{HostChange: &operatorv1.HostChange{Change: "online"}}})
		s.Event(&operatorv1.WatchResponse{Body: &operatorv1.WatchResponse_Finding{Finding: &operatorv1.FindingRow{Finding: &sensorv1.Finding{Id: fmt.Sprint(n)}}}})
	}
	if len(s.Activity) != maxActivity || len(s.Findings) != maxRows {
		t.Errorf("remembers %d lines and %d findings, want %d and %d", len(s.Activity), len(s.Findings), maxActivity, maxRows)
	}
}
