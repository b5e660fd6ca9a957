package coordinator

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/proto/backup"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/seal"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// restoring is where a restore is made, inside the data directory: what is there is no
	// node until all of it is moved out.
	restoring = ".restoring"
	// clockTolerance is how far a backup may be from the future.
	clockTolerance = time.Minute
)

var (
	// ErrNotEmpty: a restore was asked for into a directory that holds something.
	ErrNotEmpty = errors.New("the directory is not empty: a cluster is restored into an empty one, so that nothing of another is overwritten; choose another --data, or move away what is there")
	// ErrNoKey: a backup without the cluster's key.
	ErrNoKey = errors.New("the backup does not hold the key of the cluster's authority")
	// ErrClock: the backup is of a time that has not come yet.
	ErrClock = errors.New("the backup is from the future: set this machine's clock right first, since hosts refuse orders that are older than those they know")
)

// RestoreFrom says what a cluster is restored from.
type RestoreFrom struct {
	// File is the backup and Keys open it when it is encrypted.
	File string
	Keys seal.Keys
	// IdentityFrom is the data directory of a node of the former cluster, to take the
	// authority's key from when the backup has none. NewAuthority makes a new one instead:
	// then every host must enrol again, and every operator needs the new ca.crt.
	IdentityFrom string
	NewAuthority bool
}

// Restore makes cfg.Data the first node of a new cluster that knows what the backup knows.
// Others join it as any cluster. On error the directory is as it was.
func Restore(ctx context.Context, cfg Config, from RestoreFrom) (m backup.Manifest, err error) {
	if err := cfg.prepare(); err != nil {
		return m, err
	}
	if err := onlyRestoring(cfg.Data); err != nil {
		return m, err
	}
	file, err := os.Open(from.File)
	if err != nil {
		return m, fmt.Errorf("reading the backup: %w", err)
	}
	defer file.Close()
	r, _, err := backup.Open(file, from.Keys)
	if err != nil {
		return m, fmt.Errorf("%s: %w", from.File, err)
	}
	m = r.Manifest()
	if now := time.Now(); m.Time.After(now.Add(clockTolerance)) {
		return m, fmt.Errorf("%s: made at %s, and here it is %s: %w", from.File, m.Time.Format(time.RFC3339), now.UTC().Format(time.RFC3339), ErrClock)
	}
	authority, operators, err := from.identity(m)
	if err != nil {
		return m, err
	}
	existed := true
	if _, err := os.Stat(cfg.Data); errors.Is(err, fs.ErrNotExist) {
		existed = false
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return m, fmt.Errorf("making the data directory: %w", err)
	}
	lock, err := lockData(cfg.Data)
	if err != nil {
		return m, err
	}
	defer func() { _ = lock.Close() }()
	work := filepath.Join(cfg.Data, restoring)
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(work))
			if !existed {
				_ = os.Remove(cfg.Data) // it is empty, or somebody has put something there
			}
		}
	}()
	if err := errors.Join(os.RemoveAll(work), os.Mkdir(work, 0o700)); err != nil {
		return m, fmt.Errorf("making room for the restore: %w", err)
	}
	if err := cfg.restoreState(ctx, work, r, from.NewAuthority); err != nil {
		return m, fmt.Errorf("%s: %w", from.File, err)
	}
	key, err := identity.NewKey()
	if err != nil {
		return m, err
	}
	chain, err := authority.SignNode(key.Public(), cfg.ID, certificateNames(&cfg))
	if err != nil {
		return m, err
	}
	if _, err := identity.Create(work, cfg.membership(m.ClusterID, false), authority, operators, key, chain); err != nil {
		return m, err
	}
	return m, moveOut(work, cfg.Data)
}

// restoreState makes log and state in work. The file is believed when it was read to its end.
func (c *Config) restoreState(ctx context.Context, work string, r *backup.Reader, newAuthority bool) error {
	m := r.Manifest()
	self := &sensorv1.Node{Id: c.ID, Address: c.Advertise, OperatorAddress: c.OperatorAdvertise}
	cmd := &raftv1.Command{Time: time.Now().UnixNano(), Actor: "node:" + c.ID, Body: &raftv1.Command_RestoreCluster{RestoreCluster: &raftv1.RestoreCluster{
		Node: self, Made: m.Time.UnixNano(), MadeIndex: m.Index, Authority: newAuthority}}}
	if err := consensus.Found(ctx, work, self, m.Term, r, cmd, c.logger()); err != nil {
		// The outer checksum says more than what the inside makes of a changed byte.
		if _, outer := io.Copy(io.Discard, r); outer != nil {
			return outer
		}
		return err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	return nil
}

func (c *Config) logger() *slog.Logger {
	if c.Logger != nil {
		return c.Logger
	}
	return slog.New(slog.DiscardHandler)
}

// identity is what the cluster will be: to hosts the former one, if there is its key.
func (from RestoreFrom) identity(m backup.Manifest) (*identity.Authority, *x509.Certificate, error) {
	authority, operators, err := identity.Import(m.ClusterID, identity.Exported{Authority: m.Authority, Operators: m.Operators, Key: m.AuthorityKey})
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%s: %w: %w", from.File, backup.ErrDamaged, err)
	case from.NewAuthority:
		authority, err = identity.NewAuthority(m.ClusterID)
		return authority, operators, err
	case authority != nil:
		return authority, operators, nil
	case from.IdentityFrom == "":
		return nil, nil, fmt.Errorf("%s: %w: give the data directory of any node of that cluster with --identity-from; if none is left, --new-authority makes a new one, and every host must then enrol again", from.File, ErrNoKey)
	}
	node, err := identity.Load(from.IdentityFrom)
	if err != nil {
		return nil, nil, err
	}
	if have := node.Membership().ClusterID; have != m.ClusterID {
		return nil, nil, fmt.Errorf("%s is of a node of cluster %s, the backup of %s: %w", from.IdentityFrom, have, m.ClusterID, ErrOtherCluster)
	}
	if !node.Operators().Equal(operators) {
		return nil, nil, fmt.Errorf("%s knows another operators' authority than the backup: %w", from.IdentityFrom, identity.ErrMismatch)
	}
	return node.Authority(), operators, nil
}

// onlyRestoring accepts an empty directory, none, and what an interrupted restore left.
func onlyRestoring(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the data directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != restoring && e.Name() != "lost+found" { // every file system of its own has one
			names = append(names, e.Name())
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("%s holds %s: %w", dir, strings.Join(names[:min(len(names), 5)], ", "), ErrNotEmpty)
	}
	return nil
}

// moveOut makes a node of what was restored: what names it comes last, so that an
// interruption leaves a directory that starts no node.
func moveOut(work, dir string) error {
	entries, err := os.ReadDir(work)
	if err != nil {
		return fmt.Errorf("reading what was restored: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.SortStableFunc(names, func(a, b string) int { return last(a) - last(b) })
	for _, name := range names {
		if err := os.Rename(filepath.Join(work, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("moving what was restored: %w", err)
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing the data directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close(), os.Remove(work))
}

func last(name string) int {
	if name == identity.NameFile {
		return 1
	}
	return 0
}
