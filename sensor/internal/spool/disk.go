package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// write appends to the class's open segment, rotating it when it is full.
func (s *Spool) write(st *stream, c class, sequence uint64, payload []byte) (File, error) {
	ch := &st.chains[c]
	seg, err := s.openSegment(st, c)
	if err != nil {
		return nil, err
	}
	record := encodeRecord(sequence, ch.nextIndex, payload)
	if n, err := seg.file.Write(record); err != nil || n < len(record) {
		if err == nil {
			err = io.ErrShortWrite
		}
		// A torn record inside a segment would hide those after it.
		err = errors.Join(fmt.Errorf("writing segment: %w", err), seg.file.Truncate(seg.size), seg.seal())
		if len(seg.entries) == 0 {
			err = errors.Join(err, seg.remove())
			ch.segments = ch.segments[:len(ch.segments)-1]
		}
		return nil, err
	}
	seg.entries = append(seg.entries, entry{sequence: sequence, offset: uint32(seg.size), size: uint32(len(payload)), index: uint32(ch.nextIndex - seg.first)})
	seg.size += int64(len(record))
	ch.nextIndex++
	return seg.file, nil
}

func (s *Spool) openSegment(st *stream, c class) (*segment, error) {
	ch := &st.chains[c]
	if n := len(ch.segments); n > 0 {
		seg := ch.segments[n-1]
		if seg.file != nil && seg.size < s.segmentSize() {
			return seg, nil
		}
		if err := seg.seal(); err != nil {
			return nil, fmt.Errorf("syncing segment: %w", err)
		}
	}
	path := filepath.Join(s.dir, segmentName(st.ordinal, c, ch.nextIndex))
	f, err := s.cfg.Create(path)
	if err != nil {
		return nil, fmt.Errorf("creating segment: %w", err)
	}
	seg := &segment{path: path, first: ch.nextIndex, chain: chainName(st.ordinal, c), file: f, size: headerSize}
	if _, err := f.Write(encodeHeader(segmentHeader{class: c, ordinal: st.ordinal, stream: st.id, firstIndex: ch.nextIndex})); err != nil {
		return nil, errors.Join(fmt.Errorf("creating segment: %w", err), seg.remove())
	}
	ch.segments = append(ch.segments, seg)
	return seg, syncDir(s.dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	return nil
}

// segmentSize: small enough that dropping one costs little of what is allowed.
func (s *Spool) segmentSize() int64 { return min(max(s.cfg.MaxBytes/64, 4<<10), 4<<20) }

func (s *Spool) allowed(c class) int64 {
	if c == critical {
		return s.cfg.MaxBytes / 4
	}
	return s.cfg.MaxBytes - s.cfg.MaxBytes/4
}

// bound drops the oldest segments of a class that has more than it may.
func (s *Spool) bound(c class) {
	for {
		bytes, records, segments := int64(0), int64(0), 0
		var oldest *stream
		for _, st := range s.streams {
			for _, seg := range st.chains[c].segments {
				bytes += seg.size
				records += int64(len(seg.entries))
				segments++
				if oldest == nil {
					oldest = st
				}
			}
		}
		// The newest segment is being written and never dropped.
		if segments < 2 || (bytes <= s.allowed(c) && records <= s.allowed(c)/bytesPerSlot) {
			return
		}
		ch := &oldest.chains[c]
		lost := uint64(len(ch.segments[0].after(oldest.acked)))
		s.dropped[causeFull+":"+c.String()] += lost
		if err := ch.segments[0].remove(); err != nil {
			s.cfg.Logger.Warn("removing spool segment", "err", err)
		}
		ch.segments = ch.segments[1:]
		s.dropDrained()
	}
}

// dropDrained forgets old streams that have nothing left.
func (s *Spool) dropDrained() {
	s.streams = slices.DeleteFunc(s.streams, func(st *stream) bool {
		if st == s.current || st.hasAfter(st.acked) {
			return false
		}
		for c := range st.chains {
			delete(s.counted, chainName(st.ordinal, class(c)))
			for _, seg := range st.chains[c].segments {
				if err := seg.remove(); err != nil {
					s.cfg.Logger.Warn("removing spool segment", "err", err)
				}
			}
		}
		return true
	})
}

// fail turns to memory. What follows belongs to a new stream, known to memory
// only: should the process die, no sequence of it can be given again.
func (s *Spool) fail(err error) {
	if s.failure != nil {
		s.failure = err
		return
	}
	s.failure, s.retryAt = err, s.cfg.Now().Add(retryDelay)
	s.cfg.Logger.Error("spool disk fails; records are kept in memory until it works again", "err", err, "memory_bytes", s.cfg.MaxMemory)
	for c := range s.current.chains {
		for _, seg := range s.current.chains[c].segments {
			if _, err := os.Stat(seg.path); errors.Is(err, fs.ErrNotExist) {
				seg.unnamed = true // and open until what is in it was sent: nobody else can read it
				continue
			}
			_ = seg.seal() // its failure is why we are here
		}
	}
	s.current = newStream(s.current.ordinal + 1)
	s.streams = append(s.streams, s.current)
	s.notify(s.syncReq) // the flusher will retry
}

// remember keeps a record in memory, dropping the oldest, bulk first, beyond its bound.
func (s *Spool) remember(m memoryRecord) {
	st := s.current
	st.last = m.sequence
	st.memory = append(st.memory, m)
	s.memoryChanged()
	for s.memory > s.cfg.MaxMemory && len(st.memory) > 1 {
		oldest := slices.IndexFunc(st.memory, func(m memoryRecord) bool { return m.class == bulk })
		if oldest < 0 {
			oldest = 0
		}
		s.dropped[causeDisk+":"+st.memory[oldest].class.String()]++
		s.memory -= memoryCost(st.memory[oldest])
		st.memory = slices.Delete(st.memory, oldest, oldest+1)
	}
}

func memoryCost(m memoryRecord) int64 { return int64(len(m.payload)) + 48 }

func (s *Spool) memoryChanged() {
	s.memory = 0
	for _, st := range s.streams {
		for _, m := range st.memory {
			s.memory += memoryCost(m)
		}
	}
}

// recover brings memory's records to the disk, when it is time to try.
func (s *Spool) recover() {
	if s.cfg.Now().Before(s.retryAt) {
		return
	}
	if err := s.unload(); err != nil {
		s.failure, s.retryAt = err, s.cfg.Now().Add(retryDelay)
		return
	}
	s.bound(bulk)
	s.bound(critical)
	s.cfg.Logger.Info("spool disk works again")
}

func (s *Spool) unload() error {
	defer s.memoryChanged()
	for _, st := range s.streams {
		for len(st.memory) > 0 {
			m := st.memory[0]
			if _, err := s.write(st, m.class, m.sequence, m.payload); err != nil {
				return err
			}
			st.memory = slices.Delete(st.memory, 0, 1)
		}
	}
	if err := s.syncAll(); err != nil {
		return err
	}
	// Only with this may a restart continue the current stream.
	failure := s.failure
	s.failure = nil
	if err := s.writeMeta(true); err != nil {
		s.failure = failure
		return err
	}
	return nil
}

func (s *Spool) syncAll() error {
	for _, st := range s.streams {
		for c := range st.chains {
			for _, seg := range st.chains[c].segments {
				if seg.file == nil {
					continue
				}
				if err := seg.file.Sync(); err != nil {
					return fmt.Errorf("syncing segment: %w", err)
				}
			}
		}
	}
	return nil
}

// flush is the group commit: one sync for what came within 200 ms. It also
// retries a failing disk.
func (s *Spool) flush() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		select {
		case <-s.done:
			return
		case <-s.syncReq:
		}
		timer.Reset(syncDelay)
		select {
		case <-s.done:
			return
		case <-timer.C:
		}
		s.commit()
	}
}

func (s *Spool) commit() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	if s.failure != nil {
		s.recover()
		if s.failure != nil {
			s.notify(s.syncReq)
		}
		s.mu.Unlock()
		return
	}
	var files []File
	for c := range s.current.chains {
		if segments := s.current.chains[c].segments; len(segments) > 0 {
			if f := segments[len(segments)-1].file; f != nil {
				files = append(files, f)
			}
		}
	}
	s.mu.Unlock()
	for _, f := range files {
		if err := f.Sync(); err != nil && !errors.Is(err, os.ErrClosed) { // closed: rotated, which synced it
			s.mu.Lock()
			s.fail(fmt.Errorf("syncing segment: %w", err))
			s.mu.Unlock()
			return
		}
	}
}

func (s *segment) read(e entry) ([]byte, error) {
	data := make([]byte, recordHeader+int(e.size))
	if err := s.readAt(data, int64(e.offset)); err != nil {
		return nil, err
	}
	sequence, _, payload, err := decodeRecord(data)
	if err == nil && sequence != e.sequence {
		err = errRecord
	}
	return payload, err
}

// readAt reads what is still written to where it is written: somebody may have removed its name.
func (s *segment) readAt(data []byte, offset int64) error {
	if open, can := s.file.(io.ReaderAt); can {
		if _, err := open.ReadAt(data, offset); err == nil {
			return nil
		}
	}
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.ReadAt(data, offset)
	return err
}

// lose counts a record that did not read back, once.
func (s *Spool) lose(st *stream, seg *segment, e entry, err error) {
	s.dropped[causeDamaged]++
	if seg == nil {
		st.memory = slices.DeleteFunc(st.memory, func(m memoryRecord) bool { return m.sequence == e.sequence })
		return
	}
	index := seg.first + uint64(e.index)
	s.counted[seg.chain] = addSpan(s.counted[seg.chain], span{index, index + 1})
	s.cfg.Logger.Warn("spool record does not read back as written; it is lost", "segment", filepath.Base(seg.path), "sequence", e.sequence, "err", err)
	seg.entries = slices.DeleteFunc(seg.entries, func(x entry) bool { return x.sequence == e.sequence })
}

func (s *Spool) find(boot []byte) *stream {
	for _, st := range s.streams {
		if string(st.id[:]) == string(boot) {
			return st
		}
	}
	return nil
}

// disown is for a coordinator that has more of a stream than was ever given
// here: this spool is an old copy, and its sequences collide with the real
// ones. What it holds goes out under a new id instead of being taken for known.
func (s *Spool) disown(st *stream, seq uint64) {
	s.cfg.Logger.Error("coordinator has more of this stream than the spool ever held; was the state directory restored from a copy?", "coordinator", seq, "spool", st.last)
	st.id = newStream(0).id
	st.cursor = st.acked
	if st == s.current {
		s.current = newStream(st.ordinal + 1)
		s.streams = append(s.streams, s.current)
	}
	s.dropDrained()
	if err := s.writeMeta(false); err != nil {
		s.fail(err)
	}
	s.notify(s.wake)
}

func (s *Spool) notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
