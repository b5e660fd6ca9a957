package uplink

import (
	"net/netip"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Bounds of one record, so that what a process does cannot make it too large.
const (
	maxAncestors = 16
	maxArgv      = 8 << 10 // bytes of one process's arguments
	maxFlows     = 64
	maxLookups   = 64
	maxTerms     = 64
	maxText      = 4 << 10
)

// RecordFromFinding converts a finding. Like the other conversions it keeps paths
// and arguments as the bytes that they are; only what is text by nature is made valid UTF-8.
func RecordFromFinding(f *event.Finding) *sensorv1.Record {
	out := &sensorv1.Finding{
		Id: text(f.ID), Time: nanos(f.Time), Kind: text(f.Kind), Title: text(f.Title), RuleId: text(f.RuleID),
		Severity: string(f.Severity), Techniques: texts(f.Techniques), Score: f.Score, Storyline: text(f.Storyline),
		Process: process(f.Process), Origin: flow(f.Origin), Losses: losses(f.Losses), Reason: text(f.Reason),
		PValue: f.PValue, Learning: f.Learning, Lookups: texts(f.Lookups[:min(len(f.Lookups), maxLookups)]),
	}
	if l := f.Login; l != nil {
		out.Login = &sensorv1.Login{User: text(l.User), Source: l.Source.AsSlice()}
	}
	if f.Process != nil {
		for _, a := range f.Process.Ancestors(maxAncestors) {
			out.Ancestors = append(out.Ancestors, process(a))
		}
	}
	for _, t := range f.Terms[:min(len(f.Terms), maxTerms)] {
		out.Terms = append(out.Terms, &sensorv1.ScoreTerm{Bits: t.Bits, Text: text(t.Text)})
	}
	for _, fl := range f.Flows[:min(len(f.Flows), maxFlows)] {
		out.Flows = append(out.Flows, flow(fl))
	}
	return &sensorv1.Record{Time: nanos(f.Time), Body: &sensorv1.Record_Finding{Finding: out}}
}

// RecordFromFlowNote converts a flow of a storyline that has findings.
func RecordFromFlowNote(n *event.FlowNote) *sensorv1.Record {
	note := &sensorv1.FlowNote{Storyline: text(n.Storyline), Process: process(n.Process), Flow: flow(n.Flow), Carried: text(n.Carried)}
	at := time.Now()
	if n.Flow != nil {
		switch {
		case !n.Flow.Closed.IsZero():
			at = n.Flow.Closed
		case !n.Flow.Opened.IsZero():
			at = n.Flow.Opened
		}
	}
	return &sensorv1.Record{Time: nanos(at), Body: &sensorv1.Record_FlowNote{FlowNote: note}}
}

// RecordFromSummary converts the periodic message.
func RecordFromSummary(s *event.Summary) *sensorv1.Record {
	out := &sensorv1.Summary{
		WindowStart: nanos(s.Start), WindowEnd: nanos(s.End), Losses: losses(s.Losses),
		Health: &sensorv1.Health{
			RssBytes: s.Health.RSSBytes, CpuNs: uint64(max(s.Health.CPU, 0)),
			EventsTotal: s.Health.EventsTotal, EventsSuppressed: s.Health.EventsSuppressed, EventsLost: s.Health.EventsLost,
			CoverageGaps: texts(s.Health.CoverageGaps), Isolation: text(s.Health.Isolation),
			Blind: s.Health.Blind != "", BlindReason: text(s.Health.Blind), Degraded: texts(s.Health.Degraded),
			Baseline: &sensorv1.BaselineState{
				Behaviours: s.Baseline.Behaviours, Known: s.Baseline.Known,
				Confidence: s.Baseline.Confidence, Learning: s.Baseline.Learning,
			},
		},
	}
	for i, b := range s.New {
		first := s.End
		if i < len(s.FirstSeen) {
			first = s.FirstSeen[i]
		}
		out.NewBehaviours = append(out.NewBehaviours, &sensorv1.Behaviour{
			Key: b.Key[:], Kind: sensorv1.BehaviourKind(b.Kind), Subject: []byte(b.Subject), Object: []byte(b.Object), FirstSeen: nanos(first),
		})
	}
	for _, d := range s.Deltas {
		out.Deltas = append(out.Deltas, &sensorv1.BehaviourDelta{Key: d.Key[:], Count: d.Count, LastSeen: nanos(d.LastSeen), Known: d.Known})
	}
	return &sensorv1.Record{Time: nanos(s.End), Body: &sensorv1.Record_Summary{Summary: out}}
}

// RecordFromIsolation is the durable report of what became of a grant or a lease.
func RecordFromIsolation(status *sensorv1.IsolationStatus) *sensorv1.Record {
	return &sensorv1.Record{Time: nanos(time.Now()), Body: &sensorv1.Record_Isolation{Isolation: status}}
}

func process(p *event.Process) *sensorv1.Process {
	if p == nil {
		return nil
	}
	out := &sensorv1.Process{
		Pid: p.Key.PID, Start: p.Key.Start, StartTime: nanos(p.StartTime), Image: []byte(p.Image),
		ArgvTruncated: p.ArgvTruncated, ArgvBytes: p.ArgvBytes, Uid: p.UID, User: text(p.User), Unit: text(p.Unit),
		Container: text(p.Container), ImageTraits: texts(p.Traits), Cwd: []byte(p.Cwd),
		Interpreter: []byte(p.Interpreter), Script: []byte(p.Script), LoginUid: p.LoginUID, Cgroup: []byte(p.Cgroup),
	}
	if p.Hashed {
		out.Sha256 = p.SHA256[:]
	}
	room := maxArgv
	for _, arg := range p.Argv {
		if len(arg) > room {
			out.ArgvTruncated = true
			if room > 0 {
				out.Argv = append(out.Argv, []byte(arg[:room]))
			}
			break
		}
		out.Argv = append(out.Argv, []byte(arg))
		room -= len(arg) + 1 // an empty argument costs, too
	}
	return out
}

func flow(f *event.Flow) *sensorv1.Flow {
	if f == nil {
		return nil
	}
	out := &sensorv1.Flow{
		Protocol: uint32(f.Proto), Inbound: f.Dir == event.Inbound, Name: text(f.Name),
		BytesIn: f.BytesIn, BytesOut: f.BytesOut, Opened: nanos(f.Opened), Closed: nanos(f.Closed), Failed: f.Failed,
	}
	out.Local, out.LocalPort = endpoint(f.Local)
	out.Remote, out.RemotePort = endpoint(f.Remote)
	return out
}

func endpoint(a netip.AddrPort) ([]byte, uint32) { return a.Addr().Unmap().AsSlice(), uint32(a.Port()) }

func losses(all []event.Loss) []*sensorv1.Loss {
	var out []*sensorv1.Loss
	for _, l := range all {
		out = append(out, &sensorv1.Loss{Where: text(l.Where), Cause: text(l.Cause), Count: l.Count})
	}
	return out
}

// text makes a protobuf string: one bad byte in a user name would otherwise
// lose the whole record.
func text(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func texts(all []string) []string {
	var out []string
	for _, s := range all {
		out = append(out, text(s))
	}
	return out
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
