package uplink_test

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

// Ensure everything that a finding knows reaches the coordinator, bytes as bytes.
func TestRecordFromFinding(t *testing.T) {
	at := time.Unix(1700000000, 5)
	parent := &event.Process{Key: event.ProcessKey{PID: 1, Start: 2}, Image: "/sbin/init"}
	p := &event.Process{
		Key: event.ProcessKey{PID: 42, Start: 4200}, Parent: parent, StartTime: at, Image: "/tmp/\xff\xfe", SHA256: [32]byte{7}, Hashed: true,
		Argv: []string{"a", "\xff", ""}, ArgvBytes: 6, UID: 1000, User: "mallory\xff", Cwd: "/\xff", Unit: "x.service",
		Container: "c0", Traits: []string{event.TraitMemFD}, Interpreter: "/bin/sh", Script: "./x\xff", LoginUID: 1000, Cgroup: "/user.slice",
	}
	flow := &event.Flow{
		Proto: 6, Dir: event.Inbound, Local: netip.MustParseAddrPort("[::ffff:10.0.0.1]:22"), Remote: netip.MustParseAddrPort("[2001:db8::1]:4711"),
		Name: "peer.example", BytesIn: 1, BytesOut: 2, Opened: at, Closed: at.Add(time.Second), Failed: true,
	}
	f := &event.Finding{
		ID: "01", Time: at, Kind: "rule", Title: "t", RuleID: "r", Severity: event.High, Techniques: []string{"T1059"}, Score: 80, Storyline: "42.4200",
		Process: p, Flows: []*event.Flow{flow}, Lookups: []string{"a.example"}, Origin: flow, Losses: []event.Loss{{Where: "ring:bulk", Cause: "full", Count: 3}},
		Reason: "because", Learning: true,
	}
	protoFlow := &sensorv1.Flow{
		Protocol: 6, Inbound: true, Local: []byte{10, 0, 0, 1}, LocalPort: 22, Remote: netip.MustParseAddr("2001:db8::1").AsSlice(), RemotePort: 4711,
		Name: "peer.example", BytesIn: 1, BytesOut: 2, Opened: at.UnixNano(), Closed: at.Add(time.Second).UnixNano(), Failed: true,
	}
	want := &sensorv1.Record{Time: at.UnixNano(), Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{
		Id: "01", Time: at.UnixNano(), Kind: "rule", Title: "t", RuleId: "r", Severity: "high", Techniques: []string{"T1059"}, Score: 80, Storyline: "42.4200",
		Process: &sensorv1.Process{
			Pid: 42, Start: 4200, StartTime: at.UnixNano(), Image: []byte("/tmp/\xff\xfe"), Sha256: append([]byte{7}, make([]byte, 31)...),
			Argv: [][]byte{[]byte("a"), []byte("\xff"), {}}, ArgvBytes: 6, Uid: 1000, User: "mallory\uFFFD", Cwd: []byte("/\xff"), Unit: "x.service",
			Container: "c0", ImageTraits: []string{"memfd"}, Interpreter: []byte("/bin/sh"), Script: []byte("./x\xff"), LoginUid: 1000, Cgroup: []byte("/user.slice"),
		},
		Ancestors: []*sensorv1.Process{{Pid: 1, Start: 2, Image: []byte("/sbin/init")}},
		Flows:     []*sensorv1.Flow{protoFlow}, Origin: protoFlow, Lookups: []string{"a.example"},
		Losses: []*sensorv1.Loss{{Where: "ring:bulk", Cause: "full", Count: 3}}, Reason: "because", Learning: true,
	}}}
	got := uplink.RecordFromFinding(f)
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if _, err := proto.Marshal(got); err != nil {
		t.Error(err)
	}
	note := uplink.RecordFromFlowNote(&event.FlowNote{Storyline: "42.4200", Process: p, Flow: flow})
	if note.GetTime() != at.Add(time.Second).UnixNano() || !proto.Equal(note.GetFlowNote().GetFlow(), protoFlow) || note.GetFlowNote().GetProcess().GetPid() != 42 {
		t.Errorf("note: %v", note)
	}
}

// Ensure what a process does cannot make its record too large, nor lose it.
func TestFindingIsBounded(t *testing.T) {
	chain := &event.Process{Key: event.ProcessKey{PID: 1}}
	for i := range uint32(40) {
		args := make([]string, 0, 5000)
		for range 5000 {
			args = append(args, strings.Repeat("x", 100))
		}
		chain = &event.Process{Key: event.ProcessKey{PID: i + 2}, Parent: chain, Argv: args}
	}
	f := &event.Finding{Process: chain, Title: strings.Repeat("ä", 1<<20)}
	for range 5000 {
		f.Flows = append(f.Flows, &event.Flow{Proto: 6})
		f.Lookups = append(f.Lookups, "a.example")
	}
	rec := uplink.RecordFromFinding(f)
	got := rec.GetFinding()
	if len(got.GetAncestors()) != 16 || len(got.GetFlows()) > 64 || len(got.GetLookups()) > 64 {
		t.Errorf("%d ancestors, %d flows, %d lookups", len(got.GetAncestors()), len(got.GetFlows()), len(got.GetLookups()))
	}
	for _, p := range append(got.GetAncestors(), got.GetProcess()) {
		if n := len(bytes.Join(p.GetArgv(), nil)); n > 8<<10 || n < 7<<10 || !p.GetArgvTruncated() {
			t.Errorf("%d bytes of arguments, truncated: %v", n, p.GetArgvTruncated())
		}
	}
	if data, err := proto.Marshal(rec); err != nil || len(data) > 256<<10 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

// Ensure a summary keeps every delta, and a finding without a process is no panic.
func TestRecordFromSummary(t *testing.T) {
	at := time.Unix(1700000000, 0)
	rec := uplink.RecordFromSummary(&event.Summary{
		Start: at, End: at.Add(30 * time.Second),
		New:       []event.Behaviour{{Key: event.BehaviourKey{1}, Kind: event.BehaviourFlow, Subject: "/bin/\xff", Object: "out 10.0.0.0/24:443"}},
		FirstSeen: []time.Time{at.Add(time.Second)},
		Deltas:    []event.BehaviourDelta{{Key: event.BehaviourKey{1}, Count: 9, LastSeen: at, Known: true}},
		Baseline:  event.BaselineState{Behaviours: 5, Known: 4, Confidence: 0.5, Learning: true},
		Health:    event.Health{RSSBytes: 1, CPU: 2, EventsTotal: 3, EventsSuppressed: 4, EventsLost: 5, CoverageGaps: []string{"g"}, Isolation: "none"},
		Losses:    []event.Loss{{Where: "w", Cause: "c", Count: 1}},
	})
	want := &sensorv1.Record{Time: at.Add(30 * time.Second).UnixNano(), Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{
		WindowStart: at.UnixNano(), WindowEnd: at.Add(30 * time.Second).UnixNano(),
		NewBehaviours: []*sensorv1.Behaviour{{
			Key: append([]byte{1}, make([]byte, 15)...), Kind: sensorv1.BehaviourKind_BEHAVIOUR_KIND_FLOW, Subject: []byte("/bin/\xff"),
			Object: []byte("out 10.0.0.0/24:443"), FirstSeen: at.Add(time.Second).UnixNano(),
		}},
		Deltas: []*sensorv1.BehaviourDelta{{Key: append([]byte{1}, make([]byte, 15)...), Count: 9, LastSeen: at.UnixNano(), Known: true}},
		Health: &sensorv1.Health{
			RssBytes: 1, CpuNs: 2, EventsTotal: 3, EventsSuppressed: 4, EventsLost: 5, CoverageGaps: []string{"g"}, Isolation: "none",
			Baseline: &sensorv1.BaselineState{Behaviours: 5, Known: 4, Confidence: 0.5, Learning: true},
		},
		Losses: []*sensorv1.Loss{{Where: "w", Cause: "c", Count: 1}},
	}}}
	if !proto.Equal(rec, want) {
		t.Errorf("got  %v\nwant %v", rec, want)
	}
	if got := uplink.RecordFromFinding(&event.Finding{ID: "x"}); got.GetFinding().GetProcess() != nil {
		t.Error("a process out of nothing")
	}
}
