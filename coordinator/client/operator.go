package client

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/vedette-edr/vedette/proto/operator"
)

// ErrNoAuthority: the context makes no operators.
var ErrNoAuthority = errors.New("this context holds no authority to make operators")

// NewOperator is a person who is to be made an operator.
type NewOperator struct {
	Name, Role string
	// Lifetime is how long, 0 for the longest (operator.Lifetime).
	Lifetime time.Duration
	// Nodes are the addresses in their context; empty: those of the maker's.
	Nodes []string
	// Authority gives an admin an authority of their own: to make operators, though
	// no admin who makes operators. Only the root can give it.
	Authority bool
}

// FirstContext is that of a new cluster's first admin, who alone gets the
// operators' authority itself, the root.
func FirstContext(authority *operator.Authority, ca *x509.Certificate, cluster, name string, nodes []string) (*Context, error) {
	c := &Context{CA: certificatePEM(ca), Operators: certificatePEM(authority.Root()), ClusterID: cluster}
	made, err := c.issue(authority, NewOperator{Name: name, Role: operator.RoleAdmin, Nodes: nodes})
	if err != nil {
		return nil, err
	}
	return made, made.give(authority)
}

// NewOperator makes an operator with the authority in this context, and returns
// their context. It needs no cluster: nodes and hosts know the authority. The
// context's own certificate may have expired.
func (c *Context) NewOperator(o NewOperator) (*Context, error) {
	authority, err := c.authority()
	if err != nil {
		return nil, err
	}
	made, err := c.issue(authority, o)
	if err != nil || !o.Authority {
		return made, err
	}
	if o.Role != operator.RoleAdmin {
		return nil, fmt.Errorf("%w: only an admin makes operators, not a %s", ErrInvalid, o.Role)
	}
	theirs, err := authority.Delegate(o.Name, o.Lifetime)
	if err != nil {
		return nil, err
	}
	return made, made.give(theirs)
}

// authority is what the context can sign operators with.
func (c *Context) authority() (*operator.Authority, error) {
	if c.root != nil {
		return c.root, nil
	}
	if c.Authority == "" || c.AuthorityKey == "" {
		return nil, fmt.Errorf("%w: %q is one of role %s; ask an admin whose context has it, or give the root's key with --root FILE", ErrNoAuthority, c.Name, c.Role)
	}
	root, err := parseCertificate("operators", c.Operators)
	if err != nil {
		return nil, fmt.Errorf("context %q: %w", c.Name, err)
	}
	own, err := parseCertificate("authority", c.Authority)
	if err != nil {
		return nil, fmt.Errorf("context %q: %w", c.Name, err)
	}
	block, _ := pem.Decode([]byte(c.AuthorityKey))
	if block == nil {
		return nil, fmt.Errorf("context %q: its authority_key is no PEM key", c.Name)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("context %q: reading its authority_key: %w", c.Name, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("context %q: its authority_key cannot sign", c.Name)
	}
	authority, err := operator.Open(c.ClusterID, root, own, key)
	if err != nil {
		return nil, fmt.Errorf("context %q: %w", c.Name, err)
	}
	return authority, nil
}

func (c *Context) issue(authority *operator.Authority, o NewOperator) (*Context, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the operator's key: %w", err)
	}
	chain, err := authority.Sign(public, o.Name, o.Role, o.Lifetime)
	if err != nil {
		return nil, err
	}
	made := &Context{
		Name: c.ClusterID + "-" + o.Name, Nodes: o.Nodes, CA: c.CA, Trust: c.Trust, Operators: c.Operators, ClusterID: c.ClusterID, Operator: o.Name, Role: o.Role,
	}
	if len(made.Nodes) == 0 {
		made.Nodes = c.Nodes
	}
	for _, der := range chain {
		made.Certificate += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	made.Key, err = keyPEM(private)
	return made, err
}

// give puts an authority into the context.
func (c *Context) give(authority *operator.Authority) (err error) {
	c.Authority = certificatePEM(authority.Certificate())
	c.AuthorityKey, err = keyPEM(authority.Key())
	return err
}

// WriteNew writes the context as a file of its own with mode 0600, which must not exist.
func (c *Context) WriteNew(path string) error {
	raw, err := yaml.MarshalWithOptions(c, yaml.UseLiteralStyleIfMultiline(true))
	if err != nil {
		return fmt.Errorf("encoding the context file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing the context file: %w", err)
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the context file: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

func certificatePEM(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

func keyPEM(key crypto.Signer) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("encoding a key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}
