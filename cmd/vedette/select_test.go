package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// Ensure an id is one host's, whoever else calls itself so.
func TestMissing(t *testing.T) {
	hosts := []*operatorv1.Host{{Id: "h-1", Name: "h-2"}, {Id: "h-2", Name: "web1"}, {Id: "h-3", Name: "twin"}, {Id: "h-4", Name: "twin"}}
	for _, tt := range []struct {
		names     []string
		absent    []string
		ambiguous string
	}{
		{names: []string{"h-2", "h-1"}},
		{names: []string{"web1"}},
		{names: []string{"web9", "h-9"}, absent: []string{"web9", "h-9"}},
		{names: []string{"twin"}, ambiguous: "h-3, h-4"},
	} {
		absent, err := missing(tt.names, hosts)
		if !slices.Equal(absent, tt.absent) || (err != nil) != (tt.ambiguous != "") || err != nil && !strings.Contains(err.Error(), tt.ambiguous) {
			t.Errorf("%v: missing %v, %v", tt.names, absent, err)
		}
	}
}

// Ensure the question before a node is removed counts those who vote, and says what a node is
// that is no member.
func TestRemovalAsks(t *testing.T) {
	members := []*operatorv1.Member{{Id: "n1", Role: "leader", State: "alive"}, {Id: "n2", Role: "follower", State: "alive"},
		{Id: "n3", Role: "follower", State: "unreachable"}, {Id: "n4", Role: "joining", State: "alive"}}
	for id, want := range map[string]string{
		"n2": "of the 2 others who vote, 1 are alive",
		"n4": "of the 3 others who vote, 2 are alive",
		"n9": "enrolled and never ran",
	} {
		if got := removal(members, id); !strings.Contains(got, want) {
			t.Errorf("%s: %q does not say %q", id, got, want)
		}
	}
}
