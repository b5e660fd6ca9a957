package coordinator_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/backup"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// backup takes one, with the cluster's key or without, as the CLI would write it.
func (c *testCluster) backup(identity bool) string {
	c.t.Helper()
	var plain bytes.Buffer
	if err := c.api.Backup(c.t.Context(), identity, &plain); err != nil {
		c.t.Fatalf("backup: %v", err)
	}
	path := filepath.Join(c.t.TempDir(), "backup")
	if err := os.WriteFile(path, plain.Bytes(), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// titles are those of all findings of the cluster, sorted.
func (c *testCluster) titles() (titles []string) {
	c.t.Helper()
	for f, err := range c.api.Findings(c.t.Context(), &operatorv1.ListFindingsRequest{}) {
		if err != nil {
			c.t.Fatal(err)
		}
		titles = append(titles, f.GetFinding().GetTitle())
	}
	slices.Sort(titles)
	return titles
}

// audited are the actions in the audit record, which client verifies as a chain.
func (c *testCluster) audited() (entries []*operatorv1.AuditEntry) {
	c.t.Helper()
	for e, err := range c.api.Audit(c.t.Context(), 0) {
		if err != nil {
			c.t.Fatalf("audit: %v", err)
		}
		entries = append(entries, e)
	}
	return entries
}

func has(entries []*operatorv1.AuditEntry, action, subject string) bool {
	return slices.ContainsFunc(entries, func(e *operatorv1.AuditEntry) bool { return e.GetAction() == action && e.GetSubject() == subject })
}

// rebuilt makes c the cluster of one node that cfg describes.
func (c *testCluster) rebuilt(cfg coordinator.Config) {
	c.t.Helper()
	c.nodes = []*testNode{start(c.t, cfg)}
	c.connect()
	eventually(c.t, "a leader", func() error {
		st, err := c.api.Status(c.t.Context())
		if err == nil && st.GetLeaderId() != cfg.ID {
			err = errors.New("none")
		}
		return err
	})
}

func titled(sequence uint64, title string) *sensorv1.Record {
	return finding(sequence, &sensorv1.Finding{Title: title, Storyline: "1.1"})
}

// Ensure a cluster that is restored from a backup knows what it knew, that hosts come back
// to it with the certificates that they have, that nothing is there twice, that what came
// after the backup is stated as missing, and that other nodes can join it.
func TestRestoreCluster(t *testing.T) {
	c := startCluster(t, 3)
	sensor, boot := c.enrol(0), newBoot()
	session, _ := sensor.open(c.nodes[0].cfg.Advertise, boot)
	session.batch(boot, 0, titled(1, "a"), titled(2, "b"))
	session.wantAck(2)
	unused := c.token("sensor") // spent after the backup, perhaps
	file := c.backup(true)
	if !has(c.audited(), "cluster-backup", "state and authority key") {
		t.Error("the audit does not say who took a backup")
	}
	session.batch(boot, 2, titled(3, "late"))
	session.wantAck(3)
	for _, n := range c.nodes {
		n.stop()
	}

	cfg := newConfig(t, "r1")
	if _, err := coordinator.Restore(t.Context(), cfg, coordinator.RestoreFrom{File: file}); err != nil {
		t.Fatalf("restoring: %v", err)
	}
	c.rebuilt(cfg)
	if got := c.titles(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("findings: %v", got)
	}
	again, welcome := sensor.open(cfg.Listen, boot)
	if welcome.GetHostId() != sensor.id || welcome.GetAcked() != 2 {
		t.Errorf("the host is welcomed as %s at %d", welcome.GetHostId(), welcome.GetAcked())
	}
	// It has dropped 3, which was acknowledged; what it sends says that nobody has it.
	again.batch(boot, 2, titled(4, "after"))
	again.wantAck(4)
	// A repetition of what is in the backup changes nothing.
	again.batch(boot, 0, titled(1, "a"), titled(2, "b"))
	again.wantAck(4)
	if got := c.titles(); !slices.Equal(got, []string{"a", "after", "b"}) {
		t.Errorf("findings: %v", got)
	}
	host, err := c.api.Host(t.Context(), sensor.id)
	if err != nil || !slices.ContainsFunc(host.GetHost().GetLosses(), func(l *sensorv1.Loss) bool { return l.GetCause() == "restored-from-backup" && l.GetCount() == 1 }) {
		t.Errorf("the host's losses do not say it: %v, %v", host.GetHost().GetLosses(), err)
	}
	if entries := c.audited(); !has(entries, "cluster-restore", "r1") || !has(entries, "cluster-backup", "state and authority key") {
		t.Errorf("audit: %v", entries)
	}
	token, _, request := enrolRequest(t, unused)
	if reply, err := ask(t, cfg.Listen, token.CA, request); err != nil || reply.GetRefusal().GetCode() != "bad-token" {
		t.Errorf("a join token of before: %v, %v", reply, err)
	}
	// An order goes out, and its place is behind whatever hosts may have been told.
	seen, err := c.api.PreviewOrder(t.Context(), &operatorv1.PreviewOrderRequest{Selector: &operatorv1.Selector{Ids: []string{sensor.id}}, Action: sensorv1.Action_ACTION_ISOLATE})
	if err != nil || len(seen.GetHosts()) != 1 {
		t.Errorf("preview: %v, %v", seen, err)
	}
	second := newConfig(t, "r2")
	if err := coordinator.Join(t.Context(), second, cfg.Listen, c.token("node")); err != nil {
		t.Fatalf("joining: %v", err)
	}
	c.nodes = append(c.nodes, start(t, second))
	eventually(t, "the second node", func() error {
		members, err := c.api.Members(t.Context())
		for _, m := range members {
			if m.GetId() == "r2" && m.GetState() == "alive" && m.GetAppliedIndex() > 0 {
				return nil
			}
		}
		return errors.Join(err, errors.New("not there"))
	})
	// A restart finds everything where it was.
	c.nodes[1].stop()
	c.nodes[0].stop()
	c.nodes = []*testNode{start(t, c.nodes[0].cfg), start(t, c.nodes[1].cfg)}
	c.connect()
	eventually(t, "the findings after a restart", func() error {
		if _, err := c.api.Status(t.Context()); err != nil {
			return err
		}
		if got := c.titles(); !slices.Equal(got, []string{"a", "after", "b"}) {
			return errors.New(strings.Join(got, " "))
		}
		return nil
	})
}

// Ensure a restore changes nothing unless all is well, and says what to do.
func TestRestoreRefuses(t *testing.T) {
	c := startCluster(t, 1)
	eventually(t, "a state", func() error { _, err := c.api.CreateToken(t.Context(), &operatorv1.CreateTokenRequest{}); return err })
	whole, bare := c.backup(true), c.backup(false)
	good, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(bare); err != nil || bytes.Contains(raw, []byte("PRIVATE KEY")) {
		t.Fatalf("a backup without identity holds a private key (%v)", err)
	}
	spoilt := func(change func([]byte) []byte) string {
		path := filepath.Join(t.TempDir(), "spoilt")
		if err := os.WriteFile(path, change(bytes.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	flip := func(at int) string {
		return spoilt(func(b []byte) []byte { b[at] ^= 4; return b })
	}
	foreign := startCluster(t, 1)
	for _, tt := range []struct {
		name string
		from coordinator.RestoreFrom
		want error
		says string
	}{
		{"torn", coordinator.RestoreFrom{File: spoilt(func(b []byte) []byte { return b[:len(b)/2] })}, backup.ErrDamaged, ""},
		{"without its end", coordinator.RestoreFrom{File: spoilt(func(b []byte) []byte { return b[:len(b)-1] })}, backup.ErrDamaged, ""},
		{"flipped in the middle", coordinator.RestoreFrom{File: flip(len(good) / 2)}, backup.ErrDamaged, ""},
		{"flipped at its end", coordinator.RestoreFrom{File: flip(len(good) - 1)}, backup.ErrDamaged, "checksum"},
		{"no backup", coordinator.RestoreFrom{File: os.Args[0]}, backup.ErrNot, ""},
		{"no file", coordinator.RestoreFrom{File: whole + ".not"}, os.ErrNotExist, ""},
		{"no key", coordinator.RestoreFrom{File: bare}, coordinator.ErrNoKey, "--identity-from"},
		{"key of another cluster", coordinator.RestoreFrom{File: bare, IdentityFrom: foreign.nodes[0].cfg.Data}, coordinator.ErrOtherCluster, ""},
	} {
		cfg := newConfig(t, "r1")
		_, err := coordinator.Restore(t.Context(), cfg, tt.from)
		if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
		if _, err := os.Stat(cfg.Data); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: it left %s", tt.name, cfg.Data)
		}
	}
	full := newConfig(t, "r1")
	full.Data = filepath.Dir(whole)
	if _, err := coordinator.Restore(t.Context(), full, coordinator.RestoreFrom{File: whole}); !errors.Is(err, coordinator.ErrNotEmpty) || !strings.Contains(err.Error(), "backup") {
		t.Errorf("a directory that is not empty: %v", err)
	}
	running := c.nodes[0].cfg
	if _, err := coordinator.Restore(t.Context(), running, coordinator.RestoreFrom{File: whole}); !errors.Is(err, coordinator.ErrInitialised) {
		t.Errorf("a node's directory: %v", err)
	}

	// Without the key, any old data directory has it; and a new one is a new one.
	c.nodes[0].stop()
	for name, from := range map[string]coordinator.RestoreFrom{
		"from a node":   {File: bare, IdentityFrom: c.nodes[0].cfg.Data},
		"new authority": {File: bare, NewAuthority: true},
	} {
		cfg := newConfig(t, "r1")
		if err := os.MkdirAll(filepath.Join(cfg.Data, ".restoring", "raft"), 0o700); err != nil { // of an interrupted one
			t.Fatal(err)
		}
		if _, err := coordinator.Restore(t.Context(), cfg, from); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		old, err1 := os.ReadFile(filepath.Join(c.nodes[0].cfg.Data, "ca.crt"))
		made, err2 := os.ReadFile(filepath.Join(cfg.Data, "ca.crt"))
		if err := errors.Join(err1, err2); err != nil || bytes.Equal(old, made) == from.NewAuthority {
			t.Errorf("%s: the authority is the same: %v, %v", name, bytes.Equal(old, made), err)
		}
	}
}

// Ensure only admins get a backup, one at a time and without a leader only what is no key.
func TestBackupWithoutLeader(t *testing.T) {
	c := startCluster(t, 2)
	viewer, err := c.admin.NewOperator(client.NewOperator{Name: "vic", Role: "responder"})
	if err != nil {
		t.Fatal(err)
	}
	api, err := client.New(viewer, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	var out bytes.Buffer
	if err := api.Backup(t.Context(), false, &out); !errors.Is(err, client.ErrDenied) || out.Len() > 0 {
		t.Errorf("a responder: %d bytes, %v", out.Len(), err)
	}
	c.nodes[1].stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	refused := make(chan error, 1)
	go func() { refused <- c.api.Backup(ctx, true, io.Discard) }() // each waits for a leader
	if err := c.api.Backup(ctx, false, &out); err != nil {
		t.Fatalf("without a leader: %v", err)
	}
	if err := <-refused; err == nil || !strings.Contains(err.Error(), "--without-identity") {
		t.Errorf("the key without a record: %v", err)
	}
	if m, err := backup.Check(&out); err != nil || m.AuthorityKey != "" || m.Index == 0 {
		t.Errorf("what came: %+v, %v", m, err)
	}
}
