package state_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const minute = int64(60e9)

// fleet is a cluster with so many hosts, h-0000 and on; every tenth has role db.
func fleet(t testing.TB, hosts int) *log {
	l := newLog(t)
	l.want("", command(&raftv1.InitCluster{ClusterId: "c-1"}))
	for i := range hosts {
		labels := map[string]string{"role": "web"}
		if i%10 == 0 {
			labels["role"] = "db"
		}
		l.want("", command(&raftv1.EnrollHost{Host: hostName(i), Facts: &sensorv1.HostFacts{Name: hostName(i), Labels: labels}}))
	}
	return l
}

func hostName(i int) string { return fmt.Sprintf("h-%04d", i) }

func at(minutes int64, cmd *raftv1.Command) *raftv1.Command {
	cmd.Time = now + minutes*minute
	return cmd
}

// timed makes a grant that is good at a later minute of the test.
func timed(minutes int64, approvals uint32) func(*sensorv1.Grant) {
	return func(g *sensorv1.Grant) {
		g.IssuedAt += minutes * minute
		g.NotAfter, g.Epoch, g.Approvals = g.GetIssuedAt()+60*minute, g.GetEpoch()+uint64(minutes*minute), approvals
	}
}

func (l *log) order(minutes int64, approvals uint32, code, operation string, hosts ...string) {
	l.t.Helper()
	l.want(code, at(minutes, request(isolate, operation, timed(minutes, approvals), hosts...)))
}

func approve(operation, operator string) *raftv1.Command {
	return command(&raftv1.ApproveOperation{Operation: operation, Operator: operator, Signature: &sensorv1.Signature{Signature: []byte(operator)}})
}

func (l *log) pending(host string) int {
	l.t.Helper()
	_, grants, err := l.db.PendingGrants(l.t.Context(), host)
	if err != nil {
		l.t.Fatal(err)
	}
	return len(grants)
}

// Ensure one operator contains up to the caps, in ten minutes, in a day and of a
// role group, and that what is above waits for another one.
func TestCaps(t *testing.T) {
	l := fleet(t, 120) // 3 hosts in ten minutes, 6 in a day; of 108 web servers 3 and 5, of 12 databases 3 and 3
	l.order(0, 1, state.RejectApprovals, "op-all", hostName(1), hostName(2), hostName(3), hostName(4))
	for i := 1; i <= 3; i++ {
		l.order(0, 1, "", fmt.Sprintf("op-%d", i), hostName(i))
	}
	l.order(1, 1, state.RejectApprovals, "op-4", hostName(4))
	l.order(1, 1, "", "op-again", hostName(3)) // is contained already
	l.want("", at(1, request(release, "op-free", timed(1, 1), hostName(3), hostName(4), hostName(5), hostName(6))))
	l.order(12, 1, "", "op-4", hostName(4))
	l.order(12, 1, "", "op-5", hostName(5))
	l.order(24, 1, state.RejectApprovals, "op-6", hostName(6)) // a sixth web server in the day
	l.order(24, 1, "", "op-again2", hostName(1))               // was contained in the day
	l.order(24, 1, "", "op-db", hostName(0))                   // a sixth host
	l.order(40, 1, state.RejectApprovals, "op-db2", hostName(10))
	l.order(25*60, 1, "", "op-6", hostName(6))

	l.order(60*60, 1, "", "op-d1", hostName(0))
	l.order(60*60, 1, "", "op-d2", hostName(10))
	l.order(61*60, 1, "", "op-d3", hostName(20))
	l.order(62*60, 1, state.RejectApprovals, "op-d4", hostName(30)) // a fourth database in the day
	l.order(62*60, 1, "", "op-w", hostName(31))
}

// Ensure an order above the caps goes out when another operator has signed it, and
// not when the same one has, when somebody vetoes it, or when it is late.
func TestApproval(t *testing.T) {
	l := fleet(t, 20)
	many := []string{hostName(1), hostName(2), hostName(3), hostName(4), hostName(5)}
	l.order(0, 2, "", "op-1", many...)
	if l.pending(hostName(1)) != 0 {
		t.Fatal("an order that waits went out")
	}
	l.want(state.RejectApprovedAlready, at(1, approve("op-1", "ada")))
	l.want(state.RejectUnknownOperation, at(1, approve("op-9", "bob")))
	l.want("", at(1, approve("op-1", "bob")))
	if l.pending(hostName(1)) != 1 || l.pending(hostName(5)) != 1 {
		t.Fatal("an approved order did not go out")
	}
	_, grants, err := l.db.PendingGrants(t.Context(), hostName(1))
	if err != nil || len(grants[0].GetSignatures()) != 2 {
		t.Fatalf("it went out with %d signatures, %v", len(grants[0].GetSignatures()), err)
	}
	l.want(state.RejectNotWaiting, at(1, approve("op-1", "eve")))

	l.order(2, 2, "", "op-2", hostName(6), hostName(7))
	l.want(state.RejectInvalid, at(2, command(&raftv1.VetoOperation{Operation: "op-2"})))
	l.want("", at(2, command(&raftv1.VetoOperation{Operation: "op-2", Reason: "no"})))
	l.want(state.RejectNotWaiting, at(3, approve("op-2", "bob")))

	l.order(4, 2, "", "op-3", hostName(8), hostName(9))
	l.want(state.RejectGrantExpired, at(70, approve("op-3", "bob")))

	// What was ordered meanwhile is not overtaken by what waited.
	l.order(80, 2, "", "op-4", hostName(10), hostName(11))
	l.want("", at(81, request(release, "op-5", timed(81, 1), hostName(11))))
	l.want(state.RejectStaleOrder, at(82, approve("op-4", "bob")))
	l.want(state.RejectStaleOrder, at(82, request(isolate, "op-6", timed(79, 1), hostName(11))))
}

// put applies an intent as the next version.
func (l *log) put(minutes int64, in *sensorv1.Intent) {
	l.t.Helper()
	current, err := l.db.Intent(l.t.Context(), 0)
	if err != nil {
		l.t.Fatal(err)
	}
	in.ClusterId, in.Author, in.IssuedAt, in.Version = "c-1", "ada", now+minutes*minute, 1
	if current != nil {
		before, err := intent.Decode(current.GetPayload())
		if err != nil {
			l.t.Fatal(err)
		}
		in.Version, in.Previous = before.GetVersion()+1, intent.Digest(current.GetPayload())
	}
	payload, err := intent.Encode(in)
	if err != nil {
		l.t.Fatal(err)
	}
	l.want("", at(minutes, command(&raftv1.PutIntent{Signed: &sensorv1.SignedIntent{Payload: payload}, Decoded: in})))
}

const permitIsolate = `@id("isolate") permit (principal, action == Vedette::Action::"isolate", resource);`

// seen stores a finding of each host, which proposals stand on.
func (l *log) seen(hosts int) {
	l.t.Helper()
	for i := range hosts {
		host := hostName(i)
		l.want("", command(&raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: host, Batch: &sensorv1.Batch{Boot: hash(host)[:16],
			Records: []*sensorv1.Record{{Sequence: 1, Time: now, Body: &sensorv1.Record_Finding{Finding: evidence(host)}}}}}}}))
	}
}

func evidence(host string) *sensorv1.Finding {
	return &sensorv1.Finding{Id: "f-" + host, Time: now, Kind: "rule", Severity: "high", Score: 90, Storyline: "7.7",
		Process: &sensorv1.Process{Pid: 7, Start: 7, Uid: 1000, LoginUid: 1000, User: "ann", Image: []byte("/tmp/x"), Sha256: hash("x"),
			ImageTraits: []string{"world-writable-dir"}}}
}

// proposal is what the leader's automation asks for.
func proposal(minutes int64, level uint32, operation, host string) *raftv1.Command {
	g := &sensorv1.Grant{
		Nonce: hash(operation)[:16], Action: isolate, LeaseSeconds: 3600, IssuedAt: now + minutes*minute, Epoch: uint64(now + minutes*minute + epochs.Add(1)),
		NotAfter: now + (minutes+60)*minute, Reason: "automation", Operation: operation, ClusterId: "c-1", Evidence: []string{"f-" + host},
	}
	if _, err := grant.Address(g, host); err != nil {
		panic(err)
	}
	in := &raftv1.ProposeResponse{Grant: g, Host: host, Level: level, IntentVersion: 1, Finding: "f-" + host}
	if level == 3 {
		in.WindowEnds = now + (minutes+1)*minute
	}
	return at(minutes, command(in))
}

// Ensure a leader that orders everything gets no more than the caps, whatever the
// intent permits, and that automation does nothing when it is switched off.
func TestMaliciousLeader(t *testing.T) {
	const hosts = 1000 // 10 in ten minutes
	l := fleet(t, hosts)
	l.seen(hosts)
	l.put(0, &sensorv1.Intent{Policy: permitIsolate, Governor: &sensorv1.Governor{GroupLabel: "none"}})
	got := 0
	for i := range 10_000 {
		result := l.apply(proposal(0, 4, fmt.Sprintf("op-%d", i), hostName(i%hosts)))
		switch result.GetRejected() {
		case "":
			got++
		case state.RejectGovernor:
		default:
			t.Fatalf("order %d: %s (%s)", i, result.GetRejected(), result.GetMessage())
		}
	}
	contained := 0
	for i := range hosts {
		contained += min(1, l.pending(hostName(i)))
	}
	if contained != 10 {
		t.Errorf("%d hosts are contained after 10,000 orders (%d accepted), want the cap of 10", contained, got)
	}
	l.put(20, &sensorv1.Intent{Policy: permitIsolate, AutomationOff: true})
	off := proposal(21, 4, "op-off", hostName(999))
	off.GetProposeResponse().IntentVersion = 2
	l.want(state.RejectUnsupported, off)
	l.want(state.RejectStaleIntent, proposal(21, 4, "op-stale", hostName(999)))
}

// Ensure a proposal follows from a finding of its own host, by the intent.
func TestUnsupportedProposals(t *testing.T) {
	l := fleet(t, 100)
	l.seen(5)
	l.put(0, &sensorv1.Intent{Policy: `@id("web") permit (principal, action == Vedette::Action::"isolate", resource)
		when { context.level <= 3 && resource.hasTag("role") && resource.getTag("role") == "web" };`})
	l.want("", proposal(0, 3, "op-1", hostName(1)))
	l.want(state.RejectUnsupported, proposal(0, 4, "op-2", hostName(2)))
	l.want(state.RejectUnsupported, proposal(0, 3, "op-3", hostName(0))) // a database
	l.want(state.RejectUnsupported, proposal(0, 3, "op-4", hostName(9))) // nothing was found there
	other := proposal(0, 3, "op-5", hostName(3))
	other.GetProposeResponse().Finding = "f-" + hostName(2)
	l.want(state.RejectUnsupported, other)
	kill := proposal(0, 3, "op-6", hostName(4))
	kill.GetProposeResponse().Grant.Action = sensorv1.Action_ACTION_KILL
	l.want(state.RejectUnsupported, kill)
}

// Ensure an intent that loses much of the one before is taken only from an author
// who says so.
func TestIntentShrinks(t *testing.T) {
	l := fleet(t, 2)
	l.put(0, &sensorv1.Intent{Policy: permitIsolate})
	current, err := l.db.Intent(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, meant := range []bool{false, true} {
		next := &sensorv1.Intent{ClusterId: "c-1", Author: "ada", IssuedAt: now + minute, Version: 2, Previous: intent.Digest(current.GetPayload()), Shrinks: meant}
		payload, err := intent.Encode(next)
		if err != nil {
			t.Fatal(err)
		}
		l.want(map[bool]string{false: state.RejectShrinks, true: ""}[meant],
			command(&raftv1.PutIntent{Signed: &sensorv1.SignedIntent{Payload: payload}, Decoded: next}))
	}
}

// Ensure what waits for a veto goes out after its window and not before, and not
// when it was vetoed or automation was switched off meanwhile.
func TestVetoWindow(t *testing.T) {
	l := fleet(t, 100)
	l.seen(10)
	l.put(0, &sensorv1.Intent{Policy: permitIsolate})
	start := func(operation string) *raftv1.Command {
		return command(&raftv1.StartOperation{Operation: operation})
	}
	l.want("", proposal(0, 3, "op-1", hostName(1)))
	l.want(state.RejectWindowOpen, at(0, start("op-1")))
	l.want("", at(2, start("op-1")))
	if l.pending(hostName(1)) != 1 {
		t.Error("nobody vetoed, and it did not go out")
	}
	l.want("", proposal(2, 3, "op-2", hostName(2)))
	l.want("", at(2, command(&raftv1.VetoOperation{Operation: "op-2", Reason: "known"})))
	l.want(state.RejectNotWaiting, at(4, start("op-2")))
	l.want("", proposal(4, 2, "op-3", hostName(3)))
	l.want(state.RejectWindowOpen, at(9, start("op-3")))
	l.want("", proposal(10, 3, "op-4", hostName(4)))
	l.put(10, &sensorv1.Intent{Policy: permitIsolate, AutomationOff: true})
	l.want("", at(12, start("op-4")))
	for i, want := range []int{1: 1, 2: 0, 3: 0, 4: 0} {
		if got := l.pending(hostName(i)); i > 0 && got != want {
			t.Errorf("%s has %d orders, want %d", hostName(i), got, want)
		}
	}
}

// Ensure an operator makes a proposal of automation their own order.
func TestApproveProposal(t *testing.T) {
	l := fleet(t, 100)
	l.seen(10)
	l.put(0, &sensorv1.Intent{Policy: permitIsolate})
	l.want("", proposal(0, 2, "op-1", hostName(1)))
	l.want(state.RejectInvalid, at(1, approve("op-1", "bob")))
	order, err := l.db.Order(t.Context(), "op-1", timeAt(1))
	if err != nil {
		t.Fatal(err)
	}
	own := func(change func(*sensorv1.Grant)) *raftv1.Command {
		g, err := grant.Decode(order.GetGrant().GetPayload())
		if err != nil {
			t.Fatal(err)
		}
		g.Operator, g.Nonce, g.Epoch = "bob", hash("bob")[:16], uint64(now+minute)
		change(g)
		payload, err := grant.Encode(g)
		if err != nil {
			t.Fatal(err)
		}
		cmd := approve("op-1", "bob")
		cmd.GetApproveOperation().Payload = payload
		return at(1, cmd)
	}
	for name, change := range map[string]func(*sensorv1.Grant){
		"another action": func(g *sensorv1.Grant) { g.Action = sensorv1.Action_ACTION_KILL },
		"another host":   func(g *sensorv1.Grant) { g.HostsRoot = hash("x") },
		"another lease":  func(g *sensorv1.Grant) { g.LeaseSeconds = 7200 },
		"another name":   func(g *sensorv1.Grant) { g.Operator = "eve" },
	} {
		if got := l.apply(own(change)).GetRejected(); got != state.RejectGrantMismatch {
			t.Errorf("%s: %q", name, got)
		}
	}
	l.want("", own(func(*sensorv1.Grant) {}))
	if l.pending(hostName(1)) != 1 {
		t.Error("the approved proposal did not go out")
	}
}

// Ensure no protected host is contained by automation, whatever it proposes.
func TestProtectedHosts(t *testing.T) {
	l := fleet(t, 60)
	l.seen(60)
	l.put(0, &sensorv1.Intent{
		Policy: strings.ReplaceAll(permitIsolate, `action == Vedette::Action::"isolate"`, "action"),
		Governor: &sensorv1.Governor{
			Hosts_10M: 60, ProtectedHosts: []string{hostName(1), hostName(2)},
			Protected: []*sensorv1.Group{{Name: "databases", Labels: map[string]string{"role": "db"}}},
		}})
	random := rand.New(rand.NewPCG(1, uint64(now)))
	accepted := 0
	for i := range 10_000 {
		n := random.IntN(60)
		cmd := proposal(int64(i), uint32(random.IntN(6)), fmt.Sprintf("op-%d", i), hostName(n))
		candidates := intent.Candidates(evidence(hostName(n)))
		candidate := candidates[random.IntN(len(candidates))]
		cmd.GetProposeResponse().Grant.Action, cmd.GetProposeResponse().Grant.Target = candidate.Action, candidate.Target
		if random.IntN(2) == 0 { // and the window of what was accepted ends
			l.apply(at(int64(i)+2, command(&raftv1.StartOperation{Operation: fmt.Sprintf("op-%d", random.IntN(i+1))})))
		}
		if l.apply(cmd).GetRejected() == "" {
			accepted++
		}
	}
	for i := range 60 {
		if protected := i%10 == 0 || i == 1 || i == 2; protected && l.pending(hostName(i)) > 0 {
			t.Errorf("%s is protected and was contained", hostName(i))
		}
	}
	if accepted < 100 {
		t.Errorf("only %d proposals were accepted: this test proves nothing", accepted)
	}
}

// Ensure a host that was isolated again and again by automation needs a person.
func TestSilentRepeats(t *testing.T) {
	l := fleet(t, 100)
	l.seen(10)
	l.put(0, &sensorv1.Intent{Policy: permitIsolate})
	for i := range int64(3) {
		l.want("", proposal(i*300, 4, fmt.Sprintf("op-%d", i), hostName(1)))
	}
	l.want(state.RejectGovernor, proposal(1000, 4, "op-4", hostName(1)))
	l.want("", at(1001, request(release, "op-5", timed(1001, 1), hostName(1))))
	l.want("", proposal(1002, 4, "op-6", hostName(1)))
}

// Ensure a host is believed about itself alone, and what it began by itself is
// shown and counts for the caps.
func TestHostsOwnContainment(t *testing.T) {
	l := fleet(t, 20)
	report := func(host string, sequence uint64, s *sensorv1.IsolationStatus) {
		l.want("", command(&raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: host, Batch: &sensorv1.Batch{Boot: hash(host)[:16], Prev: sequence - 1,
			Records: []*sensorv1.Record{{Sequence: sequence, Body: &sensorv1.Record_Isolation{Isolation: s}}}}}}}))
	}
	for i := 1; i <= 3; i++ {
		report(hostName(i), 1, &sensorv1.IsolationStatus{Operation: fmt.Sprintf("op-own%d", i), State: applied, Local: true, Evidence: []string{"f-1"}, AppliedAt: now})
	}
	if got := isolation(t, l, hostName(1)); got != "applied: op-own1=applied" {
		t.Errorf("what the host began is shown as %q", got)
	}
	l.order(0, 1, state.RejectApprovals, "op-4", hostName(4))
	// One that speaks of another's operation, as its own, changes nothing of it.
	report(hostName(5), 1, &sensorv1.IsolationStatus{Operation: "op-own1", State: released, Local: true})
	if got := isolation(t, l, hostName(1)); got != "applied: op-own1=applied" {
		t.Errorf("another host ended it: %q", got)
	}
	// One that claims ever more is bounded.
	for i := range uint64(300) {
		report(hostName(6), i+1, &sensorv1.IsolationStatus{Operation: fmt.Sprintf("op-claim%d", i), State: applied, Local: true,
			Action: sensorv1.Action_ACTION_FREEZE})
	}
	host, err := l.db.Host(t.Context(), hostName(6))
	if err != nil || len(host.GetLosses()) == 0 {
		t.Errorf("a host that claims 300 containments: %v, %v", host.GetLosses(), err)
	}
}

func timeAt(minutes int64) time.Time { return time.Unix(0, now+minutes*minute) }
