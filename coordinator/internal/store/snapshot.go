package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/zstd"
	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/vedette-edr/vedette/coordinator/internal/failpoint"
)

// A snapshot stream is one zstd frame holding: the magic, the applied index and
// the length of the database file (8 bytes big-endian each), the file, and the
// SHA-256 of all of that. The format is on disk in raft's snapshot directory:
// another one needs another magic.
var snapshotMagic = []byte("VDTSNAP1")

const snapshotHeader = 8 + 8 + 8

// Frozen is the state as it was when Freeze was called, to be written later.
type Frozen struct {
	db    *DB
	conn  *sqlite3.SQLiteConn
	index uint64
	once  sync.Once
	err   error
}

// Freeze pins the current state without copying it: a read transaction on a
// connection of its own, which later entries do not disturb. It is quick, as
// raft calls it between two entries. The caller must Close it.
func (db *DB) Freeze() (*Frozen, error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.closed {
		return nil, ErrClosed
	}
	return db.freeze()
}

// freeze is Freeze for a caller that holds mu.
func (db *DB) freeze() (*Frozen, error) {
	conn, err := openConn(db.path, "_query_only=true&_busy_timeout=5000")
	if err != nil {
		return nil, fmt.Errorf("opening snapshot connection: %w", err)
	}
	f := &Frozen{db: db, conn: conn}
	if _, err := conn.Exec("BEGIN", nil); err == nil {
		// The first read is what pins.
		f.index, err = readApplied(conn)
		if err == nil {
			return f, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("pinning snapshot: %w", err), conn.Close())
}

// Index is the applied index of the frozen state.
func (f *Frozen) Index() uint64 { return f.index }

// Close lets the pinned state go. It is idempotent.
func (f *Frozen) Close() error {
	f.once.Do(func() { f.err = f.conn.Close() })
	return f.err
}

// Rows counts what is in the frozen state, by kind.
func (f *Frozen) Rows() (map[string]uint64, error) {
	rows := make(map[string]uint64)
	for kind, table := range map[string]string{"hosts": "hosts", "behaviours": "sightings", "findings": "findings", "incidents": "incidents",
		"operations": "operations", "audit_entries": "audit", "intents": "intents"} {
		n, err := queryInt(f.conn, "SELECT count(*) FROM "+table)
		if err != nil {
			return nil, fmt.Errorf("counting %s: %w", kind, err)
		}
		rows[kind] = uint64(n) //nolint:gosec // a count
	}
	return rows, nil
}

// Write streams the frozen state to w. The pinned state is let go as soon as it is copied,
// since SQLite's WAL grows as long as somebody reads an old state: only one Write is possible.
func (f *Frozen) Write(w io.Writer) error {
	tmp, err := temporary(f.db.path, "snapshot")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp) }()
	if err := f.copyTo(tmp); err != nil {
		return fmt.Errorf("copying state for snapshot: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("letting the pinned state go: %w", err)
	}
	failpoint.Hit("snapshot.copied")
	file, err := os.Open(tmp)
	if err != nil {
		return fmt.Errorf("opening snapshot copy: %w", err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("reading size of snapshot copy: %w", err)
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("compressing snapshot: %w", err)
	}
	sum := sha256.New()
	out := io.MultiWriter(z, sum)
	header := binary.BigEndian.AppendUint64(bytes.Clone(snapshotMagic), f.index)
	header = binary.BigEndian.AppendUint64(header, uint64(info.Size()))
	if _, err := out.Write(header); err != nil {
		return fmt.Errorf("writing snapshot: %w", err)
	}
	if _, err := io.CopyN(out, interruptible{f.db.ending, file}, info.Size()); err != nil {
		return fmt.Errorf("writing snapshot: %w", err)
	}
	failpoint.Hit("snapshot.written")
	if _, err := z.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("writing snapshot: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("writing snapshot: %w", err)
	}
	return nil
}

// interruptible is a reader that ends with ctx.
type interruptible struct {
	ctx context.Context
	io.Reader
}

func (r interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, fmt.Errorf("the node is stopping: %w", err)
	}
	return r.Reader.Read(p)
}

// copyTo copies the pinned pages. The backup runs in one step inside the pinned
// read transaction, so that it takes that state and never restarts for a writer.
func (f *Frozen) copyTo(path string) (err error) {
	dst, err := openConn(path, "_journal_mode=OFF&_synchronous=OFF")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	b, err := dst.Backup("main", f.conn, "main")
	if err != nil {
		return err
	}
	done, err := b.Step(-1)
	if err = errors.Join(err, b.Finish()); err != nil {
		return err
	}
	if !done {
		return errors.New("backup did not finish: the database is locked")
	}
	return nil
}

// Snapshot writes the current state to w, consistent and checksummed.
func (db *DB) Snapshot(w io.Writer) error {
	f, err := db.Freeze()
	if err != nil {
		return err
	}
	return errors.Join(f.Write(w), f.Close())
}

// Restore replaces the whole state by a snapshot's. Nothing changes until the
// snapshot is complete on disk, its checksum right and the database in it whole;
// then one rename replaces the file. On error the state is what it was.
func (db *DB) Restore(r io.Reader) error {
	staged, err := db.Stage(r)
	if err != nil {
		return err
	}
	defer staged.Drop()
	return db.Adopt(staged)
}

// Staged is a snapshot that is complete on disk and whole, and not yet the state.
type Staged struct {
	path  string
	index uint64
}

// Index is the applied index of the state in it.
func (s *Staged) Index() uint64 { return s.index }

// Drop removes what was not adopted.
func (s *Staged) Drop() { _ = os.Remove(s.path) }

// Stage receives a snapshot. The caller must Drop it.
func (db *DB) Stage(r io.Reader) (*Staged, error) {
	tmp, err := temporary(db.path, "restore")
	if err != nil {
		return nil, err
	}
	s := &Staged{path: tmp}
	if s.index, err = receive(interruptible{db.ending, r}, tmp); err == nil {
		err = verify(db.ending, tmp, s.index)
	}
	if err != nil {
		s.Drop()
		return nil, err
	}
	failpoint.Hit("restore.verified")
	return s, nil
}

// Adopt makes a staged snapshot the state.
func (db *DB) Adopt(s *Staged) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return ErrClosed
	}
	db.checks.end()
	if err := db.disconnect(); err != nil {
		db.closed = true
		return fmt.Errorf("closing state for restore: %w", err)
	}
	failpoint.Hit("restore.disconnected")
	if err := db.replace(s.path); err != nil {
		return errors.Join(err, db.reconnect())
	}
	return db.reconnect()
}

func (db *DB) reconnect() error {
	if err := db.connect(context.Background()); err != nil {
		db.closed = true
		return fmt.Errorf("reopening state: %w", err)
	}
	failpoint.Hit("restore.reopened")
	return nil
}

// replace puts tmp in the state's place. The WAL of the old file must be gone
// first: SQLite would replay it into the new file, which is one of the ways in
// which rows are doubled. Closing the last connection has emptied and removed
// it; were it still there, its rows are in the snapshot's past or in raft's log.
func (db *DB) replace(tmp string) error {
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(db.path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing old %s: %w", suffix, err)
		}
	}
	failpoint.Hit("restore.wal-removed")
	if err := syncDir(db.path); err != nil {
		return err
	}
	failpoint.Hit("restore.rename.before")
	if err := os.Rename(tmp, db.path); err != nil {
		return fmt.Errorf("replacing state: %w", err)
	}
	failpoint.Hit("restore.rename.after")
	return syncDir(db.path)
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("opening state directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing state directory: %w", err)
	}
	return nil
}

func temporary(path, what string) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+"."+what+"-*")
	if err != nil {
		return "", fmt.Errorf("making %s file: %w", what, err)
	}
	return f.Name(), f.Close()
}

// receive writes the database of a snapshot stream to path and checks the checksum.
func receive(r io.Reader, path string) (index uint64, err error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return 0, fmt.Errorf("decompressing snapshot: %w", err)
	}
	defer z.Close()
	sum := sha256.New()
	in := io.TeeReader(z, sum)
	var header [snapshotHeader]byte
	if _, err := io.ReadFull(in, header[:]); err != nil {
		return 0, fmt.Errorf("%w: reading header: %w", ErrSnapshot, err)
	}
	if !bytes.Equal(header[:8], snapshotMagic) && bytes.HasPrefix(header[:8], snapshotMagic[:7]) {
		return 0, fmt.Errorf("%w: it begins with %q, this release knows %q", ErrNewer, header[:8], snapshotMagic)
	}
	if !bytes.Equal(header[:8], snapshotMagic) {
		return 0, fmt.Errorf("%w: it begins with %q, want %q", ErrSnapshot, header[:8], snapshotMagic)
	}
	index = binary.BigEndian.Uint64(header[8:])
	size := binary.BigEndian.Uint64(header[16:])
	if size > 1<<40 {
		return 0, fmt.Errorf("%w: it claims %d bytes", ErrSnapshot, size)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, fmt.Errorf("opening restore file: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if n, err := io.CopyN(file, in, int64(size)); err != nil {
		return 0, fmt.Errorf("%w: it ends after %d of %d bytes: %w", ErrSnapshot, n, size, err)
	}
	var want [sha256.Size]byte
	if _, err := io.ReadFull(z, want[:]); err != nil {
		return 0, fmt.Errorf("%w: reading checksum: %w", ErrSnapshot, err)
	}
	if got := sum.Sum(nil); !bytes.Equal(got, want[:]) {
		return 0, fmt.Errorf("%w: checksum is %x, want %x", ErrSnapshot, got, want)
	}
	failpoint.Hit("restore.sync.before")
	if err := file.Sync(); err != nil {
		return 0, fmt.Errorf("syncing restore file: %w", err)
	}
	failpoint.Hit("restore.sync.after")
	return index, nil
}

// verify opens the received database by itself and asks SQLite whether it is whole.
func verify(ctx context.Context, path string, index uint64) (err error) {
	conn, err := openConn(path, "_journal_mode=DELETE&_synchronous=FULL")
	if err != nil {
		return fmt.Errorf("%w: opening: %w", ErrSnapshot, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := sound(ctx, conn); err != nil {
		return fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	// Before it takes the state's place: a newer one could not be opened there.
	if err := checkSchema(conn); err != nil {
		return err
	}
	got, err := readApplied(conn)
	if err != nil {
		return fmt.Errorf("%w: reading applied index: %w", ErrSnapshot, err)
	}
	if got != index {
		return fmt.Errorf("%w: it holds index %d and claims %d", ErrSnapshot, got, index)
	}
	return nil
}
