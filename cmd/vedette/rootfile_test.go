package main

import (
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operator"
)

// Ensure an admin hears in time that the root's file will be needed, and only then.
func TestOwnAuthorityEnds(t *testing.T) {
	root, err := operator.New("c-test")
	if err != nil {
		t.Fatal(err)
	}
	first, err := client.FirstContext(root, linktest.NewCA(t).Certificate, "c-test", "admin", nil)
	if err != nil {
		t.Fatal(err)
	}
	ann, err := first.NewOperator(client.NewOperator{Name: "ann", Role: operator.RoleAdmin, Authority: true})
	if err != nil {
		t.Fatal(err)
	}
	bob, err := ann.NewOperator(client.NewOperator{Name: "bob", Role: operator.RoleResponder})
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(operator.Lifetime)
	for _, tt := range []struct {
		who    *client.Context
		before time.Duration
		want   bool
	}{
		{ann, authorityEndsSoon + time.Hour, false}, {ann, authorityEndsSoon - time.Hour, true}, {ann, -time.Hour, true},
		{first, time.Hour, false}, {bob, time.Hour, false},
	} {
		said, soon := ownAuthorityEnds(tt.who, end.Add(-tt.before))
		if soon != tt.want || soon != strings.Contains(said, "renew-mine --root FILE") {
			t.Errorf("%s, %s before its end: %v, %q", tt.who.Operator, tt.before, soon, said)
		}
	}
}
