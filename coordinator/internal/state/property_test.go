package state_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// drawCommand makes any command, sensible or not, over few enough names that
// commands meet each other.
func drawCommand(t *rapid.T) *raftv1.Command {
	name := func(prefix string) string {
		return fmt.Sprintf("%s-%d", prefix, rapid.IntRange(0, 3).Draw(t, prefix))
	}
	facts := &sensorv1.HostFacts{Name: name("name"), Labels: map[string]string{"b": "1", "a": name("label"), "c": "3"}}
	token := name("token")
	var body proto.Message
	switch rapid.IntRange(0, 27).Draw(t, "kind") {
	case 0:
		body = &raftv1.InitCluster{ClusterId: "c-1"}
	case 1:
		body = &raftv1.EnrollHost{Host: name("h"), Facts: facts}
	case 2:
		body = &raftv1.CreateToken{TokenId: token, SecretSha256: hash(token), Kind: sensorv1.EnrollKind(rapid.IntRange(0, 2).Draw(t, "token kind")),
			Expires: now + 1, Labels: map[string]string{"z": "1", "y": "2"}}
	case 3:
		body = &raftv1.ConsumeToken{TokenId: token, SecretSha256: hash(token), Kind: sensorv1.EnrollKind(rapid.IntRange(1, 2).Draw(t, "token kind")),
			Id: name("h"), Facts: facts, Node: &sensorv1.Node{Id: "h-1", Address: "x:1"}}
	case 4:
		return request(sensorv1.Action(rapid.IntRange(0, 2).Draw(t, "action")), name("op"), nil, slices.Compact([]string{"h-0", name("h")})...)
	case 5:
		body = &raftv1.PutIncident{Incident: &raftv1.Incident{Id: name("inc"), Findings: []string{name("h") + "-1", name("h") + "-2"}}, Merged: []string{name("inc")}}
	case 6:
		body = &raftv1.CloseIncident{Id: name("inc"), Disposition: "benign"}
	case 7:
		session := &raftv1.HostSession{Host: name("h"), Node: "n1", Connected: rapid.Bool().Draw(t, "connected"), Session: rapid.Uint64Range(0, 3).Draw(t, "session"), Facts: facts}
		if body = session; rapid.Bool().Draw(t, "shared") {
			body = &raftv1.BeginSessions{Sessions: []*raftv1.HostSession{session, {Host: name("h"), Node: "n2", Connected: true, Session: rapid.Uint64Range(0, 3).Draw(t, "session")}}}
		}
	case 8:
		body = &raftv1.PutNode{Node: &sensorv1.Node{Id: name("n"), Address: name("addr")}}
	case 9:
		body = &raftv1.SessionsEnded{Node: "n1", All: rapid.Bool().Draw(t, "all"), Sessions: []*raftv1.SessionEnd{{Host: name("h"),
			Session: rapid.Uint64Range(0, 3).Draw(t, "session"), How: rapid.SampledFrom([]string{"unheard", "stopped", "x"}).Draw(t, "how"), Heard: now}}}
	case 10:
		body = &raftv1.RaiseSilence{Finding: &sensorv1.Finding{Id: "sil-" + name("h"), Kind: "silent", RuleId: name("rule")}, Hosts: []*raftv1.SilentHost{
			{Host: name("h"), Session: rapid.Uint64Range(0, 3).Draw(t, "session")}, {Host: name("h"), Session: 1}}}
	case 11, 12:
		// Two days later, what came before may go.
		cmd := command(&raftv1.Retain{Rows: uint32(rapid.IntRange(1, 4).Draw(t, "rows")), FindingsBefore: now + 2, FlowsBefore: now + 2, //nolint:gosec // small
			IncidentsBefore: now + 2, OperationsBefore: now + 2, KeysBefore: now + 2, LossesBefore: now + 2, MinutesBefore: 2 * now, HoursBefore: 2 * now, DaysBefore: 2 * now,
			Oversized: rapid.Bool().Draw(t, "oversized")})
		cmd.Time += 2 + state.MinKept
		return cmd
	case 13:
		cmd := command(&raftv1.Forget{Sightings: uint32(rapid.IntRange(1, 4).Draw(t, "sightings")), Before: now + 2, Hosts: []string{name("h"), name("h")}}) //nolint:gosec // small
		cmd.Time += 2 + state.MinKept
		return cmd
	case 14:
		body = &raftv1.SetRoles{Groups: []*raftv1.RoleGroup{{Name: name("role"), Basis: "similar", Sketch: []byte(name("sketch"))}}, Dissolved: []string{name("role")},
			Hosts: []*raftv1.HostRole{{Host: name("h"), Role: name("role"), Permille: 500}, {Host: name("h")}}}
	case 15:
		body = &raftv1.NoteRollOuts{RollOuts: []*raftv1.RollOut{{Key: []byte(name("k")), Hosts: rapid.Uint32Range(0, 9).Draw(t, "hosts")}, {Key: []byte(name("k")), Hosts: 3, Installed: 3, By: "apt"}}}
	case 16:
		body = &raftv1.LearningOrder{Body: &raftv1.LearningOrder_Unlearnt{Unlearnt: &raftv1.UnlearntBy{Host: name("h"), Unlearnt: &sensorv1.Unlearnt{Id: rapid.SampledFrom([]string{name("ul"), name("dsp")}).Draw(t, "answered")}}}}
	case 17:
		host := rapid.SampledFrom([]string{disposedHost, name("h")}).Draw(t, "host")
		payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(&sensorv1.Disposition{Id: name("dsp"), ClusterId: "c-1", Host: host, Incident: disposedIncident,
			Findings: []string{host + "-1"}, Operator: "hal", IssuedAt: now, NotAfter: now + 9})
		if err != nil {
			t.Fatal(err)
		}
		body = &raftv1.PutDispositions{Dispositions: []*sensorv1.SignedDisposition{{Payload: payload}}}
	case 18:
		body = &raftv1.LearningOrder{Body: &raftv1.LearningOrder_Unlearnt{Unlearnt: &raftv1.UnlearntBy{Host: disposedHost, Unlearnt: &sensorv1.Unlearnt{Id: name("dsp")}}}}
	case 19, 20, 21:
		body = &raftv1.Ingest{Batches: []*raftv1.HostBatch{drawBatch(t, name("h")), drawBatch(t, name("h"))}}
	default:
		cmd := drawEvery(t)
		if rapid.Bool().Draw(t, "keyed") {
			cmd.IdempotencyKey = name("key")
		}
		return cmd
	}
	cmd := command(body)
	cmd.Time += int64(rapid.IntRange(0, 2).Draw(t, "time"))
	if rapid.Bool().Draw(t, "keyed") {
		cmd.IdempotencyKey = name("key")
	}
	return cmd
}

// A host of which an incident was closed: what is told of one needs much that came before.
const disposedHost, disposedIncident = "h-told", "inc-told"

func closedCase() []*raftv1.Command {
	return []*raftv1.Command{
		command(&raftv1.InitCluster{ClusterId: "c-1"}), command(&raftv1.EnrollHost{Host: disposedHost, Facts: &sensorv1.HostFacts{Name: disposedHost}}), batch(disposedHost, 0, 1),
		command(&raftv1.PutIncident{Incident: &raftv1.Incident{Id: disposedIncident, Findings: []string{disposedHost + "-1"}}}),
		command(&raftv1.CloseIncident{Id: disposedIncident, Disposition: "benign", Reason: "known"}),
	}
}

func drawBatch(t *rapid.T, host string) *raftv1.HostBatch {
	b := &sensorv1.Batch{Boot: hash(host)[:16], Prev: rapid.Uint64Range(0, 4).Draw(t, "prev")}
	sequence := b.GetPrev()
	for range rapid.IntRange(0, 3).Draw(t, "records") {
		sequence += rapid.Uint64Range(1, 2).Draw(t, "step")
		r := &sensorv1.Record{Sequence: sequence, Time: now}
		key := []byte{byte(rapid.IntRange(0, 3).Draw(t, "key"))}
		switch rapid.IntRange(0, 4).Draw(t, "record") {
		case 0:
			r.Body = &sensorv1.Record_Finding{Finding: &sensorv1.Finding{Id: fmt.Sprintf("%s-%d", host, sequence), Score: 0.5}}
		case 1:
			r.Body = &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{Flow: &sensorv1.Flow{Local: key, Remote: key}}}
		case 2:
			r.Body = &sensorv1.Record_Isolation{Isolation: &sensorv1.IsolationStatus{
				Operation: fmt.Sprintf("op-%d", key[0]), State: sensorv1.IsolationState(rapid.IntRange(0, 7).Draw(t, "state"))}}
		default:
			r.Body = &sensorv1.Record_Summary{Summary: &sensorv1.Summary{
				NewBehaviours: []*sensorv1.Behaviour{{Key: key, Subject: key}},
				Deltas:        []*sensorv1.BehaviourDelta{{Key: []byte{key[0] + 1}, Count: 2}},
				Losses:        []*sensorv1.Loss{{Where: "ring", Cause: "full", Count: 1}},
				Health:        &sensorv1.Health{EventsTotal: sequence}}}
		}
		b.Records = append(b.Records, r)
	}
	return &raftv1.HostBatch{Host: host, Batch: b}
}

// Ensure the same log gives the same state: on two nodes; on one that crashed
// after any entry and replays from the start or from anywhere before; and on
// one that was restored from the other's snapshot in the middle.
func TestSameLogSameState(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		commands := append(closedCase(), rapid.SliceOfN(rapid.Custom(drawCommand), 1, 40).Draw(rt, "log")...)
		crash := rapid.IntRange(0, len(commands)).Draw(rt, "crash")
		from := rapid.IntRange(0, crash).Draw(rt, "replay from")
		work := filepath.Join(dir, fmt.Sprint(run))
		if err := os.Mkdir(work, 0o700); err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(work) }()

		whole := openAt(rt, filepath.Join(work, "whole.db"))
		defer func() { _ = whole.Close() }()
		replay(rt, whole, commands, 0)
		want := digestOf(rt, whole)
		entries, _, err := whole.Audit(context.Background(), 0, store.MaxPage)
		if err != nil {
			rt.Fatal(err)
		}
		if _, err := audit.Verify(0, audit.Genesis(), entries); err != nil {
			rt.Error(err)
		}

		first := openAt(rt, filepath.Join(work, "first.db"))
		replay(rt, first, commands[:crash], 0)
		for _, suffix := range []string{"", "-wal"} { // as the files lie, without any close
			b, err := os.ReadFile(filepath.Join(work, "first.db"+suffix))
			if err != nil {
				rt.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(work, "crashed.db"+suffix), b, 0o600); err != nil {
				rt.Fatal(err)
			}
		}
		crashed := openAt(rt, filepath.Join(work, "crashed.db"))
		defer func() { _ = crashed.Close() }()
		if got := crashed.AppliedIndex(); got != uint64(crash) {
			rt.Errorf("crashed after entry %d, and stands at %d", crash, got)
		}
		replay(rt, crashed, commands, from)
		if got := digestOf(rt, crashed); got != want {
			rt.Errorf("crash after %d, replay from %d: other state", crash, from)
		}

		snap, err := os.Create(filepath.Join(work, "snap"))
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = snap.Close() }()
		if err := errors.Join(first.Snapshot(snap), first.Close()); err != nil {
			rt.Fatal(err)
		}
		if _, err := snap.Seek(0, 0); err != nil {
			rt.Fatal(err)
		}
		restored := openAt(rt, filepath.Join(work, "restored.db"))
		defer func() { _ = restored.Close() }()
		replay(rt, restored, commands[:from], 0)
		if err := restored.Restore(snap); err != nil {
			rt.Fatal(err)
		}
		replay(rt, restored, commands, from)
		if got := digestOf(rt, restored); got != want {
			rt.Errorf("restored at %d over %d: other state", crash, from)
		}
	})
}

func openAt(t *rapid.T, path string) *store.DB {
	db, err := store.Open(context.Background(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// replay applies the entries after from (entry i+1 is commands[i]) as raft does
// after a restart: what is applied already is skipped.
func replay(t *rapid.T, db *store.DB, commands []*raftv1.Command, from int) {
	for i := from; i < len(commands); i++ {
		if _, err := apply(db, uint64(i+1), commands[i]); err != nil && !errors.Is(err, store.ErrApplied) {
			t.Fatalf("applying entry %d: %v", i+1, err)
		}
	}
}

func digestOf(t *rapid.T, db *store.DB) string {
	d, err := db.Digest(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return d
}
