package state_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"slices"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/revocation"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// revoke is a list by an operator, of serial now+serial, of names that were revoked then.
func revoke(t *testing.T, by string, serial int64, names ...string) *raftv1.Command {
	t.Helper()
	l := &sensorv1.Revocations{ClusterId: "c-1", Serial: uint64(now + serial), Operator: by}
	for _, name := range names {
		l.Operators = append(l.Operators, &sensorv1.RevokedOperator{Name: name, At: now})
	}
	payload, err := revocation.Encode(l)
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(&raftv1.PutRevocations{Signed: &sensorv1.SignedRevocations{Payload: payload, Signature: &sensorv1.Signature{}}, Reason: "left"})
	cmd.Actor = "operator:" + by
	return cmd
}

// Ensure a revoked operator brings nothing into the log, nor does what they or whoever
// they made has signed; that lists only grow; and that the record says who did it.
func TestRevocations(t *testing.T) {
	l := fleet(t, 2)
	root, err := operator.New("c-1")
	if err != nil {
		t.Fatal(err)
	}
	bob, err := root.Delegate("bob", 0)
	if err != nil {
		t.Fatal(err)
	}
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	eve, err := bob.Sign(public, "eve", "responder", 0)
	if err != nil {
		t.Fatal(err)
	}
	l.order(0, 2, "", "op-waits", hostName(0))

	l.want(state.RejectWrongCluster, func() *raftv1.Command {
		cmd := revoke(t, "ada", 0, "bob")
		list, _ := revocation.Decode(cmd.GetPutRevocations().GetSigned().GetPayload())
		list.ClusterId = "c-2"
		cmd.GetPutRevocations().Signed.Payload, _ = revocation.Encode(list)
		return cmd
	}())
	l.want(state.RejectInvalid, revoke(t, "ada", 10*minute, "bob")) // from the future
	l.want("", revoke(t, "ada", 0, "bob", "rex"))
	l.want(state.RejectStaleRevocations, revoke(t, "ada", 0, "bob", "rex"))
	l.want(state.RejectStaleRevocations, revoke(t, "ada", 1, "bob", "dan")) // rex is not lost to a quicker admin
	l.want(state.RejectOperatorRevoked, revoke(t, "bob", 2, "ada", "rex"))
	l.want("", at(int64(revocation.Keep)/minute, revoke(t, "ada", 3, "bob")))
	as := func(name string, cmd *raftv1.Command) *raftv1.Command { cmd.Actor = "operator:" + name; return cmd }
	// A name stays refused, also when the lists leave it out.
	l.want(state.RejectOperatorRevoked, as("rex", command(&raftv1.CloseIncident{Id: "i-1"})))
	l.want(state.RejectUnknownIncident, as("ada", command(&raftv1.CloseIncident{Id: "i-1", Disposition: "benign", Reason: "x"})))

	byEve := func() *sensorv1.Signature { return &sensorv1.Signature{Chain: eve} }
	order := request(isolate, "op-1", timed(0, 1), hostName(0))
	order.GetRequestResponse().Grant.Signatures = []*sensorv1.Signature{byEve()}
	l.want(state.RejectOperatorRevoked, as("eve", order))
	l.want(state.RejectOperatorRevoked, as("eve", command(&raftv1.ApproveOperation{Operation: "op-waits", Operator: "eve", Signature: byEve()})))
	nodes := signedNodes(t, func(*sensorv1.NodeAddresses) {})
	nodes.GetPutSignedNodes().Signed.Signature = byEve()
	l.want(state.RejectOperatorRevoked, as("eve", nodes))
	l.want(state.RejectOperatorRevoked, as("eve", command(&raftv1.PutIntent{Signed: &sensorv1.SignedIntent{Signature: byEve()}})))
	list := revoke(t, "eve", 5, "ada", "bob")
	list.GetPutRevocations().Signed.Signature = byEve()
	l.want(state.RejectOperatorRevoked, list)

	rows, _, err := l.db.Operators(t.Context(), store.Page{})
	if err != nil || len(rows) != 2 || rows[1].GetName() != "rex" || rows[1].GetRevokedBy() != "ada" || rows[1].GetReason() != "left" {
		t.Errorf("operators: %v, %v", rows, err)
	}
	told := 0
	for _, e := range auditOf(t, l) {
		if e.GetAction() == "operator-revoke" {
			told++
		}
	}
	if told != 2 {
		t.Errorf("the record has %d revocations, want one for each name", told)
	}
}

// Ensure an order that waits goes out no more when who gave it was revoked meanwhile.
func TestRevokedBeneathAnApproval(t *testing.T) {
	l := fleet(t, 1)
	root, err := operator.New("c-1")
	if err != nil {
		t.Fatal(err)
	}
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := root.Sign(public, "bob", "responder", 0)
	if err != nil {
		t.Fatal(err)
	}
	order := request(isolate, "op-1", timed(0, 2), hostName(0))
	order.GetRequestResponse().Grant.Signatures = []*sensorv1.Signature{{Chain: chain}}
	l.want("", order)
	l.want("", revoke(t, "ann", 0, "bob"))
	carl, err := root.Sign(public, "carl", "responder", 0)
	if err != nil {
		t.Fatal(err)
	}
	l.want(state.RejectOperatorRevoked, command(&raftv1.ApproveOperation{Operation: "op-1", Operator: "carl", Signature: &sensorv1.Signature{Chain: carl}}))
	if n := l.pending(hostName(0)); n != 0 {
		t.Errorf("%d grants went out", n)
	}
}

func auditOf(t *testing.T, l *log) []*operatorv1.AuditEntry {
	t.Helper()
	entries, _, err := l.db.Audit(t.Context(), 0, store.MaxPage)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// Ensure a removed host is nobody: not to batches, sessions and orders, nor in any count
// or list; that neither its id nor its key enrols again; and that what it told stays.
func TestRemoveHost(t *testing.T) {
	l := fleet(t, 3)
	token := func(id string) {
		l.want("", command(&raftv1.CreateToken{TokenId: id, SecretSha256: hash(id), Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR, Expires: now + 10*minute}))
	}
	consume := func(tokenID, host, key string) *raftv1.Command {
		return command(&raftv1.ConsumeToken{TokenId: tokenID, SecretSha256: hash(tokenID), Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR, Id: host,
			Facts: &sensorv1.HostFacts{Name: "x"}, KeySha256: hash(key)})
	}
	token("t1")
	l.want("", consume("t1", "h-x", "key-1"))
	session := &raftv1.HostSession{Host: "h-x", Node: "n1", Connected: true, Session: 1, KeySha256: hash("key-2")}
	l.want("", command(session))
	l.want("", batch("h-x", 0, 1))
	l.want("", command(&raftv1.RemoveHost{Host: "h-x", Reason: "stolen"}))
	l.want(state.RejectUnknownHost, command(&raftv1.RemoveHost{Host: "h-x"}))
	l.want(state.RejectUnknownHost, batch("h-x", 1, 2))
	session.Session = 2
	l.want(state.RejectUnknownHost, command(session))
	l.want(state.RejectUnknownHost, request(isolate, "op-1", timed(0, 1), "h-x"))
	l.want(state.RejectHostExists, command(&raftv1.EnrollHost{Host: "h-x"}))
	l.want("", command(&raftv1.SessionsEnded{Node: "n1", Sessions: []*raftv1.SessionEnd{{Host: "h-x", Session: 1, How: "closed"}}}))
	token("t2")
	l.want(state.RejectRevokedKey, consume("t2", "h-y", "key-2")) // the one that it used last
	l.want(state.RejectHostExists, consume("t2", "h-x", "key-3"))
	l.want("", consume("t2", "h-y", "key-3"))

	hosts, _, err := l.db.Hosts(t.Context(), store.HostFilter{}, store.Page{})
	if err != nil || len(hosts) != 4 {
		t.Errorf("%d hosts are listed, want 3 and the new one; %v", len(hosts), err)
	}
	counts, err := l.db.Counts(t.Context(), 0)
	if err != nil || counts.Hosts != 4 || counts.HostsSilent != 0 || counts.FindingsSince != 1 {
		t.Errorf("counts: %+v, %v", counts, err)
	}
	figures, err := l.db.Figures(t.Context(), 0)
	if err != nil || len(figures.Hosts) != 1 || figures.Hosts["never-seen"] != 4 {
		t.Errorf("figures: %+v, %v", figures.Hosts, err)
	}
	if q, err := l.db.Quiet(t.Context(), now+minute, 0); err != nil || q.Silent != 0 {
		t.Errorf("%d are silent: %v, %v", q.Silent, q.Names, err)
	}
	if unheard, err := l.db.Unheard(t.Context(), 10); err != nil || len(unheard) != 0 {
		t.Errorf("unheard: %v, %v", unheard, err)
	}
	if _, _, err := l.db.Session(t.Context(), "h-x"); err == nil {
		t.Error("it may say hello")
	}
	h, err := l.db.Host(t.Context(), "h-x")
	if err != nil || h.GetState() != "removed" {
		t.Errorf("by its id: %v, %v", h, err)
	}
	removed, err := l.db.RemovedHosts(t.Context())
	if err != nil || len(removed) != 1 || removed[0] != "h-x" {
		t.Errorf("removed: %v, %v", removed, err)
	}
	entries := auditOf(t, l)
	found := false
	for _, e := range entries {
		found = found || e.GetAction() == "host-remove" && e.GetSubject() == "h-x" && strings.Contains(e.GetDetail(), "stolen")
	}
	if !found {
		t.Error("the record does not say so")
	}
}

// Ensure that what waits for a host ends in the entry that removes it, is in the record, and
// counts for the governor no more; that what it has applied, and what waits for others, stays; and
// that the command of an older release means what it meant.
func TestRetireHost(t *testing.T) {
	l := fleet(t, 100)
	applies := hostName(1)
	l.order(0, 1, "", "op-1", applies, hostName(2))
	l.want("", command(&raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: applies, Batch: &sensorv1.Batch{Boot: hash(applies)[:16],
		Records: []*sensorv1.Record{{Sequence: 1, Body: &sensorv1.Record_Isolation{
			Isolation: &sensorv1.IsolationStatus{Operation: "op-1", State: sensorv1.IsolationState_ISOLATION_STATE_APPLIED, AppliedAt: now}}}}}}}}))
	l.order(1, 1, "", "op-2", applies, hostName(3))
	l.want("", command(&raftv1.RetireHost{Host: applies, Reason: "stolen"}))
	l.want("", command(&raftv1.RemoveHost{Host: hostName(2), Reason: "old"}))
	for op, want := range map[string][]string{"op-1": {"applied ", "pending "}, "op-2": {"failed host removed", "pending "}} {
		rows, err := l.db.Operation(t.Context(), op)
		if err != nil || len(rows) != 2 {
			t.Fatalf("%s: %v, %v", op, rows, err)
		}
		for i, r := range rows {
			if got := r.GetState() + " " + r.GetDetail(); got != want[i] {
				t.Errorf("%s at %s is %q, want %q", op, r.GetHost(), got, want[i])
			}
		}
	}
	if _, grants, err := l.db.PendingGrants(t.Context(), applies); err != nil || len(grants) != 0 {
		t.Errorf("%d orders still wait for the host, %v", len(grants), err)
	}
	if h, err := l.db.Host(t.Context(), applies); err != nil || h.GetIsolation() != "applied" {
		t.Errorf("isolation of the removed host: %q, %v", h.GetIsolation(), err)
	}
	var told []string
	for _, e := range auditOf(t, l) {
		if e.GetSubject() == applies && (e.GetAction() == "host-remove" || e.GetAction() == "isolation-failed") {
			told = append(told, e.GetAction()+": "+e.GetDetail())
		}
	}
	if want := []string{`host-remove: reason "stolen"`, "isolation-failed: operation op-2, host removed"}; !slices.Equal(told, want) {
		t.Errorf("the record says %q, want %q", told, want)
	}
}
