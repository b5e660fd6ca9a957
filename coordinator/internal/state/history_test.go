package state_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func later(body *raftv1.Retain, by time.Duration) *raftv1.Command {
	cmd := command(body)
	cmd.Time += int64(by)
	return cmd
}

// Ensure retention takes nothing of the last two days and no more than an entry may.
func TestRetainBounds(t *testing.T) {
	l := newLog(t)
	l.want(state.RejectInvalid, command(&raftv1.Retain{}))
	l.want(state.RejectInvalid, command(&raftv1.Retain{Rows: 1 << 20}))
	l.want(state.RejectInvalid, command(&raftv1.Retain{Rows: 1, FindingsBefore: now}))
	l.want(state.RejectInvalid, command(&raftv1.Retain{Rows: 1, OperationsBefore: now - state.MinKept + 1}))
	l.want(state.RejectInvalid, command(&raftv1.Forget{Sightings: 1, Before: now}))
	l.want("", command(&raftv1.Retain{Rows: 1, FindingsBefore: now - state.MinKept}))
}

// Ensure nothing is counted before the first command of history, as a node of an older version
// counts nothing then, and that what came before it is as old as that command.
func TestHistoryBegins(t *testing.T) {
	l := newLog(t)
	l.host("h-0")
	l.want("", batch("h-0", 0, 1))
	l.want("", command(&raftv1.Retain{Rows: 10}))
	l.want("", batch("h-0", 1, 2))
	days, err := l.db.History(t.Context(), 1, "days", 0, 2*now)
	if err != nil || len(days) != 1 || days[0].Findings != 1 {
		t.Errorf("history: %+v, %v; want the one finding since it began", days, err)
	}
	if _, err := l.db.History(t.Context(), 1, "weeks", 0, now); err == nil {
		t.Error("a grain that does not exist was answered")
	}
}

// Ensure a state that is too large loses its oldest findings, that each host's loss and the
// status say so, and that the finding of a silence that is not over stays.
func TestOversized(t *testing.T) {
	l := newLog(t)
	l.host("h-0")
	l.host("h-1")
	l.want("", command(&raftv1.HostSession{Host: "h-1", Node: "n1", Connected: true, Session: 1}))
	l.want("", command(&raftv1.SessionsEnded{Node: "n1", Sessions: []*raftv1.SessionEnd{{Host: "h-1", Session: 1, How: "unheard", Heard: now}}}))
	l.want("", command(&raftv1.RaiseSilence{Finding: &sensorv1.Finding{Id: "sil-1", Kind: "silent"}, Hosts: []*raftv1.SilentHost{{Host: "h-1", Session: 1}}}))
	for i := range uint64(8) {
		l.want("", batch("h-0", i, i+1))
	}
	l.want("", command(&raftv1.Retain{Rows: 3}))
	l.want("", command(&raftv1.Retain{Rows: 3, Oversized: true}))
	rows, _, err := l.db.Findings(t.Context(), store.FindingFilter{}, store.Page{})
	if err != nil || len(rows) != 6 {
		t.Fatalf("%d findings are left, %v; want 6 of 9", len(rows), err)
	}
	if id := rows[5].GetFinding().GetId(); id != "sil-1" {
		t.Errorf("the oldest finding is %s, want that of the silence", id)
	}
	if id := rows[4].GetFinding().GetId(); id != "h-0-4" {
		t.Errorf("the next one is %s, want h-0-4", id)
	}
	host, err := l.db.Host(t.Context(), "h-0")
	if err != nil || len(host.GetLosses()) != 1 || host.GetLosses()[0].GetCause() != "size-limit" || host.GetLosses()[0].GetCount() != 3 {
		t.Errorf("losses %v, %v; want 3 of size-limit", host.GetLosses(), err)
	}
	q, err := l.db.Quiet(t.Context(), 0, 0)
	if err != nil || q.Cut != 3 || q.CutAt != now {
		t.Errorf("cut %d at %d, %v", q.Cut, q.CutAt, err)
	}
}

// Ensure what a host has pending or applied stays with its operation, and that one that all hosts
// are done with goes, but for the newest.
func TestOldOperations(t *testing.T) {
	l := newLog(t)
	l.want("", command(&raftv1.InitCluster{ClusterId: "c-1"}))
	l.host("h-0")
	l.host("h-1")
	l.want("", request(sensorv1.Action_ACTION_ISOLATE, "op-other", nil, "h-1"))
	for i := range 3 {
		l.want("", request(sensorv1.Action_ACTION_ISOLATE, fmt.Sprintf("op-%d", i), nil, "h-0"))
	}
	year := 365 * 24 * time.Hour
	old := &raftv1.Retain{Rows: 100, OperationsBefore: now + int64(year)}
	l.want("", later(old, 2*year))
	orders, _, err := l.db.Orders(t.Context(), false, time.Unix(0, now), store.Page{})
	if err != nil {
		t.Fatal(err)
	}
	if len(orders) != 2 || orders[0].GetId() != "op-2" || orders[1].GetId() != "op-other" {
		t.Errorf("left are %v; want op-2 and op-other, which are pending", orders)
	}
}
