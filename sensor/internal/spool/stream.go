package spool

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
)

// File is what the spool writes to: the seam where tests make disks fail.
type File interface {
	Write([]byte) (int, error)
	Sync() error
	Truncate(size int64) error
	Close() error
}

type segment struct {
	path    string
	first   uint64 // index of the first record
	chain   string // name of its chain in the position file
	entries []entry
	size    int64
	file    File // open while it is appended to
	unnamed bool // somebody removed its name while it was
}

func (s *segment) lastSequence() uint64 {
	if len(s.entries) == 0 {
		return 0
	}
	return s.entries[len(s.entries)-1].sequence
}

// after returns the entries with a higher sequence.
func (s *segment) after(sequence uint64) []entry {
	i := sort.Search(len(s.entries), func(i int) bool { return s.entries[i].sequence > sequence })
	return s.entries[i:]
}

// chain is a class's segments in a stream, oldest first. Only the last one is open.
type chain struct {
	segments  []*segment
	nextIndex uint64
}

// memoryRecord waits for a disk that works again.
type memoryRecord struct {
	sequence uint64
	class    class
	payload  []byte
}

// stream is one run of sequences under one id (Batch.boot).
type stream struct {
	id      [16]byte
	ordinal uint32
	acked   uint64 // the coordinator has all up to here
	cursor  uint64 // handed out up to here
	last    uint64 // highest sequence given
	chains  [classes]chain
	// memory holds records later than every one in the chains.
	memory []memoryRecord
}

func newStream(ordinal uint32) *stream {
	s := &stream{ordinal: ordinal}
	_, _ = rand.Read(s.id[:]) // never fails: crypto/rand ends the program instead
	return s
}

// next finds the record that follows sequence, on disk or in memory.
func (s *stream) next(sequence uint64) (*segment, entry, *memoryRecord) {
	var best *segment
	var found entry
	for c := range s.chains {
		for _, seg := range s.chains[c].segments {
			if seg.lastSequence() <= sequence {
				continue
			}
			if e := seg.after(sequence)[0]; best == nil || e.sequence < found.sequence {
				best, found = seg, e
			}
			break
		}
	}
	if best != nil {
		return best, found, nil
	}
	i := sort.Search(len(s.memory), func(i int) bool { return s.memory[i].sequence > sequence })
	if i < len(s.memory) {
		return nil, entry{}, &s.memory[i]
	}
	return nil, entry{}, nil
}

func (s *stream) hasAfter(sequence uint64) bool {
	seg, _, mem := s.next(sequence)
	return seg != nil || mem != nil
}

// unacked counts records and their bytes on disk by class, and those in memory.
func (s *stream) unacked() (records uint64) {
	for c := range s.chains {
		for _, seg := range s.chains[c].segments {
			records += uint64(len(seg.after(s.acked)))
		}
	}
	return records + uint64(len(s.memory))
}

// acknowledge forgets what the coordinator has. Segments go when all of theirs
// is acknowledged; keepLast spares the one that proves the last sequence.
func (s *stream) acknowledge(sequence uint64, keepLast bool) error {
	s.acked = max(s.acked, sequence)
	s.cursor = max(s.cursor, s.acked)
	s.memory = slices.DeleteFunc(s.memory, func(m memoryRecord) bool { return m.sequence <= s.acked })
	var failures []error
	for c := range s.chains {
		s.chains[c].segments = slices.DeleteFunc(s.chains[c].segments, func(seg *segment) bool {
			if seg.lastSequence() > s.acked || (keepLast && seg.lastSequence() == s.last) {
				return false
			}
			if seg.file != nil && seg.size < smallSegment && !seg.unnamed {
				return false // still being filled; not worth a new file for each ack
			}
			failures = append(failures, seg.remove())
			return true
		})
	}
	return errors.Join(failures...)
}

func (s *segment) remove() error {
	var failures []error
	if s.file != nil {
		failures = append(failures, s.file.Close())
		s.file = nil
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// seal ends the appending to a segment.
func (s *segment) seal() error {
	if s.file == nil {
		return nil
	}
	err := errors.Join(s.file.Sync(), s.file.Close())
	s.file = nil
	return err
}

// loadStreams reads what the directory holds. known gives the ids and positions
// by ordinal that the position file remembers, counted the damage told before,
// by chain.
func loadStreams(dir string, known map[uint32]streamMeta, counted map[string][]span) (*loaded, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading spool directory: %w", err)
	}
	l := &loaded{streams: make(map[uint32]*stream), counted: counted}
	type named struct {
		ordinal    uint32
		class      class
		firstIndex uint64
		name       string
	}
	var names []named
	for _, f := range files {
		if ordinal, c, first, ok := parseSegmentName(f.Name()); ok {
			names = append(names, named{ordinal, c, first, f.Name()})
		}
	}
	// ReadDir sorts by name, which is by ordinal, class and index.
	for i, n := range names {
		var following *uint64
		if i+1 < len(names) && names[i+1].ordinal == n.ordinal && names[i+1].class == n.class {
			following = &names[i+1].firstIndex
		}
		st := l.streams[n.ordinal]
		if st == nil {
			st = newStream(n.ordinal)
			if m, ok := known[n.ordinal]; ok {
				st.id, st.acked, st.cursor, st.last = m.ID, m.Acked, m.Acked, m.Last
			}
			l.streams[n.ordinal] = st
		}
		l.load(filepath.Join(dir, n.name), st, n.class, n.firstIndex, following, known[n.ordinal].Next[n.class])
	}
	return l, nil
}

type loaded struct {
	streams map[uint32]*stream
	counted map[string][]span
	damaged uint64 // newly found
	torn    uint64
	errs    []error
}

func (l *loaded) load(path string, st *stream, c class, firstIndex uint64, following *uint64, written uint64) {
	data, err := readSegment(path)
	if err != nil {
		l.errs = append(l.errs, err)
	}
	if h, err := decodeHeader(data); err == nil {
		st.id = h.stream
	} else if len(data) > 0 {
		l.errs = append(l.errs, fmt.Errorf("%s: %w", filepath.Base(path), err))
	}
	s := scan(data, firstIndex)
	seg := &segment{path: path, first: firstIndex, chain: chainName(st.ordinal, c), entries: s.entries, size: s.end}
	for _, g := range s.gaps {
		l.count(seg.chain, g, st.acked)
	}
	switch {
	case following != nil && *following > s.nextIndex && *following-s.nextIndex < maxIndexJump:
		// the damage reaches to the segment's end
		l.count(seg.chain, gap{span: span{s.nextIndex, *following}, after: seg.lastSequence(), before: math.MaxUint64}, st.acked)
		s.nextIndex = *following
	case following == nil:
		tail := uint64(0)
		if s.tail {
			tail = max(1, uint64(bytes.Count(data[s.end:], recordMagic)))
			if err := os.Truncate(path, s.end); err != nil {
				l.errs = append(l.errs, fmt.Errorf("cutting torn tail: %w", err))
			}
		}
		if written > s.nextIndex && written-s.nextIndex < maxIndexJump {
			tail = max(tail, written-s.nextIndex)
		}
		l.torn += span{s.nextIndex, s.nextIndex + tail}.without(l.counted[seg.chain])
	}
	ch := &st.chains[c]
	ch.nextIndex = s.nextIndex
	st.last = max(st.last, seg.lastSequence())
	if seg.lastSequence() <= st.acked { // acknowledged, or nothing readable
		l.errs = append(l.errs, seg.remove())
		return
	}
	ch.segments = append(ch.segments, seg)
}

// count adds damage that was not told before.
func (l *loaded) count(chain string, g gap, acked uint64) {
	if fresh := g.without(l.counted[chain]); fresh > 0 {
		l.damaged += g.lost(fresh, acked)
		l.counted[chain] = addSpan(l.counted[chain], g.span)
	}
}

// addSpan keeps the spans free of overlap.
func addSpan(spans []span, s span) []span {
	kept := spans[:0:0]
	for _, other := range spans {
		if other.To < s.From || s.To < other.From {
			kept = append(kept, other)
			continue
		}
		s = span{min(s.From, other.From), max(s.To, other.To)}
	}
	return append(kept, s)
}

func chainName(ordinal uint32, c class) string { return fmt.Sprintf("%08x-%c", ordinal, "bc"[c]) }

func readSegment(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading segment: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading segment: %w", err)
	}
	data := make([]byte, min(info.Size(), maxSegment))
	n, err := f.ReadAt(data, 0)
	if n < len(data) {
		return data[:n], fmt.Errorf("reading segment: %w", err)
	}
	return data, nil
}
