// Package backup is the file that `vedette cluster backup` writes and that a new cluster
// is made of: what the state was at one entry, and what is needed of the cluster's identity.
//
// Its invariant: nothing is believed before all of it was read. A file that is torn,
// changed, of a newer release or encrypted for somebody else gives an error that says
// so, and no caller has acted on a part of it.
//
// The file is the format below, or that format encrypted by age
// (https://age-encryption.org/v1), so that age itself opens it too:
//
//	magic "VDTBKUP1"
//	length of the manifest, 4 bytes big-endian; the manifest, JSON
//	chunks of the snapshot: length, 4 bytes big-endian, and the bytes; a length of 0 ends them
//	SHA-256 of all before it
//
// The checksum is against bad disks; against people who change a file there is age, whose
// files cannot be changed by anybody who does not know the passphrase or a recipient.
package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
)

var (
	// ErrNot: the file is no backup at all.
	ErrNot = errors.New("this is no backup of a Vedette cluster")
	// ErrDamaged: it was one.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrNewer: a later release has written it.
	ErrNewer = errors.New("the backup is of a newer release: use that release's programs")
)

const (
	magic = "VDTBKUP1"
	// format is the newest that this release reads and the one that it writes.
	format = 1
	// maxManifest and maxChunk bound what a file can make its reader hold.
	maxManifest = 1 << 20
	maxChunk    = 1 << 20
)

// Manifest says what a backup holds. Fields are added, never changed.
type Manifest struct {
	Format    int    `json:"format"`
	ClusterID string `json:"cluster_id"`
	// Node wrote it at Time (RFC 3339, UTC), running Version.
	Node    string    `json:"node"`
	Time    time.Time `json:"time"`
	Version string    `json:"version"`
	// Index is the last entry of the log that is in it, and Term the newest that Node knew.
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	// Rows counts what is in the state, by kind.
	Rows map[string]uint64 `json:"rows"`
	// Authority is the certificate of the cluster's authority and Operators that of the
	// operators', PEM. Both are public.
	Authority string `json:"authority"`
	Operators string `json:"operators"`
	// AuthorityKey is the private key of the first one, PEM: with it a new cluster is the
	// old one to all hosts. Empty in a backup that is not encrypted.
	AuthorityKey string `json:"authority_key,omitempty"`
}

// Writer writes a backup: the snapshot's bytes go through Write, and Close ends it.
type Writer struct {
	out    io.Writer
	sum    hash.Hash
	chunk  []byte
	closed bool
}

// NewWriter begins a backup.
func NewWriter(out io.Writer, m Manifest) (*Writer, error) {
	m.Format = format
	text, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding the manifest: %w", err)
	}
	if len(text) > maxManifest {
		return nil, fmt.Errorf("encoding the manifest: it has %d bytes, the limit is %d", len(text), maxManifest)
	}
	w := &Writer{sum: sha256.New(), chunk: make([]byte, 4, 4+maxChunk)}
	w.out = io.MultiWriter(out, w.sum)
	head := binary.BigEndian.AppendUint32([]byte(magic), uint32(len(text)))
	if _, err := w.out.Write(append(head, text...)); err != nil {
		return nil, fmt.Errorf("writing backup: %w", err)
	}
	return w, nil
}

// Write takes the next bytes of the snapshot.
func (w *Writer) Write(p []byte) (n int, err error) {
	for n < len(p) {
		took := min(cap(w.chunk)-len(w.chunk), len(p)-n)
		w.chunk = append(w.chunk, p[n:n+took]...)
		n += took
		if len(w.chunk) == cap(w.chunk) {
			if err := w.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

func (w *Writer) flush() error {
	if len(w.chunk) == 4 {
		return nil
	}
	binary.BigEndian.PutUint32(w.chunk, uint32(len(w.chunk)-4))
	if _, err := w.out.Write(w.chunk); err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	w.chunk = w.chunk[:4]
	return nil
}

// Close ends the backup; without it, it is torn. It does not close what is below.
func (w *Writer) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	if err := w.flush(); err != nil {
		return err
	}
	if _, err := w.out.Write(make([]byte, 4)); err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	if _, err := w.out.Write(w.sum.Sum(nil)); err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	return nil
}

// Reader reads a backup that is not, or no longer, encrypted. Read gives the snapshot's
// bytes; io.EOF comes only when the checksum was right and nothing is behind it.
type Reader struct {
	in       io.Reader
	sum      hash.Hash
	manifest Manifest
	left     uint32 // of the chunk
	ended    error
}

// NewReader reads the beginning of a backup and its manifest, which nobody has checked
// yet: it is to be believed when Read has come to its end.
func NewReader(in io.Reader) (*Reader, error) {
	r := &Reader{sum: sha256.New()}
	r.in = io.TeeReader(in, r.sum)
	var head [len(magic) + 4]byte
	if n, err := io.ReadFull(r.in, head[:]); err != nil {
		if cause := unexpected(err); cause != nil {
			return nil, cause
		}
		if n < len(magic) || string(head[:len(magic)]) != magic {
			return nil, ErrNot
		}
		return nil, fmt.Errorf("%w: it ends in its head", ErrDamaged)
	}
	if got := head[:len(magic)]; string(got) != magic {
		if bytes.HasPrefix(got, []byte(magic[:len(magic)-1])) {
			return nil, fmt.Errorf("%w (it begins with %q)", ErrNewer, got)
		}
		return nil, ErrNot
	}
	size := binary.BigEndian.Uint32(head[len(magic):])
	if size > maxManifest {
		return nil, fmt.Errorf("%w: its manifest claims %d bytes", ErrDamaged, size)
	}
	// What arrives is held, not what is claimed.
	text, err := io.ReadAll(io.LimitReader(r.in, int64(size)))
	if err != nil {
		return nil, fmt.Errorf("reading the backup: %w", err)
	}
	if len(text) < int(size) {
		return nil, fmt.Errorf("%w: it ends in its manifest", ErrDamaged)
	}
	if err := json.Unmarshal(text, &r.manifest); err != nil {
		return nil, fmt.Errorf("%w: its manifest cannot be read: %w", ErrDamaged, err)
	}
	switch f := r.manifest.Format; {
	case f > format:
		return nil, fmt.Errorf("%w (its format is %d, this release knows %d)", ErrNewer, f, format)
	case f < 1:
		return nil, fmt.Errorf("%w: its manifest has no format", ErrDamaged)
	}
	return r, nil
}

// unexpected is an error of reading that is not the end of the file.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return fmt.Errorf("reading the backup: %w", err)
}

// Manifest is what the backup says of itself.
func (r *Reader) Manifest() Manifest { return r.manifest }

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if r.ended == nil && r.left == 0 {
		r.ended = r.next()
	}
	if r.ended != nil {
		return 0, r.ended
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.in.Read(p[:min(len(p), int(r.left))])
	r.left -= uint32(n) //nolint:gosec // at most left
	if err != nil && r.left > 0 {
		if r.ended = unexpected(err); r.ended == nil {
			r.ended = fmt.Errorf("%w: it ends in its middle", ErrDamaged)
		}
		return n, r.ended
	}
	return n, nil
}

// next reads a chunk's length, or the end of the backup.
func (r *Reader) next() error {
	var size [4]byte
	if _, err := io.ReadFull(r.in, size[:]); err != nil {
		if cause := unexpected(err); cause != nil {
			return cause
		}
		return fmt.Errorf("%w: it ends in its middle", ErrDamaged)
	}
	if r.left = binary.BigEndian.Uint32(size[:]); r.left > maxChunk {
		return fmt.Errorf("%w: a part of it claims %d bytes", ErrDamaged, r.left)
	}
	if r.left > 0 {
		return nil
	}
	want := r.sum.Sum(nil)
	var got [sha256.Size]byte
	if _, err := io.ReadFull(r.in, got[:]); err != nil {
		if cause := unexpected(err); cause != nil {
			return cause
		}
		return fmt.Errorf("%w: it ends before its checksum", ErrDamaged)
	}
	if !bytes.Equal(got[:], want) {
		return fmt.Errorf("%w: its checksum is not that of its content", ErrDamaged)
	}
	switch n, err := r.in.Read(make([]byte, 1)); {
	case n > 0:
		return fmt.Errorf("%w: there is something behind its end", ErrDamaged)
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("reading the backup: %w", err)
	}
	return io.EOF
}

// Check reads a backup to its end, keeps nothing, and returns what it says of itself.
func Check(in io.Reader) (Manifest, error) {
	r, err := NewReader(in)
	if err != nil {
		return Manifest{}, err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return Manifest{}, err
	}
	return r.manifest, nil
}
