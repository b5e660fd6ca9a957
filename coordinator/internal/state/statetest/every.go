// Package statetest has one command of every kind, for tests of what reads a log.
//
// Invariant: applied in order to an empty state, none is rejected; so what a command of each
// kind leaves behind is there to be read. A kind that is missing here fails TestEveryKind.
package statetest

import (
	"crypto/sha256"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/revocation"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/trust"
)

const (
	// Now is the time of the first command (Unix ns); each later one comes a second after.
	Now    = int64(1_700_000_000e9)
	second = int64(1e9)
	hour   = 3600 * second
	day    = 24 * hour
)

// must is for what is encoded from constants.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func hash(s string) []byte { sum := sha256.Sum256([]byte(s)); return sum[:] }

// Command wraps a body in a command; the kind is found by the body's type.
func Command(body proto.Message) *raftv1.Command {
	cmd := &raftv1.Command{Time: Now, Actor: "operator:ada"}
	m := cmd.ProtoReflect()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Message() != nil && f.Message().FullName() == body.ProtoReflect().Descriptor().FullName() {
			m.Set(f, protoreflect.ValueOfMessage(body.ProtoReflect()))
			return cmd
		}
	}
	panic("no command of that kind")
}

// writer puts one command after another.
type writer struct {
	cluster, prefix string
	commands        []*raftv1.Command
}

func (w *writer) host(n int) string { return fmt.Sprintf("%s-%d", w.prefix, n) }

// now is the next command's time.
func (w *writer) now() int64 { return Now + int64(len(w.commands))*second }

func (w *writer) put(body proto.Message) *raftv1.Command {
	cmd := Command(body)
	cmd.Time = w.now()
	w.commands = append(w.commands, cmd)
	return cmd
}

func (w *writer) grant(operation string, approvals uint32, host string) *sensorv1.Grant {
	g := &sensorv1.Grant{Nonce: hash(operation)[:16], Action: sensorv1.Action_ACTION_ISOLATE, LeaseSeconds: 3600, IssuedAt: w.now(), Epoch: uint64(w.now()), //nolint:gosec // after 1970
		NotAfter: w.now() + hour, Operator: "ada", Reason: "drill", Operation: operation, ClusterId: w.cluster, Approvals: approvals}
	must(grant.Address(g, host))
	return g
}

func (w *writer) order(operation string, approvals uint32, host string) {
	g := w.grant(operation, approvals, host)
	w.put(&raftv1.RequestResponse{Operation: operation, Decoded: g, Hosts: []string{host}, Grant: &sensorv1.SignedGrant{
		Payload: must(grant.Encode(g)), Signatures: []*sensorv1.Signature{signature("ada")}}})
}

func signature(by string) *sensorv1.Signature { return &sensorv1.Signature{Signature: []byte(by)} }

func finding(host string) *sensorv1.Finding {
	return &sensorv1.Finding{Id: host + "-1", Time: Now, Kind: "rule", Severity: "high", Score: 90, Storyline: "7.7",
		Process: &sensorv1.Process{Pid: 7, Start: 7, Uid: 1000, LoginUid: 1000, User: "ann", Image: []byte("/tmp/x"), Sha256: hash("x"),
			ImageTraits: []string{"world-writable-dir"}}}
}

// Every is at least one command of each kind, for a cluster of that id. The hosts are, of prefix h, h-0 to
// h-3 and h-9, the node is n9, and the operations are op-0 to op-2.
func Every(cluster, prefix string) []*raftv1.Command {
	w := &writer{cluster: cluster, prefix: prefix}
	w.fleet()
	w.findings()
	w.orders()
	w.learning()
	w.rules()
	w.people()
	w.ends()
	return w.commands
}

func (w *writer) fleet() {
	first := w.put(&raftv1.InitCluster{ClusterId: w.cluster})
	entry := &operatorv1.AuditEntry{Index: 1, Time: first.GetTime(), Actor: first.GetActor(), Action: "cluster-init", Subject: w.cluster, Previous: audit.Genesis()}
	w.put(&raftv1.PutCheckpoint{Checkpoint: &raftv1.Checkpoint{ClusterId: w.cluster, Node: "node:n9", Index: 1, Hash: audit.Hash(entry), Time: w.now(), Signature: []byte("n9")}})
	w.put(&raftv1.PutNode{Node: &sensorv1.Node{Id: "n9", Address: "10.0.0.9:1", OperatorAddress: "10.0.0.9:2"}})
	w.put(&raftv1.PutOperator{Name: "ada", Role: "admin", NotAfter: Now + 365*day})
	for i := range 4 {
		host := w.host(i)
		w.put(&raftv1.EnrollHost{Host: host, Facts: &sensorv1.HostFacts{Name: "name-" + host, Os: "Debian GNU/Linux 13", Kernel: "6.12.0",
			Addresses: []string{"192.0.2.1"}, Labels: map[string]string{"role": "web", "site": "s-1"}}})
	}
	w.put(&raftv1.CreateToken{TokenId: "token-9", SecretSha256: hash("token-9"), Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR, Expires: w.now() + hour/2, Labels: map[string]string{"role": "db"}})
	w.put(&raftv1.ConsumeToken{TokenId: "token-9", SecretSha256: hash("token-9"), Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR, Id: w.host(9), Facts: &sensorv1.HostFacts{Name: "name-" + w.host(9)}, KeySha256: hash("key")})
	w.put(&raftv1.HostSession{Host: w.host(0), Node: "n9", Connected: true, Session: 1, Address: "192.0.2.1", SensorVersion: "1.0.0", KernelBoot: hash("boot")[:16], Instance: hash("instance")[:16], KeySha256: hash("key-0")})
	w.put(&raftv1.BeginSessions{Sessions: []*raftv1.HostSession{{Host: w.host(1), Node: "n9", Connected: true, Session: 1}, {Host: w.host(2), Node: "n9", Connected: true, Session: 1}}})
}

func (w *writer) findings() {
	for i := range 4 {
		host := w.host(i)
		key := hash("behaviour")[:16]
		w.put(&raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: host, Batch: &sensorv1.Batch{Boot: hash(host)[:16], Records: []*sensorv1.Record{
			{Sequence: 1, Time: Now, Body: &sensorv1.Record_Finding{Finding: finding(host)}},
			{Sequence: 2, Time: Now, Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{
				NewBehaviours: []*sensorv1.Behaviour{{Key: key, Kind: sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC, Subject: []byte("/bin/sh"), Object: []byte("/bin/ls"), FirstSeen: Now}},
				Deltas:        []*sensorv1.BehaviourDelta{{Key: key, Count: 3, LastSeen: Now}},
				Losses:        []*sensorv1.Loss{{Where: "ring", Cause: "full", Count: 2}},
				Health:        &sensorv1.Health{EventsTotal: 100}}}},
			{Sequence: 3, Time: Now, Body: &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{Storyline: "7.7", Flow: &sensorv1.Flow{Local: []byte{192, 0, 2, 1}, Remote: []byte{192, 0, 2, 9}}}}},
		}}}}})
	}
	w.put(&raftv1.SuspectSensor{Host: w.host(3), Conduct: "time", Detail: "a year ahead"})
	w.put(&raftv1.SuspectConduct{Sensor: &raftv1.SuspectSensor{Host: w.host(3), Conduct: "clock", Detail: "a year back"}})
	w.put(&raftv1.PutIncident{Incident: &raftv1.Incident{Id: "inc-0", Severity: "high", Title: "A program in a place that anybody writes to", Hosts: []string{w.host(0)},
		Storylines: []string{w.host(0) + "/7.7"}, Findings: []string{w.host(0) + "-1"}, FirstSeen: Now, LastSeen: Now}})
	w.put(&raftv1.PutInvestigation{Investigation: &raftv1.Investigation{Host: w.host(0), Storyline: "7.7", Verdict: "incident", Confidence: 0.9, Findings: []string{w.host(0) + "-1"}}})
	w.put(&raftv1.PutCampaign{Campaign: &raftv1.Campaign{Id: "cam-0", Title: "One host", Incidents: []string{"inc-0"}}})
	w.put(&raftv1.CloseIncident{Id: "inc-0", Disposition: "benign", Reason: "known"})
	disposition := &sensorv1.Disposition{Id: "dsp-0", ClusterId: w.cluster, Host: w.host(0), Incident: "inc-0", Findings: []string{w.host(0) + "-1"}, Operator: "ada", IssuedAt: w.now(), NotAfter: w.now() + day}
	w.put(&raftv1.PutDispositions{Dispositions: []*sensorv1.SignedDisposition{{Payload: must(proto.MarshalOptions{Deterministic: true}.Marshal(disposition))}}})
}

func (w *writer) orders() {
	in := &sensorv1.Intent{ClusterId: w.cluster, Author: "ada", IssuedAt: w.now(), Version: 1,
		Policy: `@id("isolate") permit (principal, action == Vedette::Action::"isolate", resource);`}
	w.put(&raftv1.PutIntent{Signed: &sensorv1.SignedIntent{Payload: must(intent.Encode(in))}, Decoded: in})
	g := w.grant("op-0", 0, w.host(1))
	g.Operator, g.Evidence = "", []string{w.host(1) + "-1"}
	w.put(&raftv1.ProposeResponse{Grant: g, Host: w.host(1), Level: 3, IntentVersion: 1, Finding: w.host(1) + "-1", WindowEnds: w.now() + second/2})
	w.put(&raftv1.StartOperation{Operation: "op-0"})
	w.order("op-1", 2, w.host(2))
	w.put(&raftv1.ApproveOperation{Operation: "op-1", Operator: "bob", Signature: signature("bob")})
	w.order("op-2", 2, w.host(3))
	w.put(&raftv1.VetoOperation{Operation: "op-2", Reason: "not this one"})
	w.put(&raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: w.host(2), Batch: &sensorv1.Batch{Boot: hash(w.host(2))[:16], Prev: 3, Records: []*sensorv1.Record{
		{Sequence: 4, Time: Now, Body: &sensorv1.Record_Isolation{Isolation: &sensorv1.IsolationStatus{Operation: "op-1", State: sensorv1.IsolationState_ISOLATION_STATE_APPLIED}}}}}}}})
}

func (w *writer) learning() {
	p := &sensorv1.Pack{ClusterId: w.cluster, Role: "web", MadeAt: w.now(), NotAfter: w.now() + day, Of: 3, Operator: "ada",
		Behaviours: []*sensorv1.PackBehaviour{{Kind: 1, Subject: []byte("/bin/sh"), Object: []byte("/bin/ls"), Hosts: 3}}}
	w.put(&raftv1.LearningOrder{Body: &raftv1.LearningOrder_Pack{Pack: &sensorv1.SignedPack{Payload: must(pack.Encode(p)), Signature: signature("ada")}}})
	u := &sensorv1.Unlearn{Id: "ul-0", ClusterId: w.cluster, Host: w.host(1), Subject: []byte("/tmp/x"), Operator: "ada", IssuedAt: w.now(), NotAfter: w.now() + day, Reason: "an implant"}
	w.put(&raftv1.LearningOrder{Body: &raftv1.LearningOrder_Unlearn{Unlearn: &sensorv1.SignedUnlearn{Payload: must(proto.MarshalOptions{Deterministic: true}.Marshal(u))}}})
	w.put(&raftv1.LearningOrder{Body: &raftv1.LearningOrder_Unlearnt{Unlearnt: &raftv1.UnlearntBy{Host: w.host(1), Unlearnt: &sensorv1.Unlearnt{Id: "ul-0", Behaviours: 4}}}})
	w.put(&raftv1.SetRoles{Groups: []*raftv1.RoleGroup{{Name: "web", Basis: "label"}}, Hosts: []*raftv1.HostRole{{Host: w.host(0), Role: "web", Permille: 900}}})
	w.put(&raftv1.NoteRollOuts{RollOuts: []*raftv1.RollOut{{Key: hash("behaviour")[:16], FirstSeen: Now, LastSeen: Now, Hosts: 3, Installed: 3, By: "apt-get"}}})
	w.put(&raftv1.PutDrills{Results: []*raftv1.DrillResult{{Host: w.host(0), Drill: "cron-entry", Verdict: "proven", Time: Now}}})
	w.put(&raftv1.NoteHunt{Id: "hunt-0", Question: `process where image == "/tmp/x"`, Hosts: 4})
}

func (w *writer) rules() {
	set := &sensorv1.RuleSet{ClusterId: w.cluster, Version: 1, Author: "ada", IssuedAt: w.now(), Reason: "test", Files: []*sensorv1.RuleFile{{Path: "a.yml", Text: []byte("a")}}}
	w.put(&raftv1.PutRules{Signed: &sensorv1.SignedRules{Payload: must(ruleset.Encode(set)), Signature: signature("ada")}, Ids: []string{"one"}})
	w.put(&raftv1.AdvanceRules{Version: 1, Ring: 1})
	w.put(&raftv1.NoteRules{Hosts: []*raftv1.HostRules{{Host: w.host(0), Instance: hash("instance")[:16], Held: &sensorv1.RulesHeld{Version: 1, Newest: 1}}}})
	w.put(&raftv1.HaltRules{Version: 1, Why: "it hurts"})
}

func (w *writer) people() {
	nodes := &sensorv1.NodeAddresses{ClusterId: w.cluster, Serial: uint64(w.now()), NotAfter: w.now() + day, Operator: "ada", Nodes: []*sensorv1.NodeAddress{{Id: "n9", Address: "10.0.0.9:1"}}} //nolint:gosec // after 1970
	w.put(&raftv1.PutSignedNodes{Signed: &sensorv1.SignedNodes{Payload: must(nodelist.Encode(nodes)), Signature: signature("ada")}})
	gone := &sensorv1.Revocations{ClusterId: w.cluster, Serial: uint64(w.now()), Operator: "ada", Operators: []*sensorv1.RevokedOperator{{Name: "rex", At: w.now()}}} //nolint:gosec // after 1970
	w.put(&raftv1.PutRevocations{Signed: &sensorv1.SignedRevocations{Payload: must(revocation.Encode(gone)), Signature: &sensorv1.Signature{}}, Reason: "left"})
	roots := [][]byte{must(operator.New(w.cluster)).Root().Raw}
	list := &sensorv1.Trust{ClusterId: w.cluster, Epoch: 1, SignedAt: w.now(), Operator: "ada", Roots: roots}
	w.put(&raftv1.PutTrust{Signed: &sensorv1.SignedTrust{Payload: must(trust.Encode(list)), Signature: signature("ada")}, Reason: "yearly"})
	w.put(&raftv1.NoteTrust{Hosts: []*raftv1.HostTrust{{Host: w.host(0), Epoch: 1, Root: trust.Key(roots[0])}}, Nodes: []*raftv1.HolderTrust{{Name: "n9", Epoch: 1}}, Operators: []*raftv1.HolderTrust{{Name: "ada", Epoch: 1}}})
	w.put(&raftv1.ExportMark{Sink: "archive", To: &raftv1.ExportPlace{}})
	w.put(&raftv1.NoteBackup{Identity: true})
	w.put(&raftv1.ReportDivergence{Node: "n9", What: "chain", Window: 3, From: "n1", Index: 9}).Actor = "node:n9"
}

// ends comes last: after it there is less than before.
func (w *writer) ends() {
	w.put(&raftv1.SessionsEnded{Node: "n9", Sessions: []*raftv1.SessionEnd{{Host: w.host(0), Session: 1, How: "unheard", Heard: w.now()}}})
	w.put(&raftv1.RaiseSilence{Finding: &sensorv1.Finding{Id: "sil-0", Kind: "silent", Time: w.now()}, Hosts: []*raftv1.SilentHost{{Host: w.host(0), Session: 1}}})
	w.put(&raftv1.RemoveHost{Host: w.host(9), Reason: "sold"})
	w.put(&raftv1.RetireHost{Host: w.host(2), Reason: "sold"})
	w.put(&raftv1.RemoveNode{Id: "n9"})
	// Nothing is as old as this, but history begins with it.
	w.put(&raftv1.Retain{Rows: 10, FindingsBefore: 1, FlowsBefore: 1, LossesBefore: 1})
	w.put(&raftv1.Forget{Sightings: 10, Before: 1, Hosts: []string{w.host(1)}})
	only := &sensorv1.Node{Id: "n1", Address: "10.0.0.1:1", OperatorAddress: "10.0.0.1:2"}
	w.put(&raftv1.RecoverCluster{Node: only, LastIndex: 9, LastTerm: 2})
	w.put(&raftv1.RestoreCluster{Node: only, Made: Now, MadeIndex: 9})
}
