package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// oneLog applies what is proposed to a real store, as a cluster of one would.
type oneLog struct {
	t     *testing.T
	db    *store.DB
	index uint64
	now   time.Time
}

func (l *oneLog) IsLeader() bool                    { return true }
func (l *oneLog) ReadBarrier(context.Context) error { return nil }

func (l *oneLog) put(cmd *raftv1.Command) {
	l.t.Helper()
	l.index++
	cmd.Time = l.now.UnixNano()
	if cmd.GetActor() == "" {
		cmd.Actor = "engine:respond"
	}
	var res *raftv1.Result
	err := l.db.Update(l.index, func(tx *store.Tx) (err error) {
		res, err = state.Apply(tx, l.index, cmd)
		return err
	})
	if err != nil || res.GetRejected() != "" {
		l.t.Fatalf("%v: %v, %v", cmd, res, err)
	}
}

const (
	web = "h-aaaaaaaaaaaa"
	app = "h-bbbbbbbbbbbb"
	sql = "h-cccccccccccc"
)

func newLog(t *testing.T) *oneLog {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	l := &oneLog{t: t, db: db, now: time.Unix(1_700_000_000, 0)}
	l.put(&raftv1.Command{Body: &raftv1.Command_InitCluster{InitCluster: &raftv1.InitCluster{ClusterId: "c-1"}}})
	for id, name := range map[string]string{web: "web1\r\nBcc: \x1b[2Jx", app: "app1", sql: "db1"} {
		l.put(&raftv1.Command{Body: &raftv1.Command_EnrollHost{EnrollHost: &raftv1.EnrollHost{Host: id, Facts: &sensorv1.HostFacts{Name: name}}}})
	}
	in := &sensorv1.Intent{ClusterId: "c-1", Version: 1, Author: "ann", IssuedAt: l.now.UnixNano(), Policy: `permit (principal, action, resource);`}
	payload, err := intent.Encode(in)
	if err != nil {
		t.Fatal(err)
	}
	l.put(&raftv1.Command{Body: &raftv1.Command_PutIntent{PutIntent: &raftv1.PutIntent{Signed: &sensorv1.SignedIntent{Payload: payload}, Decoded: in}}})
	return l
}

var epoch uint64

func (l *oneLog) grant(operation, operator string, approvals uint32, hosts ...string) (*sensorv1.Grant, *grant.HostSet) {
	l.t.Helper()
	epoch++
	g := &sensorv1.Grant{Nonce: fmt.Appendf(nil, "%016d", epoch), Action: sensorv1.Action_ACTION_ISOLATE, LeaseSeconds: 600, Epoch: epoch, IssuedAt: l.now.UnixNano(),
		NotAfter: l.now.Add(time.Hour).UnixNano(), Operator: operator, Reason: "because", Operation: operation, ClusterId: "c-1", Approvals: approvals}
	set, err := grant.Address(g, hosts...)
	if err != nil {
		l.t.Fatal(err)
	}
	return g, set
}

// order is one of an operator that others must sign.
func (l *oneLog) order(operation string, approvals uint32, hosts ...string) {
	l.t.Helper()
	g, set := l.grant(operation, "ann", approvals, hosts...)
	payload, err := grant.Encode(g)
	if err != nil {
		l.t.Fatal(err)
	}
	l.put(&raftv1.Command{Body: &raftv1.Command_RequestResponse{RequestResponse: &raftv1.RequestResponse{Operation: operation, Hosts: set.Hosts(), Decoded: g,
		Grant: &sensorv1.SignedGrant{Payload: payload, Signatures: []*sensorv1.Signature{{}}}}}})
}

func (l *oneLog) propose(operation, host string, level uint32) {
	l.t.Helper()
	g, _ := l.grant(operation, "", 1, host)
	g.Evidence = []string{"f-1"}
	finding := l.finds(host)
	in := &raftv1.ProposeResponse{Grant: g, Host: host, Level: level, IntentVersion: 1, Finding: finding, Policies: []string{"p1"}}
	if level == 3 {
		in.WindowEnds = l.now.Add(time.Minute).UnixNano()
	}
	l.put(&raftv1.Command{Body: &raftv1.Command_ProposeResponse{ProposeResponse: in}})
}

// finds stores a finding of the host, on which a proposal stands.
func (l *oneLog) finds(host string) string {
	l.t.Helper()
	epoch++
	id, boot := fmt.Sprintf("f-%d", epoch), fmt.Appendf(nil, "%016d", epoch)
	l.put(&raftv1.Command{Body: &raftv1.Command_Ingest{Ingest: &raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: host, Batch: &sensorv1.Batch{Boot: boot,
		Records: []*sensorv1.Record{{Sequence: 1, Time: l.now.UnixNano(), Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{
			Id: id, Time: l.now.UnixNano(), Kind: "rule", Severity: "high", Score: 90, Storyline: "7.9"}}}}}}}}}})
	return id
}

// acts lets a host contain itself.
func (l *oneLog) acts(host, operation string, sequence uint64) {
	l.t.Helper()
	l.put(&raftv1.Command{Body: &raftv1.Command_Ingest{Ingest: &raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: host, Batch: &sensorv1.Batch{Boot: make([]byte, 16), Prev: sequence - 1,
		Records: []*sensorv1.Record{{Sequence: sequence, Time: l.now.UnixNano(), Body: &sensorv1.Record_Isolation{Isolation: &sensorv1.IsolationStatus{
			Operation: operation, State: sensorv1.IsolationState_ISOLATION_STATE_APPLIED, Action: sensorv1.Action_ACTION_FREEZE, Local: true, Policies: []string{"p1"},
			Evidence: []string{"f-1"}, IntentVersion: 1, AppliedAt: l.now.UnixNano()}}}}}}}}}})
}

func (l *oneLog) incident(id string, found time.Time) {
	l.t.Helper()
	l.put(&raftv1.Command{Body: &raftv1.Command_PutIncident{PutIncident: &raftv1.PutIncident{Incident: &raftv1.Incident{
		Id: id, Severity: "high", Title: "A shell out of a server", Hosts: []string{app}, FirstSeen: found.UnixNano(), LastSeen: found.UnixNano()}}}})
}

func newEngine(t *testing.T, l *oneLog, change func(*Config)) *Engine {
	t.Helper()
	cfg := Config{Log: l, DB: l.db, Cluster: "c-1", Node: "n1", Program: program(t, "exit 0"), Now: func() time.Time { return l.now }}
	if change != nil {
		change(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// events are those that a step finds.
func events(t *testing.T, e *Engine) (all []Event) {
	t.Helper()
	if err := e.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case event := <-e.queue:
			all = append(all, event)
		default:
			return all
		}
	}
}

func ids(all []Event) (out []string) {
	for _, event := range all {
		out = append(out, event.ID)
	}
	return out
}

func lead(t *testing.T, e *Engine) {
	t.Helper()
	if err := e.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Ensure each kind is told once, and says who, what, where and what to do.
func TestEvents(t *testing.T) {
	l := newLog(t)
	e := newEngine(t, l, nil)
	lead(t, e)
	if all := events(t, e); len(all) > 0 {
		t.Errorf("told of nothing: %v", ids(all))
	}
	l.order("op-1", 3, web, sql)
	l.order("op-2", 1, app) // goes out
	l.propose("op-3", app, 2)
	l.propose("op-4", app, 3)
	l.propose("op-5", app, 4)
	l.acts(web, "own-1", 1)
	l.incident("inc-1", l.now.Add(-time.Hour)) // of an old finding that a host had kept
	all := events(t, e)
	want := []string{"waiting/op-1/1", "waiting/op-3/0", "window/op-4", "acted/op-5", "local/own-1", "incident/inc-1"}
	if got := ids(all); !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i, text := range []string{
		"An order of ann to isolate 2 hosts waits for 2 more to sign it: vedette approve op-1",
		"An order of engine:respond to isolate app1 waits for 1 more to sign it: vedette approve op-3",
		"Automation will isolate app1 at 2023-11-14T22:14:20Z unless somebody runs: vedette veto op-4",
		"Automation did isolate app1 (pending). See: vedette operation show op-5",
		"The host itself did freeze web1??Bcc: ?[2Jx (applied). See: vedette operation show own-1",
		"Incident of severity high on app1: A shell out of a server. See: vedette incident show inc-1",
	} {
		if all[i].Text != text {
			t.Errorf("%s: got %q, want %q", all[i].ID, all[i].Text, text)
		}
	}
	if o := all[0]; o.HostCount != 2 || len(o.Hosts) != 2 || o.Missing != 2 || o.Reason != "because" || o.Cluster != "c-1" || o.Node != "n1" || o.Until == nil || o.Level != 0 {
		t.Errorf("order: %+v", o)
	}
	if o := all[2]; o.Until == nil || o.Until.Sub(l.now) != time.Minute || o.Level != 3 || !strings.HasPrefix(o.Finding, "f-") || !slices.Equal(o.Policies, []string{"p1"}) {
		t.Errorf("window: %+v", o)
	}
	// Nothing twice; but who waits for one more is told again when somebody has signed.
	l.put(&raftv1.Command{Body: &raftv1.Command_ApproveOperation{ApproveOperation: &raftv1.ApproveOperation{Operation: "op-1", Operator: "bob", Signature: &sensorv1.Signature{}}}})
	l.incident("inc-1", l.now)
	l.acts(app, "x;reboot", 1)
	all = events(t, e)
	if got := ids(all); !slices.Equal(got, []string{"waiting/op-1/2", "local/x;reboot"}) {
		t.Fatalf("then told %v", got)
	}
	if strings.Contains(all[1].Text, "reboot") {
		t.Errorf("what will be pasted into a shell: %q", all[1].Text)
	}
	raw, err := json.Marshal(all[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"id", "event", "time", "text", "cluster", "node", "operation", "action", "level", "hosts", "host_count", "state", "by", "reason",
		"approved_by", "approvals_missing", "until", "finding", "policies", "incident", "severity", "title"} {
		if !bytes.Contains(raw, []byte(`"`+key+`":`)) {
			t.Errorf("no key %s in %s", key, raw)
		}
	}
}

// Ensure only what was asked for is told.
func TestOnlySome(t *testing.T) {
	l := newLog(t)
	e := newEngine(t, l, func(c *Config) { c.Events = []string{Window, Local} })
	lead(t, e)
	l.order("op-1", 2, web)
	l.propose("op-4", app, 3)
	l.propose("op-5", app, 4)
	l.acts(web, "own-1", 1)
	l.incident("inc-1", l.now)
	if got := ids(events(t, e)); !slices.Equal(got, []string{"window/op-4", "local/own-1"}) {
		t.Errorf("got %v", got)
	}
	if _, err := New(Config{Log: l, DB: l.db, Program: program(t, ""), Events: []string{"windows"}}); err == nil || !strings.Contains(err.Error(), `"windows" is none of`) {
		t.Errorf("an event that does not exist: %v", err)
	}
}

// Ensure a new leader tells what the one before may not have, with the same ids, and not
// what is long over.
func TestFailover(t *testing.T) {
	l := newLog(t)
	l.propose("op-1", web, 4)
	l.incident("inc-1", l.now)
	l.order("op-2", 2, app)
	l.now = l.now.Add(20 * time.Minute)
	l.incident("inc-2", l.now.Add(-2*time.Hour))
	l.acts(app, "own-1", 1)
	l.now = l.now.Add(5 * time.Minute)
	want := []string{"waiting/op-2/1", "local/own-1", "incident/inc-2"}
	for range 2 { // on two nodes
		e := newEngine(t, l, nil)
		lead(t, e)
		if got := ids(events(t, e)); !slices.Equal(got, want) {
			t.Errorf("a new leader tells %v, want %v", got, want)
		}
		lead(t, e) // again, soon after
		if got := ids(events(t, e)); len(got) > 0 {
			t.Errorf("the same leader again tells %v", got)
		}
		// What it could not deliver before it lost the lead, it tells when it has it again.
		l.incident(fmt.Sprintf("inc-%d", l.index), l.now)
		if err := e.step(t.Context()); err != nil || len(e.queue) != 1 {
			t.Fatalf("%d wait, %v", len(e.queue), err)
		}
		e.discard()
		lead(t, e)
		all := events(t, e)
		if len(all) != 1 {
			t.Errorf("told %v", ids(all))
		}
		want = append(want, ids(all)...)
	}
}

// Ensure a full queue costs what it must, counted, and nothing that still waits.
func TestQueueIsFull(t *testing.T) {
	l := newLog(t)
	var log bytes.Buffer
	e := newEngine(t, l, func(c *Config) { c.Queue, c.Logger = 2, slog.New(slog.NewTextHandler(&log, nil)) })
	lead(t, e)
	for i := range 3 {
		l.order(fmt.Sprintf("op-%d", i), 2, app)
	}
	for i := range 4 {
		l.incident(fmt.Sprintf("inc-%d", i), l.now)
	}
	got := ids(events(t, e))
	if !slices.Equal(got, []string{"waiting/op-0/1", "waiting/op-1/1"}) || e.dropped != 4 || !strings.Contains(log.String(), "dropped=4") {
		t.Errorf("told %v, dropped %d: %s", got, e.dropped, log.String())
	}
	if got := ids(events(t, e)); !slices.Equal(got, []string{"waiting/op-2/1"}) || e.dropped != 4 {
		t.Errorf("then told %v, dropped %d", got, e.dropped)
	}
}

// Ensure Run tells while it leads and ends with its context, whatever the program does.
func TestRun(t *testing.T) {
	l := newLog(t)
	dir := t.TempDir()
	e := newEngine(t, l, func(c *Config) {
		c.Program, c.Poll = program(t, fmt.Sprintf("cat >>%s/told; exec sleep 1000", dir)), 10*time.Millisecond
	})
	ctx, cancel := context.WithCancel(t.Context())
	l.incident("inc-1", l.now)
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	deadline := time.After(20 * time.Second)
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case <-deadline:
			t.Fatal("not told")
		case <-tick.C:
		}
		if raw, _ := os.ReadFile(filepath.Join(dir, "told")); bytes.Contains(raw, []byte(`"incident/inc-1"`)) {
			break
		}
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Run does not end")
	}
}

// Ensure that a node which holds another state than others is told of once while it lasts and again when it
// comes again, and that it took theirs over once, also by a new leader.
func TestNodesThatDiffer(t *testing.T) {
	l := newLog(t)
	members := []*operatorv1.Member{{Id: "n1"}, {Id: "n2", Differs: 4000, NotReady: []string{"its state\x1b differs"}}, {Id: "n3", Differs: 1, Alarms: []string{"holds another state"}}}
	e := newEngine(t, l, func(c *Config) { c.Members = func() []*operatorv1.Member { return members } })
	lead(t, e)
	want := func(name string, e *Engine, wanted ...string) []Event {
		t.Helper()
		all := events(t, e)
		if got := ids(all); !slices.Equal(got, wanted) {
			t.Errorf("%s: told %v, want %v", name, got, wanted)
		}
		return all
	}
	told := want("two differ", e, "differs/n2/4000", "differs/n3/1")
	if told[0].Member != "n2" || !strings.Contains(told[0].Text, "from entry 4000 on: its state? differs") || told[0].Time == nil {
		t.Errorf("event %+v", told[0])
	}
	l.now = l.now.Add(3 * time.Hour)
	want("they still do", e)
	members[1].Differs, members[1].NotReady = 0, nil
	l.put(&raftv1.Command{Actor: "node:n2", Body: &raftv1.Command_ReportDivergence{ReportDivergence: &raftv1.ReportDivergence{Node: "n2", What: "chain", Window: 4, From: "n1", Index: 4711}}})
	id := fmt.Sprintf("resynced/%d", e.marks.Differences+1)
	if told = want("one is mended", e, id); len(told) == 1 && (told[0].Member != "n2" || !strings.Contains(told[0].Text, "it took the state of n1 at entry 4711")) {
		t.Errorf("event %+v", told[0])
	}
	want("and is told of once", e)
	l.now = l.now.Add(3 * time.Hour)
	want("a while later", e)
	members[1].Differs = 4000
	want("it comes again", e, "differs/n2/4000")

	l.now = l.now.Add(-2*time.Hour - 55*time.Minute) // five minutes after it was mended
	next := newEngine(t, l, nil)
	lead(t, next)
	want("a new leader", next, id)
}
