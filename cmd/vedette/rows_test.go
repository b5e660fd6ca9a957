package main

import (
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// The fixed rows: a web server that was broken into, a silent host, and a host
// whose every name tries to drive the terminal.

// epoch is when the fixed rows happened; the CLI under test lives ten minutes later.
var epoch = time.Date(2026, 1, 31, 3, 0, 0, 0, time.UTC)

func at(seconds int64) int64 { return epoch.UnixNano() + seconds*int64(time.Second) }

const (
	web1  = "h-aaaaaaaaaaaa"
	app1  = "h-bbbbbbbbbbbb"
	evil  = "h-cccccccccccc"
	found = "01KG8Z6QK8A1B2C3D4E5F6G7H8"
)

// hostile rings, clears the screen, turns text around and is not UTF-8.
const hostile = "x\x1b[2J\x07\u009b31m\u202egnp.\n\xff"

var names = map[string]string{web1: "web1", app1: "app1", evil: "evil\x1b]0;owned\x07\u202e"}

func fixedStatus() *operatorv1.GetStatusResponse {
	return &operatorv1.GetStatusResponse{
		ClusterId: "c-test", NodeId: "n1", LeaderId: "n2", Version: "1.2.3", AppliedIndex: 4711, Hosts: 3, HostsSilent: 1, HostsBlind: 1, HostsStopped: 2,
		FindingsDay: 2, IncidentsOpen: 1, Isolated: 1, Time: at(600),
		Members: []*operatorv1.Member{
			{Id: "n1", Address: "10.0.0.1:7443", OperatorAddress: "10.0.0.1:7444", Role: "follower", State: "alive", AppliedIndex: 4711, LastContact: at(599),
				Version: "1.2.3", ClockOffset: -1500e6, DiskFree: 300 << 20, DiskTotal: 100 << 30, CertificateEnds: at(86400 * 100), NotReady: []string{"it has applied 4711 of 9000 entries: wait"}},
			{Id: "n2", Address: "10.0.0.2:7443", OperatorAddress: "10.0.0.2:7444", Role: "leader", State: "alive", AppliedIndex: 4711, LastContact: at(600),
				Version: "1.2.3", DiskFree: 60 << 30, DiskTotal: 100 << 30, CertificateEnds: at(86400 * 100)},
			{Id: "n3", Address: "10.0.0.3:7443", OperatorAddress: "10.0.0.3:7444", Role: "follower", State: "unreachable", AppliedIndex: 4000, LastContact: at(0)},
		},
		Problems: []string{"Node n3 is unreachable since 03:00: one more loss stops all decisions. Start it, or replace it."},
	}
}

func fixedHosts() []*operatorv1.Host {
	return []*operatorv1.Host{
		{
			Id: web1, Name: "web1", Address: "10.0.1.1:40001", Labels: map[string]string{"role": "web", "site": "berlin"}, State: "online",
			Isolation: "none", LastSeen: at(598), SensorVersion: "1.2.3", EventsTotal: 120000, EventsSuppressed: 119000, EventsLost: 7,
			Baseline: &sensorv1.BaselineState{Behaviours: 40, Known: 38, Confidence: 0.95}, Node: "n1", EnrolledAt: at(-86400),
			Facts:  &sensorv1.HostFacts{Name: "web1", Os: "Debian 12", Kernel: "6.1.0", Arch: "amd64", Addresses: []string{"10.0.1.1", "2001:db8::1"}, Scope: "host", CoverageGaps: []string{"io_uring connects are seen without their name"}},
			Health: &sensorv1.Health{RssBytes: 41 << 20, CpuNs: 120e6, SpoolBytes: 2048, SpoolRecords: 3, Degraded: []string{"file events are sampled, 1 in 8"}},
			Losses: []*sensorv1.Loss{{Where: "ring:bulk", Cause: "full", Count: 5}, {Where: "decode", Cause: "malformed", Count: 2}},
		},
		{
			Id: app1, Name: "app1", Labels: map[string]string{"role": "app"}, State: "silent", Isolation: "applied", LastSeen: at(0), Ended: "unheard",
			SensorVersion: "1.2.3", EventsTotal: 10, Baseline: &sensorv1.BaselineState{Behaviours: 12, Known: 3, Confidence: 0.25, Learning: true},
		},
		{Id: evil, Name: names[evil], State: "never-seen", Isolation: "none", Labels: map[string]string{"role": "web", "x": hostile2()}},
	}
}

// hostile2 is hostile as a protobuf string may hold it: valid UTF-8.
func hostile2() string { return hostile[:len(hostile)-1] }

func fixedBehaviours() []*operatorv1.BehaviourRow {
	return []*operatorv1.BehaviourRow{
		{
			Behaviour: &sensorv1.Behaviour{Key: []byte("k1"), Kind: sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC, Subject: []byte("/usr/sbin/nginx"), Object: []byte("/bin/sh"), FirstSeen: at(1)},
			Count:     1, LastSeen: at(1), Hosts: 1,
		},
		{
			Behaviour: &sensorv1.Behaviour{Key: []byte("k2"), Kind: sensorv1.BehaviourKind_BEHAVIOUR_KIND_FLOW, Subject: []byte("/usr/bin/" + hostile), Object: []byte("out 203.0.113.66/32:443"), FirstSeen: at(2)},
			Count:     3, LastSeen: at(60), Hosts: 2, Known: true,
		},
	}
}

func fixedFindings() []*operatorv1.FindingRow {
	return []*operatorv1.FindingRow{
		{
			Host: web1, HostName: "web1", Disposition: "in-incident", Incident: "inc-aaaaaaaaaaaa",
			Finding: &sensorv1.Finding{
				Id: found, Time: at(2), Kind: "rule", RuleId: "shell-by-service", Severity: "high", Title: "A service started a shell",
				Techniques: []string{"T1059.004", "T9999"}, Score: 82.4, Storyline: "812.1000",
				Process: &sensorv1.Process{
					Pid: 4242, Start: 5, StartTime: at(1), Image: []byte("/bin/sh"), Argv: [][]byte{[]byte("sh"), []byte("-c"), []byte(hostile)},
					Uid: 33, User: "www-data", Unit: "nginx.service", ImageTraits: []string{"deleted"}, Cwd: []byte("/var/www"), Sha256: []byte{0xab, 0xcd},
				},
				Ancestors: []*sensorv1.Process{
					{Pid: 900, StartTime: at(-100), Image: []byte("/usr/sbin/nginx"), Argv: [][]byte{[]byte("nginx: worker process")}, Uid: 33, User: "www-data"},
					{Pid: 812, StartTime: at(-200), Image: []byte("/usr/sbin/nginx"), Argv: [][]byte{[]byte("nginx"), []byte("-g"), []byte("daemon on;")}, User: "root"},
					{Pid: 1, StartTime: at(-300), Image: []byte("/usr/lib/systemd/systemd"), User: "root"},
				},
				Flows: []*sensorv1.Flow{
					{Protocol: 6, Local: []byte{10, 0, 1, 1}, LocalPort: 40022, Remote: []byte{203, 0, 113, 66}, RemotePort: 443, Name: "evil.example", BytesOut: 2048, BytesIn: 10, Opened: at(2), Closed: at(4)},
				},
				Origin:  &sensorv1.Flow{Protocol: 6, Inbound: true, Local: []byte{10, 0, 1, 1}, LocalPort: 80, Remote: []byte{198, 51, 100, 7}, RemotePort: 55555, Opened: at(0)},
				Lookups: []string{"evil.example"}, Losses: []*sensorv1.Loss{{Where: "ring:bulk", Cause: "full", Count: 5}},
				Reason: "nginx never started /bin/sh on this host in 30 days; the shell connected out at once.",
			},
		},
		{
			Host: evil, HostName: names[evil], Disposition: "new",
			Finding: &sensorv1.Finding{Id: "01KG8Z6QK8Z", Time: at(1), Kind: "new-exec", Severity: "low", Title: "New program " + hostile2(), Score: 12, Learning: true},
		},
	}
}

func fixedIncident() *raftv1.Incident {
	return &raftv1.Incident{
		Id: "inc-aaaaaaaaaaaa", Status: "open", Severity: "high", Confidence: 0.9, Title: "A web server was broken into and moved on to app1",
		Hosts: []string{web1, app1}, Techniques: []string{"T1059.004", "T1021.004"}, FirstSeen: at(1), LastSeen: at(60),
		Storylines: []string{"812.1000"}, Account: "On web1, nginx started a shell.\nFrom there someone logged in to app1 by ssh.",
		Timeline:     []*raftv1.TimelineEntry{{Time: at(2), Host: web1, Finding: found, Text: "A service started a shell"}},
		ActionsTaken: []string{"web1 was isolated by alice"}, Recommended: []string{"Isolate app1.", "vedette isolate " + app1 + ` --reason "incident inc-aaaaaaaaaaaa, which is a reason that is longer than the page is wide"`}, Limits: []string{"5 events were lost on web1."},
		Findings: []string{found}, Edges: []*raftv1.Edge{{From: "web1/812.1000", To: "app1/77.5", Kind: "flow", Time: at(10), Evidence: "10.0.1.1:40022 to 10.0.1.2:22"}},
	}
}

func fixedIncidents() []*raftv1.Incident {
	return []*raftv1.Incident{{Id: "inc-bbbbbbbbbbbb", Status: "closed", Severity: "low", Title: "Backup moved", Disposition: "benign"}}
}

func fixedIsolations() []*operatorv1.Isolation {
	return []*operatorv1.Isolation{
		{
			Id: "op-a/" + app1, Host: app1, HostName: "app1", State: "applied", RequestedBy: "operator:alice", Reason: "contain", LeaseExpires: at(14400),
			Grant: "00ff", AppliedAt: at(3), SelfTest: "coordinator reached, probe cut", Action: "isolate", Operation: "op-a", RequestedAt: at(2),
		},
		{Id: "op-b/" + web1, Host: web1, HostName: "web1", State: "pending", RequestedBy: "operator:bob", Reason: hostile2(), Action: "isolate", Operation: "op-b", RequestedAt: at(1),
			Target: &sensorv1.Target{Process: &sensorv1.ProcessTarget{Pid: 7, Start: 9}}, Detail: "it is disabled", Level: "jump"},
	}
}

func chain(actor string, n int) []*operatorv1.AuditEntry {
	previous := audit.Genesis()
	var out []*operatorv1.AuditEntry
	for i := range n {
		e := &operatorv1.AuditEntry{
			Index: uint64(i) + 1, Time: at(int64(i)) + 123456789, Actor: actor, Action: "isolate", Subject: web1, Detail: fmt.Sprintf("op-%d %s", i, hostile2()), Previous: previous,
		}
		e.Hash = audit.Hash(e)
		previous = e.Hash
		out = append(out, e)
	}
	return out
}

func fixedAudit() []*operatorv1.AuditEntry { return chain("operator:alice", 3) }

func fixedEvents() []*operatorv1.WatchResponse {
	return []*operatorv1.WatchResponse{
		{Time: at(1), Host: web1, HostName: "web1", Body: &operatorv1.WatchResponse_HostChange{HostChange: &operatorv1.HostChange{Change: "online", Detail: "at n1"}}},
		{Time: at(2), Host: web1, HostName: "web1", Body: &operatorv1.WatchResponse_Summary{Summary: &sensorv1.Summary{
			WindowStart: at(-28), WindowEnd: at(2),
			NewBehaviours: []*sensorv1.Behaviour{{Key: []byte("k9"), Kind: sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC, Subject: []byte("/bin/sh"), Object: []byte("/tmp/" + hostile), FirstSeen: at(2)}},
			Deltas:        []*sensorv1.BehaviourDelta{{Key: []byte("k2"), Count: 12, LastSeen: at(2)}},
			Health:        &sensorv1.Health{EventsTotal: 1000, Baseline: &sensorv1.BaselineState{Behaviours: 41, Known: 38, Confidence: 0.95}},
			Losses:        []*sensorv1.Loss{{Where: "ring:bulk", Cause: "full", Count: 5}},
		}}},
		{Time: at(3), Host: web1, HostName: "web1", Body: &operatorv1.WatchResponse_Finding{Finding: fixedFindings()[0]}},
		{Time: at(4), Body: &operatorv1.WatchResponse_Incident{Incident: fixedIncident()}},
		{Time: at(5), Host: app1, HostName: "app1", Body: &operatorv1.WatchResponse_Isolation{Isolation: fixedIsolations()[0]}},
		{Time: at(6), Host: evil, HostName: names[evil], Body: &operatorv1.WatchResponse_HostChange{HostChange: &operatorv1.HostChange{Change: "silent", Detail: hostile2()}}},
	}
}
