package state_test

import (
	"fmt"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func rules(t *testing.T, version uint64, previous, base []byte, text string) (*raftv1.Command, []byte) {
	t.Helper()
	set := &sensorv1.RuleSet{ClusterId: "c-1", Version: version, Author: "ada", IssuedAt: now, Reason: "test"}
	if text != "" {
		set.Files = []*sensorv1.RuleFile{{Path: "a.yml", Text: []byte(text)}}
	}
	if previous != nil {
		set.Previous = ruleset.Digest(previous)
	}
	if base != nil {
		before, err := ruleset.Decode(base)
		if err != nil {
			t.Fatal(err)
		}
		set.Base, set.BaseDigest = before.GetVersion(), ruleset.Digest(base)
	}
	payload, err := ruleset.Encode(set)
	if err != nil {
		t.Fatal(err)
	}
	return command(&raftv1.PutRules{Signed: &sensorv1.SignedRules{Payload: payload, Signature: &sensorv1.Signature{Signature: []byte("ada")}}, Ids: []string{"one", "two"}}), payload
}

// Ensure a set of rules goes from ring to ring and no further than it is let, that what
// follows names what all have, and that a halt takes it back once.
func TestRules(t *testing.T) {
	l := fleet(t, 20)
	l.want("", command(&raftv1.PutNode{Node: &sensorv1.Node{Id: "n9", Address: "10.0.0.9:1", OperatorAddress: "10.0.0.9:2"}}))
	l.want("", command(&raftv1.HostSession{Host: hostName(7), Node: "n9", Connected: true, Session: 1}))
	state1 := func(version uint64, want string, ring int) {
		t.Helper()
		set, err := l.db.RuleSet(t.Context(), version)
		if err != nil || set.State != want || set.Ring != ring {
			t.Errorf("version %d: %+v, %v; want %s in ring %d", version, set, err, want, ring)
		}
	}
	advance := func(version uint64, ring uint32) *raftv1.Command {
		return command(&raftv1.AdvanceRules{Version: version, Ring: ring})
	}
	halt := func(version uint64) *raftv1.Command {
		return command(&raftv1.HaltRules{Version: version, Why: "it hurts"})
	}
	l.want(state.RejectInvalid, command(&raftv1.PutRules{Signed: &sensorv1.SignedRules{Payload: []byte("x")}}))
	early, _ := rules(t, 2, []byte("x"), nil, "a")
	l.want(state.RejectStaleRules, early)
	put, one := rules(t, 1, nil, nil, "a")
	l.want("", put)
	l.want(state.RejectStaleRules, put)
	state1(1, "rolling", 0)
	if set, _ := l.db.RuleSet(t.Context(), 1); set.FirstHost != hostName(7) || fmt.Sprint(set.IDs) != "[one two]" {
		t.Errorf("first is %s with %v, want the one that is connected", set.FirstHost, set.IDs)
	}
	l.want(state.RejectStaleRules, advance(1, 2))
	for ring := range uint32(4) {
		l.want("", advance(1, ring+1))
	}
	l.want(state.RejectStaleRules, advance(1, 5))
	state1(1, "complete", 4)

	wrong, _ := rules(t, 2, one, nil, "b") // would go back to none
	l.want(state.RejectStaleRules, wrong)
	put, two := rules(t, 2, one, one, "b")
	l.want("", put)
	l.want(state.RejectStaleRules, halt(1))
	l.want(state.RejectInvalid, command(&raftv1.HaltRules{Version: 2}))
	l.want("", halt(2))
	l.want(state.RejectStaleRules, halt(2))
	l.want(state.RejectStaleRules, advance(2, 1))
	state1(2, "halted", 0)

	// Overtaken on its way; and what all had goes to all at once.
	put, three := rules(t, 3, two, one, "c")
	l.want("", put)
	put, four := rules(t, 4, three, one, "a")
	l.want("", put)
	state1(3, "replaced", 0)
	state1(4, "complete", 4)
	put, five := rules(t, 5, four, four, "b") // was halted: not at once
	l.want("", put)
	state1(5, "rolling", 0)

	// What hosts use. Another process is a start since then.
	note := func(instance string, version uint64) {
		t.Helper()
		l.want("", command(&raftv1.NoteRules{Hosts: []*raftv1.HostRules{
			{Host: hostName(7), Instance: []byte(instance), Held: &sensorv1.RulesHeld{Version: version, Newest: 5}}, {Host: "h-none", Held: &sensorv1.RulesHeld{}},
		}}))
	}
	used := func(version uint64, restarted bool) {
		t.Helper()
		hosts, err := l.db.RuleHosts(t.Context())
		if err != nil || len(hosts) != 20 {
			t.Fatalf("%d hosts, %v", len(hosts), err)
		}
		h := hosts[7]
		if !h.Told || hosts[6].Told || h.Held.GetVersion() != version || (h.Restarted != 0) != restarted || h.Since != now {
			t.Errorf("%+v; want version %d, started again %t", h, version, restarted)
		}
	}
	note("a", 4)
	used(4, false)
	note("a", 5)
	used(5, false)
	note("b", 5)
	used(5, true)

	// The first host is one that takes rules, where there is one; a sensor put back to an older
	// release does not any more.
	first := func(version uint64, previous, base []byte, want string) (payload []byte) {
		t.Helper()
		put, payload := rules(t, version, previous, base, fmt.Sprint("set ", version))
		l.want("", put)
		if set, err := l.db.RuleSet(t.Context(), version); err != nil || set.FirstHost != want {
			t.Errorf("the first host of version %d is %s, %v; want %s", version, set.FirstHost, err, want)
		}
		return payload
	}
	before := hostName(7) // in place
	for i := range 20 {
		if ruleset.Place(hostName(i)) < ruleset.Place(before) {
			before = hostName(i)
		}
	}
	l.want("", command(&raftv1.HostSession{Host: before, Node: "n9", Connected: true, Session: 2}))
	six := first(6, five, four, hostName(7))
	l.want("", command(&raftv1.NoteRules{Hosts: []*raftv1.HostRules{{Host: hostName(7), Instance: []byte("c")}}}))
	if hosts, err := l.db.RuleHosts(t.Context()); err != nil || hosts[7].Told {
		t.Errorf("a host that takes no rules any more: %+v, %v", hosts[7], err)
	}
	first(7, six, four, before)
}
