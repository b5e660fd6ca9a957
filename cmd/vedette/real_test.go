package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// cluster is three real coordinator nodes as processes on loopback.
type cluster struct {
	t     *testing.T
	dir   string
	bin   string
	nodes map[string]*exec.Cmd
}

// Ensure the program works with the real coordinator, and goes on working when the
// node that it talked to is killed.
func TestRealCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a build of vedette-coordinator, which -short leaves out")
	}
	c := &cluster{t: t, dir: t.TempDir(), nodes: map[string]*exec.Cmd{}}
	if built := os.Getenv("VEDETTE_BIN"); built != "" {
		c.bin = filepath.Join(built, "vedette-coordinator")
	} else {
		if _, err := exec.LookPath("gcc"); err != nil {
			t.Skip("SKIP: needs a C compiler to build vedette-coordinator")
		}
		c.bin = filepath.Join(c.dir, "vedette-coordinator")
		c.must(c.command("go", "build", "-buildvcs=false", "-o", c.bin, "../vedette-coordinator"))
	}

	udp, tcp := free(t)
	c.must(c.command(c.bin, "init", "--data", c.path("n1"), "--id", "n1", "--listen", udp, "--operator-listen", tcp))
	t.Setenv("VEDETTE_CONTEXT_FILE", filepath.Join(c.path("n1"), "admin.context.yaml"))
	c.start("n1")
	// The first node is a node that others can be told of when the record says so.
	c.until("a cluster of one", func() bool {
		out, code := c.vedette("audit", "list")
		return code == 0 && strings.Contains(out, "member-put")
	})
	for _, id := range []string{"n2", "n3"} {
		token, code := c.vedette("token", "create", "--node")
		if code != 0 {
			t.Fatalf("token create ended with %d", code)
		}
		listen, operator := free(t)
		c.must(c.command(c.bin, "join", "--data", c.path(id), "--id", id, "--listen", listen, "--operator-listen", operator,
			"--coordinator", udp, "--token", strings.TrimSpace(token)))
		c.start(id)
	}
	var members []struct {
		ID, Role, State string
	}
	c.until("three members", func() bool {
		out, code := c.vedette("cluster", "members", "-o", "json")
		return code == 0 && json.Unmarshal([]byte(out), &members) == nil && len(members) == 3
	})
	if _, code := c.vedette("config", "update-nodes"); code != 0 {
		t.Fatalf("config update-nodes ended with %d", code)
	}
	for _, tt := range []struct {
		code int
		args []string
	}{
		{0, []string{"host", "list"}},
		{0, []string{"finding", "list"}},
		{0, []string{"incident", "list", "--status", "open"}},
		{0, []string{"isolation", "list", "--active"}},
		{0, []string{"audit", "verify"}},
		{0, []string{"watch", "--timeout", "200ms"}},
		{4, []string{"host", "show", "nobody"}},
		{4, []string{"finding", "show", "nothing"}},
		{4, []string{"incident", "show", "nothing"}},
		{4, []string{"incident", "close", "nothing", "--as", "benign", "--reason", "x"}},
		{4, []string{"isolate", "nobody", "--yes"}},
		{4, []string{"isolate", "--all", "--yes"}},
		{4, []string{"isolation", "list", "--operation", "op-nothing"}},
		{4, []string{"cluster", "remove", "n9", "--yes"}},
		{0, []string{"cluster", "sign-nodes", "--yes"}},
		{0, []string{"cluster", "sign-nodes", "--address", "n4=10.0.0.4:7443", "--yes"}},
		{0, []string{"status"}},
		{0, []string{"intent", "show"}},
		{0, []string{"automation", "off", "--reason", "drill", "--wait"}},
		{0, []string{"automation", "on", "--reason", "drill", "--yes"}},
		{0, []string{"intent", "rollback", "1", "--reason", "drill", "--yes", "--wait"}},
		{0, []string{"intent", "history"}},
		{0, []string{"intent", "scorecard"}},
		{4, []string{"intent", "show", "9"}},
	} {
		if out, code := c.vedette(tt.args...); code != tt.code {
			t.Errorf("vedette %v ended with %d, want %d:\n%s", tt.args, code, tt.code, out)
		}
	}

	c.bundle("all", 0, 3)
	c.rotate(t)
	c.offline(t)

	// The node of the first address is killed, whatever its role.
	c.kill("n1")
	out, code := c.vedette("token", "create")
	if code != 0 {
		t.Fatalf("after a node was killed: exit code %d:\n%s", code, out)
	}
	c.bundle("two", exitPartial, 2)
	if out, code = c.vedette("audit", "verify"); code != 0 {
		t.Errorf("the record after a failover: exit code %d:\n%s", code, out)
	}
	// Without a majority nothing is decided, and the exit code says so; a node itself
	// waits 8 s for a leader before it says that there is none.
	c.kill("n2")
	if out, code = c.vedette("token", "create", "--timeout", "10s"); code != exitUnavailable {
		t.Errorf("without a majority: exit code %d, want %d:\n%s", code, exitUnavailable, out)
	}
}

func (c *cluster) path(id string) string { return filepath.Join(c.dir, id) }

func (c *cluster) command(name string, args ...string) *exec.Cmd {
	return exec.CommandContext(c.t.Context(), name, args...)
}

func (c *cluster) must(cmd *exec.Cmd) {
	c.t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

func (c *cluster) start(id string) {
	c.t.Helper()
	log, err := os.Create(c.path(id) + ".log")
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(c.bin, "--data", c.path(id))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.nodes[id] = cmd
	c.t.Cleanup(func() {
		c.kill(id)
		_ = log.Close()
		if c.t.Failed() {
			raw, _ := os.ReadFile(c.path(id) + ".log")
			c.t.Logf("%s:\n%s", id, raw[max(0, len(raw)-3000):])
		}
	})
}

func (c *cluster) kill(id string) {
	if cmd := c.nodes[id]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		delete(c.nodes, id)
	}
}

// vedette runs the program as a process of its own and returns its stdout, and with
// an exit code other than 0 its stderr too.
func (c *cluster) vedette(args ...string) (string, int) {
	c.t.Helper()
	cmd := c.command(programPath(c.t), args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	code := cmd.ProcessState.ExitCode()
	if err != nil {
		return out.String() + complaint.String(), code
	}
	return out.String(), code
}

func (c *cluster) until(what string, done func() bool) {
	c.t.Helper()
	deadline := time.After(30 * time.Second)
	for !done() {
		select {
		case <-deadline:
			c.t.Fatalf("no %s within 30 s", what)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// programPath is where testscript has put the program under test.
func programPath(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("vedette")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// free finds a UDP and a TCP address that nobody uses.
func free(t *testing.T) (udp, tcp string) {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, tcp = p.LocalAddr().String(), l.Addr().String()
	if err := errors.Join(p.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	return udp, tcp
}

// bundle makes a bundle and looks whether any secret of the cluster is in it: the private
// keys in the context and in the nodes' directories, and a token that was just made.
func (c *cluster) bundle(name string, want, nodes int) {
	c.t.Helper()
	token, code := c.vedette("token", "create")
	if code != 0 {
		c.t.Fatalf("token create ended with %d", code)
	}
	token = strings.TrimSpace(token)
	file := c.path(name + ".tar.gz")
	if out, code := c.vedette("debug", "bundle", "--out", file); code != want {
		c.t.Fatalf("debug bundle ended with %d, want %d:\n%s", code, want, out)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		c.t.Errorf("the bundle: %v, %v", info.Mode(), err)
	}
	secrets := [][]byte{[]byte(token), []byte(token[len(token)-16:])}
	err := filepath.WalkDir(c.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		raw = regexp.MustCompile(`(?m)^ +`).ReplaceAll(raw, nil) // a context is YAML
		for at := bytes.Index(raw, []byte("-----BEGIN ")); err == nil && at >= 0; at = bytes.Index(raw, []byte("-----BEGIN ")) {
			block, rest := pem.Decode(raw[at:])
			if block == nil {
				raw = raw[at+1:]
				continue
			}
			if strings.Contains(block.Type, "PRIVATE KEY") {
				text := strings.Split(string(pem.EncodeToMemory(block)), "\n")
				secrets = append(secrets, block.Bytes, block.Bytes[len(block.Bytes)-32:], []byte(text[1]))
			}
			raw = rest
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if least := 2 + 3*(2+2*3); len(secrets) < least { // two in the context; the authority's and its own at each node
		c.t.Fatalf("found %d forms of secrets, want %d or more", len(secrets), least)
	}
	found := map[string]string{}
	opened, err := os.Open(file)
	if err != nil {
		c.t.Fatal(err)
	}
	defer opened.Close()
	unzipped, err := gzip.NewReader(opened)
	if err != nil {
		c.t.Fatal(err)
	}
	for files := tar.NewReader(unzipped); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			c.t.Fatal(err)
		}
		raw, err := io.ReadAll(files)
		if err != nil {
			c.t.Fatal(err)
		}
		found[header.Name] = string(raw)
		for _, secret := range secrets {
			if bytes.Contains(raw, secret) {
				c.t.Errorf("%s of the bundle has a secret of %d bytes", header.Name, len(secret))
			}
		}
		if bytes.Contains(raw, []byte("PRIVATE KEY")) {
			c.t.Errorf("%s of the bundle speaks of a private key", header.Name)
		}
	}
	own := 0
	for at, text := range found {
		if strings.HasSuffix(at, "/metrics.txt") {
			own++
			if !strings.Contains(text, "\nvedette_ready ") {
				c.t.Errorf("%s: %.200s", at, text)
			}
		}
		// Every file is in the list of what there is.
		if listed := at[strings.LastIndexByte(at, '/')+1:]; listed != "README.txt" && !strings.Contains(found["README.txt"], listed) {
			c.t.Errorf("README.txt says nothing of %s", at)
		}
	}
	if own != nodes || found["status.txt"] == "" || (found["errors.txt"] == "") != (want == 0) {
		c.t.Errorf("the bundle has %d nodes, want %d; errors: %q", own, nodes, found["errors.txt"])
	}
}
