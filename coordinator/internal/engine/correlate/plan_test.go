package correlate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

var t0 = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

type option func(*operatorv1.FindingRow)

func severity(s string) option {
	return func(r *operatorv1.FindingRow) { r.Finding.Severity = s }
}
func score(v float64) option { return func(r *operatorv1.FindingRow) { r.Finding.Score = v } }
func learning(r *operatorv1.FindingRow) {
	r.Finding.Learning = true
}
func sends(f *sensorv1.Flow) option {
	return func(r *operatorv1.FindingRow) { r.Finding.Flows = append(r.Finding.Flows, f) }
}
func cameBy(f *sensorv1.Flow) option { return func(r *operatorv1.FindingRow) { r.Finding.Origin = f } }

// row is a finding at a minute after t0 on a host's storyline.
func row(host, storyline string, minute int, options ...option) *operatorv1.FindingRow {
	at := t0.Add(time.Duration(minute) * time.Minute).UnixNano()
	r := &operatorv1.FindingRow{Host: "h-" + host, HostName: host, Disposition: "new", StoredAt: at, Finding: &sensorv1.Finding{
		Id: fmt.Sprintf("%s-%s-%d", host, storyline, minute), Time: at, Title: "odd", Storyline: storyline, Severity: "medium", Score: 50,
		Techniques: []string{"T1059"}, Reason: "Never seen here.", Process: &sensorv1.Process{Pid: 7, Image: []byte("/bin/sh"), User: "www"}}}
	for _, o := range options {
		o(r)
	}
	return r
}

func tcp(inbound bool, local string, localPort uint32, remote string, remotePort uint32, minute int) *sensorv1.Flow {
	return &sensorv1.Flow{Protocol: 6, Inbound: inbound, Local: address(local), LocalPort: localPort, Remote: address(remote), RemotePort: remotePort,
		Opened: t0.Add(time.Duration(minute) * time.Minute).UnixNano()}
}

func address(s string) []byte {
	var a [4]byte
	_, _ = fmt.Sscanf(s, "%d.%d.%d.%d", &a[0], &a[1], &a[2], &a[3])
	return a[:]
}

// apply does to the incidents what the log would.
func apply(open []*raftv1.Incident, puts []*raftv1.PutIncident) []*raftv1.Incident {
	for _, put := range puts {
		open = slices.DeleteFunc(open, func(in *raftv1.Incident) bool {
			return in.GetId() == put.GetIncident().GetId() || slices.Contains(put.GetMerged(), in.GetId())
		})
		open = append(open, proto.CloneOf(put.GetIncident()))
	}
	return open
}

func forgetAll(w *window, horizon time.Time) {
	w.forget(horizon, horizon, func(storyKey) bool { return false })
}

// planned is a plan of all that the window has.
func planned(w *window, open []*raftv1.Incident, known facts) []*raftv1.PutIncident {
	for key := range w.stories {
		w.changed[key] = true
	}
	l := newLedger(open)
	return plan(w.components(l, 120), l, known)
}

func TestPlan(t *testing.T) {
	out := tcp(false, "10.0.0.1", 4000, "10.0.0.2", 22, 1)
	in := tcp(true, "10.0.0.2", 22, "10.0.0.1", 4000, 1)
	onward := tcp(false, "10.0.0.2", 5000, "10.0.0.3", 22, 3)
	arrived := tcp(true, "10.0.0.3", 22, "10.0.0.2", 5000, 3)
	for _, tt := range []struct {
		name string
		rows []*operatorv1.FindingRow
		// want is the hosts of each incident, in order.
		want  []string
		edges int
	}{
		{"one weak finding", []*operatorv1.FindingRow{row("a", "1", 0)}, nil, 0},
		{"one strong finding", []*operatorv1.FindingRow{row("a", "1", 0, severity("high"))}, []string{"h-a"}, 0},
		{"enough in sum", []*operatorv1.FindingRow{row("a", "1", 0), row("a", "1", 1), row("a", "1", 2)}, []string{"h-a"}, 0},
		{"as many on different storylines", []*operatorv1.FindingRow{row("a", "1", 0), row("a", "2", 1), row("a", "3", 2)}, nil, 0},
		{"learning adds nothing", []*operatorv1.FindingRow{row("a", "1", 0, learning), row("a", "1", 1, learning), row("a", "1", 2, learning)}, nil, 0},
		{"two storylines of a host", []*operatorv1.FindingRow{row("a", "1", 0, severity("high")), row("a", "2", 1, severity("high"))}, []string{"h-a", "h-a"}, 0},
		{"same storyline number on two hosts", []*operatorv1.FindingRow{row("a", "1", 0, severity("high")), row("b", "1", 1)}, []string{"h-a"}, 0},
		{"joined by a flow", []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), sends(out)), row("b", "9", 2, cameBy(in))}, []string{"h-a h-b"}, 1},
		{"joined over three hosts", []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), sends(out)),
			row("b", "9", 2, cameBy(in), sends(onward)), row("c", "4", 4, cameBy(arrived))}, []string{"h-a h-b h-c"}, 2},
		{"weak ones joined", []*operatorv1.FindingRow{row("a", "1", 0, score(70), sends(out)), row("b", "9", 2, score(70), cameBy(in))}, []string{"h-a h-b"}, 1},
		{"another port", []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), sends(out)),
			row("b", "9", 2, cameBy(tcp(true, "10.0.0.2", 22, "10.0.0.1", 4001, 1)))}, []string{"h-a"}, 0},
		{"the same port much later", []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), sends(out)),
			row("b", "9", 30, cameBy(tcp(true, "10.0.0.2", 22, "10.0.0.1", 4000, 29)))}, []string{"h-a"}, 0},
		{"udp with the same numbers", []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), sends(out)), row("b", "9", 2, cameBy(func() *sensorv1.Flow {
			f := proto.CloneOf(in)
			f.Protocol = 17
			return f
		}()))}, []string{"h-a"}, 0},
		{"loopback joins nobody", []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), sends(tcp(false, "127.0.0.1", 4000, "127.0.0.1", 22, 1))),
			row("b", "9", 2, cameBy(tcp(true, "127.0.0.1", 22, "127.0.0.1", 4000, 1)))}, []string{"h-a"}, 0},
		{"a malformed flow", []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), sends(&sensorv1.Flow{Local: []byte{1}, LocalPort: 1 << 20}))}, []string{"h-a"}, 0},
		{"closed findings", []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), func(r *operatorv1.FindingRow) { r.Disposition = "closed" })}, nil, 0},
		{"unknown severity", []*operatorv1.FindingRow{row("a", "1", 0, severity("apocalyptic"))}, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWindow()
			for _, r := range tt.rows {
				w.addFinding(r)
				w.addFinding(r)
			}
			puts := planned(w, nil, facts{})
			var got []string
			edges := 0
			for _, put := range puts {
				hosts := slices.Sorted(slices.Values(put.GetIncident().GetHosts()))
				got = append(got, strings.Join(hosts, " "))
				edges += len(put.GetIncident().GetEdges())
			}
			if !slices.Equal(got, tt.want) || edges != tt.edges {
				t.Errorf("got %q with %d edges, want %q with %d", got, edges, tt.want, tt.edges)
			}
			if again := planned(w, apply(nil, puts), facts{}); len(again) != 0 {
				t.Errorf("planning twice proposes again: %v", again)
			}
			// A new leader reads the same rows in another order.
			other := newWindow()
			for _, r := range slices.Backward(tt.rows) {
				other.addFinding(r)
			}
			if again := planned(other, apply(nil, puts), facts{}); len(again) != 0 {
				t.Errorf("the next leader proposes again: %v", again)
			}
		})
	}
}

// Ensure two open incidents become one when a flow joins them, and the older stays.
func TestMerge(t *testing.T) {
	w := newWindow()
	w.addFinding(row("b", "9", 2, severity("high"), cameBy(tcp(true, "10.0.0.2", 22, "10.0.0.1", 4000, 1))))
	open := apply(nil, planned(w, nil, facts{}))
	w.addFinding(row("a", "1", 0, severity("critical")))
	open = apply(open, planned(w, open, facts{}))
	if len(open) != 2 {
		t.Fatalf("got %d incidents, want 2", len(open))
	}
	w.addNote("h-a", t0.Add(3*time.Minute).UnixNano(), &sensorv1.FlowNote{Storyline: "1", Process: &sensorv1.Process{Image: []byte("/usr/bin/ssh")},
		Flow: tcp(false, "10.0.0.1", 4000, "10.0.0.2", 22, 1)})
	puts := planned(w, open, facts{})
	if len(puts) != 1 || len(puts[0].GetMerged()) != 1 {
		t.Fatalf("got %v, want one that absorbs the other", puts)
	}
	merged := puts[0].GetIncident()
	if merged.GetFirstSeen() != t0.UnixNano() || merged.GetSeverity() != "critical" || len(merged.GetFindings()) != 2 {
		t.Errorf("merged: %v", merged)
	}
	if e := merged.GetEdges(); len(e) != 1 || e[0].GetFrom() != "h-a" || e[0].GetTo() != "h-b" || !strings.Contains(e[0].GetEvidence(), "10.0.0.1:4000 → 10.0.0.2:22") {
		t.Errorf("edges: %v", e)
	}
	if !slices.IsSortedFunc(merged.GetTimeline(), func(a, b *raftv1.TimelineEntry) int { return int(a.GetTime() - b.GetTime()) }) || len(merged.GetTimeline()) != 3 {
		t.Errorf("timeline: %v", merged.GetTimeline())
	}
	if open = apply(open, puts); len(planned(w, open, facts{})) != 0 {
		t.Error("planning again proposes again")
	}
}

// Ensure what a person reads is complete, bounded and safe to print.
func TestDescription(t *testing.T) {
	w := newWindow()
	lossy := row("a", "1", 0, severity("high"), learning)
	lossy.Finding.Losses = []*sensorv1.Loss{{Where: "ring:critical", Cause: "full", Count: 12}}
	lossy.Finding.Process.Argv = [][]byte{[]byte("/bin/sh"), []byte("-c"), []byte("evil\x1b[31m\xff\nline")}
	w.addFinding(lossy)
	for i := range 30 {
		w.addFinding(row(fmt.Sprintf("x%02d", i), "1", i+1, severity("low"), score(1), sends(tcp(false, "10.1.0.1", uint32(i+1), "10.0.0.1", 80, i))))
	}
	known := facts{hosts: map[string]*operatorv1.Host{"h-a": {Facts: &sensorv1.HostFacts{CoverageGaps: []string{"io_uring"}}}}}
	in := planned(w, nil, known)[0].GetIncident()
	if lines := strings.Count(in.GetAccount(), "\n") + 1; lines > maxAccountLines || lines < 2 {
		t.Errorf("account has %d lines:\n%s", lines, in.GetAccount())
	}
	for _, text := range append([]string{in.GetTitle()}, in.GetAccount(), in.GetTimeline()[0].GetText()) {
		if !utf8.ValidString(text) || strings.Contains(text, "\x1b") {
			t.Errorf("unsafe text %q", text)
		}
	}
	limits := strings.Join(in.GetLimits(), "\n")
	for _, want := range []string{"12 events were lost on a at ring:critical (full)", "a was still learning", "a cannot see: io_uring"} {
		if !strings.Contains(limits, want) {
			t.Errorf("limits lack %q:\n%s", want, limits)
		}
	}
	if want := `vedette isolate h-a --reason "incident ` + in.GetId() + `"`; in.GetRecommended()[0] != want {
		t.Errorf("recommended: got %q, want %q", in.GetRecommended()[0], want)
	}
	known.hosts["h-a"].Isolation = "applied"
	if again := planned(w, []*raftv1.Incident{in}, known); len(again) != 1 || strings.Contains(strings.Join(again[0].GetIncident().GetRecommended(), ""), "isolate") {
		t.Errorf("an isolated host is still to be isolated: %v", again)
	}
}

// Ensure a flood of storylines and findings stays bounded and keeps the newest.
func TestWindowBounds(t *testing.T) {
	w := newWindow()
	for i := range maxStories + 50 {
		w.addFinding(row("a", fmt.Sprint(i), i))
	}
	if len(w.stories) != maxStories || w.stories[storyKey{"h-a", fmt.Sprint(maxStories + 49)}] == nil {
		t.Errorf("got %d storylines", len(w.stories))
	}
	w = newWindow()
	for i := range maxFindingsPerStory + 50 {
		w.addFinding(row("a", "1", i))
	}
	s := w.stories[storyKey{"h-a", "1"}]
	if len(s.findings) != maxFindingsPerStory || s.findings[0].GetFinding().GetId() != "a-1-0" {
		t.Errorf("got %d findings, the first %s", len(s.findings), s.findings[0].GetFinding().GetId())
	}
	forgetAll(w, t0.Add(10_000*time.Minute))
	if len(w.stories) != 0 || len(w.outbound) != 0 {
		t.Error("old storylines stay")
	}
}

func FuzzFlow(f *testing.F) {
	f.Add([]byte{10, 0, 0, 1}, []byte{10, 0, 0, 2}, uint32(1), uint32(2), true)
	f.Add([]byte{}, []byte{1}, uint32(1<<31), uint32(0), false)
	f.Fuzz(func(t *testing.T, local, remote []byte, localPort, remotePort uint32, inbound bool) {
		flow := &sensorv1.Flow{Protocol: 6, Inbound: inbound, Local: local, Remote: remote, LocalPort: localPort, RemotePort: remotePort}
		far := &sensorv1.Flow{Protocol: 6, Inbound: !inbound, Local: remote, Remote: local, LocalPort: remotePort, RemotePort: localPort}
		a, ok := tupleOf(flow)
		b, okFar := tupleOf(far)
		if a != b || ok != okFar {
			t.Errorf("the two ends differ: %v %v, %v %v", a, ok, b, okFar)
		}
	})
}
