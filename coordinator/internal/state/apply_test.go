package state_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/state/statetest"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// log applies commands to a store, as raft would.
type log struct {
	t     testing.TB
	db    *store.DB
	index uint64
}

func newLog(t testing.TB) *log {
	t.Helper()
	return &log{t: t, db: open(t, filepath.Join(t.TempDir(), "state.db"))}
}

func open(t testing.TB, path string) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), path, nil)
	if err != nil {
		t.Fatalf("opening store: %v", err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func apply(db *store.DB, index uint64, cmd *raftv1.Command) (result *raftv1.Result, err error) {
	cmd = proto.Clone(cmd).(*raftv1.Command)
	err = db.Update(index, func(tx *store.Tx) (err error) {
		result, err = state.Apply(tx, index, cmd)
		return err
	})
	return result, err
}

func (l *log) apply(cmd *raftv1.Command) *raftv1.Result {
	l.t.Helper()
	l.index++
	result, err := apply(l.db, l.index, cmd)
	if err != nil {
		l.t.Fatalf("applying entry %d: %v", l.index, err)
	}
	return result
}

// want applies and compares the rejection code, "" for accepted.
func (l *log) want(code string, cmd *raftv1.Command) *raftv1.Result {
	l.t.Helper()
	result := l.apply(cmd)
	if result.GetRejected() != code {
		l.t.Errorf("entry %d: rejected %q (%s), want %q", l.index, result.GetRejected(), result.GetMessage(), code)
	}
	if code != "" && result.GetMessage() == "" {
		l.t.Errorf("entry %d: rejection %q does not say what to do", l.index, code)
	}
	return result
}

const now = statetest.Now

func command(body proto.Message) *raftv1.Command { return statetest.Command(body) }

func hash(s string) []byte { h := sha256.Sum256([]byte(s)); return h[:] }

func (l *log) host(id string) {
	l.t.Helper()
	l.want("", command(&raftv1.EnrollHost{Host: id, Facts: &sensorv1.HostFacts{Name: "name-" + id, Labels: map[string]string{"a": "b"}}}))
}

func batch(host string, prev uint64, sequences ...uint64) *raftv1.Command {
	b := &sensorv1.Batch{Boot: hash(host)[:16], Prev: prev}
	for _, s := range sequences {
		b.Records = append(b.Records, &sensorv1.Record{Sequence: s, Time: now, Body: &sensorv1.Record_Finding{
			Finding: &sensorv1.Finding{Id: fmt.Sprintf("%s-%d", host, s), Time: now}}})
	}
	return command(&raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: host, Batch: b}}})
}

// Ensure nothing that a clock, a random source or the machine says can reach a row.
func TestImports(t *testing.T) {
	banned := map[string]string{
		"time":         "time arrives inside the command",
		"math/rand":    "randomness arrives inside the command",
		"math/rand/v2": "randomness arrives inside the command",
		"crypto/rand":  "randomness arrives inside the command",
		"os":           "Apply does no I/O but the transaction's",
		"net":          "Apply does no I/O but the transaction's",
		"net/http":     "Apply does no I/O but the transaction's",
		"runtime":      "Apply does not depend on the machine",
	}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("listing files: %v, %v", files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatalf("parsing %s: %v", name, err)
		}
		for _, spec := range f.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if why, ok := banned[path]; ok {
				t.Errorf("%s imports %q: %s", name, path, why)
			}
		}
	}
}

// Ensure a host's records are stored exactly once, whatever is sent again, late or torn.
func TestExactlyOnce(t *testing.T) {
	type step struct {
		prev      uint64
		sequences []uint64
		position  uint64 // after
		gap       bool
		stored    int // records in all
	}
	tests := map[string][]step{
		"in order":                 {{0, []uint64{1, 2}, 2, false, 2}, {2, []uint64{3}, 3, false, 3}},
		"sent again":               {{0, []uint64{1, 2}, 2, false, 2}, {0, []uint64{1, 2}, 2, false, 2}},
		"sent again, now longer":   {{0, []uint64{1, 2}, 2, false, 2}, {0, []uint64{1, 2, 3}, 3, false, 3}},
		"a gap":                    {{0, []uint64{1}, 1, false, 1}, {3, []uint64{4}, 1, true, 1}, {1, []uint64{2, 3, 4}, 4, false, 4}},
		"starts in the middle":     {{7, []uint64{8}, 0, true, 0}},
		"dropped records":          {{0, []uint64{1}, 1, false, 1}, {1, []uint64{90, 95}, 95, false, 3}},
		"dropped after being lost": {{0, []uint64{1, 2, 3}, 3, false, 3}, {0, []uint64{1, 9}, 9, false, 4}},
		"nothing in it":            {{0, nil, 0, false, 0}, {5, nil, 0, true, 0}},
		"falling sequences":        {{0, []uint64{2, 1}, 0, true, 0}},
		"not above prev":           {{0, []uint64{1}, 1, false, 1}, {1, []uint64{1, 2}, 1, true, 1}},
		"too large":                {{0, []uint64{1 << 63}, 0, true, 0}},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLog(t)
			l.host("h-1")
			for i, s := range steps {
				// Counts, as a finding that is stored twice would be noticed by its id.
				cmd := batch("h-1", s.prev, s.sequences...)
				for _, r := range cmd.GetIngest().GetBatches()[0].GetBatch().GetRecords() {
					r.Body = &sensorv1.Record_Summary{Summary: &sensorv1.Summary{Deltas: []*sensorv1.BehaviourDelta{{Key: []byte("k"), Count: 1}}}}
				}
				acks := l.want("", cmd).GetAcks()
				if len(acks) != 1 || acks[0].GetSequence() != s.position || acks[0].GetGap() != s.gap || acks[0].GetHost() != "h-1" {
					t.Errorf("step %d: acks = %v, want position %d, gap %v", i, acks, s.position, s.gap)
				}
				rows, err := l.db.Behaviours(t.Context(), "h-1", 0)
				if err != nil {
					t.Fatal(err)
				}
				stored := 0
				for _, r := range rows {
					stored += int(r.GetCount())
				}
				if stored != s.stored {
					t.Errorf("step %d: %d records stored, want %d", i, stored, s.stored)
				}
			}
		})
	}
}

// Ensure an unknown host gets no acknowledgement and does not take the others with it.
func TestIngestUnknownHost(t *testing.T) {
	l := newLog(t)
	l.host("h-1")
	l.want(state.RejectUnknownHost, batch("h-9", 0, 1))
	both := batch("h-9", 0, 1)
	both.GetIngest().Batches = append(both.GetIngest().Batches, batch("h-1", 0, 1).GetIngest().GetBatches()...)
	result := l.want("", both)
	if len(result.GetAcks()) != 1 || result.GetAcks()[0].GetHost() != "h-1" || !strings.Contains(result.GetMessage(), "h-9") {
		t.Errorf("result = %v, want an ack for h-1 only, and h-9 named", result)
	}
}

// Ensure a token enrols once, in time, for its kind, and gives its labels.
func TestTokens(t *testing.T) {
	l := newLog(t)
	create := &raftv1.CreateToken{TokenId: "t1", SecretSha256: hash("s"), Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR,
		Expires: now + 60e9, Labels: map[string]string{"role": "db", "a": "from-token"}}
	use := func(change func(*raftv1.ConsumeToken)) *raftv1.Command {
		c := &raftv1.ConsumeToken{TokenId: "t1", SecretSha256: hash("s"), Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR, Id: "h-1",
			Facts: &sensorv1.HostFacts{Name: "web1", Labels: map[string]string{"a": "from-host", "c": "d"}}}
		if change != nil {
			change(c)
		}
		return command(c)
	}
	l.want(state.RejectBadToken, use(nil))
	l.want("", command(create))
	l.want(state.RejectTokenExists, command(create))
	l.want(state.RejectBadToken, use(func(c *raftv1.ConsumeToken) { c.SecretSha256 = hash("x") }))
	l.want(state.RejectTokenKind, use(func(c *raftv1.ConsumeToken) { c.Kind = sensorv1.EnrollKind_ENROLL_KIND_NODE }))
	l.want(state.RejectInvalid, use(func(c *raftv1.ConsumeToken) { c.Id = "a/b" }))
	late := use(nil)
	late.Time = now + 61e9
	l.want(state.RejectTokenExpired, late)
	l.want("", use(nil))
	l.want(state.RejectTokenUsed, use(func(c *raftv1.ConsumeToken) { c.Id = "h-2" }))
	h, err := l.db.Host(t.Context(), "web1")
	if err != nil || h.GetId() != "h-1" || h.GetState() != "never-seen" || h.GetLabels()["a"] != "from-token" || h.GetLabels()["c"] != "d" {
		t.Errorf("host = %v, %v", h, err)
	}
	long := proto.Clone(create).(*raftv1.CreateToken)
	long.TokenId, long.Expires = "t2", now+2*3600e9
	l.want(state.RejectInvalid, command(long))
}

// Ensure a key answers a repetition with what the first one did, once done, and
// does not give one operator's answer to another.
func TestIdempotency(t *testing.T) {
	l := newLog(t)
	incident := &raftv1.Incident{Id: "inc-1", Title: "x"}
	l.want("", command(&raftv1.PutIncident{Incident: incident}))
	closing := command(&raftv1.CloseIncident{Id: "inc-1", Disposition: "benign", Reason: "known"})
	closing.IdempotencyKey = "k1"
	early := proto.Clone(closing).(*raftv1.Command)
	early.GetCloseIncident().Id = "inc-0"
	l.want(state.RejectUnknownIncident, early)
	first := l.want("", closing)
	again := l.want("", closing)
	if again.GetId() != first.GetId() {
		t.Errorf("repetition answered %v, want %v", again, first)
	}
	other := command(&raftv1.PutOperator{Name: "x", Role: "admin"})
	other.IdempotencyKey = "k1"
	l.want(state.RejectKeyReused, other)
	eve := proto.Clone(closing).(*raftv1.Command)
	eve.Actor = "operator:eve"
	l.want(state.RejectIncidentClosed, eve)
	entries, _, err := l.db.Audit(t.Context(), 0, 0)
	if err != nil || len(entries) != 2 {
		t.Errorf("%d audit entries, %v, want 2: a repetition is no deed", len(entries), err)
	}
}

// Ensure an incident takes its findings with it: opened, merged, closed.
func TestIncidents(t *testing.T) {
	l := newLog(t)
	l.host("h-1")
	l.want("", batch("h-1", 0, 1, 2, 3))
	disposition := func(id string) string {
		t.Helper()
		r, err := l.db.Finding(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return r.GetDisposition() + " " + r.GetIncident()
	}
	l.want("", command(&raftv1.PutIncident{Incident: &raftv1.Incident{Id: "inc-1", Findings: []string{"h-1-1"}}}))
	l.want("", command(&raftv1.PutIncident{Incident: &raftv1.Incident{Id: "inc-2", Findings: []string{"h-1-2", "gone"}}, Merged: []string{"inc-1", "inc-9"}}))
	if got := disposition("h-1-1"); got != "in-incident inc-2" {
		t.Errorf("finding 1 = %q, want it in inc-2", got)
	}
	l.want(state.RejectIncidentClosed, command(&raftv1.PutIncident{Incident: &raftv1.Incident{Id: "inc-1"}}))
	l.want(state.RejectInvalid, command(&raftv1.CloseIncident{Id: "inc-2", Disposition: "perhaps"}))
	l.want("", command(&raftv1.CloseIncident{Id: "inc-2", Disposition: "malicious", Reason: "drill"}))
	for id, want := range map[string]string{"h-1-1": "closed inc-2", "h-1-2": "closed inc-2", "h-1-3": "new "} {
		if got := disposition(id); got != want {
			t.Errorf("finding %s = %q, want %q", id, got, want)
		}
	}
	open, _, err := l.db.Incidents(t.Context(), store.IncidentFilter{Status: "open"}, store.Page{})
	if err != nil || len(open) != 0 {
		t.Errorf("open incidents = %v, %v", open, err)
	}
}

// Ensure every deed of people and authority is in the chain, and summaries are not.
func TestAuditChain(t *testing.T) {
	l := newLog(t)
	l.host("h-1")
	l.want("", batch("h-1", 0, 1, 2))
	l.want("", command(&raftv1.InitCluster{ClusterId: "c-1"}))
	l.want(state.RejectClusterExists, command(&raftv1.InitCluster{ClusterId: "c-2"}))
	l.want("", command(&raftv1.PutOperator{Name: "ada", Role: "admin"}))
	l.want("", command(&raftv1.PutNode{Node: &sensorv1.Node{Id: "n1", Address: "x:1"}}))
	l.want("", command(&raftv1.PutNode{Node: &sensorv1.Node{Id: "n1", Address: "x:1"}}))
	l.want("", command(&raftv1.RemoveNode{Id: "n1"}))
	entries, more, err := l.db.Audit(t.Context(), 0, 0)
	if err != nil || more {
		t.Fatalf("reading audit: %v, more %v", err, more)
	}
	if _, err := audit.Verify(0, audit.Genesis(), entries); err != nil {
		t.Errorf("verifying: %v", err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.GetAction())
	}
	if want := "enroll-sensor cluster-init operator-put member-put member-remove"; strings.Join(got, " ") != want {
		t.Errorf("audit = %q, want %q", got, want)
	}
}

// Ensure a late "disconnected" does not undo a newer "connected".
// Sessions that share an entry mean what they mean one by one, whatever becomes of the others.
func TestSharedSessions(t *testing.T) {
	one, many := newLog(t), newLog(t)
	hosts := []string{"h-1", "h-2", "h-3"}
	for _, host := range hosts {
		one.host(host)
		many.host(host)
	}
	sessions := []*raftv1.HostSession{
		{Host: "h-1", Node: "n1", Connected: true, Session: 1, SensorVersion: "1", Facts: &sensorv1.HostFacts{Name: "web"}},
		{Host: "h-9", Node: "n1", Connected: true, Session: 1},
		{Host: "h-2", Node: "n1", Connected: true, Session: 5},
		{Host: "h-2", Node: "n1", Connected: true, Session: 4},
		{Host: "h-3", Node: "n2", Connected: true, Session: 1, KernelBoot: []byte("k"), Instance: []byte("i")},
	}
	var want []string
	for _, s := range sessions {
		want = append(want, one.apply(command(s)).GetRejected())
	}
	res := many.apply(command(&raftv1.BeginSessions{Sessions: sessions}))
	var got []string
	for _, s := range res.GetSessions() {
		got = append(got, s.GetRejected())
	}
	if !slices.Equal(got, want) || res.GetRejected() != "" {
		t.Errorf("answers %q, one by one %q", got, want)
	}
	for _, id := range hosts {
		a, err1 := one.db.Host(t.Context(), id)
		b, err2 := many.db.Host(t.Context(), id)
		if err1 != nil || err2 != nil || !proto.Equal(a, b) {
			t.Errorf("%s is %v (%v) in a shared entry and %v (%v) by itself", id, b, err2, a, err1)
		}
	}
}

func TestHostSession(t *testing.T) {
	l := newLog(t)
	l.host("h-1")
	session := func(n uint64, connected bool) *raftv1.Command {
		return command(&raftv1.HostSession{Host: "h-1", Node: "n1", Connected: connected, Session: n, SensorVersion: "1"})
	}
	l.want("", session(1, true))
	l.want("", session(2, true))
	l.want(state.RejectStaleSession, session(1, false))
	if h, err := l.db.Host(t.Context(), "h-1"); err != nil || h.GetState() != "online" || h.GetLastSeen() != now {
		t.Errorf("host = %v, %v, want online", h, err)
	}
	l.want("", session(2, false))
	if h, err := l.db.Host(t.Context(), "h-1"); err != nil || h.GetState() != "silent" {
		t.Errorf("host = %v, %v, want silent", h, err)
	}
	l.want(state.RejectStaleSession, session(1, true))
	l.want(state.RejectUnknownHost, command(&raftv1.HostSession{Host: "h-9", Connected: true}))
}

// Ensure a command of a later version stops the node, and an empty one does not.
func TestUnknownCommand(t *testing.T) {
	l := newLog(t)
	l.want(state.RejectUnknownCommand, &raftv1.Command{Time: now})
	newer := &raftv1.Command{Time: now}
	newer.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 9999, protowire.VarintType), 1))
	if _, err := apply(l.db, l.index+1, newer); err == nil {
		t.Error("a command of a later version was skipped")
	}
}

func isolation(t testing.TB, l *log, host string) string {
	t.Helper()
	h, err := l.db.Host(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	rows, _, err := l.db.Isolations(t.Context(), store.IsolationFilter{Host: host}, store.Page{})
	if err != nil {
		t.Fatal(err)
	}
	out := []string{h.GetIsolation() + ":"}
	for i := range rows {
		r := rows[len(rows)-1-i]
		out = append(out, r.GetOperation()+"="+r.GetState())
	}
	return strings.Join(out, " ")
}
