package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/backup"
	"github.com/vedette-edr/vedette/proto/seal"
)

// inspected is `cluster inspect`, and what `cluster backup` says of what it wrote.
type inspected struct {
	File      string            `json:"file"`
	Size      int64             `json:"size"`
	Encrypted bool              `json:"encrypted"`
	ClusterID string            `json:"cluster_id"`
	Node      string            `json:"node"`
	Version   string            `json:"version"`
	Time      shape.Time        `json:"time"`
	Index     uint64            `json:"index"`
	Term      uint64            `json:"term"`
	Identity  bool              `json:"identity"` // it holds the key of the cluster's authority
	Rows      map[string]uint64 `json:"rows"`
}

// backupOptions are where a backup goes and who can read it.
type backupOptions struct {
	out             string
	recipients      []string
	passphraseFile  string
	passphrase      bool
	withoutIdentity bool
	force           bool
}

func (a *app) clusterBackupCommand() *cobra.Command {
	var o backupOptions
	c := &cobra.Command{
		Use:   "backup --out FILE",
		Short: "write a copy of the cluster's state to a file",
		Long: `Writes one file, mode 0600, with everything that the cluster knows at one moment, checked while
it is written. A new cluster is made of it with 'vedette-coordinator restore'.

Encrypted (--age-recipient, --passphrase, --passphrase-file) it also holds the key of the
cluster's authority, so that the hosts find the restored cluster to be their own and come back
by themselves. That key makes hosts and nodes: keep what opens the file away from the file. A
file that is not encrypted never holds a private key; it still says everything about the fleet.
The key that makes operators is in no backup, since no node has it: it is in the admin's context.

It takes an admin, any one node, and no leader if the file is without the key. Who took a backup
is in the audit record.`,
		Example: `  vedette cluster backup --out vedette.backup --age-recipient age1...
  vedette cluster backup --out vedette.backup --passphrase
  vedette cluster backup --out state.backup        # without the key`,
		Args: none,
		RunE: a.connected(func(ctx context.Context, s *session, _ []string) error { return s.backup(ctx, &o) }),
	}
	f := c.Flags()
	f.StringVar(&o.out, "out", "", "`file` to write")
	f.StringSliceVar(&o.recipients, "age-recipient", nil, "encrypt for this age `recipient` (age1...); repeatable")
	f.BoolVar(&o.passphrase, "passphrase", false, "encrypt by a passphrase, asked for at the terminal")
	f.StringVar(&o.passphraseFile, "passphrase-file", "", "encrypt by the passphrase in `file`, - for standard input")
	f.BoolVar(&o.withoutIdentity, "without-identity", false, "leave the key of the cluster's authority out although the file is encrypted")
	f.BoolVar(&o.force, "force", false, "write over a file that exists")
	c.MarkFlagsMutuallyExclusive("age-recipient", "passphrase", "passphrase-file")
	return c
}

func (s *session) backup(ctx context.Context, o *backupOptions) (err error) {
	if o.out == "" {
		return usage("--out says where the backup goes")
	}
	if _, err := os.Lstat(o.out); err == nil && !o.force {
		return usage("%s exists: choose another file with --out, or write over it with --force", o.out)
	}
	phrase, err := s.newPassphrase(ctx, o)
	if err != nil {
		return err
	}
	// CreateTemp makes it of mode 0600.
	file, err := os.CreateTemp(filepath.Dir(o.out), ".vedette-backup-*")
	if err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	defer func() { _ = file.Close() }()
	buffered := bufio.NewWriterSize(file, 256<<10)
	var to io.Writer = buffered
	ends := func() error { return nil }
	encrypted := phrase != "" || len(o.recipients) > 0
	if encrypted {
		w, err := seal.Encrypt(buffered, o.recipients, phrase)
		if err != nil {
			return usage("%v", err)
		}
		to, ends = w, w.Close
	}
	// What passes is checked on the way: a backup that is no good must not be found out
	// on the day that it is needed.
	checked, check := io.Pipe()
	type verdict struct {
		m   backup.Manifest
		err error
	}
	done := make(chan verdict, 1)
	go func() {
		m, err := backup.Check(checked)
		_ = checked.CloseWithError(err)
		done <- verdict{m, err}
	}()
	identity := encrypted && !o.withoutIdentity
	err = s.api.Backup(ctx, identity, io.MultiWriter(to, check))
	_ = check.CloseWithError(err) // nil is the end
	v := <-done
	if err == nil {
		err = v.err
	}
	if err == nil && v.m.AuthorityKey != "" && !identity {
		err = errors.New("the node sent the cluster's key although nobody asked for it; nothing is kept")
	}
	if err != nil {
		return err
	}
	if v.m.ClusterID != s.context.ClusterID {
		return fmt.Errorf("the backup is of cluster %s, the context of %s", v.m.ClusterID, s.context.ClusterID)
	}
	if err := errors.Join(ends(), buffered.Flush(), file.Sync()); err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	if err := place(file.Name(), o.out, o.force); err != nil {
		return err
	}
	if err := s.showBackup(inspectedOf(o.out, info.Size(), encrypted, v.m)); err != nil {
		return err
	}
	if !identity {
		s.say("it holds no private key: keep a node's data directory too, or hosts must enrol again after a restore")
	}
	return nil
}

// place gives a finished file its name.
func place(from, to string, force bool) error {
	var err error
	if force {
		err = os.Rename(from, to)
	} else if err = os.Link(from, to); errors.Is(err, fs.ErrExist) { // a rename would take its place
		return usage("%s exists: choose another file with --out, or write over it with --force", to)
	}
	if err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	return nil
}

// newPassphrase gets the one to encrypt by, "" when none is to be used.
func (s *session) newPassphrase(ctx context.Context, o *backupOptions) (string, error) {
	switch {
	case o.passphraseFile != "":
		return s.secret(o.passphraseFile)
	case !o.passphrase:
		return "", nil
	}
	return s.askNewSecret(ctx, "Passphrase of the backup: ")
}

// askNewSecret asks twice.
func (a *app) askNewSecret(ctx context.Context, question string) (string, error) {
	phrase, err := a.askSecret(ctx, question)
	if err != nil {
		return "", err
	}
	again, err := a.askSecret(ctx, "Once more: ")
	if err != nil {
		return "", err
	}
	if phrase == "" || phrase != again {
		return "", exit(exitError, "the two are not the same, or empty; nothing was done")
	}
	return phrase, nil
}

func (a *app) secret(path string) (string, error) {
	text, err := seal.ReadSecret(path, a.stdin)
	if err != nil {
		return "", usage("reading the passphrase or keys: %v", err)
	}
	return text, nil
}

// askSecret reads a line at the terminal that is not shown.
func (a *app) askSecret(_ context.Context, question string) (string, error) {
	tty, ok := a.terminal()
	if !ok {
		return "", usage("nobody can be asked here (no terminal): give the passphrase with --passphrase-file")
	}
	defer func() { _ = tty.Close() }()
	_, _ = fmt.Fprint(tty, question)
	text, err := term.ReadPassword(int(tty.Fd()))
	_, _ = fmt.Fprintln(tty)
	if err != nil {
		return "", fmt.Errorf("reading the passphrase: %w", err)
	}
	return string(bytes.TrimSpace(text)), nil
}

func (a *app) clusterInspectCommand() *cobra.Command {
	var identities, passphraseFile string
	c := &cobra.Command{
		Use:   "inspect FILE",
		Short: "check a backup and say what is in it, without a cluster",
		Long: `Reads a backup to its end, checks it, and says of which cluster and moment it is and what is in
it. An encrypted one needs what opens it; its passphrase is asked for at the terminal when
neither file is given. A file that is torn or changed is an error.`,
		Example: "  vedette cluster inspect vedette.backup\n  vedette cluster inspect vedette.backup --age-identity key.txt",
		Args:    exactly("FILE"),
		RunE: bare(func(ctx context.Context, args []string) error {
			p, err := a.printer("")
			if err != nil {
				return err
			}
			s := &session{app: a, Printer: p}
			file, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("reading the backup: %w", err)
			}
			defer file.Close()
			var keys seal.Keys
			if identities != "" {
				if keys.Identities, err = s.secret(identities); err != nil {
					return err
				}
			}
			if passphraseFile != "" {
				if keys.Passphrase, err = s.secret(passphraseFile); err != nil {
					return err
				}
			}
			r, encrypted, err := backup.Open(file, keys)
			if errors.Is(err, seal.ErrEncrypted) {
				if keys.Passphrase, err = s.askSecret(ctx, "Passphrase of the backup: "); err != nil {
					return usage("%s is encrypted: give --age-identity or --passphrase-file", args[0])
				}
				if _, err = file.Seek(0, io.SeekStart); err == nil {
					r, encrypted, err = backup.Open(file, keys)
				}
			}
			if err == nil {
				_, err = io.Copy(io.Discard, r)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			info, err := file.Stat()
			if err != nil {
				return err
			}
			return s.showBackup(inspectedOf(args[0], info.Size(), encrypted, r.Manifest()))
		}),
	}
	c.Flags().StringVar(&identities, "age-identity", "", "`file` of age identities that open it, - for standard input")
	c.Flags().StringVar(&passphraseFile, "passphrase-file", "", "`file` with the passphrase that opens it, - for standard input")
	c.MarkFlagsMutuallyExclusive("age-identity", "passphrase-file")
	return c
}

func inspectedOf(path string, size int64, encrypted bool, m backup.Manifest) inspected {
	rows := m.Rows
	if rows == nil {
		rows = map[string]uint64{}
	}
	return inspected{File: path, Size: size, Encrypted: encrypted, ClusterID: m.ClusterID, Node: m.Node, Version: m.Version,
		Time: stamp(m.Time.UnixNano()), Index: m.Index, Term: m.Term, Identity: m.AuthorityKey != "", Rows: rows}
}

func (s *session) showBackup(b inspected) error {
	return s.Show(output.Shown{Name: b.File, Value: b, Page: func(g *output.Page) {
		g.Title(output.Plain, b.File)
		var rows []string
		for kind, n := range b.Rows {
			rows = append(rows, fmt.Sprintf("%s %d", strings.ReplaceAll(kind, "_", " "), n))
		}
		slices.Sort(rows)
		for _, line := range [][2]string{
			{"cluster", b.ClusterID}, {"made", clock(int64(b.Time)) + " by node " + b.Node + ", " + b.Version},
			{"entry", fmt.Sprintf("%d (term %d)", b.Index, b.Term)}, {"size", fmt.Sprintf("%d bytes, whole", b.Size)},
			{"encrypted", yesNo(b.Encrypted)}, {"authority's key", yesNo(b.Identity)}, {"holds", strings.Join(rows, ", ")},
		} {
			g.Field(line[0], line[1])
		}
	}})
}
