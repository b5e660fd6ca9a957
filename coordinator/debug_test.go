package coordinator_test

import (
	"bytes"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/client"
)

var indent = regexp.MustCompile(`(?m)^ +`)

// secrets are the private keys below a directory, each as text and as bytes.
func secrets(t *testing.T, dir string) (found [][]byte) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		raw = indent.ReplaceAll(raw, nil) // a context is YAML
		for err == nil {
			at := bytes.Index(raw, []byte("-----BEGIN "))
			if at < 0 {
				break
			}
			block, rest := pem.Decode(raw[at:])
			if block == nil {
				raw = raw[at+1:]
				continue
			}
			if strings.Contains(block.Type, "PRIVATE KEY") {
				text := strings.Split(string(pem.EncodeToMemory(block)), "\n")
				found = append(found, block.Bytes, block.Bytes[len(block.Bytes)-32:], []byte(text[1]))
			}
			raw = rest
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Ensure a node tells an admin what helps to find a fault, without another node's help,
// and no secret of its own with it; and tells nobody else.
func TestDebugInfo(t *testing.T) {
	c := startCluster(t, 2)
	token := c.token("sensor")
	c.nodes[1].stop()
	admin := *c.admin
	admin.Nodes = []string{c.nodes[0].cfg.OperatorListen}
	api, err := client.New(&admin, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	eventually(t, "a warning is kept", func() error {
		_, err := api.DebugInfo(t.Context())
		return err
	})
	info, err := api.DebugInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ what, have, text string }{
		{"node", info.GetNodeId(), "n1"}, {"metrics", info.GetMetrics(), "\nvedette_applied_index "}, {"health", info.GetHealth(), "healthy"},
		{"readiness", info.GetReadiness(), "ready: "}, {"configuration", info.GetConfiguration(), "operator_listen: " + c.nodes[0].cfg.OperatorListen},
		{"build", info.GetBuild(), "go1."}, {"goroutines", info.GetGoroutines(), "coordinator.(*Coordinator).Run"},
	} {
		if !strings.Contains(want.have, want.text) {
			t.Errorf("%s: got %.200q, want it to have %q", want.what, want.have, want.text)
		}
	}
	warned := false
	for _, l := range info.GetLog() {
		warned = warned || l.GetLevel() == "warn" && strings.Contains(l.GetText(), "the first admin's context lies on this node")
	}
	if !warned {
		t.Errorf("the log's warnings: %v", info.GetLog())
	}
	raw, err := proto.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	keys := append(secrets(t, c.nodes[0].cfg.Data), []byte(token), []byte(token[len(token)-12:]))
	if len(keys) < 4*3+2 {
		t.Fatalf("found %d forms of secrets in %s: the keys of authority, node, operators and admin have three each", len(keys), c.nodes[0].cfg.Data)
	}
	for _, key := range keys {
		if bytes.Contains(raw, key) {
			t.Errorf("a secret of %d bytes is in what the node tells", len(key))
		}
	}
}
