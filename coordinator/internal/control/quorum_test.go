package control

import (
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// Ensure no node is removed without which those that are left are no majority.
func TestLeavesQuorum(t *testing.T) {
	for _, tt := range []struct{ name, members, removed, says string }{
		{"one of three", "a+ b+ c+", "c", ""},
		{"the dead one", "a+ b+ c-", "c", ""},
		{"one beside a dead one", "a+ b+ c-", "b", "1 of 2 voters"},
		{"a joining one makes no majority", "a+ b+ c- d?", "b", "bring c back"},
		{"a joining one", "a+ b- c- d?", "d", ""},
		{"one of two", "a+ b+", "b", ""},
		{"a dead one of two", "a+ b-", "b", ""},
		{"one of five, two dead", "a+ b+ c+ d- e-", "c", "bring d, e back"},
		{"a dead one of five, two dead", "a+ b+ c+ d- e-", "e", ""},
		{"no member", "a+ b+ c+", "x", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var members []*operatorv1.Member
			for _, m := range strings.Fields(tt.members) {
				one := &operatorv1.Member{Id: m[:1], Role: "follower", State: "alive"}
				switch m[1:] {
				case "-":
					one.State = "unreachable"
				case "?":
					one.Role = "joining"
				}
				members = append(members, one)
			}
			err := leavesQuorum(members, tt.removed)
			if (err != nil) != (tt.says != "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("removing %s of %s: %v, want %q", tt.removed, tt.members, err, tt.says)
			}
		})
	}
}
