package silence

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// oneLog applies what is proposed to a real store, as a cluster of one would.
type oneLog struct {
	t     *testing.T
	db    *store.DB
	index uint64
	now   time.Time
}

func (l *oneLog) IsLeader() bool                                        { return true }
func (l *oneLog) ReadBarrier(context.Context) error                     { return nil }
func (l *oneLog) Members(context.Context) ([]*operatorv1.Member, error) { return nil, nil }
func (l *oneLog) Propose(_ context.Context, cmd *raftv1.Command) (res *raftv1.Result, err error) {
	l.index++
	err = l.db.Update(l.index, func(tx *store.Tx) (err error) {
		res, err = state.Apply(tx, l.index, cmd)
		return err
	})
	return res, err
}

func (l *oneLog) put(cmd *raftv1.Command) {
	l.t.Helper()
	cmd.Time = l.now.UnixNano()
	if res, err := l.Propose(l.t.Context(), cmd); err != nil || res.GetRejected() != "" {
		l.t.Fatalf("%v: %v, %v", cmd, res, err)
	}
}

func (l *oneLog) connect(host string, session uint64) {
	l.t.Helper()
	l.put(&raftv1.Command{Body: &raftv1.Command_HostSession{HostSession: &raftv1.HostSession{Host: host, Node: "n1", Connected: true, Session: session}}})
}

// end tells that a session ended, heard last so long ago by the node's clock.
func (l *oneLog) end(host, how string, session uint64, quiet time.Duration) {
	l.t.Helper()
	l.put(&raftv1.Command{Body: &raftv1.Command_SessionsEnded{SessionsEnded: &raftv1.SessionsEnded{Node: "n1", Sessions: []*raftv1.SessionEnd{
		{Host: host, Session: session, How: how, Heard: l.now.Add(-quiet).UnixNano()}}}}})
}

func newEngine(t *testing.T, hosts int) (*Engine, *oneLog) {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	l := &oneLog{t: t, db: db, now: time.Unix(1_700_000_000, 0)}
	e, err := New(Config{Log: l, DB: db, Now: func() time.Time { return l.now }})
	if err != nil {
		t.Fatal(err)
	}
	for i := range hosts {
		id := fmt.Sprintf("h-%02d", i)
		l.put(&raftv1.Command{Body: &raftv1.Command_EnrollHost{EnrollHost: &raftv1.EnrollHost{Host: id, Facts: &sensorv1.HostFacts{Name: "web" + id[1:]}}}})
		l.connect(id, 1)
	}
	return e, l
}

// after lets time pass, looks, and returns how many silences are told, newest first.
func after(e *Engine, l *oneLog, d time.Duration) []*sensorv1.Finding {
	l.t.Helper()
	l.now = l.now.Add(d)
	if err := e.step(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	rows, _, err := l.db.Findings(l.t.Context(), store.FindingFilter{}, store.Page{})
	if err != nil {
		l.t.Fatal(err)
	}
	var told []*sensorv1.Finding
	for _, r := range rows {
		if r.GetFinding().GetKind() == state.KindSilent {
			told = append(told, r.GetFinding())
		}
	}
	return told
}

// Ensure one host is told of 12 s after its last sign of life, once, and not when it is back.
func TestOneHost(t *testing.T) {
	e, l := newEngine(t, 2)
	l.end("h-00", "unheard", 1, 9*time.Second)
	l.end("h-01", "unheard", 1, 9*time.Second)
	if n := len(after(e, l, 0)) + len(after(e, l, 2900*time.Millisecond)); n != 0 {
		t.Errorf("%d told before the grace was over", n)
	}
	l.connect("h-01", 2)
	told := after(e, l, 200*time.Millisecond)
	if len(told) != 1 || told[0].GetSeverity() != "medium" || !strings.Contains(told[0].GetReason(), "web-00 was last heard at 2023-11-14 22:13:11Z, over node n1") {
		t.Fatalf("told: %v", told)
	}
	if n := len(after(e, l, time.Hour)); n != 1 {
		t.Errorf("told %d times", n)
	}
	l.connect("h-00", 2)
	l.end("h-00", "closed", 2, 0)
	if n := len(after(e, l, 20*time.Second)); n != 2 {
		t.Errorf("a second silence is a second finding: got %d in all", n)
	}
}

// Ensure clocks of nodes that differ delay nothing.
func TestClocksDiffer(t *testing.T) {
	e, l := newEngine(t, 1)
	l.now = l.now.Add(time.Hour) // the node's clock
	l.end("h-00", "unheard", 1, 9*time.Second)
	l.now = l.now.Add(-time.Hour) // the leader's
	if n := len(after(e, l, 0)); n != 0 {
		t.Errorf("%d told at once", n)
	}
	if n := len(after(e, l, 3100*time.Millisecond)); n != 1 {
		t.Errorf("%d told after the rest of the grace, want 1", n)
	}
}

// Ensure a host whose node was lost has time to find another one.
func TestLostNode(t *testing.T) {
	e, l := newEngine(t, 2)
	members := []*operatorv1.Member{{Id: "n1", State: "unreachable"}, {Id: "n2", State: "alive"}}
	ended := func() (n int) {
		if err := e.endLost(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"h-00", "h-01"} {
			if h, err := l.db.Host(t.Context(), id); err != nil || h.GetEnded() == "node" {
				n++
			}
		}
		return n
	}
	e.heard(members)
	l.now = l.now.Add(9 * time.Second)
	e.heard(members)
	if n := ended(); n != 0 {
		t.Errorf("%d sessions ended before the node was lost", n)
	}
	l.now = l.now.Add(2 * time.Second)
	if n := ended(); n != 2 {
		t.Errorf("%d sessions ended, want 2", n)
	}
	l.connect("h-01", 2)
	if n := len(after(e, l, 44*time.Second)); n != 0 {
		t.Errorf("%d told within the node's grace", n)
	}
	told := after(e, l, 2*time.Second)
	if len(told) != 1 || !strings.Contains(told[0].GetReason(), "Node n1, which it was connected to, was lost") {
		t.Errorf("told: %v", told)
	}
	// A node that is no member any more is lost, too.
	e.heard([]*operatorv1.Member{{Id: "n2", State: "alive"}})
	l.now = l.now.Add(11 * time.Second)
	e.heard([]*operatorv1.Member{{Id: "n2", State: "alive"}})
	if n := ended(); n != 2 {
		t.Errorf("%d sessions of a removed node ended, want 2", n)
	}
}

// Ensure many that fall silent together are one finding about what they have in common.
func TestManyHosts(t *testing.T) {
	const hosts = 40
	e, l := newEngine(t, hosts)
	for i := range hosts { // a dead switch: their pings were due at different times
		l.end(fmt.Sprintf("h-%02d", i), "unheard", 1, 9*time.Second)
		if n := len(after(e, l, 125*time.Millisecond)); n != 0 {
			t.Fatalf("%d told while more fall silent", n)
		}
	}
	told := after(e, l, 3*time.Second)
	if len(told) != 1 || told[0].GetRuleId() != state.RuleManySilent || told[0].GetSeverity() != "high" ||
		told[0].GetTitle() != "40 hosts fell silent at once, all over node n1" || !strings.Contains(told[0].GetReason(), "web-09, …") {
		t.Fatalf("told: %v", told)
	}
	if n := len(after(e, l, time.Minute)); n != 1 {
		t.Errorf("%d told in the end, want 1", n)
	}
}

// Ensure a silence after findings is graver, and joins their storyline.
func TestSilenceAfterFindings(t *testing.T) {
	e, l := newEngine(t, 1)
	l.put(&raftv1.Command{Body: &raftv1.Command_Ingest{Ingest: &raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: "h-00", Batch: &sensorv1.Batch{
		Boot: make([]byte, 16), Records: []*sensorv1.Record{{Sequence: 1, Time: l.now.UnixNano(), Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{
			Id: "f-1", Time: l.now.UnixNano(), Kind: "rule", Title: "A shell out of a server", Severity: "high", Storyline: "42.1"}}}}}}}}}})
	l.end("h-00", "unheard", 1, 9*time.Second)
	told := after(e, l, 4*time.Second)
	if len(told) != 1 || told[0].GetStoryline() != "42.1" || told[0].GetSeverity() != "high" || !strings.Contains(told[0].GetReason(), `"A shell out of a server" (high)`) {
		t.Errorf("told: %v", told)
	}
}

// Ensure that a look that reads thousands does not follow the last one at once, and that
// silences are told in time all the same.
func TestLooksShareOfTheTime(t *testing.T) {
	e, l := newEngine(t, 1)
	for _, tt := range []struct{ looked, want time.Duration }{
		{0, e.cfg.Poll},
		{10 * time.Millisecond, e.cfg.Poll},
		{50 * time.Millisecond, time.Second},
		{time.Minute, pollMost},
	} {
		e.looked = tt.looked
		if got := e.pause(); got != tt.want {
			t.Errorf("after a look of %s the next is in %s, want %s", tt.looked, got, tt.want)
		}
	}
	if after(e, l, 0); e.looked <= 0 || e.looked >= time.Minute {
		t.Errorf("a look took %s", e.looked)
	}
}
