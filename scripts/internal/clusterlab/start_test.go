package clusterlab

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Ensure a node that cannot start says why and what to do.
func TestClusterNodeRefusesToStart(t *testing.T) {
	c := newTrio(t, 1, "")
	other := newTrio(t, 1, "")
	n := c.Nodes[0]
	dir := c.dir("n1")
	config := filepath.Join(dir, "coordinator.yaml")
	free := func() (listen, operator string) { s := c.spec(t, "x"); return s.Listen, s.Operator }

	listen, operator := free()
	c.want(c.coordinator("--config", config, "--listen", listen, "--operator-listen", operator), 1, "another", dir)

	stopped := c.Members["n1"]
	if err := stopped.Stop(); err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", n.Listen)
	if err != nil {
		t.Fatal(err)
	}
	c.want(c.coordinator("--config", config), 1, n.Listen, "ss -ulpn")
	_ = udp.Close()
	tcp, err := net.Listen("tcp", n.Operator)
	if err != nil {
		t.Fatal(err)
	}
	c.want(c.coordinator("--config", config), 1, n.Operator, "ss -ltnp")
	_ = tcp.Close()

	for _, key := range []string{"node.key", "ca.key"} {
		path := filepath.Join(dir, key)
		chmod(t, path, 0o640)
		c.want(c.coordinator("--config", config), 1, "chmod 600 "+path)
		chmod(t, path, 0o600)
	}

	// Another cluster's state below this one's identity, and a mixture of identities.
	// A node that is stopped before it has made its cluster has the state of none.
	other.until(15*time.Second, "the other cluster to be made", func(ctx context.Context) (bool, error) {
		out, err := other.CLI(ctx, "audit", "list")
		return strings.Contains(string(out), "member-put"), err
	})
	if err := other.Members["n1"].Stop(); err != nil {
		t.Fatal(err)
	}
	swap := func(name string) (back func()) {
		t.Helper()
		mine := filepath.Join(dir, name)
		if err := os.Rename(mine, mine+".mine"); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-a", filepath.Join(other.dir("n1"), name), mine).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return func() {
			if err := os.RemoveAll(mine); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(mine+".mine", mine); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, want := range map[string]string{"ca.key": "different clusters", "node.key": "different clusters", "ca.crt": "different clusters", "cluster.json": "different clusters"} {
		back := swap(name)
		c.want(c.coordinator("--config", config), 1, want)
		back()
	}
	backRaft, backState := swap("raft"), swap("state.db")
	c.want(c.coordinator("--config", config), 1, "another cluster")
	backRaft()
	backState()

	c.start("n1")
	c.until(10*time.Second, "the node to serve again", c.serves)
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
