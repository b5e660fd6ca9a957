package state_test

import (
	"slices"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	isolate = sensorv1.Action_ACTION_ISOLATE
	release = sensorv1.Action_ACTION_RELEASE
)

const (
	applied  = sensorv1.IsolationState_ISOLATION_STATE_APPLIED
	released = sensorv1.IsolationState_ISOLATION_STATE_RELEASED
	failed   = sensorv1.IsolationState_ISOLATION_STATE_FAILED
	expired  = sensorv1.IsolationState_ISOLATION_STATE_EXPIRED
	refused  = sensorv1.IsolationState_ISOLATION_STATE_REFUSED
	preview  = sensorv1.IsolationState_ISOLATION_STATE_PREVIEWED
)

// epochs orders the grants of all tests.
var epochs atomic.Int64

// request is an order for h-1, or for the hosts that are named.
func request(action sensorv1.Action, operation string, change func(*sensorv1.Grant), hosts ...string) *raftv1.Command {
	g := &sensorv1.Grant{
		Nonce: hash(operation)[:16], Action: action, LeaseSeconds: 3600, IssuedAt: now, Epoch: uint64(now + epochs.Add(1)),
		NotAfter: now + 60e9, Operator: "ada", Reason: "drill", Operation: operation, ClusterId: "c-1",
	}
	if len(hosts) == 0 {
		hosts = []string{"h-1"}
	}
	if _, err := grant.Address(g, hosts...); err != nil {
		panic(err)
	}
	if change != nil {
		change(g)
	}
	slices.Sort(hosts)
	payload, err := proto.Marshal(g)
	if err != nil {
		panic(err)
	}
	return command(&raftv1.RequestResponse{Operation: operation, Grant: &sensorv1.SignedGrant{Payload: payload, Signatures: []*sensorv1.Signature{{Signature: []byte("ada")}}}, Decoded: g, Hosts: hosts})
}

// Ensure what is asked and what hosts report give rows that say what is true.
func TestIsolationRows(t *testing.T) {
	type step struct {
		ask       sensorv1.Action
		report    sensorv1.IsolationState
		operation string
		want      string
	}
	tests := map[string][]step{
		"isolate and release": {
			{ask: isolate, operation: "op-1", want: "pending: op-1=pending"},
			{report: applied, operation: "op-1", want: "applied: op-1=applied"},
			{ask: release, operation: "op-2", want: "applied: op-1=applied op-2=pending"},
			{report: released, operation: "op-2", want: "none: op-1=released op-2=released"},
		},
		"released under the isolation's own operation": {
			{ask: isolate, operation: "op-1", want: "pending: op-1=pending"},
			{report: applied, operation: "op-1", want: "applied: op-1=applied"},
			{ask: release, operation: "op-2", want: "applied: op-1=applied op-2=pending"},
			{report: released, operation: "op-1", want: "none: op-1=released op-2=released"},
		},
		"a newer isolation supersedes what is pending": {
			{ask: isolate, operation: "op-1", want: "pending: op-1=pending"},
			{ask: isolate, operation: "op-2", want: "pending: op-1=released op-2=pending"},
			{report: applied, operation: "op-2", want: "applied: op-1=released op-2=applied"},
		},
		"a newer isolation takes over what is applied": {
			{ask: isolate, operation: "op-1", want: "pending: op-1=pending"},
			{report: applied, operation: "op-1", want: "applied: op-1=applied"},
			{ask: isolate, operation: "op-2", want: "applied: op-1=applied op-2=pending"},
			{report: applied, operation: "op-2", want: "applied: op-1=released op-2=applied"},
		},
		"a newer isolation fails, the older stands": {
			{ask: isolate, operation: "op-1", want: "pending: op-1=pending"},
			{report: applied, operation: "op-1", want: "applied: op-1=applied"},
			{ask: isolate, operation: "op-2", want: "applied: op-1=applied op-2=pending"},
			{report: failed, operation: "op-2", want: "applied: op-1=applied op-2=failed"},
		},
		"failed":  {{ask: isolate, operation: "op-1", want: "pending: op-1=pending"}, {report: failed, operation: "op-1", want: "failed: op-1=failed"}},
		"expired": {{ask: isolate, operation: "op-1", want: "pending: op-1=pending"}, {report: applied, operation: "op-1", want: "applied: op-1=applied"}, {report: expired, operation: "op-1", want: "none: op-1=expired"}},
		"a sensor that lost the order speaks of what is in force": {
			{ask: isolate, operation: "op-1", want: "pending: op-1=pending"},
			{report: applied, operation: "op-1", want: "applied: op-1=applied"},
			{report: applied, operation: "recovered", want: "applied: op-1=applied"},
			{report: expired, operation: "", want: "none: op-1=expired"},
		},
		"a cut that nobody here ordered is shown, and can be released": {
			{report: applied, operation: "recovered", want: "applied: recovered-h-1=applied"},
			{report: applied, operation: "", want: "applied: recovered-h-1=applied"},
			{ask: release, operation: "op-2", want: "applied: recovered-h-1=applied op-2=pending"},
			{report: released, operation: "op-2", want: "none: recovered-h-1=released op-2=released"},
			{report: applied, operation: "recovered", want: "applied: recovered-h-1=applied op-2=released"},
			{report: released, operation: "recovered", want: "none: recovered-h-1=released op-2=released"},
		},
		"the end of a cut that nobody knows": {
			{report: released, operation: "recovered", want: "none:"},
		},
		"a report about nothing": {
			{report: applied, operation: "op-9", want: "none:"},
		},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLog(t)
			l.want("", command(&raftv1.InitCluster{ClusterId: "c-1"}))
			l.host("h-1")
			sequence := uint64(0)
			for i, s := range steps {
				if s.ask != 0 {
					l.want("", request(s.ask, s.operation, nil))
				} else {
					sequence++
					l.want("", command(&raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: "h-1", Batch: &sensorv1.Batch{
						Boot: hash("h-1")[:16], Prev: sequence - 1, Records: []*sensorv1.Record{{Sequence: sequence, Body: &sensorv1.Record_Isolation{
							Isolation: &sensorv1.IsolationStatus{Operation: s.operation, State: s.report, SelfTest: "x", AppliedAt: now}}}}}}}}))
				}
				if got := isolation(t, l, "h-1"); got != s.want {
					t.Errorf("step %d: %q, want %q", i, got, s.want)
				}
			}
		})
	}
}

// Ensure a status counts the hosts that are not as they were ordered to be: those whose newest
// order to isolate or release failed, and those that have not answered it.
func TestUnsettledIsolations(t *testing.T) {
	type step struct {
		ask       sensorv1.Action
		report    sensorv1.IsolationState
		operation string
		preview   bool
	}
	for name, tt := range map[string]struct {
		steps                   []step
		isolated, failed, waits uint64
	}{
		"none":                      {},
		"not answered":              {steps: []step{{ask: isolate, operation: "op-1"}}, waits: 1},
		"applied":                   {steps: []step{{ask: isolate, operation: "op-1"}, {report: applied, operation: "op-1"}}, isolated: 1},
		"failed":                    {steps: []step{{ask: isolate, operation: "op-1"}, {report: failed, operation: "op-1"}}, failed: 1},
		"refused":                   {steps: []step{{ask: isolate, operation: "op-1"}, {report: refused, operation: "op-1"}}, failed: 1},
		"a release is not answered": {steps: []step{{ask: isolate, operation: "op-1"}, {report: applied, operation: "op-1"}, {ask: release, operation: "op-2"}}, isolated: 1, waits: 1},
		"a release failed": {
			steps:    []step{{ask: isolate, operation: "op-1"}, {report: applied, operation: "op-1"}, {ask: release, operation: "op-2"}, {report: failed, operation: "op-2"}},
			isolated: 1, failed: 1,
		},
		"failed, then tried again": {
			steps:    []step{{ask: isolate, operation: "op-1"}, {report: failed, operation: "op-1"}, {ask: isolate, operation: "op-2"}, {report: applied, operation: "op-2"}},
			isolated: 1,
		},
		"failed, then tried again and over": {
			steps: []step{{ask: isolate, operation: "op-1"}, {report: failed, operation: "op-1"}, {ask: isolate, operation: "op-2"}, {report: applied, operation: "op-2"}, {report: expired, operation: "op-2"}},
		},
		"failed, then let be": {
			steps: []step{{ask: isolate, operation: "op-1"}, {report: failed, operation: "op-1"}, {ask: release, operation: "op-2"}, {report: released, operation: "op-2"}},
		},
		"failed, then asked what it would do": {
			steps:  []step{{ask: isolate, operation: "op-1"}, {report: failed, operation: "op-1"}, {ask: isolate, operation: "op-2", preview: true}, {report: preview, operation: "op-2"}},
			failed: 1,
		},
		"failed, then asked, and it has not answered": {
			steps:  []step{{ask: isolate, operation: "op-1"}, {report: failed, operation: "op-1"}, {ask: isolate, operation: "op-2", preview: true}},
			failed: 1,
		},
		"isolated, then again, and it has not answered": {
			steps:    []step{{ask: isolate, operation: "op-1"}, {report: applied, operation: "op-1"}, {ask: isolate, operation: "op-2"}},
			isolated: 1, waits: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLog(t)
			l.want("", command(&raftv1.InitCluster{ClusterId: "c-1"}))
			l.host("h-1")
			l.host("h-2")
			sequence := uint64(0)
			for _, s := range tt.steps {
				if s.ask != 0 {
					l.want("", request(s.ask, s.operation, func(g *sensorv1.Grant) { g.Preview = s.preview }))
					continue
				}
				sequence++
				l.want("", command(&raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: "h-1", Batch: &sensorv1.Batch{
					Boot: hash("h-1")[:16], Prev: sequence - 1, Records: []*sensorv1.Record{{Sequence: sequence, Body: &sensorv1.Record_Isolation{
						Isolation: &sensorv1.IsolationStatus{Operation: s.operation, State: s.report, SelfTest: "x", AppliedAt: now}}}}}}}}))
			}
			got, err := l.db.Counts(t.Context(), 0)
			if err != nil || got.Isolated != tt.isolated || got.IsolationsFailed != tt.failed || got.IsolationsPending != tt.waits {
				t.Errorf("%d isolated, %d failed, %d pending, %v; want %d, %d, %d", got.Isolated, got.IsolationsFailed, got.IsolationsPending, err, tt.isolated, tt.failed, tt.waits)
			}
		})
	}
}

// Ensure a grant that is not exactly what was signed, is old, foreign or used is rejected whole.
func TestRequestRejections(t *testing.T) {
	l := newLog(t)
	l.want("", command(&raftv1.InitCluster{ClusterId: "c-1"}))
	l.host("h-1")
	l.host("h-2")
	l.want("", request(isolate, "op-0", nil))
	tests := []struct {
		name, code string
		change     func(*sensorv1.Grant)
	}{
		{"foreign cluster", state.RejectWrongCluster, func(g *sensorv1.Grant) { g.ClusterId = "c-2" }},
		{"nonce used", state.RejectNonceUsed, func(g *sensorv1.Grant) { g.Nonce = hash("op-0")[:16] }},
		{"short nonce", state.RejectGrantMismatch, func(g *sensorv1.Grant) { g.Nonce = g.GetNonce()[:8] }},
		{"expired", state.RejectGrantExpired, func(g *sensorv1.Grant) { g.NotAfter = now }},
		{"another number of hosts", state.RejectGrantMismatch, func(g *sensorv1.Grant) { g.HostCount = 2 }},
		{"another root", state.RejectGrantMismatch, func(g *sensorv1.Grant) { g.HostsRoot = hash("x") }},
		{"no lease", state.RejectBadLease, func(g *sensorv1.Grant) { g.LeaseSeconds = 0 }},
		{"endless lease", state.RejectBadLease, func(g *sensorv1.Grant) { g.LeaseSeconds = 1 << 62 }},
		{"other operation", state.RejectInvalid, func(g *sensorv1.Grant) { g.Operation = "op-x" }},
		{"unknown action", state.RejectInvalid, func(g *sensorv1.Grant) { g.Action = 99 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { l.want(tt.code, request(isolate, "op-1", tt.change)) })
	}
	l.want(state.RejectUnknownHost, request(isolate, "op-1", nil, "h-2", "h-9"))
	for _, hosts := range [][]string{nil, {"h-1", "h-1"}, {"h-2", "h-1"}, {"h-1", "h-2", "h-3"}} {
		bad := request(isolate, "op-1", nil, "h-1", "h-2")
		bad.GetRequestResponse().Hosts = hosts
		l.want(state.RejectGrantMismatch, bad)
	}
	mismatch := request(isolate, "op-1", nil)
	mismatch.GetRequestResponse().Decoded = &sensorv1.Grant{Operation: "op-1"}
	l.want(state.RejectGrantMismatch, mismatch)
	l.want(state.RejectOperationExists, request(isolate, "op-0", func(g *sensorv1.Grant) { g.Nonce = hash("fresh")[:16] }))
	if got := isolation(t, l, "h-2"); got != "none:" {
		t.Errorf("h-2 = %q: a rejected request did something", got)
	}
	_, grants, err := l.db.PendingGrants(t.Context(), "h-1")
	if err != nil || len(grants) != 1 {
		t.Errorf("pending grants of h-1 = %d, %v, want 1", len(grants), err)
	}
}
