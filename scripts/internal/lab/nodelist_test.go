package lab

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/lab/labtest"
)

// Ensure the only node can be replaced while a host is isolated: the host does not follow
// what the cluster says of itself, follows what an admin signs, and is released by the
// new node when the old one is gone.
func TestNodesReplacedWhileIsolated(t *testing.T) {
	labtest.NeedRoot(t)
	bin, err := labtest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	name := func(part string) string { return fmt.Sprintf("vlab-%s-%d", part, os.Getpid()) }
	sw, err := l.Switch(name("sw"))
	must(err)
	nodes, err := l.Namespace(name("nodes"))
	must(err)
	host, err := l.Namespace(name("host"))
	must(err)
	must(Attach(sw, nodes, "p0", "10.99.0.1/24", "10.99.0.2/24"))
	must(Attach(sw, host, "p1", "10.99.0.9/24"))

	old := NodeSpec{ID: "c1", Listen: "10.99.0.1:7443", Operator: "10.99.0.1:7444", NS: nodes}
	next := NodeSpec{ID: "c2", Listen: "10.99.0.2:7443", Operator: "10.99.0.2:7444", NS: nodes}
	r := &rig{lab: l, ns: host, spec: SensorSpec{
		Name: "web1", Scope: "netns:" + host.Path(), NS: host, SummaryInterval: time.Second, Window: time.Second, KnownWindows: 2, LearnFor: time.Hour,
	}}
	r.cluster, err = l.StartCluster(t.Context(), []NodeSpec{old}, func(string) {})
	must(err)
	r.start(t)
	cli := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := l.Run(nodes, r.cluster.Command(ctx, args...))
		if err != nil {
			t.Fatalf("vedette %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	says := func(words string) {
		t.Helper()
		r.until(t, 30*time.Second, words, func(ctx context.Context) (bool, error) {
			out, err := r.cluster.CLI(ctx, "isolation", "list", "--host", "web1", "-o", "json")
			if err != nil {
				return false, err
			}
			detail, err := r.cluster.CLI(ctx, "isolation", "list", "--host", "web1", "-o", "wide")
			return strings.Contains(string(out)+string(detail), words), err
		})
	}
	cli("isolate", "web1", "--yes", "--wait", "--reason", "a test")

	// The second node joins: the cluster names it, and the host keeps to the first.
	must(r.cluster.join(t.Context(), next))
	must(r.cluster.StartNode(t.Context(), next))
	r.cluster.Nodes = append(r.cluster.Nodes, next)
	r.until(t, 30*time.Second, "the second node", func(ctx context.Context) (bool, error) {
		return true, r.cluster.AllAlive(ctx)
	})
	says("no admin has signed")
	cli("config", "update-nodes")

	if out := cli("cluster", "sign-nodes", "--yes"); !strings.Contains(out, "10.99.0.2:7443") {
		t.Errorf("sign-nodes says:\n%s", out)
	}
	says("follows the list of nodes")
	if _, err := os.Stat(r.state("nodes.signed")); err != nil {
		t.Error(err)
	}
	if out := cli("cluster", "remove", "c1", "--yes"); !strings.Contains(out, "still names it") {
		t.Errorf("remove says:\n%s", out)
	}
	r.cluster.Members["c1"].Kill()
	r.cluster.Nodes = r.cluster.Nodes[1:]
	r.until(t, 30*time.Second, "a cluster of the second node", func(ctx context.Context) (bool, error) {
		return true, r.cluster.answers(ctx)
	})
	cli("cluster", "sign-nodes", "--yes")
	r.until(t, time.Minute, "the host at the second node, by the list without the first", func(ctx context.Context) (bool, error) {
		hosts, err := r.cluster.Hosts(ctx)
		return hosts["web1"].State == "online" && r.logged(t, "isolation follows a signed list", "nodes=[10.99.0.2:7443]") == 1, err
	})
	cli("release", "web1", "--yes", "--wait", "--reason", "done")
	cli("audit", "verify")
}
