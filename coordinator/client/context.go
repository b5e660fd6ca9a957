package client

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/vedette-edr/vedette/proto/operator"
)

// maxContextFile bounds a context file: certificates and keys of a few hundred
// contexts fit, a wrong path such as a disk image does not exhaust memory.
const maxContextFile = 4 << 20

const (
	// maxLock is how long one command waits for another to have changed a context file.
	maxLock   = 10 * time.Second
	lockPause = 20 * time.Millisecond
)

// Errors of context files.
var (
	// ErrNoContext: there is no context to use.
	ErrNoContext = errors.New("no context")
	// ErrContextPermissions: a file with a private key may be read by others.
	ErrContextPermissions = errors.New("context file may be read by others")
)

// Context is one operator's identity at one cluster, and where its nodes are.
type Context struct {
	// Name is what `--context` and `config use-context` select by.
	Name string `yaml:"name"`
	// Nodes are the operator addresses (host:port, TCP) of the cluster's nodes.
	// One is enough; with all of them the loss of one goes unnoticed.
	Nodes []string `yaml:"nodes"`
	// CA is the cluster's certificate authority, PEM: who is a node. Nothing else is trusted.
	CA string `yaml:"ca"`
	// Trust is the newest list of trusted authorities (package trust; base64), which CA is
	// no more when there is one.
	Trust string `yaml:"trust,omitempty"`
	// Operators is the certificate of the operators' authority, PEM: whose grants hosts
	// honour. Every join token must name the two.
	Operators string `yaml:"operators"`
	// Certificate is the operator's certificate chain, leaf first, PEM.
	Certificate string `yaml:"certificate"`
	// Key is the operator's private key (Ed25519, PKCS#8, PEM). It signs grants too.
	Key string `yaml:"key"`
	// Authority and AuthorityKey (PEM; PKCS#8) make operators, by NewOperator. Admins
	// have them, and no node does.
	Authority    string `yaml:"authority,omitempty"`
	AuthorityKey string `yaml:"authority_key,omitempty"`
	// ClusterID is the cluster that the CA belongs to.
	ClusterID string `yaml:"cluster_id"`
	// Operator and Role repeat what the certificate says, for people.
	Operator string `yaml:"operator"`
	Role     string `yaml:"role"`
	// Output and Timeout are this context's defaults for the flags of those names.
	Output  string `yaml:"output,omitempty"`
	Timeout string `yaml:"timeout,omitempty"`

	// root is the root itself, when UseRoot brought it: in memory alone.
	root *operator.Authority
}

// Config is ~/.config/vedette/config.yaml: several contexts and which one is used.
type Config struct {
	Current  string     `yaml:"current"`
	Contexts []*Context `yaml:"contexts"`

	// single: the file holds one context without a list, and is saved as it was.
	single bool
}

// DefaultPath is where the CLI keeps its contexts: $XDG_CONFIG_HOME/vedette/config.yaml,
// by default ~/.config/vedette/config.yaml.
func DefaultPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("finding the configuration directory: %w", err)
	}
	return filepath.Join(dir, "vedette", "config.yaml"), nil
}

// LoadContext reads the context called name from path; an empty name means the
// current one. The file is either a config.yaml or a single context as a node writes it.
func LoadContext(path, name string) (*Context, error) {
	config, err := LoadConfig(path)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = config.Current
	}
	if name == "" {
		return nil, fmt.Errorf("%w: %s has %s and none is current: run 'vedette config use-context NAME'",
			ErrNoContext, path, plural(len(config.Contexts), "context"))
	}
	if c := config.Context(name); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("%w: %s holds no context named %q, only: %s",
		ErrNoContext, path, name, strings.Join(config.Names(), ", "))
}

// LoadConfig reads a config.yaml, or a file with a single context as if it were
// a config.yaml with only that one. It refuses a file that others may read.
func LoadConfig(path string) (*Config, error) {
	raw, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	var shape map[string]any
	if err := yaml.Unmarshal(raw, &shape); err != nil {
		return nil, fmt.Errorf("reading context file %s: %w", path, quiet(err))
	}
	config := &Config{}
	_, several := shape["contexts"]
	_, current := shape["current"]
	if several || current {
		if err := strict(raw, config); err != nil {
			return nil, fmt.Errorf("reading context file %s: %w", path, err)
		}
	} else {
		var only Context
		if err := strict(raw, &only); err != nil {
			return nil, fmt.Errorf("reading context file %s: %w", path, err)
		}
		config = &Config{Current: only.Name, Contexts: []*Context{&only}, single: true}
	}
	for i, c := range config.Contexts {
		if c == nil || c.Name == "" {
			return nil, fmt.Errorf("reading context file %s: context %d has no name", path, i+1)
		}
	}
	return config, nil
}

// Context returns the context of that name, or nil.
func (c *Config) Context(name string) *Context {
	i := slices.IndexFunc(c.Contexts, func(x *Context) bool { return x.Name == name })
	if i < 0 {
		return nil
	}
	return c.Contexts[i]
}

// Names lists the contexts' names in the file's order.
func (c *Config) Names() []string {
	names := make([]string, len(c.Contexts))
	for i, x := range c.Contexts {
		names[i] = x.Name
	}
	return names
}

// Merge puts a context in, replacing the one of the same name, and makes it
// current when there is none yet. It says whether one was replaced.
func (c *Config) Merge(in *Context) (replaced bool) {
	i := slices.IndexFunc(c.Contexts, func(x *Context) bool { return x.Name == in.Name })
	if i >= 0 {
		c.Contexts[i] = in
	} else {
		c.Contexts = append(c.Contexts, in)
	}
	if c.Current == "" {
		c.Current = in.Name
	}
	return i >= 0
}

// Update changes a file of contexts, which no other command changes meanwhile: what one
// takes out of it, another must not write back.
func Update(path string, change func(*Config) error) error {
	unlock, err := lock(path)
	if err != nil {
		return err
	}
	defer unlock()
	config, err := LoadConfig(path)
	if err != nil {
		return err
	}
	if err := change(config); err != nil {
		return err
	}
	return config.Save(path)
}

// lock takes a file for one who changes it. It is the file that is locked, not its
// directory, which may be a node's; so whoever got it looks whether it is that file still.
func lock(path string) (unlock func(), err error) {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return func() {}, nil //nolint:nilerr // whoever reads it says so
	}
	for until := time.Now().Add(maxLock); ; time.Sleep(lockPause) {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("opening context file: %w", err)
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		held, is := f.Stat()
		now, isStill := os.Stat(path)
		switch {
		case err != nil && !errors.Is(err, syscall.EWOULDBLOCK):
			return func() { _ = f.Close() }, nil // the file system has no locks: it goes without
		case err == nil && errors.Join(is, isStill) == nil && os.SameFile(held, now):
			return func() { _ = f.Close() }, nil
		}
		_ = f.Close()
		if time.Now().After(until) {
			return nil, fmt.Errorf("changing %s: another command has been at it for %s", path, maxLock)
		}
	}
}

// Save writes the file with mode 0600, whole or not at all, where a link leads to.
func (c *Config) Save(path string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // else what the link names would keep the former keys
	}
	var document any = c
	if c.single && len(c.Contexts) == 1 {
		document = c.Contexts[0]
	}
	raw, err := yaml.MarshalWithOptions(document, yaml.UseLiteralStyleIfMultiline(true))
	if err != nil {
		return fmt.Errorf("encoding contexts: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	f, err := os.CreateTemp(dir, ".config-*.yaml") // 0600 by CreateTemp's contract
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already after the rename
	_, err = f.Write(raw)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Validate joins everything that makes the context unusable, the expiry of its
// certificate at the given time included.
func (c *Context) Validate(now time.Time) error {
	var problems []error
	if len(c.Nodes) == 0 {
		problems = append(problems, errors.New("it lists no nodes"))
	}
	if c.ClusterID == "" {
		problems = append(problems, errors.New("it has no cluster_id"))
	}
	if _, err := newIdentity(c, now); err != nil {
		problems = append(problems, err)
	}
	if len(problems) > 0 {
		return fmt.Errorf("context %q: %w", c.Name, errors.Join(problems...))
	}
	return nil
}

func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s does not exist", ErrNoContext, path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening context file: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening context file: %w", err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("opening context file: %s is a directory", path)
	}
	// A pipe or /dev/stdin has no permissions worth judging.
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %04o and holds a private key: run 'chmod 600 %s'",
			ErrContextPermissions, path, mode.Perm(), path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxContextFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading context file %s: %w", path, err)
	}
	if len(raw) > maxContextFile {
		return nil, fmt.Errorf("reading context file %s: larger than %d bytes", path, maxContextFile)
	}
	return raw, nil
}

func strict(raw []byte, into any) error {
	err := yaml.NewDecoder(bytes.NewReader(raw), yaml.Strict()).Decode(into)
	if errors.Is(err, io.EOF) {
		return errors.New("the file is empty")
	}
	return quiet(err)
}

// quiet says what is wrong and where, without the lines around it: they may be a
// private key, and errors end up in logs. So may a word that stands where a field's name should.
func quiet(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(longWord.ReplaceAllString(yaml.FormatError(err, false, false), "…"))
}

// longWord is longer than any field's name, and shorter than any line of a key.
var longWord = regexp.MustCompile(`\S{33,}`)

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
