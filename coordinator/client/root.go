package client

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/rootkey"
)

// Errors about the root: the operators' authority, which vouches for everything.
var (
	// ErrNoRoot: its key is not in this context.
	ErrNoRoot = errors.New("this context does not hold the root's key")
	// ErrOtherRoot: the key is another root's.
	ErrOtherRoot = errors.New("the key is that of another root")
	// ErrRootMoved: the context file was changed meanwhile.
	ErrRootMoved = errors.New("the context was changed by another command meanwhile: nothing was taken out of it")
)

// HoldsRoot is whether the root's key is in the context.
func (c *Context) HoldsRoot() bool {
	return c.AuthorityKey != "" && c.isRoot()
}

func (c *Context) isRoot() bool {
	own, err := parseCertificate("authority", c.Authority)
	if err != nil {
		return false
	}
	root, err := parseCertificate("operators", c.Operators)
	return err == nil && link.Pin(own) == link.Pin(root)
}

// Root is what a file of the root's key holds, from a context that holds it.
func (c *Context) Root(now time.Time) (*rootkey.Content, error) {
	if !c.HoldsRoot() {
		return nil, fmt.Errorf("%w: context %q", ErrNoRoot, c.Name)
	}
	authority, err := c.authority()
	if err != nil {
		return nil, err
	}
	return c.rootOf(authority, now)
}

func (c *Context) rootOf(authority *operator.Authority, now time.Time) (*rootkey.Content, error) {
	key, ok := authority.Key().(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("context %q: its authority_key is no Ed25519 key", c.Name)
	}
	return &rootkey.Content{ClusterID: c.ClusterID, Certificate: authority.Root(), Key: key, Made: now.UTC().Truncate(time.Second), By: c.Operator,
		CA: c.CA, Trust: c.Trust, Nodes: c.Nodes}, nil
}

// ContextOf is a context of the cluster that a root's file is of, by which its root can
// make operators, and nothing else: for when all others are lost.
func ContextOf(k *rootkey.Content) (*Context, error) {
	c := &Context{Name: k.ClusterID, Nodes: k.Nodes, CA: k.CA, Trust: k.Trust, Operators: certificatePEM(k.Certificate), ClusterID: k.ClusterID, Operator: k.By}
	return c, c.UseRoot(k)
}

// UseRoot has the context sign with the root's key, in this process: it is never written.
func (c *Context) UseRoot(k *rootkey.Content) error {
	if err := c.CheckRoot(k.ClusterID, rootkey.Name(k.Certificate)); err != nil {
		return err
	}
	known, err := parseCertificate("operators", c.Operators)
	if err != nil {
		return fmt.Errorf("context %q: %w", c.Name, err)
	}
	c.root, err = k.Authority(known)
	return err
}

// CheckRoot wants the root of a file, by its cluster and name, to be the context's.
func (c *Context) CheckRoot(cluster, name string) error {
	known, err := parseCertificate("operators", c.Operators)
	switch {
	case err != nil:
		return fmt.Errorf("context %q: %w", c.Name, err)
	case cluster != c.ClusterID:
		return fmt.Errorf("%w: it is of cluster %s, and context %q of %s: use that cluster's file, or another context (--context)", ErrOtherRoot, cluster, c.Name, c.ClusterID)
	case name != rootkey.Name(known):
		return fmt.Errorf("%w: it says that it is of this cluster, but its root is %s and the context's %s: nobody would obey what it signs; find the right file, and out who made this one", ErrOtherRoot, name, rootkey.Name(known))
	}
	return nil
}

// Renew gives the context another certificate and key, signed by the root, and, if it has
// an authority of its own, another one of that. What the former ones signed
// stays good until it ends. The root's key must be in the context, or given by UseRoot.
func (c *Context) Renew(lifetime time.Duration) error {
	root, err := c.authority()
	if err != nil {
		return err
	}
	if c.Role != operator.RoleAdmin {
		return fmt.Errorf("%w: context %q is one of role %s, and only an admin has an authority; make a context with 'vedette operator create'", ErrInvalid, c.Name, c.Role)
	}
	var own *operator.Authority
	if c.Authority != "" && !c.HoldsRoot() {
		// It is the root that is asked, so that nobody renews themselves.
		if own, err = root.Delegate(c.Operator, lifetime); err != nil {
			return err
		}
	}
	made, err := c.issue(root, NewOperator{Name: c.Operator, Role: c.Role, Lifetime: lifetime})
	if err != nil {
		return err
	}
	if own != nil {
		if err := c.give(own); err != nil {
			return err
		}
	}
	c.Certificate, c.Key = made.Certificate, made.Key
	return nil
}

// Offline puts an authority of the admin's own in the place of the root's key, which the
// caller has written elsewhere as k, and renews their certificate.
func (c *Context) Offline(k *rootkey.Content, lifetime time.Duration) error {
	if !c.HoldsRoot() {
		return fmt.Errorf("%w: context %q", ErrNoRoot, c.Name)
	}
	held, err := c.authority()
	if err != nil {
		return err
	}
	if key, ok := held.Key().(ed25519.PrivateKey); !ok || !key.Equal(k.Key) {
		return ErrRootMoved
	}
	if err := c.UseRoot(k); err != nil {
		return err
	}
	defer func() { c.root = nil }()
	c.AuthorityKey = "" // from here on it is renewed as one without the root
	return c.Renew(lifetime)
}

// OwnAuthority is until when the context makes operators by an authority of its own;
// false when it has none, or the root itself.
func (c *Context) OwnAuthority() (from, until time.Time, ok bool) {
	own, err := parseCertificate("authority", c.Authority)
	if err != nil || c.AuthorityKey == "" || c.isRoot() {
		return time.Time{}, time.Time{}, false
	}
	return own.NotBefore, own.NotAfter, true
}

// TakeOffline moves the root's key out of a file of contexts, and is never between the two:
// the sealed key is on the disk, read back and compared, before the contexts are
// written without it.
type TakeOffline struct {
	// Config is the file of contexts, Name the one in it. Other contexts there that hold the
	// same key lose it too.
	Config, Name string
	// Out is the file to make, of what Content sealed is.
	Out     string
	Content *rootkey.Content
	Sealed  []byte
	// Check looks at what was read back from Out, before anything is taken away.
	Check    func(raw []byte) error
	Lifetime time.Duration

	// step is told before each step, for tests to interrupt.
	step func(string) error
}

// Run returns the names of the contexts that held the key.
func (t *TakeOffline) Run() (from []string, err error) {
	step := func(name string) error {
		if t.step == nil {
			return nil
		}
		return t.step(name)
	}
	if err := step("write"); err != nil {
		return nil, err
	}
	if err := WriteRoot(t.Out, t.Sealed); err != nil {
		return nil, err
	}
	if err := step("check"); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(t.Out)
	if err == nil && !bytes.Equal(raw, t.Sealed) {
		err = errors.New("it does not hold what was written to it")
	}
	if err == nil && t.Check != nil {
		err = t.Check(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s back: %w; the key is still in the context", t.Out, err)
	}
	err = Update(t.Config, func(config *Config) error {
		holds := func(c *Context) bool {
			return c.HoldsRoot() && c.CheckRoot(t.Content.ClusterID, rootkey.Name(t.Content.Certificate)) == nil
		}
		if c := config.Context(t.Name); c == nil || !holds(c) {
			return ErrRootMoved
		}
		for _, c := range config.Contexts {
			if !holds(c) {
				continue
			}
			if err := c.Offline(t.Content, t.Lifetime); err != nil {
				return err
			}
			from = append(from, c.Name)
		}
		return step("save")
	})
	return from, err
}

// WriteRoot writes a sealed root's key as a new file of mode 0600, and returns when the
// disk has it: what is about to be removed elsewhere may be the only other copy.
func WriteRoot(path string, sealed []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing the root's key: %w", err)
	}
	_, err = f.Write(sealed)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("writing the root's key: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// syncDir has the disk know a name. Some file systems of sticks cannot say so.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}
