package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rotate has the cluster's authority followed by another one, by what a person types, and
// the operators' renewed. The context in use follows; one that did not finds back.
func (c *cluster) rotate(t *testing.T) {
	t.Helper()
	run := func(code int, args ...string) string {
		t.Helper()
		out, got := c.vedette(append([]string{"cluster", "root"}, args...)...)
		if got != code {
			t.Fatalf("vedette cluster root %v ended with %d, want %d:\n%s", args, got, code, out)
		}
		return out
	}
	type root struct {
		Root  string `json:"root"`
		Shown bool   `json:"shown"`
		Signs bool   `json:"signs"`
	}
	list := func() (roots []root) {
		t.Helper()
		if err := json.Unmarshal([]byte(run(0, "list", "-o", "json")), &roots); err != nil {
			t.Fatal(err)
		}
		return roots
	}
	path := os.Getenv("VEDETTE_CONTEXT_FILE")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(c.dir, "stale.yaml")
	if err := os.WriteFile(stale, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	old := list()
	if len(old) != 1 || !old[0].Shown || !old[0].Signs {
		t.Fatalf("before: %v", old)
	}
	run(4, "export")
	run(2, "rotate", "--yes")
	run(2, "rotate", "--reason", "drill")
	run(2, "retire", old[0].Root, "--reason", "drill", "--yes")
	run(0, "rotate", "--reason", "drill", "--dry-run")
	if now := list(); len(now) != 1 {
		t.Fatalf("a dry run left %v", now)
	}
	run(0, "rotate", "--reason", "drill", "--yes")
	if now := list(); len(now) != 2 || now[0].Root != old[0].Root || !now[0].Shown || !now[1].Signs {
		t.Fatalf("rotated: %v", now)
	}
	run(0, "rotate", "--back", "--reason", "drill", "--yes")
	run(0, "rotate", "--reason", "drill", "--yes") // on again where it was
	run(4, "retire", "zzz", "--reason", "drill", "--yes")
	run(0, "retire", old[0].Root, "--reason", "drill", "--yes")
	if now := list(); len(now) != 1 || now[0].Root == old[0].Root || !now[0].Shown {
		t.Fatalf("retired: %v", now)
	}
	run(0, "renew-operators", "--reason", "drill", "--yes")
	c.until("all nodes have the list", func() bool {
		out := run(0, "status")
		return strings.Contains(out, "n3") && !strings.Contains(out, "node n1                         has epoch") && strings.Count(out, "has it") >= 3
	})
	if out, code := c.vedette("audit", "verify"); code != 0 {
		t.Errorf("audit verify ended with %d: %s", code, out)
	}
	file := filepath.Join(c.dir, "trust.txt")
	if err := os.WriteFile(file, []byte(run(0, "export")), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VEDETTE_CONTEXT_FILE", stale)
	c.until("a context that did not follow to be told so", func() bool {
		_, code := c.vedette("status")
		return code != 0
	})
	run(0, "import", file)
	if out, code := c.vedette("status"); code != 0 {
		t.Errorf("after the import: %d: %s", code, out)
	}
	t.Setenv("VEDETTE_CONTEXT_FILE", path)
}
