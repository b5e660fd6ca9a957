package clusterlab

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Ensure the CLI tells within a moment what a node without a majority knows, and
// what to do, and that a context which names a dead node first goes on.
func TestClusterWithoutMajority(t *testing.T) {
	c := newTrio(t, 3, "")
	founder := c.Founder()               // knows n1 alone
	c.must(c.vedette(founder, "status")) // remembers the others
	c.Members["n1"].Kill()
	c.must(c.vedette(founder, "cluster", "members"))
	c.leader()
	c.must(c.vedette(founder, "token", "create"))

	c.Members["n2"].Kill()
	// At once, when n3 may still believe in its leader, and later.
	for began := time.Now(); time.Since(began) < 5*time.Second; {
		var s status
		r := c.asks(c.Context, &s, "status")
		if r.took > 3*time.Second {
			t.Errorf("status took %s, want ≤ 3 s", r.took)
		}
		c.want(r, 6, "majority")
		if told := strings.Join(s.Problems, "\n"); s.NodeID != "n3" || s.LeaderID != "" || !strings.Contains(told, "2 of 3 nodes do not answer") {
			t.Fatalf("got %+v, want what n3 knows", s)
		}
	}
	for _, args := range [][]string{
		{"token", "create"}, {"isolation", "list"}, {"audit", "verify"}, {"cluster", "remove", "n1", "--yes"},
	} {
		r := c.vedette(c.Context, args...)
		c.want(r, 6, "no leader", "vedette status")
		if r.took > 12*time.Second {
			t.Errorf("%v took %s", r.args, r.took)
		}
	}
	for _, args := range [][]string{{"cluster", "members"}, {"host", "list"}, {"finding", "list"}, {"incident", "list"}} {
		c.want(c.vedette(c.Context, args...), 0)
	}

	c.Members["n3"].Kill()
	c.want(c.vedette(c.Context, "status"), 6, "no node is reachable", "get-contexts")
	for _, n := range c.Nodes {
		c.start(n.ID)
	}
	c.until(20*time.Second, "a leader", func(context.Context) (bool, error) { return c.vedette(c.Context, "status").code == 0, nil })
}

// Ensure nobody does what their certificate does not allow, nor with another cluster's.
func TestClusterDeniesStrangers(t *testing.T) {
	c, other := newTrio(t, 1, ""), newTrio(t, 1, "")
	host := c.enrolRaw(t, "web1")
	if err := host.push(t.Context()); err != nil {
		t.Fatal(err)
	}
	node := c.Nodes[0].Operator
	isolate := []string{"isolate", host.id, "--yes", "--reason", "test"}
	for role, want := range map[string]int{"viewer": 5, "hunter": 5, "responder": 0} {
		r := c.vedette(c.contextOf("a-"+role, role, node), isolate...)
		c.want(r, want)
		if want == 5 {
			c.want(r, 5, "denied", "responder")
		}
	}
	for _, args := range [][]string{{"token", "create"}, {"cluster", "remove", "n1", "--yes"}} {
		c.want(c.vedette(c.contextOf("a-responder", "responder", node), args...), 5, "admin")
	}
	// The other cluster's operator and CA, and the other's operator with our CA.
	foreign := other.contextOf("foreign", "admin", node)
	c.want(c.vedette(foreign, "status"), 1, "not trusted")
	mixed := mixContexts(t, c.Context, foreign)
	c.want(c.vedette(mixed, "status"), 5, "certificate", "ask an admin")
	if err := os.Chmod(mixed, 0o644); err != nil {
		t.Fatal(err)
	}
	c.want(c.vedette(mixed, "status"), 1, "chmod 600")
}

// mixContexts makes a context of one's authority and the other's identity.
func mixContexts(t *testing.T, authority, who string) string {
	t.Helper()
	part := func(path, key string) string {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, ok := strings.Cut("\n"+string(raw), "\n"+key+":")
		if !ok {
			t.Fatalf("no %s in %s", key, path)
		}
		lines := strings.Split(rest, "\n")
		text := key + ":" + lines[0] + "\n"
		for _, line := range lines[1:] {
			if !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "-") {
				break
			}
			text += line + "\n"
		}
		return text
	}
	text := part(authority, "name") + part(authority, "nodes") + part(authority, "ca") + part(authority, "operators") + part(authority, "cluster_id") +
		part(who, "certificate") + part(who, "key") + part(who, "operator") + part(who, "role")
	path := filepath.Join(t.TempDir(), "mixed.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
