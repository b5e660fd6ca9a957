package clusterlab

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// Ensure a cluster grows from one node to three, loses its founding leader to
// "cluster remove", takes a new machine of the same name in its place, and has
// its record whole after all of it.
func TestClusterMembersChange(t *testing.T) {
	c := newTrio(t, 3, "")
	host := c.enrolRaw(t, "web1")
	push := func() {
		t.Helper()
		if err := host.push(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	push()
	leader := c.leader()
	c.want(c.vedette(c.Context, "cluster", "remove", "n9", "--yes"), 4, `no node "n9"`)
	c.must(c.vedette(c.Context, "cluster", "remove", leader, "--yes"))
	said := c.ends(leader, 20*time.Second)
	if !strings.Contains(said, "removed from its cluster") || !strings.Contains(said, "join again with a new token") {
		t.Errorf("the removed node ended with:\n%s", said)
	}
	members := func(want ...string) {
		t.Helper()
		c.until(15*time.Second, "the members "+strings.Join(want, ", "), func(ctx context.Context) (bool, error) {
			var list []member
			err := c.JSON(ctx, &list, "cluster", "members")
			var ids []string
			for _, m := range list {
				if m.State == "alive" {
					ids = append(ids, m.ID)
				}
			}
			slices.Sort(ids)
			return slices.Equal(ids, want), err
		})
	}
	var rest []string
	var at lab.NodeSpec
	for _, n := range c.Nodes {
		if n.ID != leader {
			rest, at = append(rest, n.ID), n
		}
	}
	members(rest...)
	push()

	// Its old data does not bring it back.
	c.start(leader)
	if said := c.ends(leader, 20*time.Second); !strings.Contains(said, "removed") {
		t.Errorf("the removed node came back:\n%s", said)
	}
	// Neither does a token that is not a node's, nor joining over the old data.
	join := func(token string) ran {
		n := c.node(leader)
		return c.coordinator("join", "--data", c.dir(leader), "--id", leader, "--listen", n.Listen, "--operator-listen", n.Operator,
			"--coordinator", at.Listen, "--token", token)
	}
	token, err := c.Token(t.Context(), "--node")
	if err != nil {
		t.Fatal(err)
	}
	c.want(join(token), 1, "already belongs to a node")
	if err := os.RemoveAll(c.dir(leader)); err != nil {
		t.Fatal(err)
	}
	hostToken, err := c.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.want(join(hostToken), 1, "not a node", "create one of the right kind")
	c.must(join(token))
	c.start(leader)
	members("n1", "n2", "n3")
	push()
	c.converged(t)
	for _, n := range c.Nodes {
		c.must(c.vedette(c.only(n.ID), "audit", "verify"))
	}
	c.checkAuditExport(t)
}

// checkAuditExport proves that an export is checked, and that a changed one is seen.
func (c *trio) checkAuditExport(t *testing.T) {
	t.Helper()
	export := c.must(c.vedette(c.Context, "audit", "list", "-o", "jsonl")).out
	lines := strings.Split(strings.TrimSpace(export), "\n")
	if len(lines) < 8 {
		t.Fatalf("only %d entries:\n%s", len(lines), export)
	}
	check := func(name string, want int, lines []string) {
		t.Helper()
		path := t.TempDir() + "/audit.jsonl"
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := c.vedette(c.Context, "audit", "verify", "--file", path)
		if r.code != want {
			t.Errorf("%s: %s", name, r)
		}
	}
	check("as it is", 0, lines)
	changed := slices.Clone(lines)
	changed[4] = strings.Replace(changed[4], `"actor":"`, `"actor":"x`, 1)
	check("one actor changed", 1, changed)
	check("one entry gone", 1, slices.Delete(slices.Clone(lines), 4, 5))
	swapped := slices.Clone(lines)
	swapped[4], swapped[5] = swapped[5], swapped[4]
	check("two entries swapped", 1, swapped)
}
