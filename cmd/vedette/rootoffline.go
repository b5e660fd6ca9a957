package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/rootkey"
	"github.com/vedette-edr/vedette/proto/seal"
)

// authorityEndsSoon is when an admin hears that the root's file will be needed: it may lie
// in a safe in another town.
const authorityEndsSoon = 45 * 24 * time.Hour

// takeOffline is what `cluster root take-offline` was asked.
type takeOffline struct {
	out        string
	recipients []string
	opens      rootFile // what is encrypted with, and, for recipients, what can open it here
	ttl        time.Duration
	yes        bool
}

func (a *app) rootTakeOfflineCommand() *cobra.Command {
	o := &takeOffline{}
	c := &cobra.Command{
		Use:   "take-offline --out FILE",
		Short: "move the root's key out of this context into an encrypted file",
		Long: `Writes the key of the operators' authority, the root that vouches for everything, to a new file
(mode 0600), encrypted by a passphrase or for age recipients, reads it back, and puts an
authority of your own in its place in the context, signed by the root. No cluster is asked.

Daily work goes on without the file: make operators, sign the intent and the nodes, rotate the
cluster's authority, revoke. It is needed to make an admin who makes operators, to renew the
root, and once a year to renew your own authority: those commands take --root FILE, and never
write the key anywhere.

The context file is written anew in one step, when the disk has the other one: interrupted at
any point, the key is in one of them, and the command can be run again with another --out.
Keep two copies of FILE in two places, and what opens it in a third. The root cannot be replaced.`,
		Example: `  vedette cluster root take-offline --out /media/stick/prod.root --passphrase
  vedette cluster root take-offline --out prod.root --age-recipient age1... --age-identity key.txt`,
		Args: none,
		RunE: bare(func(ctx context.Context, _ []string) error { return a.takeOffline(ctx, o) }),
	}
	f := c.Flags()
	f.StringVar(&o.out, "out", "", "`file` to write, which must not exist")
	f.StringSliceVar(&o.recipients, "age-recipient", nil, "encrypt for this age `recipient` (age1...); repeatable")
	f.StringVar(&o.opens.identities, "age-identity", "", "`file` of age identities: try here that the recipient's key opens it")
	f.BoolVar(&o.opens.passphrase, "passphrase", false, "encrypt by a passphrase, asked for at the terminal")
	f.StringVar(&o.opens.passphraseFile, "passphrase-file", "", "encrypt by the passphrase in `file`, - for standard input")
	f.DurationVar(&o.ttl, "ttl", operator.Lifetime, "how long your own authority is good, at most 8760h")
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	c.MarkFlagsMutuallyExclusive("age-recipient", "passphrase", "passphrase-file")
	return c
}

func (a *app) takeOffline(ctx context.Context, o *takeOffline) error {
	switch {
	case o.out == "":
		return usage("--out says where the root's key goes")
	case len(o.recipients) == 0 && !o.opens.passphrase && o.opens.passphraseFile == "":
		return usage("the file is encrypted: give --passphrase, --passphrase-file or --age-recipient")
	case len(o.recipients) == 0 && o.opens.identities != "":
		return usage("--age-identity goes with --age-recipient")
	}
	if _, err := os.Lstat(o.out); err == nil {
		return usage("%s exists, and may be the root's only copy ('vedette cluster root inspect' says what it is): choose another file with --out", o.out)
	}
	c, err := a.context()
	if err != nil {
		return err
	}
	p, err := a.printer(c.Output)
	if err != nil {
		return err
	}
	k, err := c.Root(a.now())
	if errors.Is(err, client.ErrNoRoot) {
		return exit(exitDenied, "%w: it was taken offline before, or is another admin's", err)
	}
	if err != nil {
		return err
	}
	if err := a.agreeOffline(ctx, o, c); err != nil {
		return err
	}
	keys, err := a.sealingKeys(ctx, o)
	if err != nil {
		return err
	}
	sealed, err := rootkey.Seal(k, o.recipients, keys.Passphrase)
	if err != nil {
		return usage("%w", err)
	}
	path, err := a.path()
	if err != nil {
		return err
	}
	var file *rootkey.File
	var opened *rootkey.Content
	from, err := (&client.TakeOffline{Config: path, Name: c.Name, Out: o.out, Content: k, Sealed: sealed, Lifetime: o.ttl,
		Check: func(raw []byte) (err error) {
			if file, err = rootkey.Parse(raw); err != nil || !keys.Given() {
				return err
			}
			if opened, err = file.Open(keys); err == nil && !opened.Key.Equal(k.Key) {
				err = rootkey.ErrChanged
			}
			return err
		}}).Run()
	if err != nil {
		if _, there := os.Lstat(o.out); there == nil {
			return exit(exitError, "%w; %s is there too: remove it when you have run this again", err, o.out)
		}
		return err
	}
	if err := a.showRoot(p, rootInspectedOf(o.out, file, opened, c.Name)); err != nil {
		return err
	}
	a.sayOffline(o, path, from, opened != nil)
	return nil
}

func (a *app) agreeOffline(ctx context.Context, o *takeOffline, c *client.Context) error {
	if o.yes {
		return nil
	}
	tty, ok := a.terminal()
	if !ok {
		return usage("nobody can be asked here (no terminal): repeat with --yes to take the root's key out of context %s into %s", c.Name, o.out)
	}
	defer func() { _ = tty.Close() }()
	tried := ""
	if len(o.recipients) > 0 && o.opens.identities == "" {
		tried = ", which cannot be opened here to try it (no --age-identity)"
	}
	return ask(ctx, tty, "About to take the root's key out of context "+c.Name+" into "+o.out+tried+". Type yes to go on: ", "yes")
}

// sealingKeys are what opens the file that is about to be made, as far as it is here.
func (a *app) sealingKeys(ctx context.Context, o *takeOffline) (keys seal.Keys, err error) {
	if o.opens.passphrase {
		keys.Passphrase, err = a.askNewSecret(ctx, "Passphrase of the root's file: ")
		return keys, err
	}
	return a.keys(ctx, &o.opens)
}

// sayOffline says what is left to be done by hand.
func (a *app) sayOffline(o *takeOffline, path string, from []string, opened bool) {
	a.say("the root's key is in %s now, and no more in %s (%s), which makes operators by an authority of your own", o.out, path, strings.Join(from, ", "))
	if !opened {
		a.say("it could not be opened here: before other copies of the key are removed, try 'vedette cluster root inspect %s --age-identity KEY' where its key is", filepath.Base(o.out))
	}
	a.say("other copies of the key are not looked for: admin.context.yaml in the data directory of the node that made the cluster, the file that was imported, backups and snapshots of %s. Remove them, or the root is still there", filepath.Dir(path))
	if info, err := os.Stat(path); err == nil {
		if sys, ok := info.Sys().(*syscall.Stat_t); ok && sys.Nlink > 1 {
			a.say("%s has another name, by a hard link", path)
		}
	}
	a.say("make a second copy of %s in another place, and note the root's name: nothing replaces this key", o.out)
}

func (a *app) rootInspectCommand() *cobra.Command {
	r := &rootFile{}
	c := &cobra.Command{
		Use:   "inspect FILE",
		Short: "check a file with the root's key, and say whose it is",
		Long: `Reads a file that 'vedette cluster root take-offline' or 'vedette-coordinator init --root-out'
wrote, checks that it is whole, and says of which cluster and root it is. With what opens it, it
also checks the key. It shows no key and asks no cluster. When a context is in use, the file must
be of its root.

Without --age-identity, --passphrase or --passphrase-file it is not opened: what it says of
itself is then as its head says.`,
		Example: "  vedette cluster root inspect prod.root\n  vedette cluster root inspect prod.root --passphrase",
		Args:    exactly("FILE"),
		RunE: bare(func(ctx context.Context, args []string) error {
			r.path = args[0]
			c, err := a.context()
			if errors.Is(err, client.ErrNoContext) && !a.named() {
				c, err = nil, nil
			}
			if err != nil {
				return err
			}
			p, err := a.printer("")
			if err != nil {
				return err
			}
			file, err := r.parse()
			if err != nil {
				return err
			}
			name := ""
			if c != nil {
				if err := c.CheckRoot(file.ClusterID, file.Root); err != nil {
					return fmt.Errorf("%s: %w", r.path, err)
				}
				name = c.Name
			}
			var k *rootkey.Content
			if r.identities != "" || r.passphrase || r.passphraseFile != "" {
				if k, err = a.openRoot(ctx, r, file); err != nil {
					return err
				}
			}
			return a.showRoot(p, rootInspectedOf(r.path, file, k, name))
		}),
	}
	r.opening(c)
	return c
}

// named is whether somebody said which context to use.
func (a *app) named() bool {
	return first(a.contextFile, env("CONTEXT_FILE"), a.contextName, env("CONTEXT")) != ""
}

func (a *app) rootRenewMineCommand() *cobra.Command {
	r := &rootFile{}
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "renew-mine",
		Short: "renew your own certificate and authority, by the root",
		Long: `Makes another key and certificate for the context in use, and if it makes operators another
authority, signed by the root. It takes the root's file (--root), unless the root's key is in the
context; no cluster is asked. What the former ones signed stays good until they end: operators
whom your former authority made are renewed by 'vedette operator create'.

A name that was revoked stays so: its holder gets a context with another name.`,
		Example: "  vedette cluster root renew-mine --root /media/stick/prod.root",
		Args:    none,
		RunE: bare(func(ctx context.Context, _ []string) error {
			path, err := a.path()
			if err != nil {
				return err
			}
			mine, err := a.context()
			if err != nil {
				return err
			}
			if r.path == "" && !mine.HoldsRoot() {
				return exit(exitDenied, "only the root renews an admin: give the file with its key by --root FILE")
			}
			if err := a.useRoot(ctx, r, mine); err != nil {
				return err
			}
			if err := mine.Renew(ttl); err != nil {
				return usage("%w", err)
			}
			err = client.Update(path, func(config *client.Config) error {
				c := config.Context(mine.Name)
				if c == nil || c.Operator != mine.Operator || c.HoldsRoot() != mine.HoldsRoot() {
					return client.ErrRootMoved
				}
				c.Certificate, c.Key = mine.Certificate, mine.Key
				if !c.HoldsRoot() {
					c.Authority, c.AuthorityKey = mine.Authority, mine.AuthorityKey
				}
				return nil
			})
			if err != nil {
				return err
			}
			expires, err := mine.Expires()
			if err != nil {
				return err
			}
			a.say("context %s is renewed, until %s", mine.Name, clock(expires.UnixNano()))
			return nil
		}),
	}
	r.flags(c)
	c.Flags().DurationVar(&ttl, "ttl", operator.Lifetime, "how long the new ones are good, at most 8760h")
	return c
}

// losesRoot names the contexts of a file whose root's key another one would take the place of.
func losesRoot(config, in *client.Config) (names []string) {
	for _, c := range in.Contexts {
		if old := config.Context(c.Name); old != nil && old.HoldsRoot() && !c.HoldsRoot() && !slices.Contains(names, c.Name) {
			names = append(names, c.Name)
		}
	}
	return names
}
