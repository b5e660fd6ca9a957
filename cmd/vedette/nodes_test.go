package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// Ensure that what a cluster says of its nodes is tried after what the context
// says, and that a cache that somebody else wrote adds nothing but addresses.
func TestRemember(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	known := []string{"10.0.0.1:7444"}
	check := func(cluster string, want ...string) {
		t.Helper()
		if got := remembered(cluster, known); !slices.Equal(got, append(known[:1:1], want...)) {
			t.Errorf("%s: got %q, want also %q", cluster, got, want)
		}
	}
	check("c-1")
	members := []*operatorv1.Member{{OperatorAddress: "10.0.0.1:7444"}, {OperatorAddress: "[fd00::2]:7444"}, {Id: "none"}}
	if !remember("c-1", members) {
		t.Fatal("not remembered")
	}
	check("c-1", "[fd00::2]:7444")
	check("c-2")
	if remember("../c-3", members) || remember("", members) || remember("c-4", nil) {
		t.Error("remembered what it should not")
	}
	bad := "no-port\n\n:1\nh:\nh:2\n" + strings.Repeat("x:1\ny:2\n", 10) + strings.Repeat("z", 3*mostCache)
	if err := os.WriteFile(filepath.Join(cache, "vedette", "nodes-c-5"), []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	check("c-5", "h:2", "x:1", "y:2")
}
