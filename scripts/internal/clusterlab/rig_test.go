package clusterlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/lab"
	"github.com/vedette-edr/vedette/scripts/internal/lab/labtest"
)

// trio is a cluster of real nodes on loopback: of the machine, or of a namespace.
type trio struct {
	t testing.TB
	*lab.Cluster
	lab *lab.Lab
	ns  *lab.Namespace
	// ballast makes every summary of a writer so many bytes larger.
	ballast int
}

// newTrio starts a cluster of n nodes. The namespace may be nil: nodes alone need no root.
func newTrio(t *testing.T, n int, named string) *trio {
	t.Helper()
	return newTrioOn(t, n, named, func(*lab.Lab) error { return nil })
}

// newTrioOn is newTrio on disks that prepare makes.
func newTrioOn(t *testing.T, n int, named string, prepare func(*lab.Lab) error) *trio {
	t.Helper()
	bin, err := labtest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &trio{t: t, lab: l}
	if err := prepare(l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && c.Cluster != nil {
			for id, p := range c.Members {
				t.Logf("%s said:\n%s", id, p.Tail())
			}
		}
	})
	if named != "" {
		if c.ns, err = l.Namespace(fmt.Sprintf("%s-%d", named, os.Getpid())); err != nil {
			t.Fatal(err)
		}
	}
	var specs []lab.NodeSpec
	for i := range n {
		specs = append(specs, c.spec(t, fmt.Sprintf("n%d", i+1)))
	}
	if c.Cluster, err = l.StartCluster(t.Context(), specs, func(string) {}); err != nil {
		t.Fatal(err)
	}
	return c
}

// spec is a node that does not exist yet, on free ports.
func (c *trio) spec(t *testing.T, id string) lab.NodeSpec {
	t.Helper()
	return lab.NodeSpec{ID: id, Listen: "127.0.0.1:" + labtest.FreePort(t, c.ns.Do, "udp"), Operator: "127.0.0.1:" + labtest.FreePort(t, c.ns.Do, "tcp"), NS: c.ns}
}

func (c *trio) node(id string) lab.NodeSpec {
	for _, n := range c.Nodes {
		if n.ID == id {
			return n
		}
	}
	c.t.Fatalf("no node %q", id)
	return lab.NodeSpec{}
}

func (c *trio) dir(id string) string { return c.lab.NodeDir(id) }

func (c *trio) until(most time.Duration, what string, holds func(context.Context) (bool, error)) {
	c.t.Helper()
	ctx, cancel := context.WithTimeoutCause(c.t.Context(), most, fmt.Errorf("not within %s", most))
	defer cancel()
	if err := lab.Until(ctx, 50*time.Millisecond, what, holds); err != nil {
		c.t.Fatal(err)
	}
}

// start starts a node again.
func (c *trio) start(id string) {
	c.t.Helper()
	if err := c.StartNode(c.t.Context(), c.node(id)); err != nil {
		c.t.Fatal(err)
	}
}

// alive waits until every node is a member that answers.
func (c *trio) alive() {
	c.t.Helper()
	if err := c.AllAlive(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

// ends waits until a node ends by itself and returns the end of its log.
func (c *trio) ends(id string, most time.Duration) string {
	c.t.Helper()
	p := c.Members[id]
	select {
	case <-p.Exited():
	case <-time.After(most):
		c.t.Fatalf("%s still runs after %s; it said:\n%s", id, most, p.Tail())
	}
	return p.Tail()
}

// said waits until a node's log holds a text.
func (c *trio) said(id, text string, most time.Duration) {
	c.t.Helper()
	c.until(most, fmt.Sprintf("%s to say %q", id, text), func(context.Context) (bool, error) {
		raw, err := os.ReadFile(c.Members[id].LogPath)
		return strings.Contains(string(raw), text), err
	})
}

// status is what "vedette status -o json" says.
type status struct {
	NodeID   string   `json:"node_id"`
	LeaderID string   `json:"leader_id"`
	Applied  uint64   `json:"applied_index"`
	Problems []string `json:"problems"`
	Members  []member `json:"members"`
}

type member struct {
	ID       string `json:"id"`
	Role     string `json:"role"`
	State    string `json:"state"`
	Applied  uint64 `json:"applied_index"`
	Operator string `json:"operator_address"`
}

func (c *trio) leader() string {
	c.t.Helper()
	var s status
	c.until(15*time.Second, "a leader", func(ctx context.Context) (bool, error) {
		err := c.JSON(ctx, &s, "status")
		return s.LeaderID != "" && err == nil, err
	})
	return s.LeaderID
}

// followers are the nodes that do not lead.
func (c *trio) followers() []string {
	leader := c.leader()
	var ids []string
	for _, n := range c.Nodes {
		if n.ID != leader {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

// only is a context file that knows one node alone, to ask that node and no other.
func (c *trio) only(id string) string {
	c.t.Helper()
	return c.contextOf("only-"+id, "admin", c.node(id).Operator)
}

// contextOf makes an operator's context file with the first admin's authority, once.
func (c *trio) contextOf(name, role string, nodes ...string) string {
	c.t.Helper()
	path := filepath.Join(c.lab.Dir, name+".context.yaml")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	args := []string{"operator", "create", name, "--role", role, "--out", path}
	for _, n := range nodes {
		args = append(args, "--node", n)
	}
	c.must(c.vedette(c.Founder(), args...))
	return path
}

// ran is what a program said and how it ended.
type ran struct {
	args     []string
	out, err string
	code     int
	took     time.Duration
}

func (r ran) String() string {
	return fmt.Sprintf("%v: exit %d after %s\nstdout: %s\nstderr: %s", r.args, r.code, r.took.Round(time.Millisecond), r.out, r.err)
}

func (c *trio) run(cmd *exec.Cmd) ran {
	c.t.Helper()
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	began := time.Now()
	err := c.ns.Do(cmd.Run)
	r := ran{args: append([]string{filepath.Base(cmd.Path)}, cmd.Args[1:]...), out: out.String(), err: complaint.String(), took: time.Since(began)}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		c.t.Fatalf("running %v: %v", r.args, err)
	}
	return r
}

func (c *trio) must(r ran) ran {
	c.t.Helper()
	if r.code != 0 {
		c.t.Fatal(r)
	}
	return r
}

// want fails unless the program ended with the code and said every text on standard error.
func (c *trio) want(r ran, code int, texts ...string) {
	c.t.Helper()
	if r.code != code {
		c.t.Errorf("got exit %d, want %d: %s", r.code, code, r)
	}
	for _, text := range texts {
		if !strings.Contains(r.err, text) {
			c.t.Errorf("it does not say %q: %s", text, r)
		}
	}
}

// vedette runs the CLI with a context file.
func (c *trio) vedette(contextFile string, args ...string) ran {
	c.t.Helper()
	cmd := c.Command(c.t.Context(), args...)
	cmd.Env = append(cmd.Env, "VEDETTE_CONTEXT_FILE="+contextFile)
	return c.run(cmd)
}

// asks is vedette with -o json into v.
func (c *trio) asks(contextFile string, v any, args ...string) ran {
	c.t.Helper()
	r := c.vedette(contextFile, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(r.out), v); err != nil {
		c.t.Fatalf("%v: %s", err, r)
	}
	return r
}

// coordinator runs vedette-coordinator to its end, for at most half a minute.
func (c *trio) coordinator(args ...string) ran {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	return c.run(exec.CommandContext(ctx, filepath.Join(c.lab.Bin, "vedette-coordinator"), args...))
}

// serves says whether the cluster answers and leads.
func (c *trio) serves(ctx context.Context) (bool, error) {
	var s status
	err := c.JSON(ctx, &s, "status")
	return err == nil && s.LeaderID != "", err
}
