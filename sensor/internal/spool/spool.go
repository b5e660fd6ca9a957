// Package spool keeps records on disk until the coordinator has them.
//
// Invariant: a record that Append took is handed out, in order, until it is
// acknowledged, or it is counted in Stats.Dropped under its cause. A record is
// in the kernel's hands before Next may hand it out, so that no sequence is
// ever given twice with another content in one stream.
package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	// MaxRecord is the largest encoded record: one must fit a frame, and the
	// log entry that a coordinator makes of it.
	MaxRecord = frame.MaxFrame / 2
	// MaxBatch bounds what Next returns in bytes, unless one record is larger.
	MaxBatch = 256 << 10

	smallSegment = 64 << 10
	bytesPerSlot = 1024 // MaxBytes allows one record in memory's index for each
	syncDelay    = 200 * time.Millisecond
	retryDelay   = time.Second
)

// Drop causes; the class follows: "full:bulk".
const (
	causeFull     = "full"       // beyond MaxBytes
	causeDisk     = "disk-error" // beyond what memory holds while the disk fails
	causeDamaged  = "damaged"    // did not read back as written
	causeTorn     = "torn"       // cut off by a crash
	causeTooLarge = "too-large"
	causePosition = "position-file" // told by Losses; no record is lost by it
)

var (
	// ErrTooLarge: the record is larger than MaxRecord. It was counted and not kept.
	ErrTooLarge = errors.New("record too large for the spool")
	// ErrClosed: the spool was closed.
	ErrClosed = errors.New("spool is closed")
	// ErrInUse: another process has the directory.
	ErrInUse = errors.New("spool is in use by another process")
)

// Config bounds a spool. The zero value has the defaults.
type Config struct {
	// MaxBytes on disk, default 256 MiB: a quarter is for critical records and
	// three for bulk, so that neither can push out the other. It also bounds
	// the number of records, to one for each KiB.
	MaxBytes int64
	// MaxMemory in bytes for records that a failing disk does not take. Default 4 MiB.
	MaxMemory int64
	// KernelBoot names the kernel's boot; a new one begins a new stream.
	// Default: /proc/sys/kernel/random/boot_id.
	KernelBoot string
	// Create opens a new or emptied file to write. Default: the real one.
	Create func(path string) (File, error)
	// Now is the clock for retries after a disk error.
	Now func() time.Time
	// Logger takes one line when the disk begins or ceases to fail, and what
	// Open found damaged. Default: discards.
	Logger *slog.Logger
}

func (c *Config) populate() error {
	if c.MaxBytes == 0 {
		c.MaxBytes = 256 << 20
	}
	if c.MaxBytes < 256<<10 {
		return fmt.Errorf("opening spool: spool_max_bytes is %d, at least %d is needed", c.MaxBytes, 256<<10)
	}
	if c.MaxMemory == 0 {
		c.MaxMemory = 4 << 20
	}
	if c.KernelBoot == "" {
		id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return fmt.Errorf("opening spool: %w", err)
		}
		c.KernelBoot = string(id)
	}
	if c.Create == nil {
		c.Create = func(path string) (File, error) {
			return os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Spool is safe for concurrent use, with one reader (Next) at a time.
type Spool struct {
	dir  string
	cfg  Config
	lock *os.File

	mu      sync.Mutex
	closed  bool
	streams []*stream // oldest first; the last is current
	current *stream
	counted map[string][]span // damage that was told, by chain
	dropped map[string]uint64
	// unplaced: Open could not read what was acknowledged and what was counted as
	// lost. No record is missing by it, but a loss may be told twice.
	unplaced uint64
	memory   int64 // bytes in current.memory
	failure  error // why the disk is not used now
	retryAt  time.Time

	wake    chan struct{} // there may be something for Next
	syncReq chan struct{}
	done    chan struct{}
	flusher sync.WaitGroup
}

// Stats is the state of a spool.
type Stats struct {
	Bytes   int64  // on disk and in memory
	Records uint64 // not yet acknowledged
	// Dropped counts lost records by cause since Open.
	Dropped map[string]uint64
	// DiskError is why records are only in memory now; nil when they are on disk.
	DiskError error
}

// Open reads what an earlier run left and continues it. Damage is counted and
// passed over. Only a directory that cannot be used at all is an error.
func Open(dir string, cfg Config) (*Spool, error) {
	if err := cfg.populate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening spool: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Spool{
		dir: dir, cfg: cfg, lock: lock,
		dropped: make(map[string]uint64),
		wake:    make(chan struct{}, 1), syncReq: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s.flusher.Go(s.flush)
	return s, nil
}

func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening spool: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("opening spool %s: %w: is another vedette-sensor running with this state directory?", dir, ErrInUse), f.Close())
	}
	return f, nil
}

// load sets up the streams of the earlier run and the one to append to.
func (s *Spool) load() error {
	m, metaErr := readMeta(s.dir)
	if m.Damaged == nil {
		m.Damaged = make(map[string][]span)
	}
	known := make(map[uint32]streamMeta)
	for _, sm := range m.Streams {
		known[sm.Ordinal] = sm
	}
	l, err := loadStreams(s.dir, known, m.Damaged)
	if err != nil {
		return err
	}
	if sm, ok := known[m.Current]; ok && metaErr == nil && l.streams[m.Current] == nil {
		st := newStream(sm.Ordinal)
		st.id, st.acked, st.cursor, st.last = sm.ID, sm.Acked, sm.Acked, sm.Last
		l.streams[sm.Ordinal] = st
	}
	newest := uint32(0)
	for _, st := range l.streams {
		s.streams = append(s.streams, st)
		newest = max(newest, st.ordinal)
	}
	slices.SortFunc(s.streams, func(a, b *stream) int { return int(int64(a.ordinal) - int64(b.ordinal)) })
	s.counted = l.counted
	if l.damaged > 0 || l.torn > 0 {
		s.dropped[causeDamaged] += l.damaged
		s.dropped[causeTorn] += l.torn
		s.cfg.Logger.Warn("spool was damaged; the rest of it is used", "records_lost", l.damaged+l.torn, "err", errors.Join(l.errs...))
	}
	if metaErr != nil && (errors.Is(metaErr, errDamagedMeta) || len(l.streams) > 0) {
		s.unplaced = 1
		s.cfg.Logger.Warn("spool lost its position; all that it holds is offered to the coordinator again, which takes each record once", "err", metaErr)
	}
	// Sequences go on only when it is certain which were given. After damage,
	// or when the position file does not know the newest stream, it is not.
	intact := metaErr == nil && l.damaged == 0 && l.torn == 0 && m.Current >= newest
	if current := l.streams[m.Current]; intact && current != nil && m.KernelBoot == s.cfg.KernelBoot {
		s.current = current
	} else {
		s.current = newStream(newest + 1)
		s.streams = append(s.streams, s.current)
	}
	s.dropDrained()
	if err := s.writeMeta(true); err != nil {
		s.fail(err)
	}
	return nil
}

// Append gives rec its sequence and keeps it. A critical record is on stable
// storage when Append returns, a bulk one at most 200 ms later. A failing disk
// is not the caller's error: the record is kept in memory (see Stats).
func (s *Spool) Append(rec *sensorv1.Record, isCritical bool) error {
	c := bulk
	if isCritical {
		c = critical
	}
	s.mu.Lock()
	file, err := s.append(rec, c)
	s.mu.Unlock()
	if err != nil || file == nil {
		return err
	}
	s.notify(s.wake)
	if !isCritical {
		s.notify(s.syncReq)
		return nil
	}
	if err := file.Sync(); err != nil && !errors.Is(err, os.ErrClosed) { // closed: rotated, which synced it
		s.mu.Lock()
		s.fail(fmt.Errorf("syncing segment: %w", err))
		s.mu.Unlock()
	}
	return nil
}

// append returns the file it wrote to, nil when the record is only in memory.
func (s *Spool) append(rec *sensorv1.Record, c class) (File, error) {
	if s.closed {
		return nil, ErrClosed
	}
	if s.failure != nil {
		s.recover()
	}
	rec.Sequence = s.current.last + 1
	payload, err := proto.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("encoding record: %w", err)
	}
	if len(payload) > MaxRecord {
		s.dropped[causeTooLarge]++
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(payload), MaxRecord)
	}
	if s.failure == nil {
		file, err := s.write(s.current, c, rec.GetSequence(), payload)
		if err == nil {
			s.current.last = rec.GetSequence()
			s.bound(c)
			return file, nil
		}
		s.fail(err) // begins another stream
		rec.Sequence = s.current.last + 1
		if payload, err = proto.Marshal(rec); err != nil {
			return nil, fmt.Errorf("encoding record: %w", err)
		}
	}
	s.remember(memoryRecord{sequence: rec.GetSequence(), class: c, payload: payload})
	s.notify(s.wake)
	return nil, nil
}

// Next waits for records and returns the next ones of one stream, in order,
// with the sequence before the first. It hands out each once, until Rewind.
func (s *Spool) Next(ctx context.Context, limit int) (boot []byte, prev uint64, recs []*sensorv1.Record, err error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, 0, nil, ErrClosed
		}
		for _, st := range s.streams {
			prev = st.cursor
			if recs = s.take(st, limit); len(recs) > 0 {
				boot = slices.Clone(st.id[:])
				s.mu.Unlock()
				return boot, prev, recs, nil
			}
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, 0, nil, ctx.Err()
		case <-s.done:
			return nil, 0, nil, ErrClosed
		case <-s.wake:
		}
	}
}

func (s *Spool) take(st *stream, limit int) []*sensorv1.Record {
	var recs []*sensorv1.Record
	size := 0
	for len(recs) < limit {
		seg, e, mem := st.next(st.cursor)
		var payload []byte
		var err error
		switch {
		case seg != nil:
			payload, err = seg.read(e)
		case mem != nil:
			e, payload = entry{sequence: mem.sequence, size: uint32(len(mem.payload))}, mem.payload
		default:
			return recs
		}
		if len(recs) > 0 && size+int(e.size) > MaxBatch {
			return recs
		}
		rec := new(sensorv1.Record)
		if err == nil {
			err = proto.Unmarshal(payload, rec)
		}
		if err != nil {
			s.lose(st, seg, e, err)
			continue
		}
		st.cursor = e.sequence
		size += int(e.size)
		recs = append(recs, rec)
	}
	return recs
}

// Acknowledge says that the coordinator has all records up to seq in this stream.
func (s *Spool) Acknowledge(boot []byte, seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.find(boot)
	if s.closed || st == nil || seq <= st.acked {
		return nil
	}
	if seq > st.last {
		s.disown(st, seq)
		return nil
	}
	// First the position, then the records: when they are gone, only it tells
	// which sequences were given.
	st.acked = seq
	metaErr := s.writeMeta(false)
	err := st.acknowledge(seq, metaErr != nil && st == s.current)
	if metaErr != nil {
		s.fail(metaErr)
	}
	s.dropDrained()
	s.memoryChanged()
	if err != nil {
		return fmt.Errorf("removing acknowledged records: %w", err)
	}
	return nil
}

// Rewind makes Next continue after seq in this stream: the coordinator's
// position. What was dropped meanwhile stays dropped, and what was dropped because it
// was acknowledged, although seq is before it, is counted as lost.
func (s *Spool) Rewind(boot []byte, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.find(boot)
	if st == nil {
		return
	}
	if seq > st.last {
		s.disown(st, seq)
	} else {
		if seq < st.acked {
			s.forgotten(st, seq)
		}
		st.cursor = seq
	}
	s.notify(s.wake)
}

// Restart is for a new session: everything unacknowledged will be handed out
// again. It returns the stream that Next begins with.
func (s *Spool) Restart() (boot []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		st.cursor = st.acked
		if boot == nil && st.hasAfter(st.acked) {
			boot = slices.Clone(st.id[:])
		}
	}
	s.notify(s.wake)
	if boot == nil {
		boot = slices.Clone(s.current.id[:])
	}
	return boot
}

// Stats returns the state now.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Bytes: s.memory, Dropped: make(map[string]uint64, len(s.dropped)), DiskError: s.failure}
	for cause, n := range s.dropped {
		st.Dropped[cause] = n
	}
	for _, stream := range s.streams {
		st.Records += stream.unacked()
		for c := range stream.chains {
			for _, seg := range stream.chains[c].segments {
				st.Bytes += seg.size
			}
		}
	}
	return st
}

// Losses are the dropped records as every stage states its losses: cumulative
// since Open, sorted by cause.
func (s *Spool) Losses() []event.Loss {
	var losses []event.Loss
	for cause, n := range s.Stats().Dropped {
		if n > 0 {
			losses = append(losses, event.Loss{Where: "spool", Cause: cause, Count: n})
		}
	}
	if s.unplaced > 0 {
		losses = append(losses, event.Loss{Where: "spool", Cause: causePosition, Count: s.unplaced})
	}
	slices.SortFunc(losses, func(a, b event.Loss) int {
		if a.Cause < b.Cause {
			return -1
		}
		return 1
	})
	return losses
}

// Close writes down all there is. Records that only memory has are lost with it.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.flusher.Wait()
		return nil
	}
	if s.failure != nil {
		s.retryAt = time.Time{}
		s.recover()
	}
	s.closed = true
	close(s.done)
	var failures []error
	for _, st := range s.streams {
		for c := range st.chains {
			for _, seg := range st.chains[c].segments {
				failures = append(failures, seg.seal())
			}
		}
	}
	if s.failure == nil {
		failures = append(failures, s.writeMeta(true))
	} else if n := len(s.current.memory); n > 0 {
		failures = append(failures, fmt.Errorf("%d records were only in memory: %w", n, s.failure))
	}
	s.mu.Unlock()
	s.flusher.Wait()
	if err := errors.Join(append(failures, s.lock.Close())...); err != nil {
		return fmt.Errorf("closing spool: %w", err)
	}
	return nil
}
