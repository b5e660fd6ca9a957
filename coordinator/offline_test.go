package coordinator_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/revocation"
	"github.com/vedette-edr/vedette/proto/rootkey"
	"github.com/vedette-edr/vedette/proto/seal"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// as is a client of the cluster for somebody's context.
func (c *testCluster) as(who *client.Context) *client.Client {
	c.t.Helper()
	who.Nodes = []string{c.nodes[0].cfg.OperatorListen}
	api, err := client.New(who, client.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(api.Close)
	return api
}

// isolate has somebody order the isolation of a host.
func (c *testCluster) isolate(who *client.Context, host, operation string) error {
	c.t.Helper()
	var chain [][]byte
	for block, rest := pem.Decode([]byte(who.Certificate)); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	block, _ := pem.Decode([]byte(who.Key))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		c.t.Fatal(err)
	}
	now := time.Now()
	g := &sensorv1.Grant{Nonce: newBoot(), Action: sensorv1.Action_ACTION_ISOLATE, LeaseSeconds: 600, Epoch: uint64(now.UnixNano()),
		IssuedAt: now.UnixNano(), NotAfter: now.Add(time.Hour).UnixNano(), Operator: who.Operator, Reason: "test", Operation: operation, ClusterId: who.ClusterID}
	set, err := grant.Address(g, host)
	if err != nil {
		c.t.Fatal(err)
	}
	signed, err := grant.Sign(key.(ed25519.PrivateKey), chain, g)
	if err != nil {
		c.t.Fatal(err)
	}
	_, err = c.as(who).SubmitGrant(c.t.Context(), &operatorv1.SubmitGrantRequest{Grant: signed, Hosts: set.Hosts(), IdempotencyKey: operation})
	return err
}

// Ensure a cluster can be born with its root offline: the key is in no file of any node, a
// responder whom the admin's own authority makes orders what a host honours, and when the
// admin's context is stolen the root makes another admin, who ends all of it by one name.
func TestBornOffline(t *testing.T) {
	safe, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	cfg := newConfig(t, "n1")
	out := filepath.Join(t.TempDir(), "root")
	path, err := coordinator.InitOffline(cfg, coordinator.RootFile{Path: out, Recipients: []string{safe.Recipient().String()}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	file, err := rootkey.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	root, err := file.Open(seal.Keys{Identities: safe.String()})
	if err != nil {
		t.Fatal(err)
	}
	c := &testCluster{t: t, nodes: []*testNode{start(t, cfg)}}
	if c.admin, err = client.LoadContext(path, ""); err != nil {
		t.Fatal(err)
	}
	c.connect()
	if c.admin.HoldsRoot() || c.admin.CheckRoot(root.ClusterID, rootkey.Name(root.Certificate)) != nil {
		t.Error("the admin's context has the root's key, or another root")
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(root.Key)
	if err != nil {
		t.Fatal(err)
	}
	line := bytes.Split(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), []byte("\n"))[1]
	seen := 0
	err = filepath.WalkDir(cfg.Data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the node runs: its log goes on
		}
		if seen++; bytes.Contains(raw, root.Key.Seed()) || bytes.Contains(raw, line) {
			t.Errorf("%s holds the root's key", path)
		}
		return err
	})
	if err != nil || seen < 5 {
		t.Fatalf("looked at %d files, %v", seen, err)
	}

	// The order of whom the admin made is honoured, by a chain of two under the root.
	sensor := c.enrol(0)
	session, _ := sensor.open(c.nodes[0].cfg.Advertise, newBoot())
	bob, err := c.admin.NewOperator(client.NewOperator{Name: "bob", Role: operator.RoleResponder})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.isolate(bob, sensor.id, "op-bob"); err != nil {
		t.Fatal(err)
	}
	m := session.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetGrant() != nil }).GetGrant()
	if _, signers, err := grant.Verify(m, c.operators(), c.admin.ClusterID, time.Now()); err != nil || len(signers) != 1 || signers[0].ID != "bob" {
		t.Errorf("what a host gets: by %v, %v", signers, err)
	}
	if chain := m.GetSignatures()[0].GetChain(); len(chain) != 2 {
		t.Errorf("its chain has %d certificates, want 2", len(chain))
	}

	// The context is stolen. Nobody revokes themselves, so the root makes somebody who can.
	lost, err := client.ContextOf(root)
	if err != nil {
		t.Fatal(err)
	}
	rescue, err := lost.NewOperator(client.NewOperator{Name: "rescue", Role: operator.RoleAdmin, Authority: true})
	if err != nil {
		t.Fatal(err)
	}
	api := c.as(rescue)
	list, err := api.NewRevocations([]string{"admin"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Revoke(t.Context(), list, "laptop stolen"); err != nil {
		t.Fatal(err)
	}
	thief, err := c.admin.NewOperator(client.NewOperator{Name: "nobody-knows", Role: operator.RoleAdmin})
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []*client.Context{c.admin, bob, thief} {
		if err := c.isolate(who, sensor.id, "op-late-"+who.Operator); !errors.Is(err, client.ErrDenied) {
			t.Errorf("an order by %s after the revocation: %v", who.Operator, err)
		}
	}
	told := session.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetNodes().GetRevocations() != nil }).GetNodes().GetRevocations()
	held, signer, err := revocation.Verify(told, c.operators(), c.admin.ClusterID, time.Now())
	if err != nil || signer.ID != "rescue" {
		t.Fatalf("the list that hosts get: by %s, %v", signer.ID, err)
	}
	if err := revocation.Names(held).Check(m.GetSignatures()[0].GetChain()); !errors.Is(err, revocation.ErrRevoked) {
		t.Errorf("a host takes an order of bob's: %v", err)
	}
	if bob, err = rescue.NewOperator(client.NewOperator{Name: "bob", Role: operator.RoleResponder}); err != nil {
		t.Fatal(err)
	}
	if err := c.isolate(bob, sensor.id, "op-again"); err != nil {
		t.Errorf("bob, made anew by another admin under the same name: %v", err)
	}
}

// Ensure nothing is left behind by an init that fails, and that no file is written over.
func TestInitOfflineFails(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "root")
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, []byte("somebody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	taken := newConfig(t, "n1")
	if err := os.MkdirAll(taken.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(taken.Data, coordinator.AdminContext), []byte("another's"), 0o600); err != nil {
		t.Fatal(err)
	}
	safe, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	to := []string{safe.Recipient().String()}
	for name, tt := range map[string]struct {
		cfg  coordinator.Config
		root coordinator.RootFile
		want error
	}{
		"the file exists":    {newConfig(t, "n1"), coordinator.RootFile{Path: there, Recipients: to}, fs.ErrExist},
		"no directory":       {newConfig(t, "n1"), coordinator.RootFile{Path: filepath.Join(dir, "none", "root"), Recipients: to}, fs.ErrNotExist},
		"nobody can open it": {newConfig(t, "n1"), coordinator.RootFile{Path: out}, nil},
		"a context is there": {taken, coordinator.RootFile{Path: out, Recipients: to}, fs.ErrExist},
	} {
		if _, err := coordinator.InitOffline(tt.cfg, tt.root); err == nil || (tt.want != nil && !errors.Is(err, tt.want)) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: the file was left", name)
		}
		if _, err := coordinator.New(tt.cfg); !errors.Is(err, coordinator.ErrNotInitialised) {
			t.Errorf("%s: a node was made: %v", name, err)
		}
	}
	if raw, _ := os.ReadFile(there); string(raw) != "somebody's" {
		t.Error("a file was written over")
	}
}
