package state_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func order(body any) *raftv1.Command {
	o := &raftv1.LearningOrder{}
	switch body := body.(type) {
	case *sensorv1.SignedPack:
		o.Body = &raftv1.LearningOrder_Pack{Pack: body}
	case *sensorv1.SignedUnlearn:
		o.Body = &raftv1.LearningOrder_Unlearn{Unlearn: body}
	case *raftv1.UnlearntBy:
		o.Body = &raftv1.LearningOrder_Unlearnt{Unlearnt: body}
	}
	return command(o)
}

func signedPack(t *testing.T, cluster, operator string, made int64) *sensorv1.SignedPack {
	t.Helper()
	payload, err := pack.Encode(&sensorv1.Pack{ClusterId: cluster, Role: "web", MadeAt: made, NotAfter: made + 1e12, Of: 3, Operator: operator,
		Behaviours: []*sensorv1.PackBehaviour{{Kind: 1, Subject: []byte("/bin/sh"), Object: []byte("/bin/ls"), Hosts: 3}}})
	if err != nil {
		t.Fatal(err)
	}
	return &sensorv1.SignedPack{Payload: payload, Signature: &sensorv1.Signature{Signature: []byte("x")}}
}

// Ensure the newest pack that an operator signed for this cluster is kept, and no other.
func TestPutPack(t *testing.T) {
	l := newLog(t)
	l.want("", command(&raftv1.InitCluster{ClusterId: "c-1"}))
	l.want("", order(signedPack(t, "c-1", "ada", now)))
	l.want(state.RejectStalePack, order(signedPack(t, "c-1", "ada", now)))
	l.want(state.RejectStalePack, order(signedPack(t, "c-1", "ada", now-1)))
	l.want(state.RejectWrongCluster, order(signedPack(t, "c-2", "ada", now+1)))
	nobody := signedPack(t, "c-1", "ada", now+1)
	nobody.Signature = nil
	l.want(state.RejectInvalid, order(nobody))
	l.want(state.RejectInvalid, order(&sensorv1.SignedPack{Payload: []byte("x")}))
	l.want(state.RejectInvalid, order(nil))
	newest := signedPack(t, "c-1", "bob", now+2)
	l.want("", order(newest))
	if got, err := l.db.RolePack(t.Context(), "web", now); err != nil || !proto.Equal(got, newest) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := l.db.RolePack(t.Context(), "web", now+2e12); err != nil || got != nil {
		t.Errorf("after its end: %v, %v", got, err)
	}
}

// Ensure an order to forget waits for its host, is answered once and by that host alone, and is in the
// audit both times.
func TestUnlearnOrder(t *testing.T) {
	l := newLog(t)
	l.want("", command(&raftv1.InitCluster{ClusterId: "c-1"}))
	l.host("h-1")
	l.host("h-2")
	signed := func(id, host string) *sensorv1.SignedUnlearn {
		payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(&sensorv1.Unlearn{Id: id, ClusterId: "c-1", Host: host, Subject: []byte("/tmp/x"),
			Operator: "ada", IssuedAt: now, NotAfter: now + 1e12, Reason: "an implant"})
		if err != nil {
			t.Fatal(err)
		}
		return &sensorv1.SignedUnlearn{Payload: payload}
	}
	l.want("", order(signed("ul-1", "h-1")))
	l.want(state.RejectOperationExists, order(signed("ul-1", "h-2")))
	l.want(state.RejectUnknownHost, order(signed("ul-2", "h-9")))
	waiting := func(host string, want int) {
		t.Helper()
		if got, err := l.db.PendingUnlearns(t.Context(), host, now); err != nil || len(got) != want {
			t.Errorf("%d orders wait for %s, want %d (%v)", len(got), host, want, err)
		}
	}
	waiting("h-1", 1)
	waiting("h-2", 0)
	answer := &sensorv1.Unlearnt{Id: "ul-1", Behaviours: 4}
	l.want("", order(&raftv1.UnlearntBy{Host: "h-2", Unlearnt: answer})) // not its own: nothing happens
	waiting("h-1", 1)
	l.want("", order(&raftv1.UnlearntBy{Host: "h-1", Unlearnt: answer}))
	l.want("", order(&raftv1.UnlearntBy{Host: "h-1", Unlearnt: &sensorv1.Unlearnt{Id: "ul-1", Behaviours: 9}}))
	l.want(state.RejectInvalid, order(&raftv1.UnlearntBy{Host: "h-1", Unlearnt: &sensorv1.Unlearnt{Id: "ul-1", Failure: strings.Repeat("x", 2000)}}))
	waiting("h-1", 0)
	rows, _, err := l.db.Unlearns(t.Context(), "h-1", "", store.Page{})
	if err != nil || len(rows) != 1 || rows[0].Behaviours != 4 || rows[0].AnsweredAt != now {
		t.Errorf("%+v, %v", rows, err)
	}
	l.want("", order(signed("ul-3", "h-2")))
	l.want("", command(&raftv1.RemoveHost{Host: "h-2", Reason: "gone"}))
	waiting("h-2", 0)
}

// Ensure roles are kept as the engine says, that they leave the governor's groups alone, and that what is
// gone meanwhile is passed over.
func TestSetRoles(t *testing.T) {
	l := newLog(t)
	for _, id := range []string{"h-1", "h-2", "h-3"} {
		l.host(id)
	}
	groups := func() map[string]int {
		f, _, _, err := l.db.Governed(t.Context(), 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		return f.Groups
	}
	before := groups()
	l.want("", command(&raftv1.SetRoles{Groups: []*raftv1.RoleGroup{{Name: "web", Basis: "label"}, {Name: "like:abcdef", Basis: "similar", Sketch: make([]byte, 16)}},
		Hosts: []*raftv1.HostRole{{Host: "h-1", Role: "web"}, {Host: "h-2", Role: "like:abcdef", Permille: 700}, {Host: "h-3", Role: "none"}, {Host: "h-9", Role: "web"}}}))
	role := func(host, want string) {
		t.Helper()
		if got, err := l.db.RoleOf(t.Context(), host); err != nil || got != want {
			t.Errorf("%s has role %q, want %q (%v)", host, got, want, err)
		}
	}
	role("h-1", "web")
	role("h-2", "like:abcdef")
	role("h-3", "")
	if after := groups(); len(after) != len(before) || after[""] != before[""] {
		t.Errorf("the governor's groups were %v and are %v", before, after)
	}
	l.want("", command(&raftv1.SetRoles{Dissolved: []string{"like:abcdef"}, Hosts: []*raftv1.HostRole{{Host: "h-1"}}}))
	role("h-1", "")
	role("h-2", "")
	l.want(state.RejectInvalid, command(&raftv1.SetRoles{Groups: []*raftv1.RoleGroup{{Name: "a b", Basis: "label"}}}))
	l.want(state.RejectInvalid, command(&raftv1.SetRoles{Groups: []*raftv1.RoleGroup{{Name: "a", Basis: "whim"}}}))
	l.want(state.RejectInvalid, command(&raftv1.SetRoles{Hosts: make([]*raftv1.HostRole, 3000)}))
}

// Ensure a roll-out is noted once, and again when it has reached more hosts.
func TestNoteRollOuts(t *testing.T) {
	l := newLog(t)
	note := func(hosts uint32) *raftv1.Command {
		return command(&raftv1.NoteRollOuts{RollOuts: []*raftv1.RollOut{{Key: []byte("k"), FirstSeen: 1, LastSeen: 2, Hosts: hosts, Installed: 3, By: "apt"}}})
	}
	l.want("", note(3))
	l.want("", note(9))
	l.want("", note(5))
	l.want(state.RejectInvalid, note(2))
	rows, _, err := l.db.RollOuts(t.Context(), store.Page{})
	if err != nil || len(rows) != 1 || rows[0].GetRollOut().GetHosts() != 9 {
		t.Errorf("%v, %v", rows, err)
	}
}
