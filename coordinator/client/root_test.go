package client_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/revocation"
	"github.com/vedette-edr/vedette/proto/rootkey"
	"github.com/vedette-edr/vedette/proto/seal"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// firstAdmin is a new cluster's root and the context file of its first admin.
func firstAdmin(t *testing.T, cluster string) (*operator.Authority, string) {
	t.Helper()
	root, err := operator.New(cluster)
	if err != nil {
		t.Fatal(err)
	}
	public, key, _ := ed25519.GenerateKey(rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := client.FirstContext(root, ca, cluster, "admin", []string{"127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "admin.yaml")
	if err := admin.WriteNew(path); err != nil {
		t.Fatal(err)
	}
	return root, path
}

func load(t *testing.T, path string) *client.Context {
	t.Helper()
	c, err := client.LoadContext(path, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// safe is what opens the root's files: an age key, since a passphrase is slow by intent.
var safe = sync.OnceValue(func() *age.X25519Identity {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		panic(err)
	}
	return key
})

// offline prepares what moves the root's key out of a context file.
func offline(t *testing.T, path string) *client.TakeOffline {
	t.Helper()
	c := load(t, path)
	k, err := c.Root(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := rootkey.Seal(k, []string{safe().Recipient().String()}, "")
	if err != nil {
		t.Fatal(err)
	}
	return &client.TakeOffline{Config: path, Name: c.Name, Out: filepath.Join(filepath.Dir(path), "root"), Content: k, Sealed: sealed}
}

func openRoot(t *testing.T, path string) *rootkey.Content {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := rootkey.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	k, err := f.Open(seal.Keys{Identities: safe().String()})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// order has the operator of a context isolate a host, as a host that knows root judges it
// on that day.
func order(t *testing.T, c *client.Context, root *x509.Certificate, now time.Time) error {
	t.Helper()
	key, chain := signer(t, c)
	g := &sensorv1.Grant{Nonce: bytes.Repeat([]byte{7}, 16), Action: sensorv1.Action_ACTION_ISOLATE, LeaseSeconds: 600, Epoch: uint64(now.UnixNano()),
		IssuedAt: now.UnixNano(), NotAfter: now.Add(time.Hour).UnixNano(), Operator: c.Operator, Reason: "test", Operation: "op-1", ClusterId: c.ClusterID}
	set, err := grant.Address(g, "h-abcdefghijkl")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := grant.Sign(key, chain, g)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	verified, _, err := grant.Verify(signed, pool, c.ClusterID, now)
	if err != nil {
		return err
	}
	return grant.Names(verified, set.Prove("h-abcdefghijkl"), "h-abcdefghijkl")
}

func signer(t *testing.T, c *client.Context) (key ed25519.PrivateKey, chain [][]byte) {
	t.Helper()
	block, _ := pem.Decode([]byte(c.Key))
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for rest := []byte(c.Certificate); ; {
		block, rest = pem.Decode(rest)
		if block == nil {
			return parsed.(ed25519.PrivateKey), chain
		}
		chain = append(chain, block.Bytes)
	}
}

// Ensure the root's key leaves the context for the file and is nowhere else, that orders of
// those whom the admin makes from then on are honoured by hosts that know the root alone,
// and that one list ends all that a stolen context can make.
func TestTakeOffline(t *testing.T) {
	root, path := firstAdmin(t, "c-test")
	seed := root.Key().(ed25519.PrivateKey).Seed()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The file is reached by a link, as in a home directory under version control.
	link := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	// What the root made itself, before.
	early, err := load(t, path).NewOperator(client.NewOperator{Name: "early", Role: operator.RoleResponder})
	if err != nil {
		t.Fatal(err)
	}
	take := offline(t, path)
	take.Config = link
	from, err := take.Run()
	if err != nil || !slices.Equal(from, []string{"c-test-admin"}) {
		t.Fatalf("taking offline: from %v, %v", from, err)
	}
	if info, err := os.Stat(take.Out); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Split(load(t, path).AuthorityKey, "\n")[1]
	if bytes.Contains(before, []byte(line)) || !bytes.Contains(after, []byte(line)) {
		t.Error("the context does not have a key of its own")
	}
	holds := load(t, path)
	if holds.HoldsRoot() || bytes.Contains(after, seed) {
		t.Error("the root's key is in the context still")
	}
	if k := openRoot(t, take.Out); !bytes.Equal(k.Key.Seed(), seed) || k.By != "admin" || k.Nodes[0] != "127.0.0.1:1" {
		t.Errorf("the file holds %+v", k)
	}
	if _, err := holds.Root(time.Now()); !errors.Is(err, client.ErrNoRoot) {
		t.Errorf("a second time: %v", err)
	}

	bob, err := holds.NewOperator(client.NewOperator{Name: "bob", Role: operator.RoleResponder})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, who := range []*client.Context{bob, holds, early} {
		if err := order(t, who, root.Root(), now); err != nil {
			t.Errorf("an order by %s: %v", who.Operator, err)
		}
	}
	if _, chain := signer(t, bob); len(chain) != 2 {
		t.Errorf("bob's chain has %d certificates, want his and the admin's authority", len(chain))
	}
	vic, err := holds.NewOperator(client.NewOperator{Name: "vic", Role: operator.RoleViewer})
	if err != nil {
		t.Fatal(err)
	}
	if err := order(t, vic, root.Root(), now); !errors.Is(err, grant.ErrForbidden) {
		t.Errorf("an order by a viewer: %v", err)
	}
	// The thief of the context makes whom they like: each of them shows who made them.
	gone := revocation.Revoked{"admin": now.UnixNano()}
	for _, who := range []*client.Context{bob, vic, holds} {
		if _, chain := signer(t, who); !errors.Is(gone.Check(chain), revocation.ErrRevoked) {
			t.Errorf("%s is no operator any more, and passes", who.Operator)
		}
	}
	if _, chain := signer(t, early); gone.Check(chain) != nil {
		t.Error("whom the root made is refused with the admin")
	}
	// And no authority: that takes the root.
	dan := client.NewOperator{Name: "dan", Role: operator.RoleAdmin, Authority: true}
	if _, err := holds.NewOperator(dan); !errors.Is(err, operator.ErrMayNotDelegate) {
		t.Errorf("an admin with authority, without the root: %v", err)
	}
	if err := holds.UseRoot(openRoot(t, take.Out)); err != nil {
		t.Fatal(err)
	}
	made, err := holds.NewOperator(dan)
	if err != nil {
		t.Fatal(err)
	}
	eve, err := made.NewOperator(client.NewOperator{Name: "eve", Role: operator.RoleResponder})
	if err != nil {
		t.Fatal(err)
	}
	if err := order(t, eve, root.Root(), now); err != nil {
		t.Errorf("an order by whom dan made: %v", err)
	}
	// The key that was used is written by nothing.
	if err := client.Update(path, func(config *client.Config) error {
		return errors.Join(config.Contexts[0].UseRoot(openRoot(t, take.Out)), config.Contexts[0].Renew(0))
	}); err != nil {
		t.Fatal(err)
	}
	if holds = load(t, path); holds.HoldsRoot() || strings.Contains(holds.AuthorityKey, line) {
		t.Error("renewed: the context has the root's key, or the former one")
	}
	if bob, err = holds.NewOperator(client.NewOperator{Name: "bob", Role: operator.RoleResponder}); err != nil {
		t.Fatal(err)
	}
	if err := order(t, bob, root.Root(), now); err != nil {
		t.Errorf("an order by whom the renewed authority made: %v", err)
	}
}

// Ensure the key is in one of the two files however far it got, and both are whole, that it can be
// run again, and that a file which is there is never written over.
func TestTakeOfflineInterrupted(t *testing.T) {
	dead := errors.New("killed")
	for _, at := range []string{"write", "check", "save"} {
		root, path := firstAdmin(t, "c-test")
		seed := root.Key().(ed25519.PrivateKey).Seed()
		take := offline(t, path)
		client.SetStep(take, func(step string) error {
			// At every step, the one that has it now can be read.
			if !load(t, path).HoldsRoot() && !bytes.Equal(openRoot(t, take.Out).Key.Seed(), seed) {
				t.Errorf("before %q neither has the key", step)
			}
			if step == at {
				return dead
			}
			return nil
		})
		if _, err := take.Run(); !errors.Is(err, dead) {
			t.Fatalf("%s: %v", at, err)
		}
		c := load(t, path)
		if k, err := c.Root(time.Now()); err != nil || !bytes.Equal(k.Key.Seed(), seed) {
			t.Errorf("killed before %q: %v", at, err)
		}
		again := offline(t, path)
		_, err := again.Run()
		if at == "write" != (err == nil) || (err != nil && !errors.Is(err, os.ErrExist)) {
			t.Fatalf("killed before %q, again into the same file: %v", at, err)
		}
		if err != nil {
			if !bytes.Equal(openRoot(t, take.Out).Key.Seed(), seed) {
				t.Errorf("killed before %q: the file was written over", at)
			}
			again.Out += "-2"
			if _, err := again.Run(); err != nil {
				t.Fatalf("killed before %q, again: %v", at, err)
			}
		}
		if load(t, path).HoldsRoot() || !bytes.Equal(openRoot(t, again.Out).Key.Seed(), seed) {
			t.Errorf("killed before %q, again: the key is not in the file alone", at)
		}
	}

	// What cannot be read back takes nothing away.
	_, path := firstAdmin(t, "c-test")
	take := offline(t, path)
	take.Check = func([]byte) error { return dead }
	if _, err := take.Run(); !errors.Is(err, dead) || !load(t, path).HoldsRoot() {
		t.Errorf("a file that does not open: %v", err)
	}
	// Nor does a context that is another one by now.
	_, path = firstAdmin(t, "c-test")
	_, other := firstAdmin(t, "c-test")
	take = offline(t, path)
	take.Config = other
	if _, err := take.Run(); !errors.Is(err, client.ErrRootMoved) || !load(t, other).HoldsRoot() {
		t.Errorf("another root's key: %v", err)
	}
}

// Ensure commands that change a file at the same time lose nothing of each other, and that
// every context with the root's key loses it.
func TestUpdateIsOne(t *testing.T) {
	_, path := firstAdmin(t, "c-test")
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for range 20 {
				if err := client.Update(path, func(c *client.Config) error {
					c.Contexts[0].Nodes = append(c.Contexts[0].Nodes, string(rune('a'+i)))
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if c := load(t, path); len(c.Nodes) != 161 {
		t.Errorf("of 160 changes there are %d", len(c.Nodes)-1)
	}

	config, err := client.LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	second := *config.Contexts[0]
	second.Name = "second"
	_, other := firstAdmin(t, "c-other")
	config = &client.Config{Current: config.Current, Contexts: []*client.Context{config.Contexts[0], &second, load(t, other)}}
	if err := config.Save(path); err != nil {
		t.Fatal(err)
	}
	from, err := offline(t, path).Run()
	if err != nil || !slices.Equal(from, []string{"c-test-admin", "second"}) {
		t.Fatalf("from %v, %v", from, err)
	}
	if config, err = client.LoadConfig(path); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, false, true} {
		if config.Contexts[i].HoldsRoot() != want {
			t.Errorf("context %s holds its root: want %v", config.Contexts[i].Name, want)
		}
	}
}

// Ensure the key of another root is used for nothing, be it of another cluster or of one
// that calls itself the same.
func TestOtherRoot(t *testing.T) {
	_, path := firstAdmin(t, "c-test")
	c := load(t, path)
	for _, cluster := range []string{"c-other", "c-test"} {
		_, theirs := firstAdmin(t, cluster)
		k, err := load(t, theirs).Root(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.UseRoot(k); !errors.Is(err, client.ErrOtherRoot) {
			t.Errorf("the root of %s: %v", cluster, err)
		}
	}
	// All contexts are lost: the file alone makes an admin.
	take := offline(t, path)
	if _, err := take.Run(); err != nil {
		t.Fatal(err)
	}
	k := openRoot(t, take.Out)
	lost, err := client.ContextOf(k)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := lost.NewOperator(client.NewOperator{Name: "rescue", Role: operator.RoleAdmin, Authority: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(admin.Validate(time.Now()), order(t, admin, k.Certificate, time.Now())); err != nil {
		t.Errorf("whom the file made: %v", err)
	}
	if admin.HoldsRoot() || admin.AuthorityKey == "" {
		t.Error("whom the file made has no authority, or the root's")
	}
}

// Ensure an admin hears of the end of their authority, and that who holds the root itself
// renews their certificate without losing it.
func TestRenew(t *testing.T) {
	root, path := firstAdmin(t, "c-test")
	c := load(t, path)
	if _, _, ok := c.OwnAuthority(); ok {
		t.Error("the root's is taken for an admin's own")
	}
	was := c.Certificate
	if err := c.Renew(time.Hour); err != nil || !c.HoldsRoot() || c.Certificate == was {
		t.Errorf("renewed by the root in the context: %v", err)
	}
	if ends, err := c.Expires(); err != nil || time.Until(ends) > time.Hour {
		t.Errorf("it ends at %s, %v", ends, err)
	}
	if err := order(t, c, root.Root(), time.Now()); err != nil {
		t.Error(err)
	}
	take := offline(t, path)
	take.Lifetime = 48 * time.Hour
	if _, err := take.Run(); err != nil {
		t.Fatal(err)
	}
	c = load(t, path)
	if from, until, ok := c.OwnAuthority(); !ok || !from.Before(time.Now()) || time.Until(until).Round(time.Hour) != 48*time.Hour {
		t.Errorf("own authority: %s to %s, %v", from, until, ok)
	}
	if err := c.Renew(0); !errors.Is(err, operator.ErrMayNotDelegate) {
		t.Errorf("an admin renewed themselves: %v", err)
	}
}
