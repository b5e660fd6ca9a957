package respond

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// log applies what is proposed to a real store, as a cluster of one would.
type log struct {
	t     *testing.T
	db    *store.DB
	mu    sync.Mutex
	index uint64
	fail  bool
}

func (l *log) IsLeader() bool                    { return true }
func (l *log) ReadBarrier(context.Context) error { return nil }

func (l *log) Propose(_ context.Context, cmd *raftv1.Command) (res *raftv1.Result, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail {
		return nil, errors.New("no leader")
	}
	l.index++
	err = l.db.Update(l.index, func(tx *store.Tx) (err error) {
		res, err = state.Apply(tx, l.index, cmd)
		return err
	})
	return res, err
}

func (l *log) must(at time.Time, cmd *raftv1.Command) {
	l.t.Helper()
	cmd.Time, cmd.Actor = at.UnixNano(), "operator:ada"
	if res, err := l.Propose(l.t.Context(), cmd); err != nil || res.GetRejected() != "" {
		l.t.Fatalf("%T: %v, %v", cmd.GetBody(), res, err)
	}
}

type rig struct {
	*log
	now    time.Time
	engine *Engine
	sent   uint64
}

func newRig(t *testing.T, policy string) *rig {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	r := &rig{log: &log{t: t, db: db}, now: time.Unix(1_700_000_000, 0)}
	r.must(r.now, &raftv1.Command{Body: &raftv1.Command_InitCluster{InitCluster: &raftv1.InitCluster{ClusterId: "c-1"}}})
	for _, id := range []string{"h-1", "h-2", "h-3"} {
		r.must(r.now, &raftv1.Command{Body: &raftv1.Command_EnrollHost{EnrollHost: &raftv1.EnrollHost{Host: id, Facts: &sensorv1.HostFacts{Name: id}}}})
	}
	if policy != "" {
		in := &sensorv1.Intent{ClusterId: "c-1", Author: "ada", Version: 1, Policy: policy, IssuedAt: r.now.UnixNano(), VetoSeconds: 60}
		payload, err := intent.Encode(in)
		if err != nil {
			t.Fatal(err)
		}
		r.must(r.now, &raftv1.Command{Body: &raftv1.Command_PutIntent{PutIntent: &raftv1.PutIntent{Signed: &sensorv1.SignedIntent{Payload: payload}}}})
	}
	r.lead()
	return r
}

// lead makes a new leader's engine.
func (r *rig) lead() {
	r.t.Helper()
	engine, err := New(Config{Log: r.log, DB: r.db, Now: func() time.Time { return r.now }})
	if err != nil {
		r.t.Fatal(err)
	}
	r.engine = engine
}

func (r *rig) finds(host, id, storyline string) {
	r.t.Helper()
	boot := make([]byte, 16)
	copy(boot, host)
	sequence := r.sent + 1
	r.must(r.now, &raftv1.Command{Body: &raftv1.Command_Ingest{Ingest: &raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: host, Batch: &sensorv1.Batch{
		Boot: append([]byte(nil), boot...), Prev: 0, Records: []*sensorv1.Record{{Sequence: sequence, Time: r.now.UnixNano(), Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{
			Id: id, Time: r.now.UnixNano(), Kind: "rule", Severity: "high", Score: 90, Storyline: storyline, Title: "a shell",
			Process: &sensorv1.Process{Pid: 7, Start: 9}}}}}}}}}}})
	r.sent = sequence
}

func (r *rig) step() []*operatorv1.Operation {
	r.t.Helper()
	if err := r.engine.step(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	operations, _, err := r.db.Orders(r.t.Context(), false, r.now, store.Page{})
	if err != nil {
		r.t.Fatal(err)
	}
	return operations
}

const (
	askFirst = `@id("ask") permit (principal, action == Vedette::Action::"isolate", resource) when { context.level <= 2 };`
	unless   = `@id("unless") permit (principal, action == Vedette::Action::"freeze", resource) when { context.level <= 3 };`
	atOnce   = `@id("act") permit (principal, action == Vedette::Action::"isolate", resource);`
)

// Ensure nothing is proposed before there is an intent, nor what the sensors do by
// themselves.
func TestProposesNothing(t *testing.T) {
	for name, policy := range map[string]string{"no intent": "", "level 4": atOnce} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, policy)
			r.finds("h-1", "f-1", "7.9")
			if got := r.step(); len(got) != 0 {
				t.Errorf("proposed %v", got)
			}
		})
	}
}

// Ensure people are asked once about a storyline, by whoever leads, for what
// disturbs least at the highest level.
func TestProposesOnce(t *testing.T) {
	r := newRig(t, askFirst+"\n"+unless)
	r.finds("h-1", "f-1", "7.9")
	r.finds("h-2", "f-2", "8.9")
	got := r.step()
	if len(got) != 2 || got[0].GetState() != "window" || got[0].GetAction() != "freeze" || got[0].GetLevel() != 3 || got[0].GetPolicies()[0] != "unless" {
		t.Fatalf("proposed %v", got)
	}
	r.now = r.now.Add(10 * time.Second)
	r.finds("h-1", "f-3", "7.9")
	r.lead()
	if got := r.step(); len(got) != 2 {
		t.Errorf("the next leader asked again: %v", got)
	}
	r.finds("h-1", "f-4", "99.9")
	if got := r.step(); len(got) != 3 {
		t.Errorf("another storyline: %d operations, want 3", len(got))
	}
}

// Ensure a window closes at its time and a vetoed one does nothing.
func TestWindows(t *testing.T) {
	r := newRig(t, unless)
	r.finds("h-1", "f-1", "7.9")
	r.finds("h-2", "f-2", "8.9")
	operations := r.step()
	if len(operations) != 2 {
		t.Fatalf("proposed %v", operations)
	}
	vetoed := operations[0].GetId()
	r.must(r.now, &raftv1.Command{Body: &raftv1.Command_VetoOperation{VetoOperation: &raftv1.VetoOperation{Operation: vetoed, Reason: "known"}}})
	r.now = r.now.Add(59 * time.Second)
	for _, o := range r.step() {
		if o.GetState() == "ordered" {
			t.Errorf("%s went out before its time", o.GetId())
		}
	}
	r.now = r.now.Add(2 * time.Second)
	r.fail = true
	if err := r.engine.step(t.Context()); err == nil {
		t.Error("without a quorum it did not say so")
	}
	r.fail = false
	for _, o := range r.step() {
		if want := map[bool]string{true: "vetoed", false: "ordered"}[o.GetId() == vetoed]; o.GetState() != want {
			t.Errorf("%s is %s, want %s", o.GetId(), o.GetState(), want)
		}
	}
}
