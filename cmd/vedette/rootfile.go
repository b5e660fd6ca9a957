package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/rootkey"
	"github.com/vedette-edr/vedette/proto/seal"
)

// rootFile is where the root's key is, and what opens the file.
type rootFile struct {
	path                       string
	identities, passphraseFile string
	passphrase                 bool
}

func (r *rootFile) flags(c *cobra.Command) {
	c.Flags().StringVar(&r.path, "root", "", "`file` with the root's key, as 'vedette cluster root take-offline' wrote it")
	r.opening(c)
}

// opening are the flags for what opens the file.
func (r *rootFile) opening(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&r.identities, "age-identity", "", "`file` of age identities that open the root's file, - for standard input")
	f.BoolVar(&r.passphrase, "passphrase", false, "ask at the terminal for the passphrase that opens the root's file")
	f.StringVar(&r.passphraseFile, "passphrase-file", "", "`file` with the passphrase that opens the root's file, - for standard input")
	c.MarkFlagsMutuallyExclusive("age-identity", "passphrase", "passphrase-file")
}

// parse reads the file and checks that it is whole, without opening it.
func (r *rootFile) parse() (*rootkey.File, error) {
	in, err := os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, exit(exitNotFound, "opening the root's file: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the root's file: %w", err)
	}
	defer in.Close()
	raw, err := io.ReadAll(io.LimitReader(in, rootkey.MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the root's file: %w", err)
	}
	file, err := rootkey.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.path, err)
	}
	return file, nil
}

// keys are what the flags give to open a file with, asked for where they say so.
func (a *app) keys(ctx context.Context, r *rootFile) (keys seal.Keys, err error) {
	switch {
	case r.identities != "":
		keys.Identities, err = a.secret(r.identities)
	case r.passphraseFile != "":
		keys.Passphrase, err = a.secret(r.passphraseFile)
	case r.passphrase:
		keys.Passphrase, err = a.askSecret(ctx, "Passphrase of the root's file: ")
	}
	return keys, err
}

// openRoot opens the file. One that a passphrase opens asks for it.
func (a *app) openRoot(ctx context.Context, r *rootFile, file *rootkey.File) (*rootkey.Content, error) {
	keys, err := a.keys(ctx, r)
	if err == nil && !keys.Given() && file.OpenedBy == rootkey.ByPassphrase {
		if keys.Passphrase, err = a.askSecret(ctx, "Passphrase of the root's file: "); err != nil {
			return nil, usage("%s is opened by a passphrase, and nobody can be asked here: give --passphrase-file", r.path)
		}
	}
	if err != nil {
		return nil, err
	}
	k, err := file.Open(keys)
	switch {
	case errors.Is(err, seal.ErrEncrypted):
		return nil, usage("%s was encrypted for %s: give the file with its key by --age-identity", r.path, file.OpenedBy)
	case errors.Is(err, seal.ErrKey):
		return nil, exit(exitDenied, "%s: %w: the file is whole, and is opened by %s", r.path, err, openedBy(file))
	case err != nil:
		return nil, fmt.Errorf("%s: %w", r.path, err)
	}
	return k, nil
}

func openedBy(file *rootkey.File) string {
	if file.OpenedBy == rootkey.ByPassphrase {
		return "another passphrase"
	}
	return "the key of " + file.OpenedBy
}

// useRoot has a context sign with the root's key, if --root gives it.
func (a *app) useRoot(ctx context.Context, r *rootFile, c *client.Context) error {
	if r.path == "" {
		if r.identities != "" || r.passphrase || r.passphraseFile != "" {
			return usage("--root says which file is to be opened")
		}
		return nil
	}
	file, err := r.parse()
	if err == nil {
		err = c.CheckRoot(file.ClusterID, file.Root) // before anybody types a passphrase
	}
	var k *rootkey.Content
	if err == nil {
		k, err = a.openRoot(ctx, r, file)
	}
	if err == nil {
		err = c.UseRoot(k)
	}
	if errors.Is(err, client.ErrOtherRoot) {
		return exit(exitDenied, "%s: %w", r.path, err)
	}
	return err
}

// rootInspected is `cluster root inspect`, and what `take-offline` says of what it wrote.
type rootInspected struct {
	File      string     `json:"file"`
	ClusterID string     `json:"cluster_id"`
	Root      string     `json:"root"`
	Expires   shape.Time `json:"expires"`
	Made      shape.Time `json:"made"`
	MadeBy    *string    `json:"made_by"`
	OpenedBy  string     `json:"opened_by"`
	Opened    bool       `json:"opened"`
	// Context names the context in use, whose root this is; empty: there is none.
	Context string `json:"context"`
}

func rootInspectedOf(path string, file *rootkey.File, k *rootkey.Content, name string) rootInspected {
	shown := rootInspected{File: path, ClusterID: file.ClusterID, Root: file.Root, Expires: stamp(file.Ends.UnixNano()),
		Made: stamp(file.Made.UnixNano()), OpenedBy: file.OpenedBy, Opened: k != nil, Context: name}
	if k != nil {
		shown.MadeBy = &k.By
	}
	return shown
}

func (a *app) showRoot(p *output.Printer, r rootInspected) error {
	return p.Show(output.Shown{Name: r.File, Value: r, Page: func(g *output.Page) {
		g.Title(output.Plain, r.File)
		key := "not looked at: the file is whole, and was not opened"
		if r.Opened {
			key = "whole, and the root's"
		}
		ends := clock(int64(r.Expires))
		if int64(r.Expires) < a.now().UnixNano() {
			ends += ", over"
		}
		made := clock(int64(r.Made))
		if r.MadeBy != nil {
			made += " by " + *r.MadeBy
		}
		for _, line := range [][2]string{
			{"cluster", r.ClusterID}, {"root", r.Root}, {"ends", ends}, {"made", made},
			{"opened by", r.OpenedBy}, {"key", key}, {"root of context", first(r.Context, "none is here to compare")},
		} {
			g.Field(line[0], line[1])
		}
	}})
}

// ownAuthorityEnds says that an admin's own authority ends soon.
func ownAuthorityEnds(c *client.Context, now time.Time) (string, bool) {
	from, until, ok := c.OwnAuthority()
	if left := until.Sub(now); !ok || left >= authorityEndsSoon || left >= until.Sub(from)/3 {
		return "", false
	}
	return fmt.Sprintf("your authority to make operators ends at %s, and with it all whom it made: whoever has the root's file renews it, here by 'vedette cluster root renew-mine --root FILE', or elsewhere by 'vedette operator create %s --role admin --root FILE'",
		clock(until.UnixNano()), c.Operator), true
}
