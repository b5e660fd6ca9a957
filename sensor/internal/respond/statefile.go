package respond

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Bounds of the state file.
const (
	// maxNonces is how many grants are remembered. When all are still in their time
	// the next is refused: forgetting one would let it be replayed.
	maxNonces = 4096
	// nonceGrace is how long a nonce is kept beyond its grant's end, for a wall
	// clock that goes back.
	nonceGrace = 30 * 24 * time.Hour
	// maxStateBytes is beyond any file that save could have written.
	maxStateBytes = 4 << 20
)

// record is all that must survive the process.
type record struct {
	Lease  *lease      `json:"lease,omitempty"`
	Nonces []usedNonce `json:"nonces,omitempty"`
	// Epoch is that of the newest grant honoured: none before it is honoured any more.
	Epoch uint64 `json:"epoch,omitempty"`
	// Repeats is how often this host isolated itself since an operator's grant.
	Repeats int `json:"repeats,omitempty"`
	// IgnoreIssuedBefore (Unix ns) refuses grants signed before nonces were lost.
	IgnoreIssuedBefore int64 `json:"ignore_issued_before,omitempty"`
	// LocalEnd is an end that no sensor has reported yet.
	LocalEnd *localEnd `json:"local_end,omitempty"`
}

// usedNonce is a grant that was honoured.
type usedNonce struct {
	Nonce []byte `json:"nonce"`
	// Digest of the grant's exact bytes, to know a repetition from a reuse.
	Digest  []byte `json:"digest"`
	Release bool   `json:"release,omitempty"`
	// Operator: a person ordered it.
	Operator bool `json:"operator,omitempty"`
	// Epoch is the grant's place in the order of all.
	Epoch uint64 `json:"epoch,omitempty"`
	Until int64  `json:"until"` // Unix ns: not_after and nonceGrace
}

// use remembers a nonce and forgets those past their time; false: no room.
func (r *record) use(n usedNonce, now time.Time) bool {
	kept := r.Nonces[:0]
	for _, old := range r.Nonces {
		if old.Until > now.UnixNano() {
			kept = append(kept, old)
		}
	}
	r.Nonces = kept
	if len(r.Nonces) >= maxNonces {
		return false
	}
	r.Nonces = append(r.Nonces, n)
	r.Epoch = max(r.Epoch, n.Epoch)
	if n.Operator {
		r.Repeats = 0
	}
	return true
}

func (r *record) used(nonce []byte) (usedNonce, bool) {
	for _, n := range r.Nonces {
		if bytes.Equal(n.Nonce, nonce) {
			return n, true
		}
	}
	return usedNonce{}, false
}

// errDamaged says that the state file is not what save wrote.
var errDamaged = errors.New("the isolation state file is damaged")

const stateMagic = "vedette-isolation-state-1"

// encode is one line with the checksum of the JSON that follows it.
func encode(r record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	return append([]byte(stateMagic+" "+hex.EncodeToString(sum[:])+"\n"), body...), nil
}

func decode(raw []byte) (record, error) {
	head, body, found := bytes.Cut(raw, []byte("\n"))
	sum := sha256.Sum256(body)
	if !found || string(head) != stateMagic+" "+hex.EncodeToString(sum[:]) {
		return record{}, fmt.Errorf("%w: %d bytes that do not match their checksum", errDamaged, len(raw))
	}
	var r record
	if err := json.Unmarshal(body, &r); err != nil {
		return record{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if l := r.Lease; l != nil && (l.Length > MaxLease || (l.Phase != phaseTesting && l.Phase != phaseApplied)) {
		return record{}, fmt.Errorf("%w: a lease of %s in phase %q", errDamaged, l.Length, l.Phase)
	}
	if len(r.Nonces) > maxNonces {
		return record{}, fmt.Errorf("%w: %d nonces", errDamaged, len(r.Nonces))
	}
	return r, nil
}

type stateFile struct{ path string }

// load returns an empty record when there is no file, and the file's time when
// it is damaged.
func (f stateFile) load() (record, time.Time, error) {
	file, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, time.Time{}, nil
	}
	if err != nil {
		return record{}, time.Time{}, fmt.Errorf("opening isolation state: %w", err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return record{}, time.Time{}, fmt.Errorf("reading isolation state: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(file, maxStateBytes+1))
	if err != nil {
		return record{}, info.ModTime(), fmt.Errorf("reading isolation state: %w", err)
	}
	if len(raw) > maxStateBytes {
		return record{}, info.ModTime(), fmt.Errorf("%w: more than %d bytes", errDamaged, maxStateBytes)
	}
	r, err := decode(raw)
	return r, info.ModTime(), err
}

// save replaces the file as a whole: a crash leaves the old or the new one.
func (f stateFile) save(r record) (err error) {
	raw, err := encode(r)
	if err != nil {
		return fmt.Errorf("encoding isolation state: %w", err)
	}
	dir := filepath.Dir(f.path)
	temp, err := os.CreateTemp(dir, ".isolation.lease-*") // 0600
	if err != nil {
		return fmt.Errorf("saving isolation state: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("saving isolation state: %w", err), os.Remove(temp.Name()))
		}
	}()
	_, err = temp.Write(raw)
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err = os.Rename(temp.Name(), f.path); err != nil {
		return err
	}
	// The rename is lasting only with its directory. The file is in place, so a
	// failure here leaves nothing to undo.
	if handle, openErr := os.Open(dir); openErr == nil {
		defer func() { _ = handle.Close() }()
		if syncErr := handle.Sync(); syncErr != nil {
			return nil //nolint:nilerr // some filesystems cannot sync a directory
		}
	}
	return nil
}

// setAside keeps a damaged file for whoever wants to know.
func (f stateFile) setAside() (string, error) {
	kept := f.path + ".damaged"
	return kept, os.Rename(f.path, kept)
}
