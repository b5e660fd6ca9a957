package coordinator_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a node tells of an incident that a sensor's finding opened, and does not start
// with a program that others can change.
func TestNotify(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root (the program must belong to it)")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "tell")
	if err := os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\nexec cat >>%s/told\n", dir), 0o755); err != nil { //nolint:gosec // to be executed
		t.Fatal(err)
	}
	cfg := newConfig(t, "n1")
	path, err := coordinator.Init(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for says, notify := range map[string]coordinator.NotifyConfig{
		"absolute path": {Program: "tell"}, "events without a program": {Events: []string{"window"}}, `"windows" is none of`: {Program: program, Events: []string{"windows"}},
		"belong to root|writable by root alone|no such file": {Program: "/proc/self/fd/99"},
	} {
		cfg.Notify = notify
		if _, err := coordinator.New(cfg); err == nil || !anyOf(err.Error(), says) {
			t.Errorf("%v: got %v, want %s", notify, err, says)
		}
	}
	cfg.Notify = coordinator.NotifyConfig{Program: program, Events: []string{"incident"}}
	c := &testCluster{t: t, nodes: []*testNode{start(t, cfg)}}
	if c.admin, err = client.LoadContext(path, ""); err != nil {
		t.Fatal(err)
	}
	c.connect()
	eventually(t, "a leader", func() error {
		_, err := c.api.Members(t.Context())
		return err
	})
	sensor, boot := c.enrol(0), newBoot()
	session, _ := sensor.open(c.nodes[0].cfg.Advertise, boot)
	session.batch(boot, 0, finding(1, &sensorv1.Finding{Title: "Shell from a service", Severity: "high", Score: 80, Storyline: "10.1",
		Process: &sensorv1.Process{Pid: 11, Image: []byte("/bin/sh")}}))
	session.wantAck(1)
	eventually(t, "the program", func() error {
		raw, err := os.ReadFile(filepath.Join(dir, "told"))
		if err == nil && (bytes.Count(raw, []byte("\n")) != 1 || !bytes.Contains(raw, []byte(`"event":"incident"`)) || !bytes.Contains(raw, []byte(`"name":"web-1"`))) {
			err = fmt.Errorf("told %s", raw)
		}
		return err
	})
}

func anyOf(text, alternatives string) bool {
	for _, one := range strings.Split(alternatives, "|") {
		if strings.Contains(text, one) {
			return true
		}
	}
	return false
}
