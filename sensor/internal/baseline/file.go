package baseline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"
	"unique"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// The file: bucket "behaviours", key → value (see encode); bucket "meta",
// "format" → one byte, "observed" → ns, 8 bytes big endian. See modelfile.go for the rest.
var (
	bucketBehaviours = []byte("behaviours")
	bucketMeta       = []byte("meta")
	keyFormat        = []byte("format")
	keyObserved      = []byte("observed")
)

const format = 1

// errDamaged: a value that is not what encode writes.
var errDamaged = errors.New("damaged entry")

// errEmpty: a file of no bytes, which bbolt would take for a new one. What was
// learnt is gone all the same, and novelty is no finding until it is learnt again.
var errEmpty = errors.New("the file is empty")

// errFormat: a file of a later version.
var errFormat = errors.New("unknown format")

// open opens the file, moving one that cannot be read aside.
func (b *Baseline) open() error {
	if err := os.MkdirAll(filepath.Dir(b.path), 0o700); err != nil {
		return fmt.Errorf("making the baseline's directory: %w", err)
	}
	err := b.load()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrInUse), errors.Is(err, os.ErrPermission), errors.Is(err, errFormat):
		return err
	}
	aside := fmt.Sprintf("%s.corrupt-%d", b.path, b.cfg.Now().Unix())
	if moveErr := os.Rename(b.path, aside); moveErr != nil {
		return fmt.Errorf("moving the unreadable baseline aside: %w", errors.Join(moveErr, err))
	}
	b.cfg.Logger.Warn("the baseline cannot be read and was moved aside; this host learns anew",
		"path", b.path, "moved_to", aside, "error", err)
	b.reset()
	b.losses["corrupt-file"]++
	return b.load()
}

// load reads everything once, so that damage anywhere shows now. bbolt panics on
// a broken page and faults on a cut file.
func (b *Baseline) load() (err error) {
	var db *bbolt.DB
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reading baseline: %v", r)
		}
		if err != nil && db != nil {
			_ = db.Close() // the reason is in err
		}
	}()
	if info, statErr := os.Stat(b.path); statErr == nil && info.Size() == 0 {
		return fmt.Errorf("opening baseline %s: %w", b.path, errEmpty)
	}
	db, err = bbolt.Open(b.path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return fmt.Errorf("opening baseline %s: %w", b.path, ErrInUse)
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("opening baseline %s: %w: it must be readable and writable by the user that the sensor runs as: chown it, chmod 600", b.path, err)
	}
	if err != nil {
		return fmt.Errorf("opening baseline %s: %w", b.path, err)
	}
	if err = db.Update(b.read); err != nil {
		return fmt.Errorf("reading baseline %s: %w", b.path, err)
	}
	b.db = db
	return nil
}

func (b *Baseline) read(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	if v := meta.Get(keyFormat); v == nil {
		if err := meta.Put(keyFormat, []byte{format}); err != nil {
			return err
		}
	} else if len(v) != 1 || v[0] != format {
		return fmt.Errorf("%w %x: it was written by another version of the sensor", errFormat, v)
	}
	if v := meta.Get(keyObserved); len(v) == 8 {
		b.observed = time.Duration(binary.BigEndian.Uint64(v)) //nolint:gosec // written from a Duration
	}
	b.readLearning(meta)
	if v := meta.Get(keyOdds); len(v) > 0 && len(v) <= maxOdds {
		b.odds = bytes.Clone(v)
	}
	if v := meta.Get(keyOddTold); len(v) > 0 && len(v) <= maxOdds {
		b.oddTold = bytes.Clone(v)
	}
	b.faded = b.observed
	behaviours, err := tx.CreateBucketIfNotExists(bucketBehaviours)
	if err != nil {
		return err
	}
	model := tx.Bucket(bucketModel)
	return behaviours.ForEach(func(k, v []byte) error {
		e, err := decode(k, v)
		if err != nil || len(b.entries) >= b.cfg.MaxBehaviours {
			cause := "damaged-entry"
			if err == nil {
				cause = "evicted"
			}
			b.losses[cause]++
			if len(k) == len(event.BehaviourKey{}) {
				b.dirty[event.BehaviourKey(k)] = struct{}{} // not in entries: the next flush removes it
			}
			return nil
		}
		b.readModel(model, e)
		b.link(e)
		if e.pending > 0 || !e.told {
			b.changed[e] = struct{}{}
		}
		return nil
	})
}

// encode: format byte, kind, flags, then uvarints and length-prefixed strings.
func (e *entry) encode() []byte {
	var flags byte
	for i, set := range []bool{e.known, e.clean, e.told, e.vouched} {
		if set {
			flags |= 1 << i
		}
	}
	v := make([]byte, 0, 64+len(e.subject)+len(e.object))
	v = append(v, format, byte(e.kind), flags)
	v = binary.AppendUvarint(v, e.count)
	v = binary.AppendUvarint(v, e.pending)
	v = binary.AppendVarint(v, e.first)
	v = binary.AppendVarint(v, e.last)
	v = binary.AppendUvarint(v, uint64(e.windows))
	v = binary.AppendVarint(v, e.lastWindow)
	v = binary.AppendUvarint(v, uint64(len(e.subject)))
	v = append(v, e.subject...)
	v = binary.AppendUvarint(v, uint64(len(e.object)))
	return append(v, e.object...)
}

// decode checks a value against its key, which is a hash of what it says.
func decode(key, v []byte) (*entry, error) {
	if len(key) != len(event.BehaviourKey{}) || len(v) < 3 || v[0] != format {
		return nil, errDamaged
	}
	e := &entry{key: event.BehaviourKey(key), kind: event.BehaviourKind(v[1])}
	if e.kind < event.BehaviourExec || e.kind >= kinds {
		return nil, errDamaged
	}
	e.known, e.clean, e.told, e.vouched = v[2]&1 != 0, v[2]&2 != 0, v[2]&4 != 0, v[2]&8 != 0
	r := reader{rest: v[3:]}
	e.count, e.pending = r.uvarint(), r.uvarint()
	e.first, e.last = r.varint(), r.varint()
	e.windows = uint32(min(r.uvarint(), 1<<32-1)) //nolint:gosec // bounded in the same line
	e.lastWindow = r.varint()
	e.subject, e.object = unique.Make(r.text()).Value(), r.text()
	if r.bad || len(r.rest) > 0 || KeyOf(e.kind, e.subject, e.object) != e.key {
		return nil, errDamaged
	}
	return e, nil
}

// reader takes values off a slice and remembers that one was missing.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	r.skip(n)
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	r.skip(n)
	return v
}

func (r *reader) text() string {
	n := r.uvarint()
	if n > uint64(min(len(r.rest), maxName)) { //nolint:gosec // not negative
		r.bad = true
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

func (r *reader) skip(n int) {
	if n <= 0 {
		r.bad, r.rest = true, nil
		return
	}
	r.rest = r.rest[n:]
}

// flushing writes changes now and then, off the event path, until Close.
func (b *Baseline) flushing() {
	defer b.stopped.Done()
	ticker := time.NewTicker(b.cfg.FlushEvery)
	defer ticker.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-ticker.C:
			if err := b.flush(); err != nil {
				b.cfg.Logger.Error("writing baseline", "path", b.path, "error", err)
			}
		}
	}
}

// flush writes what changed in one transaction. What could not be written stays
// to be written.
func (b *Baseline) flush() (err error) {
	b.writing.Lock()
	defer b.writing.Unlock()
	type change struct {
		key   event.BehaviourKey
		value []byte // nil: removed
		model []byte
	}
	b.mu.Lock()
	changes := make([]change, 0, len(b.dirty))
	for key := range b.dirty {
		c := change{key: key}
		if e := b.entries[key]; e != nil {
			c.value, c.model = e.encode(), e.encodeModel()
		}
		changes = append(changes, c)
	}
	clear(b.dirty)
	observed, odds, oddTold := b.observed, b.odds, b.oddTold
	excepted, paused := b.learningFile()
	b.mu.Unlock()

	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("writing baseline: %v", r)
		}
		if err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.losses["write-failed"]++
			for _, c := range changes {
				b.dirty[c.key] = struct{}{}
			}
		}
	}()
	err = b.db.Update(func(tx *bbolt.Tx) error {
		if err := writeLearning(tx.Bucket(bucketMeta), excepted, paused); err != nil {
			return err
		}
		behaviours := tx.Bucket(bucketBehaviours)
		for _, c := range changes {
			if err := writeModel(tx, c.key, c.model); err != nil {
				return err
			}
			if c.value == nil {
				if err := behaviours.Delete(c.key[:]); err != nil {
					return err
				}
				continue
			}
			if err := behaviours.Put(c.key[:], c.value); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if odds != nil {
			if err := errors.Join(meta.Put(keyOdds, odds), meta.Put(keyOddTold, oddTold)); err != nil {
				return err
			}
		}
		return meta.Put(keyObserved, binary.BigEndian.AppendUint64(nil, uint64(observed))) //nolint:gosec // not negative
	})
	if err != nil {
		return fmt.Errorf("writing baseline %s: %w", b.path, err)
	}
	return nil
}
